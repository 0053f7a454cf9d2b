"""Flip tests of paired differences, corrected over a table, with the intervals they imply.

If two methods are equal, they may be exchanged within each unit (a scene, or a patch where scenes
are unknown): the sign of each unit's contribution to the difference is as likely plus as minus
(Fisher 1935, "The Design of Experiments"). All comparisons of a table use the same flips, so the
largest statistic of a flip corrects for their number (Westfall and Young 1993, "Resampling-Based
Multiple Testing"). An interval holds all differences that the same test does not reject, and so
never contradicts the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.design import least_units
from benchmark.statistics.folds import Folds
from benchmark.statistics.intervals import Interval

Array = NDArray[np.float64]

NO_DIFFERENCE = "no detectable difference"
TOO_LITTLE = "too little data to tell"
"""The verdicts where no test rejects; the others say which side is ahead."""

EXACT_UNITS = 16
"""With at most so many units, all flips are tried; otherwise some are drawn."""
NUM_DRAWS = 9_999


@dataclass(frozen=True, eq=False)
class Flips:
    """Comparisons of one table under the same flips.

    Attributes:
        differences: (M,) observed differences.
        statistics: (M,) their absolute values over their root sum of squares, which grows by the
            variance that folds add; 0 where no unit differs.
        p_values: (M,) corrected for all comparisons.
        is_detected: (M,) whether the corrected test rejects.
        intervals: one for each comparison, without 0 exactly where it is detected.
        is_too_little: whether so few units can never reject, whatever they hold.
    """

    differences: Array
    statistics: Array
    p_values: Array
    is_detected: NDArray[np.bool_]
    intervals: list[Interval]
    is_too_little: bool


def flip_table(
    contributions: Array, weights: Array, *, alpha: float, seed: int = 0, folds: Folds | None = None
) -> Flips:
    """Test several differences, each chosen before the data were seen (step-down).

    Args:
        contributions: (U, M) what each unit adds to each difference.
        weights: (U,) share of each unit in a constant difference; they sum to 1.
        alpha: family-wise level.
        seed: of the drawn flips.
        folds: of pooled predictions.
    """
    shrink = _shrink(contributions, weights, folds)
    observed = _standardise(contributions) * shrink
    order = np.argsort(-observed, kind="stable")
    largest = _largest(contributions, order, seed)
    return _conclude(contributions, weights, observed, order, largest, alpha, shrink)


def flip_ranking(
    contributions: Array,
    weights: Array,
    leader: int,
    *,
    alpha: float,
    seed: int = 0,
    folds: Folds | None = None,
) -> Flips:
    """Test the difference of every method from the best one, which the same data have chosen.

    The leader is the best of many, so its distance from the others is large by chance alone: the
    statistic of a flip is the largest over all pairs of the methods still in play, as for a range.
    The method farthest behind is tested first; one that is rejected leaves.

    Args:
        contributions: (U, M) what each unit adds to each method's score.
        weights: (U,) share of each unit in a constant difference; they sum to 1.
        leader: its column.
        alpha: family-wise level.
        seed: of the drawn flips.
        folds: of pooled predictions.

    Returns: leader minus method, for every method; the leader's own row holds no difference.
    """
    behind = contributions[:, [leader]] - contributions
    shrink = _shrink(behind, weights, folds)
    observed = _standardise(behind) * shrink
    order = np.argsort(-observed, kind="stable")
    largest = _largest_of_pairs(contributions, order, seed)
    return _conclude(behind, weights, observed, order, largest, alpha, shrink)


def _shrink(differences: Array, weights: Array, folds: Folds | None) -> Array:
    """Return by what the statistics (M,) are multiplied because folds share training data."""
    return np.ones(differences.shape[1]) if folds is None else folds.shrink(differences, weights)


def _conclude(
    contributions: Array,
    weights: Array,
    observed: Array,
    order: NDArray[np.int64],
    largest: Array,
    alpha: float,
    shrink: Array,
) -> Flips:
    """Return p-values, verdicts and intervals.

    Args:
        contributions: (U, M).
        weights: (U,).
        observed: (M,) statistics.
        order: (M,) comparisons by falling statistic.
        largest: (R, M) of each flip, the largest statistic of the comparisons from each place of
            the order on.
        alpha: level.
        shrink: (M,) what the statistics were multiplied by.
    """
    from scipy import stats

    num_flips, num = largest.shape
    # The identity is one of the flips, whether they are drawn or all tried.
    exceeds = (largest >= observed[order] * (1.0 - 1e-12)).mean(axis=0)
    p_values = np.empty(num)
    p_values[order] = np.maximum.accumulate(exceeds)
    allowed = int(np.floor(alpha * num_flips + 1e-9))
    highest = -np.partition(-largest, min(allowed, num_flips - 1), axis=0)
    limit = highest[min(allowed, num_flips - 1)]
    critical, is_detected = np.empty(num), np.zeros(num, bool)
    still = True
    for place, comparison in enumerate(order):
        critical[comparison] = limit[place]
        still = still and bool(observed[comparison] > limit[place] * (1.0 + 1e-12))
        is_detected[comparison] = still
        if not still:
            # The later ones are tested at the level of the first that is not rejected.
            critical[order[place:]] = np.maximum(limit[place], observed[order[place:]])
            break
    is_too_little = len(contributions) < least_units(alpha)
    # A few units that differ among many cannot reject either, but bound the difference.
    reachable = np.abs(contributions).sum(axis=0) / _scale(contributions)
    critical = np.where(critical < reachable * shrink, critical, stats.norm.isf(alpha / 2.0))
    critical = critical / shrink
    intervals = [
        Interval(-1.0, 1.0)
        if is_too_little
        else _invert(contributions[:, m], weights, critical[m], bool(is_detected[m]))
        for m in range(num)
    ]
    return Flips(
        contributions.sum(axis=0), observed, p_values, is_detected, intervals, is_too_little
    )


def _invert(contribution: Array, weights: Array, critical: float, is_detected: bool) -> Interval:
    """Return the differences that are not rejected.

    These are all delta with (D - delta)^2 <= c^2 (sum_u (d_u - delta a_u)^2 + delta^2 a^2). The
    last term is one more unit, of usual weight a, in which the methods are alike: where all units
    agree, a difference is still not known exactly. It changes nothing at delta = 0.
    """
    c2 = critical * critical
    usual = float((weights * weights).sum())
    total = float(contribution.sum())
    squares = float((contribution * contribution).sum())
    if squares == 0.0:
        return Interval(-min(critical * usual, 1.0), min(critical * usual, 1.0))
    a = 1.0 - c2 * (usual + usual * usual)
    b = total - c2 * float((contribution * weights).sum())
    c = total * total - c2 * squares
    root = float(np.sqrt(max(b * b - a * c, 0.0)))
    low, high = ((b - root) / a, (b + root) / a) if a > 0.0 else (-1.0, 1.0)
    if is_detected and total > 0.0:
        # The same root, stable for any a: units of very unequal weight bound one side alone.
        low = c / (b + root)
    elif is_detected:
        high = c / (b - root)
    else:
        low, high = min(low, 0.0), max(high, 0.0)
    low, high = max(low, -1.0), min(high, 1.0)
    return Interval(float(min(low, total)), float(max(high, total)))


def _scale(contributions: Array) -> Array:
    """Return the root sum of squares of each column, 1 where it is 0; no flip changes it."""
    scale = np.sqrt((contributions * contributions).sum(axis=0))
    return np.where(scale > 0.0, scale, 1.0)


def _standardise(contributions: Array) -> Array:
    """Return |sum_u d_u| / sqrt(sum_u d_u^2) of each column."""
    total: Array = np.abs(contributions.sum(axis=0)) / _scale(contributions)
    return total


def _signs(num_units: int, seed: int) -> Array:
    """Return flips (R, U) of +1 and -1, the identity first: all of few units, else draws."""
    if num_units <= EXACT_UNITS:
        # A flip and its opposite give the same statistic: half of them are enough.
        numbers = np.arange(2 ** max(num_units - 1, 0))
        bits = (numbers[:, None] >> np.arange(num_units)) & 1
        return (1.0 - 2.0 * bits).astype(np.float64)
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = rng.integers(0, 2, (NUM_DRAWS + 1, num_units), np.int8)
    drawn[0] = 0
    return (1.0 - 2.0 * drawn).astype(np.float64)


def _largest(contributions: Array, order: NDArray[np.int64], seed: int) -> Array:
    """Return (R, M): of each flip, the largest statistic from each place of the order on."""
    moved = contributions[(contributions != 0).any(axis=1)]
    flipped = np.abs(_signs(len(moved), seed) @ (moved / _scale(moved))[:, order])
    largest: Array = np.maximum.accumulate(flipped[:, ::-1], axis=1)[:, ::-1]
    return largest


def _largest_of_pairs(contributions: Array, order: NDArray[np.int64], seed: int) -> Array:
    """Return (R, M): of each flip, the largest statistic of any pair of methods in play.

    At the place of a method in ``order`` those before it have left.
    """
    centred = contributions - contributions.mean(axis=1, keepdims=True)
    moved = centred[(contributions != contributions[:, :1]).any(axis=1)]
    squares = (moved * moved).sum(axis=0)
    inner = moved.T @ moved
    scale = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2.0 * inner, 0.0))
    scale = np.where(scale > 1e-12 * (1.0 + scale.max(initial=0.0)), scale, np.inf)[order][:, order]
    signs = _signs(len(moved), seed)
    flipped = signs @ moved[:, order]
    num = len(order)
    # The pair of places i < j is in play until the method at place i leaves.
    by_first = np.zeros((len(flipped), num))
    for first in range(num - 1):
        gaps = np.abs(flipped[:, [first]] - flipped[:, first + 1 :]) / scale[first, first + 1 :]
        by_first[:, first] = gaps.max(axis=1)
    largest: Array = np.maximum.accumulate(by_first[:, ::-1], axis=1)[:, ::-1]
    return largest
