from __future__ import annotations

import numpy as np
import pytest

from benchmark.catalog.metrics import METRICS, macro_f1
from benchmark.statistics.counts import Statistics, summarise
from benchmark.statistics.intervals import quantile_of, score_interval, wilson
from benchmark.statistics.scores import Uncertainty

K = 3


def draw(num: int, *, scenes: int = 0, accuracy: float = 0.8, seed: int = 0) -> Statistics:
    rng = np.random.default_rng(seed)
    y_true = np.arange(num) % K
    right = rng.random(num) < accuracy
    y_pred = np.where(right, y_true, (y_true + 1) % K)
    y_score = np.eye(K)[y_pred] * 0.7 + 0.1
    groups = rng.integers(0, scenes, num) if scenes else np.zeros(num, int)
    return summarise(
        y_true, y_pred, y_score, num_classes=K, groups=groups, num_groups=max(scenes, 1)
    )


def certainty(by_scene: Statistics) -> Uncertainty:
    return Uncertainty(by_scene, has_scenes=len(by_scene.counts) > 1, confidence=0.95)


@pytest.mark.parametrize("scenes", [0, 2, 12])
@pytest.mark.parametrize("accuracy", [0.0, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("num", [3, 30, 900])
def test_every_metric_lies_in_its_interval(num: int, scenes: int, accuracy: float) -> None:
    by_scene = draw(num, scenes=scenes, accuracy=accuracy)
    for metric in METRICS:
        values = np.atleast_1d(metric.compute(by_scene.total()))
        found = certainty(by_scene).of(metric.name)
        assert found is not None and len(found) == len(values)
        for value, (low, high) in zip(values, found, strict=True):
            if np.isnan(value):
                assert np.isnan(low) and np.isnan(high)
                continue
            assert 0.0 <= low <= value + 1e-9 and value - 1e-9 <= high <= 1.0
            assert high > low


def test_without_scenes_they_are_the_closed_forms() -> None:
    by_scene = draw(300)
    counts = by_scene.counts[0]
    right, z = np.diag(counts), quantile_of(0.95)
    found = certainty(by_scene)
    assert found.of("balanced_accuracy") == [score_interval(right, counts.sum(axis=1), z)]
    assert found.of("accuracy") == [score_interval([right.sum()], [counts.sum()], z)]
    for name, axis in (("recall", 1), ("precision", 0)):
        low, high = wilson(right, counts.sum(axis=axis), z)
        assert found.of(name) == [(a, b) for a, b in zip(low, high, strict=True)]


def test_scenes_that_agree_within_widen_every_interval() -> None:
    rng = np.random.default_rng(0)
    scene, y_true = np.repeat(np.arange(15), 40), np.arange(600) % K
    right = np.repeat(rng.random(15) < 0.7, 40)
    y_pred = np.where(right, y_true, (y_true + 1) % K)
    score = np.eye(K)[y_pred] * 0.7 + 0.1
    alike = summarise(y_true, y_pred, score, num_classes=K, groups=scene)
    alone = summarise(y_true, y_pred, score, num_classes=K, groups=np.zeros(600, int))
    for metric in METRICS:
        wide, narrow = certainty(alike).of(metric.name), certainty(alone).of(metric.name)
        assert wide and narrow
        assert wide[0].high - wide[0].low > 2.5 * (narrow[0].high - narrow[0].low), metric.name


def test_a_metric_of_ones_own_has_the_jackknife_over_scenes() -> None:
    by_scene = draw(2000, scenes=40)
    ((low, high),) = certainty(by_scene).jackknife(macro_f1)
    ((ours_low, ours_high),) = certainty(by_scene).of("macro_f1") or []
    assert (low, high) == pytest.approx((ours_low, ours_high), abs=0.02)
    assert certainty(by_scene).of("of_my_own") is None
    assert all(np.isnan(certainty(draw(30)).jackknife(macro_f1)[0]))


def test_macro_f1_may_fall_as_far_as_recalls_that_fall_together() -> None:
    # Six scenes of a large and a small class, all right: where a scene fails, the wrong patches
    # of the large class are many beside the right ones of the small class.
    scenes = np.tile(np.arange(6), 22)
    labels = np.repeat([0, 1], [120, 12])
    right = summarise(labels, labels, np.eye(2)[labels], num_classes=2, groups=scenes, num_groups=6)
    ((low, high),) = certainty(right).of("macro_f1") or []
    ((recall_low, _),) = certainty(right).of("balanced_accuracy") or []
    wrong = (1.0 - recall_low) * np.array([120, 12])
    fallen = recall_low * np.array([120, 12])
    f1 = 2.0 * fallen / (np.array([120, 12]) + fallen + wrong[::-1])
    assert low == pytest.approx(f1.mean())
    assert low < recall_low - 0.05
    assert high == pytest.approx(1.0)
