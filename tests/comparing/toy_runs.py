"""Complete runs written by hand: patches and predictions without training, scored for real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.catalog.heads import HEADS
from benchmark.experiment.context import Context
from benchmark.specs import Head
from benchmark.store import provenance
from benchmark.tables import check_table, images_column, patches_schema
from tests.finetuned import draw_scores, score, write_head

Accuracies = Mapping[str, float]
"""Of each head, the share of patches that it classifies correctly."""


def named(*names: str) -> tuple[Head, ...]:
    """Return heads of the catalog."""
    return tuple(HEADS.get(name) for name in names)


def draw_patches(num: int = 300, *, num_scenes: int = 20, seed: int = 0) -> pa.Table:
    """Return patches of five classes; a fifth of them trains, a fifth validates."""
    rng = np.random.default_rng(seed)
    scenes = rng.integers(num_scenes, size=num)
    split = np.array(["train", "val", "test", "test", "test"])[scenes % 5]
    table = pa.table(
        {
            "patch_id": [f"p{i:05d}" for i in range(num)],
            "split": split,
            "label": pa.array(rng.integers(0, 5, num), pa.int32()),
            "scene": [f"s{scene:02d}" for scene in scenes],
            "region": pa.nulls(num, pa.string()),
            **{name: pa.array(np.zeros(num), pa.int32()) for name in ("row", "col")},
            **{name: np.zeros(num) for name in ("lon", "lat")},
            "purity": pa.array(np.ones(num), pa.float32()),
            "image": images_column(np.zeros((num, 1, 8, 8), np.uint8)),
        }
    )
    return check_table(table, patches_schema(1, 8), what="toy patches")


def write_run(
    context: Context,
    accuracies: Accuracies,
    *,
    table: pa.Table | None = None,
    classes: Sequence[str] | None = None,
) -> Context:
    """Write patches, and predictions of every cell, whose draws depend on the seed; score them."""
    table = draw_patches() if table is None else table
    context.patches.write_table("part-000000.parquet", table)
    context.patches.commit(
        {
            "inputs": context.patches_inputs,
            "num_patches": table.num_rows,
            "classes": list(classes or context.source.classes),
            "is_synthetic": True,
            "dataset_digest": context.dataset_digest,
            "notes": [],
            "problems": [],
            "provenance": provenance.record(),
        }
    )
    write_predictions(context, accuracies, table)
    score(context)
    return context


def write_predictions(context: Context, accuracies: Accuracies, table: pa.Table) -> None:
    """Write the predictions of every cell on the patches outside train."""
    kept = table.filter(pc.not_equal(table["split"], "train")).sort_by("patch_id")
    ids, labels = kept["patch_id"].to_numpy(), kept["label"].to_numpy()
    for cell in context.prediction_cells():
        accuracy: Any = accuracies[cell.method or ""]
        scores = draw_scores(labels, 5, accuracy=accuracy, seed=cell.seed or 0)
        write_head(cell.artefact, ids, scores, val_score=accuracy)
