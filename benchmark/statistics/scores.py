"""The interval of every metric, from counts per scene or of all patches together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.counts import Statistics
from benchmark.statistics.intervals import (
    Interval,
    at_least,
    effective_sizes,
    quantile_of,
    scene_effects,
    scene_interval,
    score_interval,
    wilson,
)

Array = NDArray[np.float64]
UNKNOWN = Interval(float("nan"), float("nan"))


class Uncertainty:
    """The intervals of one method's metrics on one split.

    Args:
        by_scene: statistics with a leading axis of scenes; without scenes, of one group.
        has_scenes: whether the leading axis holds scenes.
        confidence: of the intervals.
    """

    def __init__(self, by_scene: Statistics, *, has_scenes: bool, confidence: float) -> None:
        """Count right, true and predicted patches of each scene and class."""
        self._by_scene = by_scene
        self._right = np.diagonal(by_scene.counts, axis1=-2, axis2=-1)
        self._true = by_scene.counts.sum(axis=-1)
        self._predicted = by_scene.counts.sum(axis=-2)
        self._has_scenes = has_scenes
        self._confidence = confidence
        num_scenes = int((self._true.sum(axis=-1) > 0).sum())
        self.quantile = quantile_of(confidence, num_scenes if has_scenes else None)

    def of(self, metric: str) -> list[Interval] | None:
        """Return the interval of a metric, one for each class if it has one value for each.

        None: the metric is not one of this package.
        """
        if metric == "balanced_accuracy":
            return [self._mean()]
        if metric == "accuracy":
            return [self._accuracy()]
        if metric == "macro_f1":
            return [self._macro_f1()]
        if metric == "recall":
            return self._each(self._right, self._true)
        if metric == "precision":
            return self._each(self._right, self._predicted)
        if metric == "expected_calibration_error":
            return [self._calibration()]
        return None

    def reliability(self) -> list[dict[str, float]]:
        """Return the filled bins of the largest score: confidence, and accuracy with interval."""
        right, count = self._by_scene.bin_correct, self._by_scene.bin_counts
        low, high = wilson(*self._sizes(right, count), self.quantile)
        whole = self._by_scene.total()
        return [
            {
                "bin": int(b),
                "num_patches": int(whole.bin_counts[b]),
                "confidence": float(whole.bin_confidence[b] / whole.bin_counts[b]),
                "accuracy": float(whole.bin_correct[b] / whole.bin_counts[b]),
                "ci_low": float(low[b]),
                "ci_high": float(high[b]),
            }
            for b in np.flatnonzero(whole.bin_counts)
        ]

    def jackknife(self, compute: Callable[[Statistics], Any]) -> list[Interval]:
        """Return the interval of any metric of counts from its values without one scene each.

        Without scenes there is none. The deviation is that of Efron and Stein (1981).
        """
        whole = np.atleast_1d(compute(self._by_scene.total()))
        arrays = self._by_scene.arrays()
        num = len(arrays[0])
        if not self._has_scenes or num < 2:
            return [UNKNOWN] * len(whole)
        left_out = Statistics(*(array.sum(axis=0) - array for array in arrays))
        values = np.asarray(compute(left_out)).reshape(num, -1)
        half = self.quantile * np.sqrt((num - 1) * values.var(axis=0))
        return [Interval(float(v - h), float(v + h)) for v, h in zip(whole, half, strict=True)]

    def _sizes(self, right: Array, total: Array) -> tuple[Array, Array]:
        """Return (K,) right patches and patches, as many as are independent."""
        whole = total.sum(axis=0)
        sizes = effective_sizes(right, total) if self._has_scenes else whole
        share = np.divide(right.sum(axis=0), whole, out=np.zeros_like(whole), where=whole > 0)
        return share * sizes, sizes

    def _mean(self) -> Interval:
        if self._has_scenes:
            return scene_interval(self._right, self._true, self._confidence)
        return score_interval(*self._sizes(self._right, self._true), self.quantile)

    def _accuracy(self) -> Interval:
        """Return the interval of one proportion, of the size that its variance over scenes leaves.

        The variance is that of all patches as one class, or that from the classes, which differ in
        their recalls and scenes, if it is larger.
        """
        right, size = self._sizes(_sum(self._right), _sum(self._true))
        if self._has_scenes and size[0] > 0:
            class_right, class_size = self._sizes(self._right, self._true)
            whole = self._true.sum(axis=0)
            safe = np.where(class_size > 0, class_size, 1.0)
            share = class_right / safe
            variance = float(((whole / whole.sum()) ** 2 * share * (1.0 - share) / safe).sum())
            value = float(right[0] / size[0])
            if variance > 0.0:
                size = np.minimum(size, value * (1.0 - value) / variance)
                right = value * size
        return score_interval(right, size, self.quantile)

    def _each(self, right: Array, total: Array) -> list[Interval]:
        low, high = wilson(*self._sizes(right, total), self.quantile)
        return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]

    def _macro_f1(self) -> Interval:
        """Return the interval of macro F1, which is a mean of K proportions TP / ((T + P) / 2).

        Their sizes (T + P) / 2 are divided by the design effects of the recalls, and at least by
        the ratio of the variance by the delta method, over scenes or patches, to that of
        proportions, so that the variance of the whole is right. With scenes, the lower end is not
        above macro F1 at the lower end of the recalls' mean.
        """
        half = (self._true + self._predicted) / 2.0
        size = half.sum(axis=0)
        if not size.any():
            return UNKNOWN
        share = np.divide(self._right.sum(axis=0), size, out=np.zeros_like(size), where=size > 0)
        weights = np.where(size > 0, 1.0 / np.where(size > 0, size, 1.0), 0.0)
        effects, quantile = np.ones(len(size)), self.quantile
        if self._has_scenes:
            residual = ((self._right - share * half) * weights).sum(axis=1)
            # CR2, as in ``effective_sizes``; a scene that is all of test says nothing.
            left = 1.0 - (half * weights).sum(axis=1) / (size > 0).sum()
            variance = float((residual[left > 0.0] ** 2 / left[left > 0.0]).sum())
            # A class that is only predicted has no effect of its own.
            present = self._true.any(axis=0)
            effects[present], quantile = scene_effects(self._right, self._true, self._confidence)
        else:
            variance = self._patch_variance(share, weights)
        of_patch = share * (1.0 - share) * weights
        effects, quantile = at_least(effects, quantile, of_patch, variance, self.quantile)
        found = score_interval(share * size / effects, size / effects, quantile)
        if not self._has_scenes:
            return found
        return found._replace(low=min(found.low, self._f1_of_low_recalls()))

    def _f1_of_low_recalls(self) -> float:
        """Return macro F1 if all recalls fell as their mean may: to the lower end of its interval.

        The few scenes of a test set may not show that scenes can fail in all classes, which lowers
        the precision of small classes as well. The wrong patches of a class are spread over the
        others as they are, with one more in each.
        """
        counts = self._by_scene.counts.sum(axis=0)
        is_used = counts.any(axis=0) | counts.any(axis=1)
        counts = counts[is_used][:, is_used]
        right, total = np.diagonal(counts), counts.sum(axis=1)
        value = float((right[total > 0] / total[total > 0]).mean())
        if len(total) < 2 or value == 0.0:
            return value
        fallen = right * min(self._mean().low / value, 1.0)
        spread = counts + 1.0
        np.fill_diagonal(spread, 0.0)
        wrong = (total - fallen)[:, None] * spread / spread.sum(axis=1, keepdims=True)
        return float((2.0 * fallen / (total + fallen + wrong.sum(axis=0))).mean())

    def _patch_variance(self, share: Array, weights: Array) -> float:
        """Return the sum over patches of the squared influence on K times macro F1."""
        counts = self._by_scene.counts.sum(axis=0)
        loss = share * weights / 2.0
        influence = -(loss[:, None] + loss[None, :])
        influence[np.diag_indices(len(share))] = (1.0 - share) * weights
        return float((counts * influence**2).sum())

    def _calibration(self) -> Interval:
        """Return the debiased calibration error plus and minus its deviation over scenes."""
        whole = self._by_scene.total()
        value = float(debiased_calibration_error(whole))
        if not np.isfinite(value):
            return UNKNOWN
        if not np.isfinite(self.quantile):
            return Interval(0.0, 1.0)
        gap, variance, share = _bins(whole)
        size = float(whole.bin_counts.sum())
        gross = float((share * np.abs(gap)).sum())
        # Within bins, and of the shares of bins whose gaps differ.
        spread = float((share**2 * variance).sum())
        spread += max(float((share * gap**2).sum()) - gross * gross, 0.0) / size
        num = len(self._by_scene.bin_counts)
        if self._has_scenes and num > 1:
            of_scenes = self._by_scene.bin_correct - self._by_scene.bin_confidence
            counts = self._by_scene.bin_counts
            by_bin = (((of_scenes - counts * gap) / size) ** 2).sum()
            signed = (of_scenes * np.sign(gap)).sum(axis=1) - counts.sum(axis=1) * gross
            together = max(float(by_bin), float(((signed / size) ** 2).sum()))
            spread = max(spread, together * num / (num - 1))
        half = self.quantile * np.sqrt(spread)
        return Interval(max(value - half, 0.0), min(value + half, 1.0))


def debiased_calibration_error(statistics: Statistics) -> Array:
    """Return the mean gap between the largest score and accuracy over 15 bins, without its bias.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3. A bin's gap g is
    estimated with an error of deviation s, so |g| is too large by E|N(g, s)| - |g|, the excess of a
    folded normal distribution, which is subtracted (Kumar, Liang and Ma 2019, "Verified Uncertainty
    Calibration"). Leading axes are kept; NaN without patches.
    """
    from scipy import stats

    gap, variance, share = _bins(statistics)
    deviation = np.sqrt(variance)
    folded = deviation * np.sqrt(2.0 / np.pi) * np.exp(-(gap**2) / (2.0 * variance))
    folded += gap * (1.0 - 2.0 * stats.norm.cdf(-gap / deviation))
    value = (share * (2.0 * np.abs(gap) - folded)).sum(axis=-1)
    is_empty = statistics.bin_counts.sum(axis=-1) == 0
    found: Array = np.where(is_empty, np.nan, np.maximum(value, 0.0))
    return found


def _bins(statistics: Statistics) -> tuple[Array, Array, Array]:
    """Return accuracy minus confidence, its variance, and the share of patches: (..., bins)."""
    count = statistics.bin_counts
    size = np.where(count > 0, count, 1.0)
    gap = np.where(count > 0, (statistics.bin_correct - statistics.bin_confidence) / size, 0.0)
    # Two patches more, one right and one wrong: a bin without errors is not free of doubt.
    smooth = (statistics.bin_correct + 1.0) / (size + 2.0)
    whole = count.sum(axis=-1, keepdims=True)
    share = count / np.where(whole > 0, whole, 1.0)
    return gap, smooth * (1.0 - smooth) / size, share


def _sum(values: Array) -> Array:
    whole: Array = values.sum(axis=-1, keepdims=True)
    return whole
