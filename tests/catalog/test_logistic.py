"""The fit of unscaled rows reaches scikit-learn's optimum, in fewer iterations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import skops.io
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmark.catalog.heads import HEADS
from benchmark.catalog.logistic import fit_preconditioned
from benchmark.search.bookkeeping import Segment
from benchmark.search.fitting import Rows, fit_segment, refit

Data = tuple[NDArray[np.float32], NDArray[np.int32]]


def unequal(num_classes: int, dim: int = 30, num_rows: int = 900, spread: float = 2.0) -> Data:
    """Return overlapping classes of unequal sizes, in columns of unequal scales and offsets."""
    generator = np.random.default_rng(num_classes)
    y = np.sort(generator.integers(0, num_classes**2, num_rows)) // num_classes
    y = np.where(generator.random(num_rows) < 0.2, 0, y).astype(np.int32) + 3
    centres = generator.normal(size=(num_classes + 3, dim)) * 0.4
    scale = np.exp(spread * generator.normal(size=dim))
    x = (centres[y] + generator.normal(size=(num_rows, dim)) + 2.0) * scale
    x[:, 0] = 1.5
    return x.astype(np.float32), y


@pytest.mark.parametrize("weights", [None, "balanced"])
@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_the_optimum_is_that_of_scikit_learn(
    num_classes: int, strength: float, weights: str | None
) -> None:
    x, y = unequal(num_classes)
    given = {"C": strength, "class_weight": weights, "max_iter": 5000}
    model = LogisticRegression(tol=1e-7, **given)
    fit_preconditioned(model, x, y)
    wanted = LogisticRegression(tol=1e-9, solver="newton-cholesky", **given).fit(
        x.astype(np.float64), y
    )
    np.testing.assert_allclose(model.predict_proba(x), wanted.predict_proba(x), atol=5e-3)
    assert (model.predict(x) == wanted.predict(x)).mean() > 0.995


def test_it_needs_fewer_iterations_at_the_same_tolerance() -> None:
    x, y = unequal(4)
    model, plain = LogisticRegression(max_iter=3000), LogisticRegression(max_iter=3000)
    fit_preconditioned(model, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain.fit(x, y)
    assert 2 * model.n_iter_[0] < plain.n_iter_[0]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_it_leaves_what_the_own_fit_leaves(num_classes: int) -> None:
    x, y = unequal(num_classes, spread=0.5)
    x.flags.writeable = False
    model, plain = LogisticRegression(), LogisticRegression(max_iter=1000).fit(x, y)
    fit_preconditioned(model, x, y)
    assert vars(model).keys() == vars(plain).keys()
    for name in ("classes_", "coef_", "intercept_", "n_iter_"):
        found, wanted = getattr(model, name), getattr(plain, name)
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), name
    loaded = skops.io.loads(skops.io.dumps(model))
    np.testing.assert_array_equal(loaded.predict_proba(x), model.predict_proba(x))


@pytest.mark.parametrize("num_rows", [20, 59])
def test_few_rows_are_left_to_scikit_learn(num_rows: int) -> None:
    x, y = unequal(3, num_rows=num_rows)
    model = LogisticRegression(max_iter=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_preconditioned(model, x, y)
        wanted = LogisticRegression(max_iter=50).fit(x, y)
    np.testing.assert_array_equal(model.coef_, wanted.coef_)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_columns_that_are_mostly_constant_are_fitted(value: float) -> None:
    x, y = unequal(3)
    x[:, 4:] = value
    x[:, 1] = x[:, 2]
    model = LogisticRegression(C=1e5, max_iter=1000)
    fit_preconditioned(model, x, y)
    assert np.isfinite(model.coef_).all()
    assert np.abs(model.coef_[:, 4:]).max() < 1e-3


def test_bad_rows_are_refused_as_by_scikit_learn() -> None:
    x, y = unequal(3)
    with pytest.raises(ValueError, match="at least 2 classes"):
        fit_preconditioned(LogisticRegression(), x, np.zeros_like(y))
    x[5, 5] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        fit_preconditioned(LogisticRegression(), x, y)


def _rows(x: NDArray[np.float32], y: NDArray[np.int32]) -> Rows:
    return Rows(x[::2], y[::2], x[1::2], y[1::2], x[1::2], *2 * (np.array(["x"]),))


@pytest.mark.parametrize("scaler", ["none", "standard", "l2"])
def test_the_head_takes_it_in_trials_and_refits_without_scaler(
    scaler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(model: Any, x: NDArray[np.float32], y: NDArray[np.int32]) -> None:
        calls.append(len(x))
        fit_preconditioned(model, x, y)

    monkeypatch.setattr("benchmark.catalog.logistic.fit_preconditioned", counted)
    x, y = unequal(3)
    segment = Segment("fit", 0, {"C": 0.1, "scaler": scaler, "class_weight": "none"}, 0, 1)
    head = HEADS.get("logistic_regression")
    fit_segment(head, _rows(x, y), segment, seed=0)
    model, *_ = refit(head, _rows(x, y), segment, seed=0, on="train+val")
    assert calls == ([450, 900] if scaler == "none" else [])
    assert type(model[-1]) is LogisticRegression
