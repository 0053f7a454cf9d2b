"""Frozen, or which mode of fine-tuning: the choices of one backbone beside their costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmark.config import EvaluateConfig
from benchmark.experiment.cells import Cell
from benchmark.methods import is_finetuned, with_mode
from benchmark.stages.evaluate.comparison import (
    Cost,
    Group,
    are_unlike,
    cost_words,
    find_frozen,
    mean_seconds,
)
from benchmark.statistics.design import Design
from benchmark.statistics.flips import NO_DIFFERENCE, TOO_LITTLE, flip_ranking


def describe_choices(
    groups: Sequence[Group],
    *,
    design: Design,
    costs: Mapping[Cell, Cost],
    floors: set[str],
    settings: EvaluateConfig,
) -> list[dict[str, Any]]:
    """Compare the choices of each backbone that was fine-tuned in several modes.

    The choices are its modes and the frozen backbone with the head that is best on val. Each is
    tested against the best of them on test, corrected for the choices of the backbone and for
    that selection.

    Args:
        groups: scored on the same patches.
        design: of test.
        costs: of every cell of ``groups``.
        floors: names of heads that are never a choice.
        settings: confidence and seed.

    Returns:
        One record per backbone: ``backbone``, ``choices`` (best first: ``method``, ``value``,
        ``behind`` with ``behind_low`` and ``behind_high`` in balanced accuracy, ``seconds`` of a
        seed or None, ``verdict``), ``cheapest`` (the method with the fewest device-seconds of
        those that the test does not tell from the best; None: unknown) and ``sentence``.
    """
    found = []
    for backbone in dict.fromkeys(group.backbone for group in groups):
        tuned = [item for item in groups if item.backbone == backbone and item.is_finetuned]
        if len(tuned) > 1:
            frozen = find_frozen(groups, backbone, costs, floors)
            mine = [*tuned, frozen] if frozen else tuned
            found.append(_describe(mine, design=design, costs=costs, settings=settings))
    return found


def _describe(
    groups: Sequence[Group],
    *,
    design: Design,
    costs: Mapping[Cell, Cost],
    settings: EvaluateConfig,
) -> dict[str, Any]:
    ordered = sorted(groups, key=lambda group: -group.value)
    flips = flip_ranking(
        np.stack([design.contributions(group.right) for group in ordered], axis=1),
        design.unit_weights,
        0,
        alpha=1.0 - settings.confidence,
        seed=settings.seed,
        folds=design.folds,
    )
    choices: list[dict[str, Any]] = []
    for group, is_behind, interval in zip(ordered, flips.is_detected, flips.intervals, strict=True):
        is_best = not choices
        no_verdict = TOO_LITTLE if flips.is_too_little else NO_DIFFERENCE
        choices.append(
            {
                "method": group.method,
                "value": group.value,
                "behind": ordered[0].value - group.value,
                "behind_low": 0.0 if is_best else interval.low,
                "behind_high": 0.0 if is_best else interval.high,
                "seconds": mean_seconds(group, costs),
                "verdict": "leader" if is_best else "behind" if is_behind else no_verdict,
            }
        )
    cheapest = None
    equal = [i for i, is_behind in enumerate(flips.is_detected) if not is_behind]
    devices = [costs[cell].device for i in equal for cell in ordered[i].cells]
    is_known = not are_unlike(devices) and all(choices[i]["seconds"] is not None for i in equal)
    if is_known and not flips.is_too_little:
        cheapest = min((choices[i] for i in equal), key=lambda item: item["seconds"])
    return {
        "backbone": ordered[0].backbone,
        "choices": choices,
        "cheapest": None if cheapest is None else cheapest["method"],
        "sentence": write_choice(choices, cheapest),
    }


def write_choice(choices: Sequence[Mapping[str, Any]], cheapest: Mapping[str, Any] | None) -> str:
    """Return the choices as a sentence without a full stop, which continues ``With BACKBONE,``.

    Args:
        choices: as in ``describe_choices``, best first.
        cheapest: one of them; None: unknown.
    """
    best, *others = choices
    text = f"{_name(best['method'])} leads with {100 * best['value']:.1f} % balanced accuracy"
    verdicts = {item["verdict"] for item in others}
    if TOO_LITTLE in verdicts:
        return f"{text}; there is {TOO_LITTLE} the others from it"
    if NO_DIFFERENCE not in verdicts:
        return f"{text}; the others are detectably behind"
    if cheapest is None:
        return f"{text}; the cheapest choice without a detectable difference from it is not known"
    if cheapest is best:
        return f"{text}; no choice without a detectable difference from it is cheaper"
    cost = cost_words(cheapest["seconds"] / best["seconds"] if best["seconds"] else None)
    return (
        f"{text}; {_name(cheapest['method'])} is the cheapest choice without a detectable "
        f"difference from it{f', at {cost}' if cost else ''}"
    )


def _name(method: str) -> str:
    """Return a choice in words: ``fine-tuning (lora)``, or ``the frozen backbone with knn``."""
    if is_finetuned(method):
        return with_mode("fine-tuning", method)
    return f"the frozen backbone with {method}"
