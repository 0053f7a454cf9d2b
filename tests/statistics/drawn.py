"""Drawn predictions, and the comparison of two statistics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.counts import Statistics

K = 3
FIELDS = ("counts", "bin_counts", "bin_confidence", "bin_correct")


def predictions(
    num_patches: int, seed: int = 0, num_classes: int = K
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, num_classes, num_patches)
    y_score = rng.dirichlet(np.ones(num_classes), num_patches).astype(np.float32)
    return y_true, y_score.argmax(axis=1), y_score


def assert_same(left: Statistics, right: Statistics) -> None:
    for name in FIELDS:
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), err_msg=name)
