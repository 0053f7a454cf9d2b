"""What folds that share training data add to intervals and tests, against numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.catalog.metrics import balanced_accuracy
from benchmark.statistics.counts import summarise
from benchmark.statistics.design import find_design
from benchmark.statistics.flips import flip_ranking, flip_table
from benchmark.statistics.folds import Folds
from benchmark.statistics.intervals import Interval

NUM = 60


def even(values: list[float]) -> np.ndarray:
    """Differences of 60 units in three folds, each fold's with its own mean."""
    gains = np.random.default_rng(0).normal(np.repeat(values, NUM // 3), 0.1)
    return (gains / NUM)[:, None]


FOLDS = Folds(np.repeat([0, 1, 2], NUM // 3), 3, 0.5)
WEIGHTS = np.full(NUM, 1 / NUM)


def test_the_variance_between_folds_times_the_ratio_is_added() -> None:
    values = np.array([[0.7, 0.9], [0.8, np.nan], [0.9, np.nan]])
    # One known fold shows no variance.
    assert FOLDS.added_variance(values) == pytest.approx([0.5 * 0.01, 0.0])


def test_squares_of_half_widths_are_added_and_the_ends_are_scores() -> None:
    y_true = np.tile([0, 1], 30)
    right = np.repeat([0.5, 0.7, 0.9], 20) > np.tile(np.arange(10).repeat(2) / 10 + 0.01, 3)
    y_pred = np.where(right, y_true, 1 - y_true)
    by_fold = summarise(
        y_true, y_pred, np.eye(2)[y_pred], num_classes=2, groups=FOLDS.of_unit, num_groups=3
    )
    assert balanced_accuracy(by_fold) == pytest.approx([0.5, 0.7, 0.9])
    half = 2.0 * np.sqrt(0.5 * 0.04)
    (found,) = FOLDS.widen([Interval(0.6, 0.75)], balanced_accuracy, by_fold, 2.0)
    assert found.low == pytest.approx(0.7 - np.hypot(0.1, half))
    assert found.high == pytest.approx(0.7 + np.hypot(0.05, half))
    (found,) = FOLDS.widen([Interval(0.6, 0.99)], balanced_accuracy, by_fold, 2.0)
    assert found.high == 1.0
    (found,) = FOLDS.widen([Interval(0.6, 0.99)], balanced_accuracy, by_fold, 2.0, float("inf"))
    assert found.high > 1.0
    by_unit = summarise(
        y_true, y_pred, np.eye(2)[y_pred], num_classes=2, groups=np.arange(NUM), num_groups=NUM
    )
    assert FOLDS.widen([Interval(0.6, 0.75)], balanced_accuracy, by_unit, 2.0)[0].low == (
        pytest.approx(0.7 - np.hypot(0.1, half))
    )


def test_a_gain_that_folds_disagree_about_is_no_longer_detected() -> None:
    unlike, alike = even([0.6, 0.0, -0.2]), even([0.14, 0.13, 0.13])
    for gains, expected in ((unlike, False), (alike, True)):
        assert flip_table(gains, WEIGHTS, alpha=0.05).is_detected[0]
        found = flip_table(gains, WEIGHTS, alpha=0.05, folds=FOLDS)
        assert found.is_detected[0] == expected == (found.p_values[0] <= 0.05)
        low, high = found.intervals[0]
        assert (low <= 0.0 <= high) != expected
        plain = flip_table(gains, WEIGHTS, alpha=0.05).intervals[0]
        assert low < plain.low and high > plain.high


def test_the_ranking_is_tested_in_the_same_way() -> None:
    for gains, expected in (([0.6, 0.0, -0.2], False), ([0.14, 0.13, 0.13], True)):
        scores = np.concatenate([even(gains), np.zeros((NUM, 1))], axis=1)
        assert flip_ranking(scores, WEIGHTS, 0, alpha=0.05).is_detected[1]
        found = flip_ranking(scores, WEIGHTS, 0, alpha=0.05, folds=FOLDS)
        assert found.is_detected[1] == expected
        assert (found.intervals[1].low > 0.0) == expected


def test_methods_that_agree_everywhere_are_not_divided_by_zero() -> None:
    found = flip_table(np.zeros((NUM, 1)), WEIGHTS, alpha=0.05, folds=FOLDS)
    assert found.p_values.tolist() == [1.0]
    assert np.isfinite(found.intervals[0]).all()


def test_without_scenes_patches_are_counted_by_fold() -> None:
    design = find_design(np.tile([0, 1], 30), None)
    assert (design.num_groups, set(design.scene_or_whole)) == (1, {0})
    pooled = type(design)(**{**vars(design), "folds": FOLDS})
    assert pooled.num_groups == 3
    assert pooled.scene_or_whole.tolist() == FOLDS.of_unit.tolist()
