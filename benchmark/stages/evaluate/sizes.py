"""Embeddings shortened or packed beside the whole one: score and bytes per patch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.specs import Backbone
from benchmark.stages.evaluate.comparison import Cost, Group, find_frozen
from benchmark.statistics.design import Design
from benchmark.statistics.flips import NO_DIFFERENCE, TOO_LITTLE, flip_table

FLOAT_BYTES = 4
"""Of a value of an embedding that is not packed."""


class _Variant(NamedTuple):
    """One embedding with its best head on val."""

    backbone: str
    recipe: str
    dim: int
    num_bytes: int
    group: Group


def describe_sizes(
    context: Context,
    groups: Sequence[Group],
    *,
    design: Design,
    costs: Mapping[Cell, Cost],
    floors: set[str],
) -> list[dict[str, Any]]:
    """Compare each embedding made with ``of`` with the whole one that it is made from.

    Both sides have the head that is best on val, so that the choice does not depend on test. All
    comparisons of the experiment are corrected together.

    Args:
        context: of the experiment.
        groups: scored on the same patches.
        design: of test.
        costs: of every cell of ``groups``.
        floors: names of heads that are never a side.

    Returns:
        One record per whole embedding that has variants: ``full`` (its backbone), ``rows`` (by
        falling bytes, the whole one among them: ``backbone``, ``recipe``, ``method``, ``dim``,
        ``bytes`` per patch, ``value``, ``ci_low``, ``ci_high``, ``difference`` from the whole one
        with ``difference_low``, ``difference_high`` and ``p_value``, ``verdict``), ``smallest``
        (the variant with the fewest bytes that is not detectably behind; None: there is none, or
        too little data) and ``sentence``.
    """
    families = _families(context, groups, costs, floors)
    pairs = [(full, variant) for full, *variants in families for variant in variants]
    if not pairs:
        return []
    settings = context.experiment.evaluate
    flips = flip_table(
        np.stack(
            [
                design.contributions(variant.group.right - full.group.right)
                for full, variant in pairs
            ],
            axis=1,
        ),
        design.unit_weights,
        alpha=1.0 - settings.confidence,
        seed=settings.seed,
        folds=design.folds,
    )
    rows: dict[str, dict[str, Any]] = {}
    for number, (full, variant) in enumerate(pairs):
        difference = variant.group.value - full.group.value
        verdict = NO_DIFFERENCE
        if flips.is_too_little:
            verdict = TOO_LITTLE
        elif flips.is_detected[number]:
            verdict = "ahead" if difference > 0 else "behind"
        low, high = flips.intervals[number]
        rows[variant.backbone] = _row(variant) | {
            "difference": difference,
            "difference_low": low,
            "difference_high": high,
            "p_value": float(flips.p_values[number]),
            "verdict": verdict,
        }
    return [_describe(full, [rows[item.backbone] for item in rest]) for full, *rest in families]


def _families(
    context: Context,
    groups: Sequence[Group],
    costs: Mapping[Cell, Cost],
    floors: set[str],
) -> list[list[_Variant]]:
    """Return the whole embeddings, each with its variants after it; those without are left out."""
    found: dict[str, list[_Variant]] = {}
    for backbone in context.backbones:
        variant = _variant(context, backbone, find_frozen(groups, backbone.name, costs, floors))
        if variant is None:
            continue
        root = root_of(context.backbones, backbone)
        if context.flips_of(root):
            # Its variants predict without flips, which has nothing to do with their size.
            continue
        mine = found.setdefault(root.name, [])
        mine.insert(0 if root is backbone else len(mine), variant)
    return [
        family for name, family in found.items() if len(family) > 1 and family[0].backbone == name
    ]


def root_of(backbones: Iterable[Backbone], backbone: Backbone) -> Backbone:
    """Return the whole embedding that one is made from by ``of``, once or repeatedly."""
    by_name = {item.name: item for item in backbones}
    while backbone.derived is not None and not backbone.derived.is_concat:
        backbone = by_name[backbone.derived.parents[0]]
    return backbone


def _variant(context: Context, backbone: Backbone, group: Group | None) -> _Variant | None:
    """Return a variant; None: it has no scored head, or its embeddings have been deleted."""
    artefact = context.embeddings(backbone)
    if group is None or not artefact.is_complete:
        return None
    manifest = artefact.manifest()
    dim = int(manifest["dim"])
    made = manifest.get("derived", {})
    return _Variant(
        backbone=backbone.name,
        recipe=made.get("recipe", ""),
        dim=dim,
        num_bytes=int(made.get("bytes_per_patch", FLOAT_BYTES * dim)),
        group=group,
    )


def _row(variant: _Variant) -> dict[str, Any]:
    return {
        "backbone": variant.backbone,
        "recipe": variant.recipe,
        "method": variant.group.method,
        "dim": variant.dim,
        "bytes": variant.num_bytes,
        "value": variant.group.value,
        "ci_low": variant.group.interval.low,
        "ci_high": variant.group.interval.high,
    }


def _describe(full: _Variant, variants: Sequence[dict[str, Any]]) -> dict[str, Any]:
    kept = [
        row
        for row in variants
        if row["verdict"] in (NO_DIFFERENCE, "ahead") and row["bytes"] < full.num_bytes
    ]
    smallest = min(kept, key=lambda row: (row["bytes"], -row["value"]), default=None)
    whole = {
        **_row(full),
        **dict.fromkeys(("difference", "difference_low", "difference_high", "p_value")),
        "verdict": "whole",
    }
    return {
        "full": full.backbone,
        "rows": sorted([whole, *variants], key=lambda row: -row["bytes"]),
        "smallest": None if smallest is None else smallest["backbone"],
        "sentence": write_sizes(full.backbone, full.num_bytes, variants, smallest),
    }


def write_sizes(
    full: str,
    num_bytes: int,
    variants: Sequence[Mapping[str, Any]],
    smallest: Mapping[str, Any] | None,
) -> str:
    """Return which variant is the smallest that is not told from the whole one, as a sentence.

    Args:
        full: backbone of the whole embedding.
        num_bytes: of the whole one, per patch.
        variants: as the ``rows`` of ``describe_sizes``, without the whole one.
        smallest: one of them; None: there is none.
    """
    if any(row["verdict"] == TOO_LITTLE for row in variants):
        return f"There is {TOO_LITTLE} the variants of {full} from it."
    if smallest is None:
        return f"Every smaller variant of {full} is detectably behind it."
    points = [100 * smallest[key] for key in ("difference", "difference_low", "difference_high")]
    # Adding zero turns the minus zero that rounding may leave into zero.
    middle, low, high = (f"{round(value, 1) + 0.0:+.1f}" for value in points)
    is_ahead = smallest["verdict"] == "ahead"
    what = "is not behind it" if is_ahead else "cannot be told from it"
    end = ", detectably ahead" if is_ahead else ""
    return (
        f"The smallest variant of {full} that {what} is {smallest['backbone']}: "
        f"{smallest['bytes']:,} bytes per patch in place of {num_bytes:,}, at {middle} points "
        f"[{low}, {high}]{end}."
    )
