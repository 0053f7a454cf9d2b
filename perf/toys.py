"""Contexts over data made in memory, so that a measurement needs no download."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.datasets import DATASETS
from benchmark.catalog.heads import HEADS
from benchmark.catalog.metrics import METRICS
from benchmark.cluster.connection import Cluster
from benchmark.config import build
from benchmark.experiment.context import Context
from benchmark.progress import LoggedProgress
from benchmark.specs import Backbone, Found, Images
from benchmark.store.artefacts import Store
from benchmark.tables import CANDIDATES

UNIT_ROWS = 1000


@dataclass(frozen=True)
class Noise:
    """A source of ``num_patches`` random patches: nothing but bytes to move."""

    num_patches: int
    patch_size: int = 128
    classes: tuple[str, ...] = ("a", "b", "c", "d", "e")
    bands: tuple[str, ...] = ("red", "green", "blue", "nir")
    is_synthetic: bool = True
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        return f"noise-{self.num_patches}"

    def units(self) -> list[str]:
        return [f"{number:05d}" for number in range(self.num_patches // UNIT_ROWS)]

    def find(self, unit: str) -> Found:
        n = UNIT_ROWS
        table = pa.table(
            {
                "patch_id": [f"{unit}-{row:05d}" for row in range(n)],
                "split": [("train", "val", "test")[int(unit) % 3]] * n,
                "label": pa.array(np.arange(n) % 5, pa.int32()),
                "scene": [unit] * n,
                "region": ["here"] * n,
                "row": pa.array(np.zeros(n), pa.int32()),
                "col": pa.array(np.zeros(n), pa.int32()),
                "lon": np.zeros(n),
                "lat": np.zeros(n),
                "purity": pa.array(np.ones(n), pa.float32()),
            }
        )
        return Found(table.cast(CANDIDATES), n)

    def read(self, candidates: pa.Table) -> Images:
        n = candidates.num_rows
        seed = int(candidates["patch_id"][0].as_py().replace("-", ""))
        pixels = np.random.default_rng(seed).bytes(n * 4 * self.patch_size**2)
        shape = (n, 4, self.patch_size, self.patch_size)
        return Images(np.frombuffer(pixels, np.uint8).reshape(shape), np.arange(n))


def open_noise(
    store: Path | str,
    num_patches: int,
    *,
    backbones: list[str],
    heads: list[str],
    resolved: tuple[Backbone, ...] | None = None,
    **settings: Any,
) -> Context:
    """Open an experiment; ``resolved`` are its backbones if the catalog does not have them."""
    experiment = build(
        {
            "name": "perf",
            "backbones": backbones,
            "heads": heads,
            "dataset": {"name": "synthetic", "root": "noise"},
            **settings,
        }
    )
    context = Context(
        experiment=experiment,
        dataset=replace(DATASETS.get("synthetic"), name="noise"),
        backbones=resolved or tuple(find_backbone(name) for name in backbones),
        heads=tuple(HEADS.get(name) for name in heads),
        metrics=tuple(METRICS),
        store=Store(str(store)),
        cluster=Cluster(),
        progress=LoggedProgress(),
    )
    context.__dict__["source"] = Noise(num_patches)
    return context
