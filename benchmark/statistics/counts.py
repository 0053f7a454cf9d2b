"""Sufficient statistics of predictions.

Every metric is computed from a summed ``Statistics``: shards are added, and the division
happens once. Averaging a ratio such as balanced accuracy over shards is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_BINS = 15
"""Bins of the expected calibration error (Guo et al. 2017, "On Calibration of Modern Neural
Networks")."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sufficient statistics of a set of patches; leading axes are groups, e.g. scenes.

    Attributes:
        counts: (..., K, K) rows true, columns predicted.
        bin_counts: (..., 15) patches whose largest score falls into each bin.
        bin_confidence: (..., 15) sum of these largest scores.
        bin_correct: (..., 15) how many of these patches are classified correctly.
    """

    counts: Array
    bin_counts: Array
    bin_confidence: Array
    bin_correct: Array

    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """Return the four arrays in the order of the fields."""
        return self.counts, self.bin_counts, self.bin_confidence, self.bin_correct

    def __add__(self, other: Statistics) -> Statistics:
        """Return the statistics of both sets of patches together."""
        return Statistics(*(a + b for a, b in zip(self.arrays(), other.arrays(), strict=True)))

    def total(self) -> Statistics:
        """Return the sum over the first axis, e.g. counts (G, K, K) become (K, K)."""
        return Statistics(*(array.sum(axis=0) for array in self.arrays()))


def summarise(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_score: ArrayLike,
    *,
    num_classes: int,
    groups: ArrayLike | None = None,
    num_groups: int | None = None,
) -> Statistics:
    """Return the sufficient statistics of predictions, of each group or of all patches.

    Args:
        y_true: (N,) labels.
        y_pred: (N,) predicted labels.
        y_score: (N, K) probabilities.
        num_classes: K.
        groups: (N,) index of each patch's group, 0...G-1; None: all patches are one set.
        num_groups: G, where a group may be empty; by default the largest index plus one.

    Returns:
        Statistics with the leading axis G, or without one where ``groups`` is None.

    Raises:
        ValueError: lengths differ, a label is not in 0...K-1, or a score is not a probability.
    """
    coded = encode(y_true, y_pred, y_score, num_classes)
    if groups is None:
        return accumulate(coded, np.zeros(len(coded.cell), np.int64), 1, num_classes).total()
    index = np.asarray(groups, dtype=np.int64)
    if index.shape != coded.cell.shape:
        raise ValueError(f"groups has shape {index.shape}, y_true {coded.cell.shape}")
    highest = int(index.max()) + 1 if index.size else 0
    return accumulate(coded, index, highest if num_groups is None else num_groups, num_classes)


class Coded(NamedTuple):
    """Predictions as the numbers that are counted: all (N,).

    ``cell`` is true * K + predicted, ``bin`` the bin of ``confidence``, the largest score.
    """

    cell: NDArray[np.int64]
    bin: NDArray[np.int64]
    confidence: Array
    correct: Array

    def take(self, rows: NDArray[np.int64]) -> Coded:
        """Return the predictions of these rows, in their order."""
        return Coded(self.cell[rows], self.bin[rows], self.confidence[rows], self.correct[rows])


def encode(y_true: ArrayLike, y_pred: ArrayLike, y_score: ArrayLike, num_classes: int) -> Coded:
    """Check predictions as ``summarise`` documents, and return the numbers to count."""
    true = np.asarray(y_true, dtype=np.int64)
    pred = np.asarray(y_pred, dtype=np.int64)
    score = np.asarray(y_score)
    if true.ndim != 1 or pred.shape != true.shape or score.shape != (len(true), num_classes):
        raise ValueError(
            f"y_true {true.shape}, y_pred {pred.shape} and y_score {score.shape} do not fit "
            f"(N,), (N,) and (N, {num_classes})"
        )
    for name, labels in (("y_true", true), ("y_pred", pred)):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(f"{name} holds a label outside 0...{num_classes - 1}")
    # float32 softmax may exceed 1 by its rounding.
    if score.size and not (score.min() >= -1e-3 and score.max() <= 1 + 1e-3):
        raise ValueError("y_score holds values that are not probabilities (0...1, finite)")
    confidence = score.max(axis=1).astype(np.float64)
    # Bin m holds ((m - 1) / 15, m / 15], as in Guo et al.
    bins = np.clip(np.ceil(confidence * NUM_BINS) - 1, 0, NUM_BINS - 1).astype(np.int64)
    correct = (true == pred).astype(np.float64)
    return Coded(true * num_classes + pred, bins, confidence, correct)


def accumulate(coded: Coded, groups: NDArray[np.int64], g: int, k: int) -> Statistics:
    """Count patches by group 0...g-1 (N,) and K classes, without a loop over patches."""
    if groups.size and not 0 <= groups.min() <= groups.max() < g:
        raise ValueError(f"groups holds an index outside 0...{g - 1}")
    counts = np.bincount(groups * (k * k) + coded.cell, minlength=g * k * k).reshape(g, k, k)
    place = groups * NUM_BINS + coded.bin
    bins = [
        np.bincount(place, weights, g * NUM_BINS).astype(np.float64).reshape(g, NUM_BINS)
        for weights in (None, coded.confidence, coded.correct)
    ]
    return Statistics(counts.astype(np.float64), *bins)
