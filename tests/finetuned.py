"""Cells written by hand: what tune and finetune leave in the store, without training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.catalog.backbones import BACKBONES
from benchmark.experiment.context import Context
from benchmark.specs import Backbone
from benchmark.stages.evaluate import EvaluateStage
from benchmark.store.artefacts import Artefact
from benchmark.store.names import beside
from benchmark.tables import CURVES, TRIALS, check_table, predictions_schema


def learned(name: str) -> Backbone:
    """A backbone that is no floor and needs no weights."""
    return replace(BACKBONES.get("random"), name=name, is_floor=False)


def draw_scores(
    labels: NDArray[np.int64], num_classes: int, *, accuracy: float | NDArray[Any], seed: int = 0
) -> NDArray[np.float32]:
    """Return scores (N, K) whose largest is the label with such a probability (one, or (N,))."""
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(num_classes), len(labels)).astype(np.float32)
    right = rng.random(len(labels)) < accuracy
    other = (labels + rng.integers(1, num_classes, len(labels))) % num_classes
    scores[np.arange(len(labels)), np.where(right, labels, other)] += 2
    return scores / scores.sum(axis=1, keepdims=True)


def write_scores(artefact: Artefact, ids: NDArray[Any], scores: NDArray[np.float32]) -> None:
    """Write the table ``predictions``."""
    k = scores.shape[1]
    table = pa.table(
        {
            "patch_id": ids,
            "y_pred": pa.array(scores.argmax(axis=1), pa.int32()),
            "y_score": pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), k),
        }
    )
    artefact.write_table(
        "part-000000.parquet", check_table(table, predictions_schema(k), what="toy predictions")
    )


def write_embeddings(context: Context, backbone: Backbone, *, seconds: float) -> None:
    """Write a manifest, which is all that evaluate reads of embeddings."""
    context.embeddings(backbone).commit(
        {"seconds": {"device": seconds}, "device": {"device": "cpu"}}
    )


def write_head(
    artefact: Artefact,
    ids: NDArray[Any],
    scores: NDArray[np.float32],
    *,
    val_score: float,
    seconds: float = 2.0,
) -> None:
    """Write a complete cell of tune."""
    write_scores(artefact, ids, scores)
    artefact.commit(
        {
            "head": "any",
            "val_score": val_score,
            "num_trials": 10,
            "seconds": {"trials": 0.9 * seconds, "refit": 0.1 * seconds, "device": seconds},
        }
    )


def write_finetuned(
    artefact: Artefact,
    ids: NDArray[Any],
    scores: NDArray[np.float32],
    *,
    val_score: float = 0.8,
    seconds: float = 380.0,
    num_trials: int = 2,
    num_epochs: int = 4,
    notes: tuple[str, ...] = (),
    device: str = "cpu",
) -> None:
    """Write a complete cell of finetune; trial 1 is the best, its epoch before last is kept."""
    write_scores(artefact, ids, scores)
    best = min(1, num_trials - 1)
    trials, curve = [], []
    for trial in range(num_trials):
        top = val_score - 0.07 * abs(trial - best)
        trials.append(
            {
                "trial": trial,
                "params": "{}",
                "val_score": top,
                "num_epochs": num_epochs,
                "seconds": seconds / num_trials,
                "state": "complete",
            }
        )
        kept = max(1, num_epochs - 1)
        curve += [
            {
                "trial": trial,
                "epoch": epoch,
                "train_loss": 1.6 * 0.6**epoch + 0.1 * trial,
                "val_score": top - 0.03 * abs(epoch - kept),
                "learning_rate": 1e-3 / epoch,
                "seconds": seconds / num_trials / num_epochs,
            }
            for epoch in range(1, num_epochs + 1)
        ]
    artefact.write_table(beside("trials"), pa.Table.from_pylist(trials, schema=TRIALS))
    artefact.write_table(beside("curve"), pa.Table.from_pylist(curve, schema=CURVES))
    artefact.commit(
        {
            "method": "finetune",
            "seed": 0,
            "params": {},
            "mode": "full",
            "num_epochs": max(1, num_epochs - 1),
            "val_score": val_score,
            "num_trials": num_trials,
            "seconds": {"trials": seconds, "refit": 0.0, "device": seconds},
            "peak_memory_bytes": 3 * 2**30,
            "plan": {"device": device, "precision": "float32", "micro_batch": 8, "num_workers": 1},
            "notes": list(notes),
        }
    )


def score(context: Context) -> None:
    """Score the complete cells."""
    (result,) = EvaluateStage().run(context).cells
    assert result.status == "complete", result.reason


def read_scored(context: Context, name: str) -> pd.DataFrame:
    """Return a table that lies beside the scores."""
    frame: pd.DataFrame = context.scores().read_table(names=[beside(name)]).to_pandas()
    return frame
