"""Opening and indexing the user's own scenes.

    python -m perf.rasters [--scenes 75 750]
    python -m perf.rasters --workers 1 2 --scenes 750

SIMULATED scenes of 1,024 px with four bands of uint16 and their labels, and one of
6,000 x 7,500 px. Each case runs in a process of its own, without Ray. Prints CPU seconds of the
first and of a second opening, of the index and of a patch, and the largest memory beyond that of
the imports. About three minutes and 6 GB of disk.

With ``--workers``, the stage ``patches`` finds the windows of the scenes (stride 16) on that many
cores, to which Ray and all of its processes are bound; no pixels are read. Prints the seconds from
the first scene to the last, and the rate of the second half, when all processes have started. In
turns, two rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np

from benchmark.peaks import peak_memory_bytes

NUM_CONTENTS = 5
CLASSES = {"water": 1, "trees": 2, "grass": 3, "barren": 4, "paved": 5}


def write_scene(root: Path, name: str, height: int, width: int, number: int) -> None:
    """Write an image and its labels: blobs of about 150 px."""
    import rasterio
    from rasterio.transform import from_origin

    transform = from_origin(
        300_000 + 10_000 * (number % 50), 4_000_000 + 10_000 * (number // 50), 1, 1
    )
    paths = [root / folder / f"{name}.tif" for folder in ("images", "labels")]
    if number >= NUM_CONTENTS:
        for path in paths:
            copyfile(path.with_name(f"s{number % NUM_CONTENTS:04d}.tif"), path)
            with rasterio.open(path, "r+") as file:
                file.transform = transform
        return
    rng = np.random.default_rng(number)
    coarse = rng.integers(1, 6, (height // 150 + 1, width // 150 + 1), np.uint8)
    labels = coarse.repeat(150, axis=0).repeat(150, axis=1)[:height, :width]
    noise = rng.integers(0, 300, (4, height, width), np.uint16)
    for path, pixels in zip(paths, (labels * np.uint16(500) + noise, labels[None]), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            path, "w", driver="GTiff", crs="EPSG:32618", transform=transform, height=height,
            width=width, count=len(pixels), dtype=pixels.dtype.name, compress="lzw", tiled=True,
        ) as file:  # fmt: skip
            file.write(pixels)


def peak_mb() -> int:
    """Return the largest resident memory of this process."""
    return peak_memory_bytes() // 2**20


def measure(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Open the scenes twice and find the candidates of all, one after another."""
    from benchmark.catalog.rasters.opening import open_rasters
    from benchmark.config import DatasetConfig

    table = {"images": "images/*.tif", "labels": "labels/*.tif", "classes": CLASSES}
    content = {"name": "rasters", "root": str(root), "patch_size": 128}
    config = DatasetConfig.model_validate(content | {"rasters": table | settings})
    import pandas  # noqa: F401
    import pyarrow  # noqa: F401
    import rasterio  # noqa: F401
    import shapely  # noqa: F401

    before, began = peak_mb(), time.process_time()
    open_rasters(config)
    first = time.process_time()
    source = open_rasters(config)
    opened = time.process_time()
    found = [source.find(unit) for unit in source.units()]
    ended = time.process_time()
    largest = max(found, key=lambda item: item.candidates.num_rows).candidates.slice(0, 256)
    images = source.read(largest)
    return {
        "open_s": round(first - began, 2),
        "again_s": round(opened - first, 2),
        "find_s": round(ended - opened, 2),
        "windows": sum(item.num_examined for item in found),
        "patches": sum(item.candidates.num_rows for item in found),
        "read_ms_per_patch": round((time.process_time() - ended) / len(images.rows) * 1e3, 2),
        "memory_mb": peak_mb() - before,
    }


STRIDE = 16


def index(root: Path, num_workers: int, store: Path) -> None:
    """Find the windows of all scenes with Ray on some cores, and print seconds."""
    os.sched_setaffinity(0, range(num_workers))
    import benchmark as bm
    from benchmark import api
    from benchmark.cluster.connection import Cluster
    from benchmark.cluster.incidents import Account
    from benchmark.stages.patches.finding import find_candidates

    table = {"images": "images/*.tif", "labels": "labels/*.tif", "classes": CLASSES}
    table |= {"stride": STRIDE}
    dataset = {"name": "rasters", "root": str(root), "patch_size": 128, "rasters": table}
    dataset |= {"value_range": [0, 3000]}
    experiment = bm.build(
        name="index", backbones=["mean_color"], heads=["majority"], dataset=dataset
    )
    with Cluster() as cluster:
        cluster.connect(num_cpus=num_workers)
        with api.open_context(experiment, store=str(store), address=cluster) as context:
            source = context.source
            units = list(source.units())
            began: list[float] = []
            artefact = context.store.artefact("patches", "index", "0" * 16)
            artefact.begin({})
            account = Account(artefact, context.leases)

            def advance(_: int) -> None:
                began.append(time.perf_counter())

            found = find_candidates(
                source, units, artefact, advance, account, num_slots=num_workers
            )
    # The first scenes wait for the processes to start, one after another.
    half = len(began) // 2
    rate = (len(began) - 1 - half) / (began[-1] - began[half])
    whole = {"seconds": began[-1] - began[0], "windows": found.num_examined}
    print(json.dumps(whole | {"rate": rate}))


def compare_workers(counts: list[int], num_scenes: int) -> None:
    """Index the same scenes with different numbers of workers, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "scenes")
        for number in range(num_scenes):
            write_scene(root, f"s{number:04d}", 1024, 1024, number)
        rates: dict[int, list[float]] = {count: [] for count in counts}
        for turn in range(2):
            for count in counts:
                command = [sys.executable, "-m", "perf.rasters", "--index", str(root), str(count)]
                store = f"{folder}/store-{turn}-{count}"
                done = subprocess.run(
                    [*command, store],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"},
                )
                found = json.loads(done.stdout.splitlines()[-1])
                rates[count].append(found["rate"])
                print(
                    f"{num_scenes} scenes, {found['windows']:,} windows, {count} workers: "
                    f"{found['seconds']:.1f} s; second half {found['rate']:.1f} scenes/s, "
                    f"{found['rate'] / rates[counts[0]][-1]:.2f} times the first",
                    flush=True,
                )


def main() -> None:
    """Write the scenes and measure each case in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, nargs="+", default=[75, 750])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, nargs="+")
    parser.add_argument("--index", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.index:
        root, count, store = arguments.index
        index(Path(root), int(count), Path(store))
        return
    if arguments.workers:
        for count in arguments.scenes:
            compare_workers(arguments.workers, count)
        return
    if arguments.measure:
        root, settings = arguments.measure
        print(json.dumps(measure(Path(root), json.loads(settings))))
        return
    with tempfile.TemporaryDirectory() as folder:
        cases: list[tuple[str, Path, dict[str, Any]]] = []
        for count in arguments.scenes:
            root = Path(folder, str(count))
            for number in range(count):
                write_scene(root, f"s{number:04d}", 1024, 1024, number)
            cases.append((f"{count} of 1,024 px", root, {}))
            cases.append((f"{count}, in blocks", root, {"block_m": 700, "buffer_m": 20}))
        large = Path(folder, "large")
        for number in range(3):
            write_scene(
                large,
                f"s{number}",
                6000 if not number else 256,
                7500 if not number else 256,
                number,
            )
        cases += [
            ("6,000 x 7,500 px", large, {}),
            ("the same, stride 64", large, {"stride": 64}),
            ("the same, gsd_m 1.5", large, {"gsd_m": 1.5}),
        ]
        for number, (name, root, settings) in enumerate(cases):
            environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache{number}"}
            command = [sys.executable, "-m", "perf.rasters", "--measure", str(root)]
            done = subprocess.run(
                [*command, json.dumps(settings)],
                check=True,
                capture_output=True,
                text=True,
                env=environment,
            )
            print(f"{name:22}", done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
