"""The number of labels from which one method is ahead of another, with its confidence set."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Crossing(NamedTuple):
    """Where a difference rises above zero for good; 0: before the first point; inf: nowhere."""

    at: float
    low: float
    high: float


def find_crossing(
    labels: ArrayLike, gains: ArrayLike, lows: ArrayLike, highs: ArrayLike
) -> Crossing:
    """Return where a difference rises above zero for good, and the confidence set of that place.

    The set holds the numbers of labels at which the difference may be zero: its test does not
    reject there. The true place is among them as often as an interval holds its true difference
    (an inverted test, as in Fieller 1954), so the set never contradicts the verdicts. Between two
    points the difference and its bounds are lines over the logarithm of the number of labels.

    Args:
        labels: (M,) numbers of labels, rising.
        gains: (M,) differences.
        lows: (M,) lower ends of their intervals.
        highs: (M,) upper ends.
    """
    x = np.log(np.asarray(labels, float))
    at, low, high = (_last_rise(x, np.asarray(y, float)) for y in (gains, highs, lows))
    return Crossing(at, low, high)


def _last_rise(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return e to the place where y rises above zero for the last time."""
    if not y[-1] > 0:
        return math.inf
    before = np.flatnonzero(~(y > 0))
    if not len(before):
        return 0.0
    i = before[-1]
    if np.isinf(y[i]):
        return float(np.exp(x[i + 1]))
    return float(np.exp(x[i] + (x[i + 1] - x[i]) * -y[i] / (y[i + 1] - y[i])))
