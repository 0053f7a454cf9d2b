"""Patches against torchgeo's grid sampler on one core: python -m perf.patches

Windows per second over one synthetic scene of 6,000 x 6,000 px; about 2 minutes, most of it to
draw the scene. Ours counts labels examined, kept windows read, and Parquet written, without
Ray's start-up; torchgeo's loop reads imagery and mask of each window.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

from benchmark.catalog.chesapeake.scenes import open_chesapeake
from benchmark.catalog.synthetic import scenes as synthetic
from benchmark.config import DatasetConfig
from benchmark.stages.patches.finding import find_units
from benchmark.stages.patches.reading import group_parts, split_parts, write_group
from benchmark.store.artefacts import Store

PATCH = 128


def draw_scene(root: Path, size: int) -> None:
    """Write a small set of scenes, with one large one in the place of pa-test."""
    synthetic.write_scenes(root, scenes=3, size=256)
    task = next(
        task
        for task in synthetic._tasks(root, 3, 256, 0)
        if (task.state, task.split) == ("pa", "test")
    )
    for path in (root / task.folder).iterdir():
        path.unlink()
    feature = synthetic._write_scene(task._replace(size=size))
    synthetic._write_index(root / "spatial_index.geojson", [feature])


def ours(root: Path) -> float:
    """Return windows per second: examined, chosen, read and written."""
    config = DatasetConfig(name="chesapeake", root=str(root), patch_size=PATCH)
    with tempfile.TemporaryDirectory() as folder:
        source = open_chesapeake(config)
        artefact = Store(folder).artefact("patches", "perf", "0")
        (unit,) = source.units()
        began = time.perf_counter()
        find_units([(0, unit)], source=source, artefact=artefact)
        found = artefact.read_table(prefix="_tables/candidates-")
        parts = split_parts(found, num_bands=4, config=config)
        for group in group_parts(parts):
            write_group(group, source=source, artefact=artefact, size=PATCH, fails=True)
        seconds = time.perf_counter() - began
        num_windows = source.find(unit).num_examined
        print(f"   ours: {num_windows} windows, {found.num_rows} kept, {seconds:.2f} s")
        return num_windows / seconds


def torchgeo_loop(root: Path, count: int) -> float:
    """Return windows per second of GridGeoSampler and ChesapeakeCVPR."""
    from torchgeo.datasets import ChesapeakeCVPR
    from torchgeo.samplers import GridGeoSampler

    dataset = ChesapeakeCVPR(root=str(root), splits=["pa-test"])
    queries = []
    for query in GridGeoSampler(dataset, size=PATCH, stride=PATCH):
        queries.append(query)
        if len(queries) == count + 5:
            break
    for query in queries[:5]:
        dataset[query]
    began = time.perf_counter()
    for query in queries[5:]:
        dataset[query]
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "scenes"
        draw_scene(root, options.size)
        os.sched_setaffinity(0, {0})
        ratios = []
        for number in range(options.rounds):
            mine, theirs = ours(root), torchgeo_loop(root, 100)
            ratios.append(mine / theirs)
            print(f"{number}: ours {mine:.0f}, torchgeo {theirs:.1f} windows/s", flush=True)
        print(
            f"ours / torchgeo: median {statistics.median(ratios):.0f} "
            f"(min {min(ratios):.0f}, max {max(ratios):.0f})"
        )


if __name__ == "__main__":
    main()
