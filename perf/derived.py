"""Time and peak memory of combining and shrinking stored embeddings: python -m perf.derived

Makes each recipe of 25,000 and of 100,000 embeddings of 768 dimensions from a store, each in a
process of its own, with reading and writing; about 2 minutes on two cores, and 1.5 GB of disk. The
embeddings are random, of a spectrum that falls: only speed and memory are meant. The peak of a
process that imports the same and makes nothing is printed first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa

from benchmark.catalog.derived.resolve import check_widths
from benchmark.derived import Derivation
from benchmark.peaks import peak_memory_bytes
from benchmark.stages.embed.deriving import Recipe, make_and_write
from benchmark.store.artefacts import Artefact, Store
from benchmark.tables import embeddings_column, embeddings_schema

DIM = 768
PART_ROWS = 2_000
OF = {"parents": ("a",)}
RECIPES = {
    "nothing": None,
    "concat of two": Derivation(parents=("a", "b"), is_concat=True),
    "pca 64, int8": Derivation(**OF, steps=(("pca", 64),), dtype="int8"),
    "random_projection 64": Derivation(**OF, steps=(("random_projection", 64),)),
    "truncate 64, float16": Derivation(**OF, steps=(("truncate", 64),), dtype="float16"),
    "binary": Derivation(**OF, dtype="binary"),
}


def artefact(folder: str, stage: str, name: str, count: int) -> Artefact:
    return Artefact(store=Store(folder), stage=stage, name=name, fingerprint=str(count))


def part_names(count: int) -> tuple[str, ...]:
    return tuple(f"part-{number:06d}.parquet" for number in range(count // PART_ROWS))


def write_store(folder: str, count: int) -> None:
    """Write patches, two thirds of them train, and the embeddings of two backbones."""
    patches = artefact(folder, "patches", "noise", count)
    for number, name in enumerate(part_names(count)):
        rng = np.random.default_rng(number)
        ids = pa.array([f"{number:04d}-{row:04d}" for row in range(PART_ROWS)])
        splits = pa.array(["train", "train", "test"] * PART_ROWS)[:PART_ROWS]
        patches.write_table(name, pa.table({"patch_id": ids, "split": splits}))
        for parent in ("a", "b"):
            rows = rng.normal(1.0, 1.0, (PART_ROWS, DIM)) * np.geomspace(10, 0.1, DIM)
            table = pa.table(
                [ids, embeddings_column(rows.astype(np.float32))], schema=embeddings_schema(DIM)
            )
            artefact(folder, "embed", parent, count).write_table(name, table)


def make(folder: str, count: int, name: str) -> None:
    """Make one recipe in this process, and print what it took."""
    import sklearn.preprocessing
    import torch

    del sklearn, torch
    derived = RECIPES[name]
    if derived is None:
        print(f"{name}: peak {peak_memory_bytes() / 2**20:.0f} MiB")
        return
    dims = (DIM,) * len(derived.parents)
    began_cpu_s = time.process_time()
    made = make_and_write(
        Recipe(
            derived=derived,
            parents=tuple(artefact(folder, "embed", item, count) for item in derived.parents),
            dims=dims,
            dim=check_widths(derived, sum(dims), where="perf"),
            patches=artefact(folder, "patches", "noise", count),
            artefact=artefact(folder, "embed", name, count),
            parts=part_names(count),
            seed=0,
        )
    )
    print(
        f"{name}: {made['seconds']:.1f} s, {time.process_time() - began_cpu_s:.1f} CPU s, "
        f"peak {made['peak_memory_bytes'] / 2**20:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[25_000, 100_000])
    parser.add_argument("--make", help="one recipe, in this process")
    parser.add_argument("--store", help="where the embeddings lie")
    options = parser.parse_args()
    if options.make:
        make(options.store, options.counts[0], options.make)
        return
    for count in options.counts:
        count -= count % PART_ROWS
        with tempfile.TemporaryDirectory() as folder:
            write_store(folder, count)
            for name in RECIPES:
                command = [sys.executable, "-m", "perf.derived", "--counts", str(count)]
                command += ["--make", name, "--store", folder]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                print(f"{count:,} x {DIM}, {done.stdout.strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
