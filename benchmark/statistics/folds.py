"""Folds share training data: what that adds to intervals and tests of cross-validation.

The models of two folds are trained on mostly the same patches, so their scores err together, which
the scenes (or patches) of pooled predictions cannot show; no estimator of that variance is unbiased
(Bengio and Grandvalet 2004, "No Unbiased Estimator of the Variance of K-Fold Cross-Validation").
Nadeau and Bengio (2003), "Inference for the Generalization Error", multiply the variance between
folds S^2 by 1/k + n_test/n_train. Here the variance over scenes, which knows more than k values,
takes the place of S^2/k, and n_test/n_train S^2 is added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.counts import Statistics
from benchmark.statistics.intervals import Interval

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Folds:
    """The folds of pooled predictions.

    Attributes:
        of_unit: (U,) fold of each unit of the design, from 0.
        num: of folds.
        ratio: patches of test over patches of train, the mean over folds.
    """

    of_unit: NDArray[np.int64]
    num: int
    ratio: float

    def added_variance(self, values: Array) -> Array:
        """Return the variance that shared training data add to a mean over folds.

        Args:
            values: (folds, ...) score of each fold; where fewer than two are known, nothing is
                added.
        """
        between = np.ma.masked_invalid(values).var(axis=0, ddof=1)
        added: Array = self.ratio * np.ma.filled(between, 0.0)
        return added

    def widen(
        self,
        intervals: Sequence[Interval],
        compute: Callable[[Statistics], Any],
        by_group: Statistics,
        quantile: float,
        most: float = 1.0,
    ) -> list[Interval]:
        """Return intervals with the added variance: squares of half widths are added.

        Args:
            intervals: of a metric, one for each of its values.
            compute: the metric.
            by_group: statistics of each unit, or of each fold where units are not counted apart.
            quantile: of the intervals.
            most: largest value of the metric, whose least is then 0; infinite: no limits.
        """
        is_by_unit = len(by_group.counts) == len(self.of_unit)
        of_group = self.of_unit if is_by_unit else np.arange(self.num)
        by_fold = Statistics(
            *(
                np.stack([array[of_group == fold].sum(axis=0) for fold in range(self.num)])
                for array in by_group.arrays()
            )
        )
        values = np.asarray(compute(by_fold)).reshape(self.num, -1)
        half = quantile * np.sqrt(self.added_variance(values))
        whole = np.atleast_1d(compute(by_group.total()))
        least = 0.0 if np.isfinite(most) else -np.inf
        return [
            Interval(
                float(np.maximum(v - np.hypot(v - low, h), least)),
                float(np.minimum(v + np.hypot(high - v, h), most)),
            )
            for (low, high), v, h in zip(intervals, whole, half, strict=True)
        ]

    def shrink(self, contributions: Array, weights: Array) -> Array:
        """Return by what the statistics of flip tests are multiplied: (M,), at most 1.

        Args:
            contributions: (U, M) what each unit adds to each difference.
            weights: (U,) share of each unit in a constant difference.
        """
        is_of = self.of_unit == np.arange(self.num)[:, None]
        values = (is_of @ contributions) / (is_of @ weights)[:, None]
        squares = (contributions * contributions).sum(axis=0)
        added = self.added_variance(values)
        share: Array = np.divide(squares, squares + added, np.ones_like(added), where=squares > 0)
        return np.sqrt(share)
