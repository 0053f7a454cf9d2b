"""Transfer between regions: scores by region of test, and what is lost out of the train regions.

A drop is the score of a method that was trained within a region minus that of the same method
trained elsewhere, on the same test patches of the region: above zero, something is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.config import EvaluateConfig
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.region_sets import OneRegion, Regions
from benchmark.experiment.train_sets import ChosenPatches, TrainSet
from benchmark.methods import is_finetuned
from benchmark.stages.evaluate.comparison import Cost, Group
from benchmark.stages.evaluate.evaluation import Evaluation
from benchmark.stages.evaluate.schemas import DROPS, TRANSFER
from benchmark.statistics.design import Design
from benchmark.statistics.flips import NO_DIFFERENCE, TOO_LITTLE, Flips, flip_ranking, flip_table
from benchmark.tables import check_table

Array = NDArray[np.float64]
Method = tuple[str, str]
"""Backbone and method."""


class Transfer(NamedTuple):
    """The tables ``transfer`` and ``drops``, and what the manifest says of them."""

    transfer: pa.Table
    drops: pa.Table
    record: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Region:
    """The results of all methods on the test patches of one region.

    Attributes:
        name: of the region.
        design: of its test patches.
        groups: one for each train set and method.
        inside: names of the train sets that hold the region.
    """

    name: str
    design: Design
    groups: Sequence[Group]
    inside: Collection[str]

    def holds(self, group: Group) -> bool:
        """Return whether a group was trained within the region."""
        return group.cells[0].train_set in self.inside

    def of(self, method: Method, *, is_within: bool) -> list[Group]:
        """Return the groups of a method that were trained within the region, or elsewhere."""
        mine = [group for group in self.groups if _method(group) == method]
        return [group for group in mine if self.holds(group) == is_within]


def compare_regions(
    context: Context,
    cells: Sequence[Cell],
    costs: Mapping[Cell, Cost],
    floors: Collection[str],
) -> Transfer | None:
    """Score the complete cells of the train sets of regions, region by region.

    Args:
        context: of the experiment.
        cells: complete.
        costs: of every cell.
        floors: names of backbones and heads that any useful method should beat.

    Returns: None if there is no such cell.
    """
    sets = {item.name: item.rule for item in context.train_sets if isinstance(item.rule, Regions)}
    mine = [cell for cell in cells if cell.train_set in sets]
    if not mine:
        return None
    first = next(iter(sets.values()))
    evaluations = {name: Evaluation(context, name, ("test",)) for name in first.test}
    # The test patches of a region are the same for all train sets and seeds.
    rows = {
        name: ChosenPatches(context.patches, TrainSet(name, OneRegion(first, name)), 0)
        for name in first.test
    }
    for cell in mine:
        table = cell.artefact.read_table()
        for name, evaluation in evaluations.items():
            evaluation.add(cell, rows[name], table)
    regions = [
        Region(
            name,
            by_scene(evaluation.designs["test"], rows[name]),
            evaluation.groups,
            {item for item, rule in sets.items() if name in rule.train},
        )
        for name, evaluation in evaluations.items()
    ]
    notes = [
        f"Transfer: all test patches of {item.name} are of one scene, so no test tells a drop "
        "there; the intervals of scores there take patches for independent, and are too narrow."
        for item in regions
        if item.design.num_units == 1
    ]
    settings = context.experiment.evaluate
    ranked = choose_methods(regions[0].groups, costs, floors)
    drops, lacking = mean_drops(regions, len(sets), ranked=ranked, floors=floors, settings=settings)
    classes = context.source.classes
    record = {
        "regions": [describe_region(region, classes) for region in regions],
        "sentence": write_sentence(drops.to_pylist()),
        "notes": [*notes, *lacking, *_notes(context, rows[first.test[0]])],
    }
    return Transfer(transfer_table(regions, settings), drops, record)


def by_scene(design: Design, rows: ChosenPatches) -> Design:
    """Return the design of a region's test patches with its scene as the unit if there is one.

    The scenes of several regions can be tested together, which patches of one scene cannot.
    """
    scenes = {*rows.rows.scenes[rows.roles == "test"].tolist()}
    if len(scenes) > 1 or None in scenes:
        return design
    return replace(design, kind="scene", unit=np.zeros_like(design.unit), num_units=1)


def transfer_table(regions: Sequence[Region], settings: EvaluateConfig) -> pa.Table:
    """Return the score of each train set and method in each region: rows of ``TRANSFER``."""
    rows: list[dict[str, Any]] = []
    for region in regions:
        within = {
            method: found
            for method in map(_method, region.groups)
            if (found := region.of(method, is_within=True))
        }
        at = [
            place
            for place, group in enumerate(region.groups)
            if not region.holds(group) and _method(group) in within
        ]
        verdicts = {}
        if at:
            gaps = [
                _right(within[_method(region.groups[place])]) - region.groups[place].right
                for place in at
            ]
            lost = np.stack([region.design.contributions(gap) for gap in gaps], axis=1)
            tests = _test(lost, region.design.unit_weights, settings)
            verdicts = dict(zip(at, tests, strict=True))
        rows += [
            {
                "train_set": group.cells[0].train_set,
                "region": region.name,
                "is_within": region.holds(group),
                "backbone": group.backbone,
                "method": group.method,
                "value": group.value,
                "ci_low": group.interval.low,
                "ci_high": group.interval.high,
                "num_seeds": len(group.cells),
                "num_patches": len(region.design.y_true),
                **verdicts.get(place, {}),
            }
            for place, group in enumerate(region.groups)
        ]
    return check_table(pa.Table.from_pylist(rows, schema=TRANSFER), TRANSFER, what="transfer")


def mean_drops(
    regions: Sequence[Region],
    num_sets: int,
    *,
    ranked: Collection[Method],
    floors: Collection[str],
    settings: EvaluateConfig,
) -> tuple[pa.Table, list[str]]:
    """Return the mean drop of each method over the regions: rows of ``DROPS``, and notes.

    Only regions count that some train sets hold and others do not. A method without a cell of each
    train set is left out: its mean would be one of other train sets.
    """
    counted = [item for item in regions if 0 < len(item.inside) < num_sets]
    sizes = Counter(_method(group) for group in regions[0].groups)
    notes = [
        f"{' / '.join(method)} has results of {num} of {num_sets} train sets of regions, and "
        "therefore no mean drop."
        for method, num in sizes.items()
        if num < num_sets
    ]
    methods = [method for method, num in sizes.items() if num == num_sets]
    if not counted or not methods:
        return DROPS.empty_table(), notes
    sides = [_sides(counted, method) for method in methods]
    weights = np.concatenate([item.design.unit_weights for item in counted]) / len(counted)
    lost = np.stack([within - elsewhere for within, elsewhere in sides], axis=1)
    rows = [
        {
            "backbone": method[0],
            "method": method[1],
            "is_floor": _is_floor(method, floors),
            "within": float(within.sum()),
            "elsewhere": float(elsewhere.sum()),
            **verdict,
        }
        for method, (within, elsewhere), verdict in zip(
            methods, sides, _test(lost, weights, settings), strict=True
        )
    ]
    at = [place for place, method in enumerate(methods) if method in ranked]
    for place, standing in zip(at, _rank(lost[:, at], weights, settings), strict=True):
        rows[place] |= standing
    rows.sort(key=lambda row: row.get("rank", len(at) + 1))
    return check_table(pa.Table.from_pylist(rows, schema=DROPS), DROPS, what="drops"), notes


def _sides(regions: Sequence[Region], method: Method) -> tuple[Array, Array]:
    """Return what each unit of all regions adds to the mean score within, and elsewhere: (U,)."""
    within, elsewhere = (
        np.concatenate(
            [item.design.contributions(_right(item.of(method, is_within=side))) for item in regions]
        )
        / len(regions)
        for side in (True, False)
    )
    return within, elsewhere


def _right(groups: Sequence[Group]) -> Array:
    """Return the share of train sets and seeds that classify a patch correctly: (N,)."""
    found: Array = np.mean([group.right for group in groups], axis=0)
    return found


def _test(lost: Array, weights: Array, settings: EvaluateConfig) -> list[dict[str, Any]]:
    """Return drop, interval, p-value and verdict of each column of ``lost`` (U, M)."""
    flips = flip_table(lost, weights, alpha=1.0 - settings.confidence, seed=settings.seed)
    return [
        {
            "drop": float(flips.differences[m]),
            "drop_low": flips.intervals[m].low,
            "drop_high": flips.intervals[m].high,
            "p_value": float(flips.p_values[m]),
            "verdict": _verdict(flips, m, "drops" if flips.differences[m] > 0 else "rises"),
        }
        for m in range(lost.shape[1])
    ]


def _rank(lost: Array, weights: Array, settings: EvaluateConfig) -> list[dict[str, Any]]:
    """Return rank and standing of each column of ``lost`` (U, M) by its drop, the least first."""
    if not lost.shape[1]:
        return []
    order = np.argsort(lost.sum(axis=0), kind="stable")
    # Of two scores the higher one is ahead: of two drops the lower one.
    flips = flip_ranking(
        -lost, weights, int(order[0]), alpha=1.0 - settings.confidence, seed=settings.seed
    )
    found: list[dict[str, Any]] = [{} for _ in order]
    for rank, m in enumerate(order.tolist(), start=1):
        low, high = (0.0, 0.0) if rank == 1 else flips.intervals[m]
        found[m] = {
            "rank": rank,
            "difference": float(flips.differences[m]),
            "difference_low": low,
            "difference_high": high,
            "standing": "drops least" if rank == 1 else _verdict(flips, m, "drops more"),
        }
    return found


def _verdict(flips: Flips, m: int, detected: str) -> str:
    if flips.is_too_little:
        return TOO_LITTLE
    return detected if flips.is_detected[m] else NO_DIFFERENCE


def choose_methods(
    groups: Sequence[Group], costs: Mapping[Cell, Cost], floors: Collection[str]
) -> set[Method]:
    """Return what is ranked: the fine-tuning of each backbone, and its head that is best on val."""
    scores: dict[Method, list[float]] = {}
    for group in groups:
        if not _is_floor(_method(group), floors):
            scores.setdefault(_method(group), []).extend(
                costs[cell].val_score for cell in group.cells
            )
    means = {method: float(np.mean(found)) for method, found in scores.items()}
    best: dict[str, Method] = {}
    for method in means:
        if not is_finetuned(method[1]):
            best[method[0]] = max(best.get(method[0], method), method, key=means.__getitem__)
    return {*best.values(), *(method for method in means if is_finetuned(method[1]))}


def describe_region(region: Region, classes: Sequence[str]) -> dict[str, Any]:
    """Return what the manifest says of a region's test patches."""
    labels = region.design.y_true
    present = set(np.unique(labels).tolist())
    return {
        "name": region.name,
        "num_patches": len(labels),
        "num_units": region.design.num_units,
        "unit": region.design.kind,
        "absent": [name for k, name in enumerate(classes) if k not in present],
    }


def write_sentence(drops: Sequence[Mapping[str, Any]]) -> str:
    """Return which method drops least; empty if none is ranked.

    Args:
        drops: rows of ``DROPS``, ranked ones first.
    """
    ranked = [row for row in drops if row["rank"] is not None]
    if not ranked:
        return ""
    first, *others = ranked
    points = [100 * first[key] for key in ("drop", "drop_low", "drop_high")]
    text = (
        f"Drops least out of its regions: {_name(first)}, by {points[0]:.1f} points "
        f"[{points[1]:.1f}, {points[2]:.1f}], from {first['within']:.3f} to "
        f"{first['elsewhere']:.3f}"
    )
    ties = [_name(row) for row in others if row["standing"] == NO_DIFFERENCE]
    if any(row["standing"] == TOO_LITTLE for row in others):
        return f"{text}; there is {TOO_LITTLE} it from the others."
    if ties:
        return f"{text}; no detectable difference from {', '.join(ties)}."
    return f"{text}; every other one drops detectably more." if others else f"{text}."


def _notes(context: Context, rows: ChosenPatches) -> list[str]:
    """Return notes on patches without a region, and on backbones that saw the regions of test."""
    notes = []
    unknown = sum(region is None for region in rows.rows.regions)
    if unknown:
        notes.append(f"Transfer leaves out {unknown} patches without a region.")
    fitted = [item.name for item in context.backbones if item.is_fitted]
    if fitted:
        notes.append(
            f"{', '.join(fitted)}: fitted, without labels, on train of the data, whatever regions "
            "a train set of the transfer leaves out."
        )
    return notes


def _is_floor(method: Method, floors: Collection[str]) -> bool:
    # Fine-tuning trains even a floor backbone.
    return not is_finetuned(method[1]) and any(name in floors for name in method)


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['backbone']} / {row['method']}"


def _method(group: Group) -> Method:
    return group.backbone, group.method
