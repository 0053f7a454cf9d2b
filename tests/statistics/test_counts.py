"""Statistics add up over shards, and refuse invalid predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.statistics.counts import summarise
from tests.statistics.drawn import K, assert_same, predictions


@given(groups=st.lists(st.integers(0, 4), min_size=1, max_size=50), seed=st.integers(0, 99))
def test_the_sum_over_shards_is_the_whole(groups: list[int], seed: int) -> None:
    y_true, y_pred, y_score = predictions(len(groups), seed)
    whole = summarise(y_true, y_pred, y_score, num_classes=K)
    sharded = summarise(y_true, y_pred, y_score, groups=groups, num_groups=5, num_classes=K)
    assert sharded.counts.shape == (5, K, K)
    assert_same(sharded.total(), whole)
    cut = len(groups) // 2
    halves = [
        summarise(y_true[part], y_pred[part], y_score[part], num_classes=K)
        for part in (slice(cut), slice(cut, None))
    ]
    assert_same(halves[0] + halves[1], whole)


def test_rows_are_true_and_columns_predicted() -> None:
    found = summarise([0, 0, 1], [1, 1, 1], np.eye(2)[[1, 1, 1]], num_classes=2)
    assert found.counts.tolist() == [[0, 2], [0, 1]]
    assert found.bin_counts.tolist() == [0] * 14 + [3]
    assert found.bin_correct[-1] == 1


def test_a_score_on_an_edge_belongs_to_the_bin_below() -> None:
    found = summarise([0, 0], [0, 0], [[0.6, 0.4], [0.6001, 0.3999]], num_classes=2)
    assert np.flatnonzero(found.bin_counts).tolist() == [8, 9]


@pytest.mark.parametrize(
    ("y_true", "y_pred", "y_score", "message"),
    [
        ([0, 3], [0, 1], np.eye(3)[[0, 1]], "y_true holds a label outside 0...2"),
        ([0, 1], [0, -1], np.eye(3)[[0, 1]], "y_pred holds a label outside 0...2"),
        ([0, 1], [0], np.eye(3)[[0, 1]], "do not fit"),
        ([0, 1], [0, 1], np.eye(2), "do not fit"),
        ([0, 1], [0, 1], np.full((2, 3), np.nan), "not probabilities"),
        ([0, 1], [0, 1], np.eye(3)[[0, 1]] * 7.0, "not probabilities"),
    ],
)
def test_wrong_predictions_are_refused(y_true, y_pred, y_score, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        summarise(y_true, y_pred, y_score, num_classes=3)


def test_groups_are_checked() -> None:
    y_true, y_pred, y_score = predictions(4)
    with pytest.raises(ValueError, match=r"groups has shape \(3,\)"):
        summarise(y_true, y_pred, y_score, groups=[0, 0, 0], num_classes=K)
    with pytest.raises(ValueError, match="groups holds an index outside"):
        summarise(y_true, y_pred, y_score, groups=[0, 0, 0, 2], num_groups=2, num_classes=K)
