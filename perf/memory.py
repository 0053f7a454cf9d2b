"""Peak memory of patches and embed against the number of patches: python -m perf.memory

Streams random patches of 128 px through both stages, 10,000 and 40,000 of them, in processes of
their own; about 3 minutes. Memory is the proportional set size summed over the process tree, the
object store included, sampled four times a second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time

import psutil

from perf.toys import open_noise


def tree_bytes() -> int:
    """Return the bytes of this process and its children, shared pages counted once."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def run_once(count: int) -> None:
    from benchmark.stages.embed import EmbedStage
    from benchmark.stages.patches import PatchesStage

    peaks = {}
    current = ["start"]
    over = threading.Event()

    def sample() -> None:
        while not over.is_set():
            peaks[current[0]] = max(peaks.get(current[0], 0), tree_bytes())
            time.sleep(0.25)

    with tempfile.TemporaryDirectory() as folder:
        context = open_noise(folder, count, backbones=["mean_color"], heads=["majority"])
        thread = threading.Thread(target=sample)
        thread.start()
        with context.cluster:
            context.cluster.connect()
            for stage in (PatchesStage(), EmbedStage()):
                current[0] = stage.name
                (item,) = stage.run(context).cells
                assert item.status == "complete", item.reason
        over.set()
        thread.join()
    print(*(f"{name}={peaks[name] / 2**20:.0f}" for name in ("patches", "embed")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int)
    options = parser.parse_args()
    if options.count:
        run_once(options.count)
        return
    found = {}
    for count in (10_000, 40_000):
        command = [sys.executable, "-m", "perf.memory", "--count", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        line = done.stdout.strip().splitlines()[-1]
        found[count] = dict(item.split("=") for item in line.split())
        print(f"{count} patches: peak MiB {line}", flush=True)
    for stage in ("patches", "embed"):
        ratio = float(found[40_000][stage]) / float(found[10_000][stage])
        print(f"{stage}: 40,000 / 10,000 patches {ratio:.2f}")


if __name__ == "__main__":
    main()
