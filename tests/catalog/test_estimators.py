"""The classifiers of this package agree with scikit-learn where it has them, and with formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.preprocessing import normalize
from sklearn.svm import SVC, LinearSVC

from benchmark.catalog.estimators import (
    CosineCentroids,
    DecisionSoftmax,
    EqualPriorLDA,
    _fit_scale,
    _held_out,
)


def blobs(num_classes: int, per_class: int = 60) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return overlapping clouds of points float32 (N, 6), and labels 3, 4, ... int32 (N,)."""
    generator = np.random.default_rng(num_classes)
    y = np.repeat(np.arange(num_classes, dtype=np.int32) + 3, per_class)
    centres = generator.normal(size=(num_classes + 3, 6))
    return (centres[y] + generator.normal(size=(len(y), 6))).astype(np.float32), y


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize(
    "estimator", [RidgeClassifier(), LinearSVC(random_state=0), SVC()], ids=lambda e: str(e)
)
def test_the_most_probable_class_is_that_of_scikit_learn(estimator: Any, num_classes: int) -> None:
    x, y = blobs(num_classes)
    model = DecisionSoftmax(estimator).fit(x, y)
    plain = clone(estimator).fit(x, y)
    decision = plain.decision_function(x)
    wanted = decision.argmax(axis=1) if decision.ndim == 2 else (decision > 0).astype(int)
    scores = model.predict_proba(x)
    np.testing.assert_array_equal(model.classes_, np.unique(y))
    np.testing.assert_array_equal(scores.argmax(axis=1), wanted)
    np.testing.assert_array_equal(model.predict(x), np.unique(y)[wanted])
    if not isinstance(estimator, SVC):
        # A support vector machine with kernel decides by votes of pairs of classes.
        np.testing.assert_array_equal(model.predict(x), plain.predict(x))


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_scale_makes_probabilities_that_hold_on_new_data(num_classes: int) -> None:
    x, y = blobs(num_classes, per_class=400)
    train = np.arange(len(y)) % 2 == 0
    model = DecisionSoftmax(LinearSVC(random_state=0)).fit(x[train], y[train])
    found = log_loss(y[~train], model.predict_proba(x[~train]))
    reference = LogisticRegression(max_iter=1000).fit(x[train], y[train])
    best = log_loss(y[~train], reference.predict_proba(x[~train]))
    unscaled = clone(model).fit(x[train], y[train])
    unscaled.scale_ = 1.0
    assert found < log_loss(y[~train], unscaled.predict_proba(x[~train]))
    assert found < 1.15 * best


def test_the_scale_is_that_of_the_smallest_loss() -> None:
    generator = np.random.default_rng(0)
    decision = generator.normal(size=(500, 3))
    p = np.exp(log_softmax(2.5 * decision, axis=1))
    codes = np.array([generator.choice(3, p=row) for row in p])
    found = _fit_scale(decision, codes)
    grid = np.geomspace(0.5, 10, 2000)
    losses = [-log_softmax(s * decision, axis=1)[np.arange(500), codes].mean() for s in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=3e-3)
    assert found == pytest.approx(2.5, rel=0.2)


def test_decision_values_that_separate_all_rows_keep_finite_probabilities() -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    y = np.repeat(np.arange(3), 20)
    scores = DecisionSoftmax(RidgeClassifier()).fit(x, y).predict_proba(x)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, np.repeat(np.eye(3), 20, axis=0), atol=1e-6)


def test_without_a_scale_it_is_fitted_once_and_predicts_the_same() -> None:
    x, y = blobs(3)
    sizes: list[int] = []

    class Counted(RidgeClassifier):  # type: ignore[misc]
        def fit(self, X: Any, y: Any) -> Any:
            sizes.append(len(X))
            return super().fit(X, y)

    whole = DecisionSoftmax(Counted()).fit(x, y)
    once = DecisionSoftmax(Counted(), finds_scale=False).fit(x, y)
    assert sizes == [144, 180, 180]
    assert once.scale_ == 1.0
    np.testing.assert_array_equal(once.predict(x), whole.predict(x))


def test_every_fifth_row_of_each_class_is_held_out() -> None:
    codes = np.array([0, 1] * 6 + [2] * 4)
    held = _held_out(codes)
    assert np.flatnonzero(held).tolist() == [8, 9]
    assert not _held_out(np.array([0, 1, 2])).any()


def test_too_few_rows_to_hold_any_out_leave_the_decision_values_as_they_are() -> None:
    x, y = blobs(3, per_class=2)
    model = DecisionSoftmax(RidgeClassifier()).fit(x, y)
    assert model.scale_ == 1.0
    np.testing.assert_array_equal(model.predict(x), RidgeClassifier().fit(x, y).predict(x))


def test_equal_priors_are_those_of_scikit_learn_given_by_hand() -> None:
    x, y = blobs(3)
    rare = np.concatenate([np.flatnonzero(y == 3)[:8], np.flatnonzero(y != 3)])
    x, y = x[rare], y[rare]
    found = EqualPriorLDA(solver="lsqr", shrinkage=0.1).fit(x, y)
    wanted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1, priors=[1 / 3] * 3).fit(x, y)
    np.testing.assert_allclose(found.predict_proba(x), wanted.predict_proba(x), rtol=1e-5)
    plain = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(x, y)
    assert (found.predict(x) == 3).sum() > (plain.predict(x) == 3).sum()


def test_the_nearest_centroid_is_that_of_the_largest_cosine() -> None:
    x, y = blobs(4)
    x = normalize(x)
    model = CosineCentroids().fit(x, y)
    means = np.stack([x[y == label].mean(axis=0) for label in np.unique(y)])
    cosines = x @ normalize(means).T
    np.testing.assert_allclose(model.decision_function(x), cosines, atol=1e-6)
    np.testing.assert_array_equal(model.predict(x), np.unique(y)[cosines.argmax(axis=1)])
