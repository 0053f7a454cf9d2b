"""Join predictions with labels, count, and compare methods on the same patches.

Test labels are read here and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.catalog.metrics import HEADLINE
from benchmark.errors import CellError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.train_sets import ChosenPatches
from benchmark.methods import is_finetuned
from benchmark.specs import Metric
from benchmark.stages.evaluate.comparison import Group
from benchmark.stages.evaluate.folds import with_folds
from benchmark.statistics.counts import Statistics, summarise
from benchmark.statistics.design import Design, find_design, least_units, rare_classes
from benchmark.statistics.flips import NO_DIFFERENCE, TOO_LITTLE, flip_ranking
from benchmark.statistics.intervals import Interval
from benchmark.statistics.scores import Uncertainty
from benchmark.statistics.selection import missing_patches, optimism
from benchmark.tables import (
    CALIBRATION,
    CONFUSION,
    CONFUSION_KEY,
    SCORES,
    find_rows,
    vectors_array,
)

SPLITS_SCORED = ("val", "test")
RESOLVED = 0.05
"""The difference for which missing test patches are counted."""
LEAST_OPTIMISM = 0.0005
"""Below half a tenth of a point it is not told."""


class _Scored(NamedTuple):
    """One split of one cell: its statistics by scene, its values, and their intervals."""

    cell: Cell
    split: str
    by_scene: Statistics
    values: dict[str, NDArray[np.float64]]
    intervals: dict[str, list[Interval]]
    is_right: NDArray[np.bool_]
    design: Design
    digest: str

    @property
    def counts(self) -> NDArray[np.int64]:
        """Confusion counts (K, K)."""
        return np.asarray(self.by_scene.counts.sum(axis=0), dtype=np.int64)


class _Labels(NamedTuple):
    """The patches of a split, in the order of their identities."""

    ids: NDArray[Any]
    y_true: NDArray[np.int32]
    design: Design


class Evaluation:
    """The scores of one train set, with intervals and tests over the scenes of its splits."""

    def __init__(
        self,
        context: Context,
        train_set: str,
        splits: Sequence[str] = SPLITS_SCORED,
        *,
        num_folds: int | None = None,
        kept: NDArray[Any] | None = None,
    ) -> None:
        """Begin; ``num_folds``: whose predictions each cell pools; ``kept``: the patches scored."""
        self._kept = kept
        self.train_set = train_set
        self._splits = splits
        self._num_folds = num_folds
        self._settings = context.experiment.evaluate
        self._alpha = 1.0 - self._settings.confidence
        self._classes = context.source.classes
        self._metrics = context.metrics
        self._labels: dict[int, dict[str, _Labels]] = {}
        self._scored: list[_Scored] = []

    @property
    def _first(self) -> dict[str, _Labels]:
        return next(iter(self._labels.values()))

    @property
    def designs(self) -> dict[str, Design]:
        """The design of each split; that of val is of the first seed."""
        return {split: labels.design for split, labels in self._first.items()}

    def _read(self, rows: ChosenPatches) -> dict[str, _Labels]:
        """Return the labels and scenes of each split; those of test are the same for all seeds.

        Raises:
            CellError: the patches of test depend on the seed.
        """
        key = rows.seed
        if key not in self._labels:
            columns = ["patch_id", "split", "label", "scene"]
            frame = rows.read_table(columns=columns, splits=self._splits).to_pandas()
            frame = frame if self._kept is None else frame[frame["patch_id"].isin(self._kept)]
            self._labels[key] = {}
            for split in self._splits:
                part = frame[frame["split"] == split]
                y_true = part["label"].to_numpy()
                design = find_design(y_true, part["scene"].to_numpy(), alpha=self._alpha)
                if self._num_folds is not None:
                    design = with_folds(design, rows.rows, self._num_folds)
                self._labels[key][split] = _Labels(part["patch_id"].to_numpy(), y_true, design)
            if not np.array_equal(self._labels[key]["test"].ids, self._first["test"].ids):
                raise CellError(f"train set '{self.train_set}': its test patches differ by seed")
        return self._labels[key]

    def add(self, cell: Cell, rows: ChosenPatches, table: pa.Table | None = None) -> None:
        """Score one cell's predictions, as ``rows`` divide the patches.

        Args:
            cell: complete.
            rows: the patches.
            table: the predictions, if they have been read.

        Raises:
            BenchmarkError: predictions are missing for some patches.
        """
        table = cell.artefact.read_table() if table is None else table
        ids = table["patch_id"].to_numpy()
        all_pred = table["y_pred"].to_numpy()
        all_score = vectors_array(table["y_score"])
        num_classes = len(self._classes)
        for split, labels in self._read(rows).items():
            at = find_rows(ids, labels.ids, what=f"{cell.artefact.uri}, split '{split}',")
            y_true, y_pred, y_score = labels.y_true, all_pred[at], all_score[at]
            design = labels.design
            by_scene = summarise(
                y_true,
                y_pred,
                y_score,
                num_classes=num_classes,
                groups=design.scene_or_whole,
                num_groups=design.num_groups,
            )
            whole = by_scene.total()
            scored = _Scored(
                cell=cell,
                split=split,
                by_scene=by_scene,
                values={metric.name: metric.compute(whole) for metric in self._metrics},
                intervals={
                    metric.name: self._intervals(metric, by_scene, design)
                    for metric in self._metrics
                },
                is_right=y_pred == y_true,
                design=design,
                digest=hashlib.blake2b(np.ascontiguousarray(y_score).tobytes()).hexdigest(),
            )
            self._scored.append(scored)

    def _intervals(self, metric: Metric, by_scene: Statistics, design: Design) -> list[Interval]:
        """Return the interval of each value of a metric."""
        certainty = self._uncertainty(by_scene, design)
        # The metrics of this package are between 0 and 1.
        known = certainty.of(metric.name)
        found = known or certainty.jackknife(metric.compute)
        if design.folds is None:
            return found
        most = 1.0 if known else float("inf")
        return design.folds.widen(found, metric.compute, by_scene, certainty.quantile, most)

    def _uncertainty(self, by_scene: Statistics, design: Design) -> Uncertainty:
        return Uncertainty(
            by_scene,
            has_scenes=design.has_scenes,
            confidence=self._settings.confidence,
        )

    def scores(self, fingerprint: str) -> pa.Table:
        """Return the table ``scores``: one row per cell, split and metric (and class)."""
        rows = []
        for item in self._scored:
            for metric in self._metrics:
                values = np.atleast_1d(item.values[metric.name])
                for k, value in enumerate(values):
                    low, high = item.intervals[metric.name][k]
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
                            "artefact": item.cell.artefact.folder,
                        }
                    )
        return pa.Table.from_pylist(rows, schema=SCORES)

    def confusion(self) -> pa.Table:
        """Return the table ``confusion``: counts (K, K) of every cell and split."""
        names = {"classes": self._classes}
        rows = [{**_key(item), **names, "counts": item.counts.tolist()} for item in self._scored]
        return pa.Table.from_pylist(rows, schema=CONFUSION)

    def calibration(self) -> pa.Table:
        """Return the table ``calibration``: the filled bins of every cell and split."""
        rows = [
            _key(item) | row
            for item in self._scored
            for row in self._uncertainty(item.by_scene, item.design).reliability()
        ]
        return pa.Table.from_pylist(rows, schema=CALIBRATION)

    @cached_property
    def groups(self) -> list[Group]:
        """The results on test grouped by train set, backbone and method, seeds together."""
        found: dict[tuple[str, str, str], list[_Scored]] = {}
        for item in self._scored:
            if item.split == "test":
                key = (item.cell.train_set, item.cell.backbone or "", item.cell.method or "")
                found.setdefault(key, []).append(item)
        return [
            Group(
                cells=tuple(item.cell for item in items),
                values=np.array([float(item.values[HEADLINE]) for item in items]),
                interval=self._interval_of_mean(items),
                right=np.mean([item.is_right for item in items], axis=0),
            )
            for items in found.values()
        ]

    def _interval_of_mean(self, items: Sequence[_Scored]) -> Interval:
        """Return the interval of the mean over seeds, from the mean counts of each scene."""
        columns = zip(*(item.by_scene.arrays() for item in items), strict=True)
        mean = Statistics(*(np.mean(arrays, axis=0) for arrays in columns))
        (headline,) = (metric for metric in self._metrics if metric.name == HEADLINE)
        return self._intervals(headline, mean, self.designs["test"])[0]

    @cached_property
    def _contributions(self) -> NDArray[np.float64]:
        """What each unit of test adds to each method's score: (units, methods)."""
        design = self.designs["test"]
        return np.stack([design.contributions(group.right) for group in self.groups], axis=1)

    def ranking(self, floors: set[str]) -> pd.DataFrame:
        """Rank methods by the headline metric on test, mean over seeds.

        The interval is that of the mean on other scenes; ``seed_std`` is a column of its own, and
        ``expected_low`` and ``expected_high`` take both together. ``difference`` is the leader
        minus the row, with the interval and p-value of the corrected flip test, and ``verdict``
        says what follows.
        """
        groups, design = self.groups, self.designs["test"]
        values = [group.value for group in groups]
        order = sorted(range(len(groups)), key=lambda i: (-values[i], i))
        flips = flip_ranking(
            self._contributions,
            design.unit_weights,
            order[0],
            alpha=self._alpha,
            seed=self._settings.seed,
            folds=design.folds,
        )
        rows = []
        for rank, i in enumerate(order, start=1):
            group = groups[i]
            is_floor = group.backbone in floors or group.method in floors
            low, high = flips.intervals[i]
            verdict = "behind" if flips.is_detected[i] else NO_DIFFERENCE
            expected = group.expected_interval(self._settings.confidence)
            rows.append(
                {
                    "train_set": self.train_set,
                    "backbone": group.backbone,
                    "method": group.method,
                    "value": group.value,
                    "ci_low": group.interval.low,
                    "ci_high": group.interval.high,
                    "seed_std": group.seed_std,
                    "num_seeds": len(group.values),
                    "expected_low": expected.low,
                    "expected_high": expected.high,
                    # Fine-tuning trains even a floor backbone.
                    "is_floor": not group.is_finetuned and is_floor,
                    "seed_values": group.values.tolist(),
                    "rank": rank,
                    "difference": values[order[0]] - group.value,
                    "difference_low": 0.0 if rank == 1 else low,
                    "difference_high": 0.0 if rank == 1 else high,
                    "p_value": None if rank == 1 else float(flips.p_values[i]),
                    "is_tie": rank > 1 and not flips.is_detected[i],
                    "verdict": "leader"
                    if rank == 1
                    else TOO_LITTLE
                    if flips.is_too_little
                    else verdict,
                }
            )
        return pd.DataFrame(rows)

    @cached_property
    def optimism(self) -> float | None:
        """By how much the leader's score is too high because it is the best of many."""
        found = optimism(
            self._contributions,
            self.designs["test"].unit_weights,
            num_draws=self._settings.num_resamples,
            seed=self._settings.seed,
        )
        return _finite(found)

    def limits(self, ranking: pd.DataFrame) -> list[str]:
        """Return what this test set and these seeds cannot tell, in sentences."""
        limits = [*rare_classes(self.designs["test"], self._classes), *self._missing(ranking)]
        if (ranking["num_seeds"] == 1).all():
            limits.append("One seed: the spread of training is unknown.")
        gain = self.optimism
        if gain is not None and gain >= LEAST_OPTIMISM:
            # Rows that are right on the same patches, as those of majority, are one method.
            num_methods = np.unique(self._contributions, axis=1).shape[1]
            limits.append(
                f"The leader is the best of {num_methods} on test: its score is about "
                f"{100 * gain:.1f} points too high for that reason alone."
            )
        return limits

    def _missing(self, ranking: pd.DataFrame) -> list[str]:
        """Return how many test patches a verdict on the first two rows lacks."""
        if len(ranking) < 2 or not ranking.iloc[1].is_tie:
            return []
        groups = {(group.backbone, group.method): group for group in self.groups}
        one, other = (groups[row.backbone, row.method] for row in ranking.iloc[:2].itertuples())
        design = self.designs["test"]
        found = missing_patches(
            design, one.right, other.right, difference=RESOLVED, alpha=self._alpha
        )
        points = f"a difference of {100 * RESOLVED:g} points between the first two rows"
        lacking = least_units(self._alpha) - design.num_units
        if design.has_scenes and lacking > 0:
            scenes = f"{lacking} more scene{'' if lacking == 1 else 's'}"
            return [f"Too little data to tell: at least {scenes} are needed for any verdict."]
        if not found.num_patches:
            return []
        name = self._classes[found.label]
        more = "" if found.suffices else ", and as many times more of every other class,"
        return [
            f"About {found.num_patches} more {name} patches in test{more} would resolve {points}."
        ]

    def notes(self, ranking: pd.DataFrame, floors: set[str]) -> list[str]:
        """Return notes on suspicious results: scores at chance, and cells with identical scores."""
        notes = []
        present = len(set(self._first["test"].y_true.tolist()))
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
            is_suspicious = twin.backbone != item.cell.backbone or any(
                map(is_finetuned, (twin.method, item.cell.method))
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
