"""Join predictions with labels, count, resample, and compare methods on the same resamples.

Test labels are read here and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.catalog.metrics import HEADLINE
from benchmark.errors import BenchmarkError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import FINETUNE, Context
from benchmark.stages.evaluate.comparison import Group, compare, read_costs, unlike_devices
from benchmark.statistics.counts import summarise
from benchmark.statistics.resampling import Resampling, draw_resamples, interval, resample
from benchmark.statistics.significance import holm, mcnemar
from benchmark.store import provenance
from benchmark.store.artefacts import Artefact
from benchmark.tables import (
    CONFUSION,
    CONFUSION_KEY,
    SCORES,
    check_table,
    find_rows,
    vectors_array,
)

SPLITS_SCORED = ("val", "test")


def compute(context: Context, artefact: Artefact, advance: Callable[[int], None]) -> None:
    """Score every complete cell of the grid and commit the scores.

    Commits nothing if the grid has changed meanwhile: its scores belong to another artefact.

    Raises:
        BenchmarkError: there is no complete cell.
    """
    grid = context.prediction_cells()
    cells = [cell for cell in grid if cell.artefact.is_complete]
    if not cells:
        reasons = {context.why_missing(cell.artefact) for cell in grid}
        raise BenchmarkError(f"there are no predictions to score: {sorted(reasons)[0]}")
    evaluation = Evaluation(context)
    for cell in cells:
        evaluation.add(cell)
        advance(1)
    if context.scores().fingerprint != artefact.fingerprint:
        # Another run has completed predictions meanwhile: these scores do not match the name.
        return
    floor_heads = {item.name for item in context.heads if item.is_floor}
    floors = floor_heads | {item.name for item in context.backbones if item.is_floor}
    scores = check_table(evaluation.scores(artefact.fingerprint), SCORES, what="scores")
    artefact.write_table("confusion.parquet", evaluation.confusion())
    artefact.write_table("scores.parquet", scores)
    artefact.write_bytes("scores.csv", scores.to_pandas().to_csv(index=False).encode())
    ranking = evaluation.ranking(floors)
    artefact.write_table("ranking.parquet", pa.Table.from_pandas(ranking))
    comparison = compare(
        evaluation.groups(),
        costs=read_costs(context, cells),
        floors=floor_heads,
        confidence=context.experiment.evaluate.confidence,
    )
    artefact.write_table("comparison.parquet", comparison)
    artefact.commit(
        {
            "inputs": context.scores_inputs(),
            "num_cells": len(cells),
            "intervals": {
                split: {"kind": item.kind, "reason": item.reason}
                for split, item in evaluation.resamplings.items()
            },
            "notes": [*evaluation.notes(ranking, floors), *unlike_devices(comparison)],
            "provenance": provenance.record(),
        },
        needs=("confusion.parquet", "scores.parquet", "ranking.parquet", "comparison.parquet"),
    )


class _Scored(NamedTuple):
    """One split of one cell: its counts, its values, and their resamples (R, ...)."""

    cell: Cell
    split: str
    counts: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]
    resampled: dict[str, NDArray[np.float64]]
    is_right: NDArray[np.bool_]
    digest: str


@dataclass(frozen=True)
class _Labels:
    ids: NDArray[Any]
    y_true: NDArray[np.int32]


class Evaluation:
    """The scores of one data set; resamples are drawn once per split, for all methods."""

    def __init__(self, context: Context) -> None:
        """Read the labels and draw the resamples."""
        settings = context.experiment.evaluate
        self._confidence = settings.confidence
        self._classes = context.source.classes
        self._metrics = context.metrics
        self._labels: dict[str, _Labels] = {}
        self.resamplings: dict[str, Resampling] = {}
        self._scored: list[_Scored] = []
        table = context.patches.read_table(
            columns=["patch_id", "split", "label", "scene"], splits=SPLITS_SCORED
        )
        frame = table.to_pandas()
        for split in SPLITS_SCORED:
            rows = frame[frame["split"] == split]
            y_true = rows["label"].to_numpy()
            self._labels[split] = _Labels(rows["patch_id"].to_numpy(), y_true)
            self.resamplings[split] = draw_resamples(
                y_true,
                rows["scene"].to_numpy(),
                num_resamples=settings.num_resamples,
                seed=settings.seed,
            )

    def add(self, cell: Cell) -> None:
        """Score one cell's predictions on val and test.

        Raises:
            BenchmarkError: predictions are missing for some patches.
        """
        table = cell.artefact.read_table()
        ids = table["patch_id"].to_numpy()
        all_pred = table["y_pred"].to_numpy()
        all_score = vectors_array(table["y_score"])
        num_classes = len(self._classes)
        for split, labels in self._labels.items():
            at = find_rows(ids, labels.ids, what=f"{cell.artefact.uri}, split '{split}',")
            y_true, y_pred, y_score = labels.y_true, all_pred[at], all_score[at]
            whole = summarise(y_true, y_pred, y_score, num_classes=num_classes)
            drawing = self.resamplings[split]
            drawn = resample(y_true, y_pred, y_score, num_classes=num_classes, resampling=drawing)
            scored = _Scored(
                cell=cell,
                split=split,
                counts=np.asarray(whole.counts, dtype=np.int64),
                values={metric.name: metric.compute(whole) for metric in self._metrics},
                resampled={metric.name: metric.compute(drawn) for metric in self._metrics},
                is_right=y_pred == y_true,
                digest=hashlib.blake2b(np.ascontiguousarray(y_score).tobytes()).hexdigest(),
            )
            self._scored.append(scored)

    def scores(self, fingerprint: str) -> pa.Table:
        """Return the table ``scores``: one row per cell, split and metric (and class)."""
        rows = []
        for item in self._scored:
            for metric in self._metrics:
                values = np.atleast_1d(item.values[metric.name])
                resampled = item.resampled[metric.name].reshape(-1, len(values))
                for k, value in enumerate(values):
                    low, high = interval(resampled[:, k], self._confidence)
                    name = f"{metric.name}/{self._classes[k]}" if metric.is_per_class else None
                    rows.append(
                        {
                            **_key(item),
                            "metric": name or metric.name,
                            "value": _finite(value),
                            "ci_low": _finite(low),
                            "ci_high": _finite(high),
                            "num_patches": int(item.counts.sum()),
                            "fingerprint": fingerprint,
                        }
                    )
        return pa.Table.from_pylist(rows, schema=SCORES)

    def confusion(self) -> pa.Table:
        """Return the table ``confusion``: counts (K, K) of every cell and split."""
        rows = [{**_key(item), "counts": item.counts.tolist()} for item in self._scored]
        return pa.Table.from_pylist(rows, schema=CONFUSION)

    def groups(self) -> list[Group]:
        """Return the results on test grouped by backbone and method, seeds together."""
        found: dict[tuple[str, str], list[_Scored]] = {}
        for item in self._scored:
            if item.split == "test":
                key = (item.cell.backbone or "", item.cell.method or "")
                found.setdefault(key, []).append(item)
        return [
            Group(
                cells=tuple(item.cell for item in items),
                values=np.array([float(item.values[HEADLINE]) for item in items]),
                resampled=np.mean([item.resampled[HEADLINE] for item in items], axis=0),
                is_right=tuple(item.is_right for item in items),
            )
            for items in found.values()
        ]

    def ranking(self, floors: set[str]) -> pd.DataFrame:
        """Rank methods by the headline metric on test, mean over seeds.

        The interval is that of the mean; ``seed_std`` is a column of its own. ``difference`` is
        the leader minus the row on the same resamples, ``p_value`` the exact McNemar test of the
        first seed (McNemar 1947), corrected over the table (Holm 1979).
        """
        groups = self.groups()
        rows = []
        for group in groups:
            low, high = interval(group.resampled, self._confidence)
            rows.append(
                {
                    "backbone": group.backbone,
                    "method": group.method,
                    "value": group.value,
                    "ci_low": low,
                    "ci_high": high,
                    "seed_std": group.values.std(ddof=1) if len(group.values) > 1 else None,
                    "num_seeds": len(group.values),
                    # Fine-tuning trains even a floor backbone.
                    "is_floor": not group.is_finetuned
                    and (group.backbone in floors or group.method in floors),
                    "seed_values": group.values.tolist(),
                }
            )
        drawn = [group.resampled for group in groups]
        right = [group.is_right[0] for group in groups]
        order = sorted(range(len(rows)), key=lambda i: (-rows[i]["value"], i))
        leader = order[0]
        p_values = holm([mcnemar(right[leader], right[i]) for i in order[1:]])
        for rank, i in enumerate(order, start=1):
            low, high = interval(drawn[leader] - drawn[i], self._confidence)
            rows[i] |= {
                "rank": rank,
                "difference": rows[leader]["value"] - rows[i]["value"],
                "difference_low": low,
                "difference_high": high,
                "p_value": None if i == leader else p_values[rank - 2],
                "is_tie": i != leader and bool(low <= 0.0),
            }
        return pd.DataFrame([rows[i] for i in order])

    def notes(self, ranking: pd.DataFrame, floors: set[str]) -> list[str]:
        """Return notes on suspicious results: scores at chance, and cells with identical scores."""
        notes = []
        present = len(set(self._labels["test"].y_true.tolist()))
        for row in ranking.itertuples():
            if not row.is_floor and row.ci_low <= 1.0 / present:
                notes.append(
                    f"{row.backbone} / {row.method} is not detectably above chance "
                    f"({1.0 / present:.3f})."
                )
        seen: dict[str, Cell] = {}
        for item in self._scored:
            if item.split != "test" or item.cell.method in floors:
                continue
            twin = seen.setdefault(item.digest, item.cell)
            # Heads of one backbone may agree, and need not depend on the seed; fine-tuning does.
            is_suspicious = twin.backbone != item.cell.backbone or FINETUNE in (
                twin.method,
                item.cell.method,
            )
            if twin is not item.cell and is_suspicious:
                notes.append(
                    f"{item.cell.label} and {twin.label} give identical scores for every patch: "
                    "one of them is probably broken."
                )
        return notes


def _key(item: _Scored) -> dict[str, Any]:
    return {name: getattr(item if name == "split" else item.cell, name) for name in CONFUSION_KEY}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
