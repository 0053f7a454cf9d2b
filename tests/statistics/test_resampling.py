"""Resamples are paired, deterministic and bounded in memory, and their intervals cover."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.catalog.metrics import METRICS
from benchmark.statistics import resampling as module
from benchmark.statistics.counts import Statistics, summarise
from benchmark.statistics.resampling import Resampling, draw_resamples, interval, resample
from tests.statistics.drawn import K, assert_same, predictions

BALANCED = METRICS.get("balanced_accuracy").compute
ACCURACY = METRICS.get("accuracy").compute


def test_scene_resamples_equal_repeating_the_scenes() -> None:
    y_true, y_pred, y_score = predictions(60)
    scenes = np.asarray([f"scene-{index % 12}" for index in range(60)])
    plan = draw_resamples(y_true, scenes, num_resamples=20, seed=1)
    assert plan.kind == "scene"
    assert plan.num_groups == 12
    assert "20 bootstrap resamples of 12 scenes" in plan.reason
    assert plan.weights is not None
    assert plan.weights.shape == (20, 12)
    assert (plan.weights.sum(axis=1) == 12).all()
    found = resample(y_true, y_pred, y_score, num_classes=K, resampling=plan)
    names = np.unique(scenes)
    for index, weights in enumerate(plan.weights):
        rows = np.concatenate(
            [
                np.flatnonzero(scenes == name)
                for name, weight in zip(names, weights, strict=True)
                for _ in range(weight)
            ]
        )
        again = summarise(y_true[rows], y_pred[rows], y_score[rows], num_classes=K)
        np.testing.assert_allclose(found.counts[index], again.counts)
        np.testing.assert_allclose(found.bin_confidence[index], again.bin_confidence, rtol=1e-6)


@pytest.mark.parametrize(
    ("scenes", "why"),
    [
        (None, "there is no scene column"),
        (["a"] * 30, "all of them come from one scene"),
        ([None] * 30, "the scene of 30 patches is unknown"),
        (["a", float("nan")] * 15, "the scene of 15 patches is unknown"),
    ],
)
def test_without_scenes_patches_are_resampled_within_their_class(scenes, why: str) -> None:  # type: ignore[no-untyped-def]
    y_true, y_pred, y_score = predictions(30)
    plan = draw_resamples(y_true, scenes, num_resamples=50, seed=0)
    assert plan.kind == "patch"
    assert why in plan.reason
    assert "too narrow" in plan.reason
    found = resample(y_true, y_pred, y_score, num_classes=K, resampling=plan)
    per_class = np.bincount(y_true, minlength=K)
    assert (found.counts.sum(axis=-1) == per_class).all()
    assert (found.bin_counts.sum(axis=-1) == 30).all()
    assert len(np.unique(found.counts.reshape(50, -1), axis=0)) > 10


def test_few_scenes_are_said_to_be_few() -> None:
    y_true, _, _ = predictions(40)
    few = draw_resamples(y_true, np.arange(40) % 4, num_resamples=10, seed=0)
    assert "fewer than 10 scenes" in few.reason
    many = draw_resamples(y_true, np.arange(40) % 20, num_resamples=10, seed=0)
    assert "fewer" not in many.reason


def test_no_resample_loses_a_class_of_the_split() -> None:
    # Class 1 occurs in one scene of eight: about a third of plain draws would miss it, and the
    # mean recall over the classes present would jump.
    y_true = np.asarray([0] * 70 + [1] * 10)
    y_pred = np.asarray([0] * 80)
    scenes = np.repeat(np.arange(8), 10)
    plan = draw_resamples(y_true, scenes, num_resamples=500, seed=0)
    assert "drawn again" in plan.reason
    found = resample(y_true, y_pred, np.eye(2)[y_pred], num_classes=2, resampling=plan)
    np.testing.assert_allclose(BALANCED(found), 0.5)


def test_classes_that_no_draw_can_hold_together_are_reported() -> None:
    # 25 classes, each in a scene of its own: a draw that holds them all is a permutation.
    y_true = np.arange(25)
    plan = draw_resamples(y_true, np.arange(25), num_resamples=5, seed=0)
    assert "5 resamples still lack a class" in plan.reason


@pytest.mark.parametrize("scenes", [None, np.arange(90) % 15])
def test_resamples_are_deterministic_and_paired(scenes: NDArray[np.int64] | None) -> None:
    y_true, y_pred, y_score = predictions(90)
    plans = [draw_resamples(y_true, scenes, num_resamples=40, seed=s) for s in (3, 3, 4)]

    def run(plan: Resampling, pred: NDArray[np.int64] = y_pred) -> Statistics:
        return resample(y_true, pred, y_score, num_classes=K, resampling=plan)

    assert_same(run(plans[0]), run(plans[1]))
    assert not np.array_equal(run(plans[0]).counts, run(plans[2]).counts)
    # One method is the other with a single patch corrected: on paired resamples it is never
    # worse, which independent draws would break at once.
    better = y_pred.copy()
    wrong = np.flatnonzero(better != y_true)[0]
    better[wrong] = y_true[wrong]
    difference = ACCURACY(run(plans[0], better)) - ACCURACY(run(plans[0]))
    assert (difference >= 0).all()
    assert difference.max() > 0


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    y_true, y_pred, y_score = predictions(50)
    plan = draw_resamples(y_true, None, num_resamples=30, seed=0)
    whole = resample(y_true, y_pred, y_score, num_classes=K, resampling=plan)
    monkeypatch.setattr(module, "CHUNK_BYTES", 7 * 64 * 50)
    assert_same(resample(y_true, y_pred, y_score, num_classes=K, resampling=plan), whole)


def test_memory_is_bounded_by_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    # All draws at once would take 20,000 x 200 x 8 bytes = 32 MB for a single array.
    budget = 16 * 2**20
    monkeypatch.setattr(module, "CHUNK_BYTES", budget)
    y_true, y_pred, y_score = predictions(20_000)
    plan = draw_resamples(y_true, None, num_resamples=200, seed=0)
    tracemalloc.start()
    resample(y_true, y_pred, y_score, num_classes=K, resampling=plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * budget


def test_other_labels_than_the_resampled_ones_are_refused() -> None:
    y_true, y_pred, y_score = predictions(30)
    plan = draw_resamples(y_true, None, num_resamples=5, seed=0)
    with pytest.raises(ValueError, match="sort by patch_id"):
        resample(y_true[::-1], y_pred, y_score, num_classes=K, resampling=plan)
    with pytest.raises(ValueError, match="no patch to resample"):
        draw_resamples([], None, num_resamples=5, seed=0)
    with pytest.raises(ValueError, match="scenes has shape"):
        draw_resamples(y_true, ["a"], num_resamples=5, seed=0)


def clustered(
    seed: int, num_scenes: int = 40, per_scene: int = 50
) -> tuple[NDArray[np.int64], ...]:
    """Return labels, predictions and scenes where whole scenes are easy or hard."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(2, 1, num_scenes).repeat(per_scene)
    y_true = rng.integers(0, 2, num_scenes * per_scene)
    right = rng.random(len(y_true)) < chance
    return y_true, np.where(right, y_true, 1 - y_true), np.repeat(np.arange(num_scenes), per_scene)


def accuracy_interval(
    y_true: NDArray[np.int64], y_pred: NDArray[np.int64], scenes: NDArray[np.int64] | None
) -> tuple[float, float]:
    plan = draw_resamples(y_true, scenes, num_resamples=400, seed=0)
    found = resample(y_true, y_pred, np.eye(2)[y_pred], num_classes=2, resampling=plan)
    return interval(ACCURACY(found), 0.95)


def test_the_cluster_interval_is_wider_than_the_iid_one() -> None:
    y_true, y_pred, scenes = clustered(0)
    wide = accuracy_interval(y_true, y_pred, scenes)
    narrow = accuracy_interval(y_true, y_pred, None)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_only_the_cluster_interval_covers_on_clustered_data() -> None:
    # The expectation of Beta(2, 1) is 2/3. Nominal coverage is 0.95.
    hits = {"scene": 0, "patch": 0}
    for seed in range(60):
        y_true, y_pred, scenes = clustered(seed, per_scene=20)
        for kind, column in (("scene", scenes), ("patch", None)):
            low, high = accuracy_interval(y_true, y_pred, column)
            hits[kind] += low <= 2 / 3 <= high
    assert hits["scene"] >= 51
    assert hits["patch"] <= 45


def test_interval_leaves_undefined_resamples_out() -> None:
    values = np.concatenate([np.arange(101.0), [np.nan] * 50])
    assert interval(values, 0.9) == pytest.approx((5.0, 95.0))
    assert np.isnan(interval([np.nan, np.nan])).all()
    assert np.isnan(interval([])).all()
