"""Six variants of one network against one of them, in CPU-seconds: python -m perf.layers

Takes about a minute of one core. A small vision transformer (12 blocks, width 384, random
weights, images of 224 px) embeds the same patches with one reading (the mean of the last layer) and
with six (layers -1, -4 and -8, each as mean and generalised mean). Both are computed in
turn, in one process and one thread, and written as Parquet; the median of the ratios counts. Goal:
at most 1.05.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

BANDS = ("red", "green", "blue")
LAYERS, POOLINGS = [-1, -4, -8], ["mean", "gem"]


def write_network(folder: Path) -> Path:
    """Write a checkpoint of a small vision transformer with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536
    )
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessor().save_pretrained(folder)
    return folder


def prepare(folder: Path, store: Path, options: dict[str, object]) -> Callable[[np.ndarray], float]:
    """Return a function that embeds and writes patches, and returns its CPU-seconds."""
    from benchmark.catalog.variants import find_variants
    from benchmark.networks.devices import plan_device
    from benchmark.networks.embedder import Embedder
    from benchmark.options import BackboneOptions
    from benchmark.store.artefacts import Store
    from benchmark.tables import embeddings_column, embeddings_schema

    found = find_variants(
        f"hf:{folder}", where="", options=BackboneOptions.model_validate(options), folders=()
    )
    backbone = found[0]
    if len(found) > 1:
        readings = tuple(item.shared.reading for item in found)
        backbone = replace(backbone, build=partial(_build, backbone.shared.build, readings))
    plan = plan_device(precision="float32", batch_size=16, num_threads=1, device="cpu")
    embedder = Embedder(backbone, BANDS, plan)
    artefacts = [
        Store(str(store)).artefact("embed", f"layers-{len(found)}", f"{i:016x}")
        for i in range(len(found))
    ]

    def run(pixels: np.ndarray) -> float:
        began = time.process_time()
        wide, _ = embedder(pixels)
        ids = pa.array([f"p{i:06d}" for i in range(len(wide))])
        start = 0
        for item, artefact in zip(found, artefacts, strict=True):
            own = wide[:, start : start + item.dim]
            start += item.dim
            table = pa.table([ids, embeddings_column(own)], schema=embeddings_schema(item.dim))
            artefact.write_table("part-000000.parquet", table)
        if start != wide.shape[1]:
            raise ValueError(f"{wide.shape[1]} columns, not {start}")
        return time.process_time() - began

    return run


def _build(build, readings, num_bands):
    return build(num_bands, readings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.patches, 3, 224, 224), np.uint8)
    with tempfile.TemporaryDirectory() as root:
        folder = write_network(Path(root) / "vit")
        one = prepare(folder, Path(root) / "runs", {})
        six = prepare(folder, Path(root) / "runs", {"layers": LAYERS, "pooling": POOLINGS})
        for run in (one, six):
            run(pixels[:32])
        pairs = [(one(pixels), six(pixels)) for _ in range(arguments.rounds)]
    ratios = [second / first for first, second in pairs]
    print(
        json.dumps(
            {
                "patches": arguments.patches,
                "one_cpu_s": round(statistics.median(first for first, _ in pairs), 2),
                "six_cpu_s": round(statistics.median(second for _, second in pairs), 2),
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(item, 3) for item in sorted(ratios)],
            }
        )
    )


if __name__ == "__main__":
    main()
