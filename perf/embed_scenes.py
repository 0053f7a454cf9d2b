"""Embeddings of scenes against the stage's own loop: python -m perf.embed_scenes

Takes about 3 minutes on two cores. One process of one thread reads a scene of noise, embeds its
windows and writes a raster of int8; the same Embedder then embeds the same windows from memory.
Rounds alternate, so that other load on the machine changes both alike. The start is excluded.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmark.peaks import peak_memory_bytes
from perf.maps import BANDS, SIDE, write_scene


class Silent:
    def start(self, _) -> None: ...
    def advance(self, _) -> None: ...
    def done(self, _) -> None: ...


def main() -> None:
    from benchmark.mapping.embedding import _write, build_embedder
    from benchmark.mapping.embeddings import cut_windows, embed_strip, plan_embeddings
    from benchmark.mapping.finding import Work
    from benchmark.mapping.scenes import open_scene

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene_path = folder / "scene.tif"
        write_scene(scene_path, asked.side)
        plan = plan_embeddings(
            asked.backbone, out=name, stride=SIDE, size=SIDE, format="cog", dtype="int8"
        )
        embedder = build_embedder(plan, num_threads=1, device=asked.device)
        rng = np.random.default_rng(0)
        patches = rng.integers(0, 256, (256, len(BANDS), SIDE, SIDE), np.uint8)
        embedder(patches)
        ratios, costs = [], []
        with open_scene(str(scene_path), plan.needs) as scene:
            grid = plan.grid(scene)
            for number in range(asked.rounds):
                work = Work(str(scene_path), str(folder / f"out{number}.tif"))
                began, cpu = time.perf_counter(), time.process_time()
                strips = (
                    (strip, embed_strip(embedder, scene, grid, strip))
                    for strip in cut_windows(grid)
                )
                found = _write(plan, work, grid, strips, Silent())
                whole, whole_cpu = time.perf_counter() - began, time.process_time() - cpu
                began, cpu = time.perf_counter(), time.process_time()
                for _ in range(found.num_embedded // 256):
                    embedder(patches)
                alone, alone_cpu = time.perf_counter() - began, time.process_time() - cpu
                ratios.append(alone / whole)
                costs.append(alone_cpu / whole_cpu)
                print(
                    f"round {number}: {found.num_embedded / whole:.1f} windows/s, of the loop's "
                    f"rate {ratios[-1]:.2f}, of CPU-seconds {costs[-1]:.2f}",
                    flush=True,
                )
        peak = peak_memory_bytes() / 2**20
        print(
            f"embed-scenes / loop: median {statistics.median(ratios):.2f} (CPU-seconds "
            f"{statistics.median(costs):.2f}), peak memory {peak:.0f} MB"
        )


if __name__ == "__main__":
    main()
