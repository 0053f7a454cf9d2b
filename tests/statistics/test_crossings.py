"""The place where a difference rises above zero, and its confidence set."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmark.statistics.crossings import find_crossing

LABELS = np.array([100.0, 1000.0, 10_000.0])


def test_the_place_lies_between_points_on_a_logarithmic_axis() -> None:
    found = find_crossing(LABELS, [-1.0, 1.0, 2.0], [-2.0, -1.0, 1.0], [1.0, 2.0, 3.0])
    assert found.at == pytest.approx(10**2.5)
    # Below the first point, the difference may be zero too.
    assert found.low == 0.0
    assert found.high == pytest.approx(10**3.5)


def test_the_ends_of_the_set_are_where_the_test_begins_and_ceases_to_reject() -> None:
    found = find_crossing(LABELS, [-2.0, -1.0, 3.0], [-3.0, -2.0, 2.0], [-1.0, 1.0, 4.0])
    assert found.low == pytest.approx(10**2.5)
    assert found.low < found.at < found.high == pytest.approx(10**3.5)


def test_a_method_that_is_never_ahead_crosses_nowhere() -> None:
    assert find_crossing(LABELS, [1.0, 2.0, 0.0], [0, 0, -1], [2, 3, 1]).at == math.inf
    found = find_crossing(LABELS, [-1.0, -1.0, -1.0], [-2, -2, -2], [-0.5, -0.5, -0.5])
    assert found == (math.inf, math.inf, math.inf)


def test_a_method_that_is_always_ahead_crosses_before_the_first_point() -> None:
    assert find_crossing(LABELS, [1.0, 2.0, 1.0], [0.5] * 3, [3.0] * 3) == (0.0, 0.0, 0.0)


def test_the_last_of_several_crossings_counts() -> None:
    labels = [1.0, 10.0, 100.0, 1000.0]
    found = find_crossing(labels, [-1, 1, -1, 1], [-2, 0, -2, 0.5], [0.5, 2, 0.5, 2])
    assert found.at == pytest.approx(10**2.5)


def test_the_set_holds_the_true_place_as_often_as_it_promises() -> None:
    rng = np.random.default_rng(0)
    labels = np.geomspace(50, 12_800, 5)
    true = 0.02 * np.log(labels / 700)
    num_held = 0
    for _ in range(2000):
        gains = true + rng.normal(0, 0.02, len(labels))
        found = find_crossing(labels, gains, gains - 1.96 * 0.02, gains + 1.96 * 0.02)
        num_held += found.low <= 700 <= found.high
    assert num_held / 2000 >= 0.92
