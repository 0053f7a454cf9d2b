from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq, minimize
from statsmodels.stats.proportion import proportion_confint

from benchmark.statistics.intervals import (
    effective_sizes,
    pooled_correlation,
    quantile_of,
    scene_interval,
    score_interval,
    wilson,
)

Z = quantile_of(0.95)
CLASSES = st.lists(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize(("right", "total"), [(56, 56), (0, 5), (4, 9), (50, 100), (1990, 2000)])
def test_one_class_has_the_interval_of_wilson(right: int, total: int) -> None:
    expected = proportion_confint(right, total, method="wilson")
    assert score_interval([right], [total], Z) == pytest.approx(expected, abs=1e-9)
    low, high = wilson([right], [total], Z)
    assert (low[0], high[0]) == pytest.approx(expected, abs=1e-9)


def test_a_published_example() -> None:
    """Agresti, "An Introduction to Categorical Data Analysis" (2007), 1.4.3: none of 25."""
    low, high = wilson([0], [25], Z)
    assert (round(float(low[0]), 3), round(float(high[0]), 3)) == (0.0, 0.133)


def test_few_errors_have_the_bound_of_a_poisson_count() -> None:
    """Brown, Cai and DasGupta (2001): for one error in n, the upper end is 1 - 0.051 / n."""
    assert score_interval([99], [100], Z).high == pytest.approx(1 - 0.05129 / 100, abs=1e-6)


def test_the_ends_are_where_the_score_test_stops_rejecting() -> None:
    """The constrained fit is found here by a general optimiser."""
    x, n = np.array([30.0, 12.0, 55.0]), np.array([40.0, 25.0, 60.0])
    free = n.sum() / (n.sum() - 2)

    def statistic(theta: float) -> float:
        def loss(p: np.ndarray) -> float:
            return -float((x * np.log(p) + (n - x) * np.log(1 - p)).sum())

        fit = minimize(
            loss,
            np.full(3, theta),
            bounds=[(1e-6, 1 - 1e-6)] * 3,
            constraints={"type": "eq", "fun": lambda p: p.mean() - theta},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        variance = (fit.x * (1 - fit.x) / n).sum() / 9 * free
        return float(((x / n).mean() - theta) ** 2 / variance - Z * Z)

    middle = float((x / n).mean())
    expected = brentq(statistic, 0.3, middle - 1e-4), brentq(statistic, middle + 1e-4, 0.98)
    assert score_interval(x, n, Z) == pytest.approx(expected, abs=1e-4)


@given(classes=CLASSES)
def test_the_interval_holds_the_estimate_and_is_never_of_zero_width(
    classes: list[tuple[int, int]],
) -> None:
    x, n = np.array(classes, float).T
    low, high = score_interval(x, n, Z)
    estimate = (x / n).mean()
    assert 0.0 <= low <= estimate + 1e-12
    assert estimate - 1e-12 <= high <= 1.0
    assert high - low > 1e-4
    mirrored = score_interval(n - x, n, Z)
    assert (1.0 - mirrored.high, 1.0 - mirrored.low) == pytest.approx((low, high), abs=1e-12)
    more = score_interval(100 * x, 100 * n, Z)
    assert more.high - more.low < high - low
    wider = score_interval(x, n, 1.5 * Z)
    assert wider.low <= low + 1e-12
    assert wider.high >= high - 1e-12


def test_degenerate_counts() -> None:
    assert all(np.isnan(score_interval([], [], Z)))
    assert all(np.isnan(score_interval([0.0], [0.0], Z)))
    assert score_interval([1, 0, 0], [1, 0, 0], Z) == score_interval([1], [1], Z)
    assert score_interval([5], [9], quantile_of(0.95, 1)) == (0.0, 1.0)
    low, high = score_interval(np.full(1000, 2.0), np.full(1000, 3.0), Z)
    assert 0.6 < low < 2 / 3 < high < 0.73
    assert np.isnan(wilson([0], [0], Z)).all()


def test_quantiles() -> None:
    assert pytest.approx(1.959964, abs=1e-6) == Z
    assert quantile_of(0.9, 10) == pytest.approx(stats.t.ppf(0.95, 9))
    assert quantile_of(0.95, 1) == np.inf


def test_scenes_of_one_patch_each_are_patches() -> None:
    rng = np.random.default_rng(0)
    total = np.zeros((60, 2))
    total[np.arange(60), np.arange(60) % 2] = 1
    right = total * (rng.random((60, 1)) < 0.7)
    assert effective_sizes(right, total) == pytest.approx([30, 30], rel=0.1)


def test_scenes_that_are_right_or_wrong_as_a_whole_count_as_one_patch() -> None:
    total = np.full((20, 1), 50.0)
    right = total * (np.arange(20) % 3 > 0)[:, None]
    assert pooled_correlation(right, total) == pytest.approx(1.0, abs=0.05)
    assert effective_sizes(right, total)[0] == pytest.approx(20, rel=0.12)


def test_where_nothing_is_wrong_scenes_are_not_taken_for_independent_patches() -> None:
    """Few errors cannot show that they come in scenes; many patches of many scenes can."""
    total = np.full((6, 1), 50.0)
    assert effective_sizes(total, total)[0] == pytest.approx(300 / (1 + 0.5 * 49))
    rng = np.random.default_rng(0)
    many = np.full((100, 1), 50.0)
    right = rng.binomial(50, 0.8, (100, 1)).astype(float)
    assert effective_sizes(right, many)[0] > 0.7 * many.sum()


def test_effective_sizes_are_at_most_the_patches() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        total = rng.integers(0, 9, (rng.integers(1, 8), rng.integers(1, 5))).astype(float)
        right = rng.binomial(total.astype(int), 0.8).astype(float)
        sizes = effective_sizes(right, total)
        assert (sizes <= total.sum(axis=0) + 1e-9).all()
        assert ((sizes > 0) == (total.sum(axis=0) > 0)).all()


def draw_scenes(num_scenes: int, together: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right patches and patches of four classes, with a correlation of 0.2 within scenes."""
    rng = np.random.default_rng(seed)
    total = np.full((num_scenes, 4), 30.0)
    chance = rng.beta(0.85 * 4, 0.15 * 4, total.shape)
    right = rng.binomial(30, chance[:, :1] if together else chance, total.shape)
    return right.astype(float), total


def width_with_and_without_freedom(num_scenes: int, together: bool) -> float:
    """The mean width over that with (scenes - 1) degrees of freedom for every variance."""
    ratios = []
    for seed in range(30):
        right, total = draw_scenes(num_scenes, together, seed)
        sizes = effective_sizes(right, total)
        share = right.sum(axis=0) / total.sum(axis=0)
        low, high = scene_interval(right, total, 0.95)
        former = score_interval(share * sizes, sizes, quantile_of(0.95, num_scenes))
        ratios.append((high - low) / (former.high - former.low))
    return float(np.mean(ratios))


def test_each_variance_has_its_own_degrees_of_freedom() -> None:
    """Few scenes of several classes tell more of what the classes share than of the scenes."""
    assert width_with_and_without_freedom(3, together=False) < 0.85
    assert width_with_and_without_freedom(6, together=False) < 0.93
    assert width_with_and_without_freedom(6, together=True) > 0.95
    assert 0.95 < width_with_and_without_freedom(300, together=False) <= 1.0


def test_one_class_in_scenes_has_the_interval_of_its_effective_size() -> None:
    right, total = draw_scenes(8, together=False)
    right, total = right[:, :1], total[:, :1]
    sizes = effective_sizes(right, total)
    share = right.sum(axis=0) / total.sum(axis=0)
    expected = score_interval(share * sizes, sizes, quantile_of(0.95, 8))
    assert scene_interval(right, total, 0.95) == pytest.approx(expected, abs=1e-9)


def test_degenerate_scenes() -> None:
    none = np.zeros((3, 2))
    assert all(np.isnan(scene_interval(none, none, 0.95)))
    one = np.array([[5.0, 3.0]])
    assert scene_interval(one, one, 0.95) == (0.0, 1.0)
    for right in (np.zeros((4, 2)), np.full((4, 2), 9.0)):
        low, high = scene_interval(right, np.full((4, 2), 9.0), 0.95)
        assert (low, high) != (0.0, 1.0) and high - low > 0.2
        assert low == 0.0 or high == 1.0
    # A class in one scene, and one of a single patch.
    total = np.array([[9.0, 0.0], [9.0, 1.0], [9.0, 0.0]])
    low, high = scene_interval(total * 2 / 3, total, 0.95)
    assert 0.0 < low < 2 / 3 < high < 1.0
