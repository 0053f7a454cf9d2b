"""How long threads of torch wait awake for each other on a CPU: python -m perf.spinning

Steps of training (EfficientNet-Lite0, 16 x 128 px) and batches without gradients (ViT-S, 16 x 224
px), random weights, on all cores: by GNU OpenMP's own count of turns and by others, alone and
beside as many busy processes as there are cores. Medians of four rounds, about 17 minutes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict

from benchmark.environment import SPINNING

(NAME, OURS), *_ = SPINNING.items()
COUNTS = ("", OURS, "0")
NUM_ROUNDS, NUM_STEPS = 4, 10
BUSY = "while True: pass"


def steps_s(kind: str) -> float:
    """Return the seconds of a step in this process."""
    import timm
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    if kind == "train":
        network = timm.create_model("tf_efficientnet_lite0", num_classes=5).train()
        pixels = torch.randn(16, 3, 128, 128)
    else:
        network = timm.create_model("vit_small_patch16_224").eval().requires_grad_(False)
        pixels = torch.randn(16, 3, 224, 224)

    def step() -> None:
        scores = network(pixels)
        if kind == "train":
            torch.nn.functional.cross_entropy(scores, torch.arange(16) % 5).backward()

    for _ in range(2):
        step()
    began = time.perf_counter()
    for _ in range(NUM_STEPS):
        step()
    return (time.perf_counter() - began) / NUM_STEPS


def measure(kind: str, count: str) -> float:
    """Return the seconds of a step in a process of its own, by a count of turns."""
    env = {key: value for key, value in os.environ.items() if key != NAME}
    done = subprocess.run(
        [sys.executable, "-m", "perf.spinning", kind],
        env=env | ({NAME: count} if count else {}),
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for _ in range(NUM_ROUNDS):
        for place, num_busy in (("alone", 0), ("beside others", os.cpu_count() or 1)):
            busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(num_busy)]
            try:
                for kind in ("train", "embed"):
                    for count in COUNTS:
                        found[kind, place, count].append(measure(kind, count))
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
    medians = {key: statistics.median(values) for key, values in found.items()}
    for (kind, place, count), seconds in medians.items():
        ratio = seconds / medians[kind, place, ""]
        print(f"{kind} {place}, {NAME}={count or 'unset'}: {seconds:.3f} s, {ratio:.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(steps_s(sys.argv[1]))
    else:
        main()
