"""What trackers log of a finished run: its settings, methods with scores, and series of points."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow.compute as pc

from benchmark.comparing.runs import FinishedRun
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.file import settings_of
from benchmark.store.names import beside

RANKED = (
    *("ci_low", "ci_high", "seed_std", "expected_low", "expected_high", "num_seeds", "rank"),
    *("difference", "difference_low", "difference_high", "p_value"),
)
"""Columns of the ranking that are logged beside the value."""
OF_EPOCHS = ("train_loss", "val_loss", "val_score", "learning_rate")
"""Columns of a learning curve that are logged."""
LONGEST_KEY = 200
"""Characters of a key; MLflow takes 250, and some are added to tell equal ones apart."""

_NOT_IN_KEYS = re.compile(r"[^\w.\- ]")


class Point(NamedTuple):
    """One value of a series."""

    series: str
    step: int
    value: float


@dataclass(frozen=True)
class Method:
    """A backbone and method of the ranking: one row of it."""

    backbone: str
    method: str
    train_set: str
    verdict: str
    scores: dict[str, float]
    """The headline metric, mean over seeds, and ``RANKED``."""
    points: list[Point]
    """Scores of each seed, with the seed as step, and the points of its cells."""

    @property
    def label(self) -> str:
        """Its name among the methods of the run."""
        return f"{self.backbone} / {self.method} / {self.train_set}"


def flat_settings(context: Context) -> dict[str, str]:
    """Return all settings in effect, e.g. ``tune.num_trials``, as texts."""
    return dict(_flatten(settings_of(context), ""))


def _flatten(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def methods_of(context: Context, run: FinishedRun) -> list[Method]:
    """Return the methods of a run in the order of its ranking.

    Args:
        context: of the run.
        run: its complete scores.

    Raises:
        CellError: a table is damaged.
    """
    cells = [cell for cell in context.prediction_cells() if cell.artefact.is_complete]
    found = []
    for row in run.ranking.to_pylist():
        own = [
            cell
            for cell in cells
            if (cell.backbone, cell.method) == (row["backbone"], row["method"])
            # The scores of a cross-validation are those of all of its folds.
            and (cell.train_set == row["train_set"] or run.num_folds is not None)
        ]
        points = list(_seed_scores(run, row))
        for cell in own:
            place = "" if cell.train_set == row["train_set"] else f"{cell.train_set}/"
            points += [
                point._replace(series=f"{place}seed{cell.seed}/{point.series}")
                for point in points_of(cell)
            ]
        values = {row["metric"]: row["value"], **{key: row[key] for key in RANKED}}
        found.append(
            Method(
                backbone=row["backbone"],
                method=row["method"],
                train_set=row["train_set"],
                verdict=row["verdict"],
                scores={key: float(value) for key, value in values.items() if _is_number(value)},
                points=points,
            )
        )
    return found


def _seed_scores(run: FinishedRun, row: Mapping[str, Any]) -> Iterator[Point]:
    """Yield the scores of a method with their intervals, e.g. ``test/recall/water.ci_low``."""
    keys = ("backbone", "method", "train_set")
    mask = pc.equal(run.scores[keys[0]], row[keys[0]])
    for key in keys[1:]:
        mask = pc.and_(mask, pc.equal(run.scores[key], row[key]))
    for score in run.scores.filter(mask).to_pylist():
        metric, mark, name = score["metric"].partition("/")
        series = f"{score['split']}/{metric}{mark}{name.replace('/', '_')}"
        for ending, column in (("", "value"), (".ci_low", "ci_low"), (".ci_high", "ci_high")):
            if _is_number(score[column]):
                yield Point(series + ending, score["seed"], float(score[column]))


def points_of(cell: Cell) -> list[Point]:
    """Return the val scores of the trials of a cell, and the learning curve of each training.

    Raises:
        CellError: a table is damaged.
    """
    points = []
    if cell.artefact.has(beside("trials")):
        for row in cell.artefact.read_table(names=[beside("trials")]).to_pylist():
            if _is_number(row["val_score"]):
                points.append(Point("trials/val_score", row["trial"], float(row["val_score"])))
    if cell.artefact.has(beside("curve")):
        for row in cell.artefact.read_table(names=[beside("curve")]).to_pylist():
            points += [
                Point(f"trial{row['trial']}/{key}", row["epoch"], float(row[key]))
                for key in OF_EPOCHS
                if _is_number(row.get(key))
            ]
    return points


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def as_keys(names: Iterable[str]) -> dict[str, str]:
    """Return a key for each name, which trackers take: letters, digits, ``_``, ``-``, ``.``, ``/``.

    Names that would have the same key get a number at its end.
    """
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        parts = (_NOT_IN_KEYS.sub("_", part).strip(". ") or "_" for part in name.split("/"))
        start = key = "/".join(parts)[:LONGEST_KEY]
        number = 1
        # Upper and lower case are the same to some databases.
        while key.lower() in taken:
            number += 1
            key = f"{start}.{number}"
        taken.add(key.lower())
        keys[name] = key
    return keys
