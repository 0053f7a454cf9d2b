"""What the calibration loses against the best mode: python -m perf.calibration [--backbone NAME]

Every mode is measured for long in one process of one thread; then the calibration chooses, from
nothing and with what it remembers, for 1,000 and for 100,000 patches (half of them for each of two
processes). A mode's time is what it costs to begin, compiling included, and the patches at its
measured speed; that of the calibration has its own trials on top. About 6 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np

BANDS = ("red", "green", "blue")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each mode, three times")
    parser.add_argument("--choose", type=int, help="only choose, for so many patches")
    options = parser.parse_args()
    if options.choose:
        choose(options.backbone, options.choose)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        measure(options.backbone, options.seconds, folder)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 3, 128, 128), dtype=np.uint8)


def choose(name: str, num_patches: int) -> None:
    """Print what the calibration chooses in a new process, and how long that takes it."""
    from benchmark.catalog.backbones import find_backbone
    from benchmark.networks.calibration import Calibration
    from benchmark.networks.devices import Asked, plan_device
    from benchmark.networks.embedder import Embedder
    from benchmark.networks.trials import recall

    backbone, pixels, default = find_backbone(name), noise(), plan_device(device="cpu")
    embedder = Embedder(backbone, BANDS, default)
    began = time.perf_counter()
    with recall(backbone, default, pixels.shape[1:]) as (memory, _):
        calibration = Calibration(embedder, pixels, memory)
        plan = calibration.plan(Asked(), num_patches, num_in_all=2 * num_patches, is_network=True)
    seconds = time.perf_counter() - began
    print(json.dumps({"plan": plan.to_json(), "seconds": seconds}))


def measure(name: str, seconds: float, folder: str) -> None:
    from benchmark.catalog.backbones import find_backbone
    from benchmark.networks.calibration import CPU_SIZES
    from benchmark.networks.devices import DevicePlan, plan_device
    from benchmark.networks.embedder import Embedder

    backbone = find_backbone(name)
    pixels = noise()
    default = plan_device(device="cpu")
    modes = [replace(default, batch_size=size) for size in (4, *sum(CPU_SIZES, ()))]
    modes += [replace(default, channels_last=False)]
    modes += [replace(default, batch_size=size, is_compiled=True) for size in (2, 4, 8)]
    rates, setups = {mode: [] for mode in modes}, dict.fromkeys(modes, 0.0)

    def rate(embedder, mode) -> float:
        batch, times = pixels[: mode.batch_size], []
        while sum(times) < seconds:
            began = time.perf_counter()
            embedder.run_batch(batch)
            times.append(time.perf_counter() - began)
        return mode.batch_size / statistics.median(times)

    embedders = {}
    for mode in modes:
        embedders[mode] = embedder = Embedder(backbone, BANDS, mode)
        began = time.perf_counter()
        embedder.warm_up(pixels)
        setups[mode] = time.perf_counter() - began
        rates[mode].append(rate(embedder, mode))
        if mode.is_compiled:
            embedder.adopt(default)
    found = []
    for memory_of in ("nothing", "the runs before"):
        for total in (1_000, 100_000):
            if memory_of == "nothing":
                os.environ["XDG_CACHE_HOME"] = f"{folder}/{total}"
            # A process of its own: a compiler remembers within a process, too.
            command = [sys.executable, "-m", "perf.calibration", "--choose", str(total // 2)]
            done = subprocess.run(
                [*command, "--backbone", name],
                check=True,
                capture_output=True,
                text=True,
                env={key: os.environ[key] for key in os.environ if "INDUCTOR" not in key},
            )
            answer = json.loads(done.stdout.splitlines()[-1])
            found.append((memory_of, total, DevicePlan(**answer["plan"]), answer["seconds"]))
        os.environ["XDG_CACHE_HOME"] = f"{folder}/100000"
    for mode in modes:
        if not mode.is_compiled:
            rates[mode].append(rate(embedders[mode], mode))
    speed = {mode: statistics.mean(values) for mode, values in rates.items()}
    for mode in modes:
        print(_name(mode), f"{speed[mode]:.1f} patches/s, begins in {setups[mode]:.1f} s")
    for memory_of, total, plan, spent_s in found:
        count = total // 2
        chosen = replace(plan, reason=default.reason)
        took_s = spent_s + count / speed[chosen]
        best = min(modes, key=lambda mode: setups[mode] + count / speed[mode])
        best_s = setups[best] + count / speed[best]
        print(
            f"{total:,} patches, knowing {memory_of}: {_name(chosen)} after {spent_s:.1f} s; "
            f"{best_s / took_s:.2f} of the best, {_name(best)}\n    ({plan.reason})"
        )


def _name(mode) -> str:
    layout = "channels-last" if mode.channels_last else "channels-first"
    return f"{'compiled' if mode.is_compiled else 'eager'}, {layout}, {mode.batch_size}:"


if __name__ == "__main__":
    main()
