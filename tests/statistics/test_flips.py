from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from benchmark.statistics.flips import flip_ranking, flip_table


def even(num: int) -> np.ndarray:
    return np.full(num, 1.0 / num)


@pytest.mark.parametrize(("wins", "num"), [(9, 11), (10, 11), (6, 6), (8, 16), (13, 15)])
def test_one_patch_each_is_the_sign_test(wins: int, num: int) -> None:
    gains = np.where(np.arange(num) < wins, 1.0, -1.0) / 50
    found = flip_table(np.concatenate([gains, np.zeros(50 - num)])[:, None], even(50), alpha=0.05)
    expected = binomtest(wins, num).pvalue
    assert found.p_values[0] == pytest.approx(expected)
    assert found.is_detected[0] == (expected <= 0.05)


def test_many_units_are_drawn_and_come_near_the_sign_test() -> None:
    gains = np.where(np.arange(40) < 26, 1.0, -1.0) / 40
    found = flip_table(gains[:, None], even(40), alpha=0.05, seed=3)
    assert found.p_values[0] == pytest.approx(binomtest(26, 40).pvalue, abs=0.01)


def test_all_flips_of_unequal_units_as_scipy_does() -> None:
    gains = np.random.default_rng(0).normal(0.4, 1.0, 10)
    found = flip_table(gains[:, None], even(10), alpha=0.05)
    expected = permutation_test(
        (gains,), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert found.p_values[0] == pytest.approx(expected)


def test_with_five_units_nothing_is_told_and_with_six_it_may_be() -> None:
    for num, too_little in ((1, True), (5, True), (6, False)):
        found = flip_table(np.full((num, 1), 1.0 / num), even(num), alpha=0.05)
        assert found.is_too_little is too_little
        assert bool(found.is_detected[0]) is not too_little
        low, high = found.intervals[0]
        assert low < high
        assert (low, high) == (-1.0, 1.0) if too_little else low > 0.0


def test_equal_methods_have_an_interval_of_some_width() -> None:
    found = flip_table(np.zeros((200, 1)), even(200), alpha=0.05)
    assert found.p_values[0] == 1.0
    low, high = found.intervals[0]
    assert -0.02 < low < 0.0 < high < 0.02


def test_a_table_is_corrected_step_by_step() -> None:
    """The strongest comparison pays for all, the next one only for those that are left."""
    rng = np.random.default_rng(2)
    strong, weak = rng.normal(1.0, 1.0, 60) / 60, rng.normal(0.35, 1.0, 60) / 60
    noise = rng.normal(0.0, 1.0, (60, 10)) / 60
    alone = flip_table(weak[:, None], even(60), alpha=0.05).p_values[0]
    table = flip_table(np.column_stack([strong, weak, noise]), even(60), alpha=0.05)
    assert table.p_values[1] >= alone
    assert table.p_values[0] <= table.p_values[1]
    assert table.is_detected[0]
    without = flip_table(np.column_stack([weak, noise]), even(60), alpha=0.05)
    assert table.p_values[1] == pytest.approx(without.p_values[0], abs=0.02)


@settings(max_examples=300, derandomize=True)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 40), methods=st.integers(1, 6))
def test_interval_and_verdict_never_contradict_each_other(
    seed: int, num: int, methods: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(num))
    scores = weights[:, None] * rng.integers(0, 2, (num, methods)) * rng.choice([1.0, 0.5])
    leader = int(scores.sum(axis=0).argmax())
    shift = scores + weights[:, None] * rng.normal(0, 0.3, methods)
    for found in (
        flip_table(shift - shift.mean(), weights, alpha=0.05),
        flip_ranking(scores, weights, leader, alpha=0.05),
    ):
        for m, (low, high) in enumerate(found.intervals):
            assert -1.0 <= low < high <= 1.0 or (low, high) == (-1.0, 1.0) or low < high
            assert low <= found.differences[m] <= high or found.is_too_little
            assert found.is_detected[m] == (not low <= 0.0 <= high)
            assert (
                found.is_detected[m] == (found.p_values[m] <= 0.05 + 1e-12) or found.is_too_little
            )


def test_the_leader_is_not_tested_against_itself() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((30, 4)) / 30
    leader = int(scores.sum(axis=0).argmax())
    found = flip_ranking(scores, even(30), leader, alpha=0.05)
    assert found.differences[leader] == 0.0
    assert found.p_values[leader] == 1.0
    assert not found.is_detected[leader]
    assert flip_ranking(scores[:, :1], even(30), 0, alpha=0.05).p_values.tolist() == [1.0]


def test_a_clear_winner_beats_all_and_a_tie_none() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((300, 5)) < np.array([0.95, 0.6, 0.6, 0.6, 0.6])
    found = flip_ranking(right / 300, even(300), 0, alpha=0.05)
    assert found.is_detected.tolist() == [False, True, True, True, True]
    same = np.repeat(right[:, :1], 5, axis=1) / 300
    assert not flip_ranking(same, even(300), 0, alpha=0.05).is_detected.any()


def test_a_hundred_methods_take_seconds() -> None:
    scores = np.random.default_rng(0).random((2586, 100)) / 2586
    began = time.process_time()
    flip_ranking(scores, even(2586), 0, alpha=0.05)
    assert time.process_time() - began < 30
