"""A folder of 10,000, 100,000 and 1,000,000 images: python -m perf.images --counts 10000 100000

Lists, digests, reads and embeds (mean_color) folders of tiny images: hard links to 40 files, four
per class. Each step runs in a process of its own, as a command does; ``patches`` and ``embed`` list
the folder again, with known digests. Prints seconds and images/s of each step, the bytes of the
largest read task, and the peak memory of the driver. A million images need a file system with as
many free inodes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark.peaks import peak_memory_bytes

NUM_CLASSES = 10
NUM_FILES = 40
SIDE = 16


def write_images(root: Path, count: int) -> None:
    """Write ``count`` names of a few files, evenly over the classes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    originals = []
    for number in range(NUM_FILES):
        path = root / f".original-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
        originals.append(path)
    for number in range(NUM_CLASSES):
        (root / f"class-{number}").mkdir()
    for number in range(count):
        target = root / f"class-{number % NUM_CLASSES}" / f"{number:07d}.png"
        os.link(originals[number % NUM_FILES], target)


def run_step(step: str, root: Path, store: Path) -> None:
    """List the images or run a stage, and print what it took."""
    import benchmark as bm
    from benchmark import api
    from benchmark.cluster import streaming

    largest = [0]
    tasks_of = streaming.Items.get_read_tasks

    def measured(self, *args, **kwargs):
        import ray.cloudpickle

        tasks = tasks_of(self, *args, **kwargs)
        sizes = [len(ray.cloudpickle.dumps(task)) for task in (tasks[0], tasks[-1])]
        largest[0] = max(largest[0], *sizes)
        return tasks

    streaming.Items.get_read_tasks = measured
    toml = store / "images.toml"
    toml.parent.mkdir(parents=True, exist_ok=True)
    toml.write_text(
        f'name = "images"\nbackbones = ["mean_color"]\nheads = ["majority"]\n'
        f'[dataset]\nname = "folder"\nroot = "{root}"\npatch_size = {SIDE}\n'
    )
    experiment = bm.load(toml)
    began = time.perf_counter()
    if step == "list":
        with api.open_context(experiment, store=str(store / "runs")) as context:
            count = context.source.candidates.num_rows
    else:
        result, _ = api.run_stage(step, experiment, store=str(store / "runs"))
        assert {cell.status for cell in result.cells} == {"complete"}, result.cells
        count = len(list(root.glob("class-*/*")))
    seconds = time.perf_counter() - began
    peak = peak_memory_bytes() / 2**20
    task = f", largest task {largest[0]} bytes" if largest[0] else ""
    print(
        f"  {step}: {seconds:.1f} s, {count / seconds:.0f} images/s{task}, driver's peak "
        f"{peak:.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, folder = options.step
        run_step(step, Path(folder) / "images", Path(folder) / "work")
        return
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            write_images(Path(folder) / "images", count)
            print(f"{count} images, written in {time.perf_counter() - began:.1f} s", flush=True)
            for step in ("list", "patches", "embed"):
                command = [sys.executable, "-m", "perf.images", "--step", step, folder]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
