"""Label efficiency: the sizes of the train sets, and from where on fine-tuning is ahead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.label_sets import CURVES
from benchmark.methods import FINETUNE, with_mode
from benchmark.statistics.crossings import Crossing, find_crossing

TRIED = {"fraction": "fractions", "shots": "shots"}


def describe_train_sets(context: Context, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return name, kind and patches of each train set that has a cell, the fullest first."""
    first = {cell.train_set: cell for cell in reversed(cells)}
    found = []
    for item in context.train_sets:
        if item.name in first:
            counts = context.rows_of(first[item.name]).class_counts
            sizes = {f"num_{role}": sum(numbers) for role, numbers in counts.items()}
            found.append({"name": item.name, "kind": item.kind, **sizes})
    return found


def describe_crossings(
    comparison: pa.Table, train_sets: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return for each fine-tuning from how many labels on it is ahead of the best head.

    Args:
        comparison: rows of ``schemas.COMPARISON``.
        train_sets: from ``describe_train_sets``.

    Returns: one record per backbone, method and curve with at least two points: ``backbone``,
    ``method``, ``curve``, ``at``, ``low`` and ``high`` in labels of train (0: before the first
    point; null: beyond the last), and ``sentence``.
    """
    rows = comparison.to_pylist()
    has = {item["kind"] for item in train_sets}
    found = []
    for curve, kinds in CURVES.items():
        labels = {item["name"]: item["num_train"] for item in train_sets if item["kind"] in kinds}
        for backbone, method in dict.fromkeys((row["backbone"], row["method"]) for row in rows):
            mine = [row for row in rows if (row["backbone"], row["method"]) == (backbone, method)]
            points = sorted(
                (labels[row["train_set"]], row["gain"], row["gain_low"], row["gain_high"])
                for row in mine
                if row["train_set"] in labels
            )
            if len(points) > 1 and curve in has:
                numbers, *curves = zip(*points, strict=True)
                crossing = find_crossing(numbers, *curves)
                ends = {
                    name: None if math.isinf(value) else value
                    for name, value in crossing._asdict().items()
                }
                sentence = write_crossing(backbone, crossing, numbers, TRIED[curve], method)
                names = {"backbone": backbone, "method": method, "curve": curve}
                found.append({**names, **ends, "sentence": sentence})
    return found


def write_crossing(
    backbone: str,
    crossing: Crossing,
    labels: Sequence[int],
    tried: str,
    method: str = FINETUNE,
) -> str:
    """Return a crossing as a sentence.

    Args:
        backbone: whose fine-tuning is compared with its best frozen head.
        crossing: in labels of train.
        labels: of the points, rising.
        tried: what the points are, e.g. ``fractions``.
        method: of the fine-tuning.
    """
    who = f"With {backbone}, {with_mode('fine-tuning', method)}"
    first, last = f"{labels[0]:,}", f"{labels[-1]:,}"
    at, low, high = (
        f"less than {first}"
        if place == 0
        else f"more than {last}"
        if math.isinf(place)
        else about(place)
        for place in crossing
    )
    if math.isinf(crossing.at):
        perhaps = "" if math.isinf(crossing.low) else f"; the data allow it from {low} on"
        where = f"within the {tried} tried, {first} to {last} labels"
        return f"{who} does not overtake the best frozen head {where}{perhaps}."
    if crossing.at == 0:
        detectably = f"; detectably from {high} on" if crossing.high else ""
        if math.isinf(crossing.high):
            detectably = f"; not detectably up to {last}"
        where = f"at all {tried} tried, from {first} labels on"
        return f"{who} is ahead of the best frozen head {where}{detectably}."
    return f"{who} overtakes the best frozen head from about {at} labels on, [{low}, {high}]."


def about(number: float) -> str:
    """Return a number of labels with two digits that count, e.g. ``1,400``."""
    digits = max(0, math.floor(math.log10(number)) - 1)
    return f"{round(number, -digits):,.0f}"
