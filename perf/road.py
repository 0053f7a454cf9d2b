"""The whole road on many patches: python -m perf.road [--counts 100000 1000000]

SIMULATED patches of 8 px from arrays, 20 classes, embedded by a random projection into 768
dimensions; one logistic regression with three trials. Each count runs in a process of its own.
Prints the seconds of each stage and the largest private memory of the driver. A million patches
take about ten minutes and 8 GB of disk on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

NUM_CLASSES = 20
SIDE = 8
BLOCK = 50_000
NETWORK = """
import torch


class Projection(torch.nn.Module):
    def __init__(self, num_bands):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(768, num_bands * 64) / 8)

    def forward(self, x):
        return torch.tanh(x.flatten(1) @ self.weight.T)


def build(num_bands):
    return Projection(num_bands)
"""


def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return patches, uint8 (N, 3, 8, 8), and labels, that a linear head mostly tells apart."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, NUM_CLASSES, count)
    centres = generator.integers(120, 136, (NUM_CLASSES, 3, SIDE, SIDE)).astype(np.float32)
    images = np.empty((count, 3, SIDE, SIDE), np.uint8)
    for first in range(0, count, BLOCK):
        part = labels[first : first + BLOCK]
        noise = generator.normal(0, 40, (len(part), 3, SIDE, SIDE)).astype(np.float32)
        images[first : first + BLOCK] = np.clip(centres[part] + noise, 0, 255)
    return images, labels


def private_mib() -> float:
    """Return the private memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**10


def run_once(count: int, folder: Path) -> None:
    """Run all stages and print what they took."""
    import benchmark as bm

    (folder / "perf_road.py").write_text(NETWORK)
    sys.path.append(str(folder))
    images, labels = draw(count)
    experiment = bm.build(
        name="road",
        dataset=bm.from_arrays(images, labels, patch_size=SIDE),
        backbones=["perf_road:build"],
        heads=["logistic_regression"],
        store=str(folder / "runs"),
        tune={"num_trials": 3},
    )
    del images
    peak, is_over = private_mib(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.05):
            peak = max(peak, private_mib())

    threading.Thread(target=watch, daemon=True).start()
    result = bm.run(experiment, progress=None)
    is_over.set()
    assert {cell.status for cell in result.cells} == {"complete"}, result.cells
    usage = json.loads((folder / "runs/usage/road.json").read_text())
    for stage in usage["stages"]:
        seconds = stage["ended_s"] - stage["began_s"]
        print(f"  {stage['stage']}: {seconds:.1f} s, {count / seconds:.0f} patches/s")
    print(f"  driver's private memory at most {peak:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        run_once(options.counts[0], options.folder)
        return
    for count in options.counts:
        print(f"{count:,} patches", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            here = [sys.executable, "-m", "perf.road", "--counts", str(count), "--folder", folder]
            subprocess.run(here, check=True)


if __name__ == "__main__":
    main()
