"""What the choice of the best of many does to its score, and how many patches a verdict needs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.design import Design

Array = NDArray[np.float64]

POWER = 0.8
"""Chance of the verdict for which patches are counted."""


def optimism(contributions: Array, weights: Array, *, num_draws: int, seed: int) -> float:
    """Return by how much the best score of a table is too high because it is the best.

    The units are split into random halves; the method that is best on one half is scored on both.
    The mean loss from the first to the second half, over the square root of 2 because a half is
    noisier than the whole, estimates the optimism of the choice on all units.

    Args:
        contributions: (U, M) what each unit adds to each method's score.
        weights: (U,) share of each unit.
        num_draws: random halves.
        seed: of the PCG64 generator.
    """
    num_units, num = contributions.shape
    if num < 2 or num_units < 4:
        return float("nan")
    rng = np.random.Generator(np.random.PCG64(seed))
    losses = []
    for _ in range(num_draws):
        is_first = np.zeros(num_units, bool)
        is_first[rng.permutation(num_units)[: num_units // 2]] = True
        halves = []
        for mine in (is_first, ~is_first):
            share = weights[mine].sum()
            halves.append(contributions[mine].sum(axis=0) / share if share > 0 else None)
        first, second = halves
        if first is None or second is None:
            continue
        best = int(np.argmax(first))
        # The common level of a half says nothing of the choice.
        losses.append((first[best] - first.mean()) - (second[best] - second.mean()))
    if not losses:
        return float("nan")
    return max(0.0, float(np.mean(losses)) / float(np.sqrt(2.0)))


class Missing(NamedTuple):
    """The test patches that are missing for a verdict on a difference of some size."""

    label: int
    """The class whose patches are missing most."""
    num_patches: int
    """How many more of it; 0: there are enough."""
    suffices: bool
    """Whether more patches of this class alone would do."""


def missing_patches(
    design: Design, one: Array, other: Array, *, difference: float, alpha: float
) -> Missing:
    """Return how many more test patches would resolve a difference, with 80 % power.

    By the normal approximation a difference D is found with this power if its standard deviation is
    at most D / (z_alpha/2 + z_power). The variance of class k is that of the patches' differences,
    over n_k K^2, times the design effect of the scenes, which is taken to stay.

    Args:
        design: of test.
        one: (N,) whether, or on which share of seeds, a method is right.
        other: (N,) the same of another one.
        difference: of balanced accuracies.
        alpha: level of the test.
    """
    from scipy import stats

    labels = np.unique(design.y_true)
    gap = one - other
    num = np.array([(design.y_true == label).sum() for label in labels], dtype=np.float64)
    # Two patches more, which differ in one way each: a class without differences may have some.
    spread = np.array(
        [
            (float((gap[design.y_true == label] ** 2).sum()) + 2.0) / (n + 2.0)
            for label, n in zip(labels, num, strict=True)
        ]
    )
    by_class = spread / num / len(labels) ** 2
    units = design.contributions(gap)
    mean = units.sum() * design.unit_weights
    own = float(((units - mean) ** 2).sum())
    effect = max(1.0, own / by_class.sum()) if design.has_scenes else 1.0
    wanted = (difference / (stats.norm.isf(alpha / 2.0) + stats.norm.ppf(POWER))) ** 2 / effect
    worst = int(np.argmax(by_class))
    others = by_class.sum() - by_class[worst]
    if by_class.sum() <= wanted:
        return Missing(int(labels[worst]), 0, True)
    left = wanted - others
    suffices = left > by_class[worst] / 1000.0
    if not suffices:
        # All classes must grow alike.
        factor = by_class.sum() / wanted
        return Missing(int(labels[worst]), int(np.ceil(num[worst] * (factor - 1.0))), False)
    size = spread[worst] / len(labels) ** 2 / left
    return Missing(int(labels[worst]), int(np.ceil(size - num[worst])), True)
