"""Time and peak memory of fitting principal components: python -m perf.pca

Fits 512 components of 2,000 and of 8,000 patches of 128 x 128 x 4 px from a store, each in a
process of its own; about 2 minutes on two cores. `--components 3000 --counts 8000` takes five. The
patches are random clouds: only speed and memory are meant.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace

import numpy as np
import pyarrow as pa

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.handcrafted import FitPca
from benchmark.stages.embed.learning import Lesson, fit_and_write
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.names import FITTED
from benchmark.store.provenance import num_cores
from benchmark.tables import CANDIDATES, images_column, patches_schema

BANDS = ("red", "green", "blue", "nir")
SHAPE = (4, 128, 128)
PART_ROWS = 500


def write_part(patches: Artefact, number: int) -> None:
    rng = np.random.default_rng(number)
    n = PART_ROWS
    # Sums of noise at three scales: a spectrum that falls, as that of photographs does.
    levels = np.full((n, *SHAPE), 128, np.float32)
    for side, weight in ((4, 40), (16, 20), (64, 10)):
        noise = rng.normal(0, weight, (n, 4, side, side)).astype(np.float32)
        levels += noise.repeat(128 // side, axis=2).repeat(128 // side, axis=3)
    pixels = np.clip(levels, 0, 255).astype(np.uint8)
    columns = {
        "patch_id": [f"{number:04d}-{row:04d}" for row in range(n)],
        "split": ["train"] * n,
        "label": pa.array(np.zeros(n), pa.int32()),
        "image": images_column(pixels),
    }
    for field in CANDIDATES:
        if field.name not in columns:
            columns[field.name] = pa.nulls(n, field.type)
    schema = patches_schema(4, 128)
    table = pa.table({name: columns[name] for name in schema.names}).cast(schema)
    patches.write_table(f"part-{number:06d}.parquet", table)


def fit(store: str, count: int, components: int) -> None:
    patches = Artefact(store=Store(store), stage="patches", name="clouds", fingerprint=str(count))
    artefact = Artefact(
        store=Store(store), stage="embed", name=f"pca{components}", fingerprint=str(count)
    )
    backbone = replace(BACKBONES.get("pca"), fit=FitPca(num_components=components))
    lesson = Lesson(
        backbone=backbone,
        artefact=artefact,
        patches=patches,
        bands=BANDS,
        shape=SHAPE,
        num_threads=num_cores(),
    )
    facts = fit_and_write(lesson)
    print(
        f"{count} patches, {facts['num_components']} components, {facts['way']}: "
        f"{facts['seconds']:.0f} s, peak {facts['peak_memory_bytes'] / 2**20:.0f} MiB, "
        f"{len(artefact.read_bytes(FITTED)) / 2**20:.0f} MiB written, "
        f"{facts['explained_variance']:.1%} of the variance"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 8000])
    parser.add_argument("--components", type=int, default=512)
    parser.add_argument("--store", help="of a run that exists: fit once, in this process")
    options = parser.parse_args()
    if options.store:
        fit(options.store, options.counts[0], options.components)
        return
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            patches = Artefact(
                store=Store(folder), stage="patches", name="clouds", fingerprint=str(count)
            )
            for number in range(count // PART_ROWS):
                write_part(patches, number)
            command = [
                sys.executable, "-m", "perf.pca", "--store", folder,
                "--counts", str(count), "--components", str(options.components),
            ]  # fmt: skip
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
