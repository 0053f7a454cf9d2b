"""One large scene by one actor and by several, on Ray: python -m perf.strips

Takes about 4 minutes on two cores. The model and the scene are those of perf.maps. The start of
Ray and of the actors is excluded: rates begin with the first strip and end with the finished map.
Ratios are of one run. Prints also the CPU-seconds of all processes, the memory by which this
process, which writes the map, grows, and whether the maps have the same bits.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import psutil

from perf.maps import peak_mb, write_model, write_scene


class Clock:
    """Progress that remembers when patches were done."""

    def __init__(self) -> None:
        self.first: tuple[float, float, int] | None = None
        self.count = 0

    def stage(self, *_, **__) -> Clock:
        return self

    def advance(self, count: int) -> None:
        self.count += count
        if self.first is None:
            self.first = time.perf_counter(), cpu_s(), self.count

    def start(self, _) -> None: ...
    def done(self, _) -> None: ...
    def failed(self, cell, reason) -> None: ...
    def close(self) -> None: ...
    def message(self, _) -> None: ...


def cpu_s() -> float:
    """Return the CPU-seconds of this process and of all that it started, of Ray too."""
    total = 0.0
    for process in [me := psutil.Process(), *me.children(recursive=True)]:
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return total


def main() -> None:
    from benchmark.cluster import pools
    from benchmark.cluster.connection import Cluster
    from benchmark.mapping.finding import Work
    from benchmark.mapping.pooled import map_many
    from benchmark.mapping.running import plan_maps

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 1, 2])
    asked = parser.parse_args()
    plan_pool = pools.plan_pool
    with tempfile.TemporaryDirectory() as name, Cluster() as cluster:
        folder = Path(name)
        # In a process of its own: its memory would hide by how much this one grows.
        spawn = multiprocessing.get_context("spawn")
        writing = spawn.Process(
            target=write_model, args=(folder / "model",), kwargs={"as_onnx": False}
        )
        writing.start()
        writing.join()
        plan = plan_maps(str(folder / "model"))
        scene = folder / "scene.tif"
        write_scene(scene, asked.side)
        cluster.connect(object_store_memory=400_000_000)
        rates: dict[int, list[float]] = {}
        bits = set()
        for count in asked.actors:
            pools.plan_pool = lambda given, count=count, **settings: plan_pool(
                given, **{**settings, "num_actors": count}
            )
            clock, out, before = Clock(), folder / "map.tif", peak_mb()
            map_many(plan, [Work(str(scene), str(out))], cluster, clock)
            began, used, first = clock.first
            rate = (clock.count - first) / (time.perf_counter() - began)
            cost = 1000 * (cpu_s() - used) / (clock.count - first)
            rates.setdefault(count, []).append(rate)
            bits.add(out.read_bytes() + out.with_name("map.confidence.tif").read_bytes())
            print(
                f"{count} actors: {rate:.1f} patches/s, {cost:.1f} CPU-ms per patch, this process "
                f"grew by {peak_mb() - before:.0f} MB to {peak_mb():.0f} MB",
                flush=True,
            )
        best = {count: max(found) for count, found in rates.items()}
        first = asked.actors[0]
        for count, rate in best.items():
            print(f"{count} / {first} actors: {rate / best[first]:.2f} of the rate")
        print(f"maps with different bits: {len(bits) - 1}")


if __name__ == "__main__":
    main()
