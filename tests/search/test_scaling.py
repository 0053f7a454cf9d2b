"""Scalers that are fitted some columns at a time are those of scikit-learn, to the last bit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from benchmark.search.scaling import BLOCK_COLUMNS, fit_pipeline, fit_scalers


def draw(n: int, d: int) -> np.ndarray:
    x = np.random.default_rng(n + d).normal(3, 2, (n, d)).astype(np.float32)
    x[:, 0] = 1.5
    x.flags.writeable = False
    return x


def classifier(*scalers: Any) -> Any:
    return make_pipeline(*scalers, LogisticRegression(max_iter=5))


@pytest.mark.parametrize("scaler", [StandardScaler, Normalizer])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 70), (5, 3), (9000, 1), (9000, 64), (9000, 65), (3000, 129), (2000, 768)]
)
def test_every_bit_is_that_of_scikit_learn(
    scaler: Any, overwrite: bool, shape: tuple[int, int]
) -> None:
    x = draw(*shape)
    whole, ours = scaler(), classifier(scaler())
    wanted = whole.fit_transform(x)
    given = x.copy() if overwrite else x
    found = fit_scalers(ours, given, overwrite=overwrite)
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.int32), wanted.view(np.int32))
    assert np.shares_memory(found, given) is overwrite
    assert vars(ours[0]).keys() == vars(whole).keys()
    # What is written to the store, as well.
    assert skops.io.dumps(ours[0]) == skops.io.dumps(whole) or _equal(ours[0], whole)


def _equal(one: Any, other: Any) -> bool:
    """Whether two fitted scalers have the same attributes, of the same types and bits."""
    return all(
        type(a) is type(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def test_missing_values_are_left_to_scikit_learn() -> None:
    x = draw(500, 2 * BLOCK_COLUMNS).copy()
    x[3, 5] = np.nan
    model = classifier(StandardScaler())
    np.testing.assert_array_equal(fit_scalers(model, x), StandardScaler().fit_transform(x))
    assert model[0].n_samples_seen_[5] == 499


@pytest.mark.parametrize(
    "scalers",
    [(), (StandardScaler(),), (Normalizer(), StandardScaler()), (PCA(3), StandardScaler())],
    ids=["none", "standard", "two", "another step"],
)
def test_a_fitted_pipeline_is_that_of_its_own_fit(scalers: tuple[Any, ...]) -> None:
    x = draw(300, 100)
    y = np.random.default_rng(0).integers(0, 3, 300).astype(np.int32)
    ours, wanted = classifier(*scalers), classifier(*scalers)
    fit_pipeline(ours, x, y)
    wanted.fit(x, y)
    assert np.array_equal(ours.predict_proba(x), wanted.predict_proba(x))


@pytest.mark.parametrize("scalers", [(), (StandardScaler(),)], ids=["none", "standard"])
def test_the_fit_of_a_head_is_taken_where_no_scaler_is(scalers: tuple[Any, ...]) -> None:
    x, seen = draw(60, 5), []

    def fit_unscaled(model: Any, rows: np.ndarray, labels: np.ndarray) -> None:
        seen.append((model, rows is x, labels.tolist()))

    y = np.arange(60, dtype=np.int32) % 3
    model = classifier(*scalers)
    fit_pipeline(model, x, y, fit_unscaled)
    assert seen == ([] if scalers else [(model[-1], True, y.tolist())])
    assert hasattr(model[-1], "coef_") is bool(scalers)


def test_an_estimator_of_another_kind_is_fitted_as_it_is() -> None:
    x = draw(50, 4)
    model = LogisticRegression(max_iter=5)
    fit_pipeline(model, x, np.arange(50, dtype=np.int32) % 2, overwrite=True)
    assert model.classes_.tolist() == [0, 1]


def _peak(overwrite: bool, x: np.ndarray) -> float:
    tracemalloc.start()
    try:
        fit_scalers(classifier(StandardScaler()), x, overwrite=overwrite)
        return tracemalloc.get_traced_memory()[1] / x.nbytes
    finally:
        tracemalloc.stop()


def test_scaling_takes_one_copy_or_none() -> None:
    x = draw(20_000, 768)
    fit_scalers(classifier(StandardScaler()), x[:10])  # Imports take memory too.
    assert _peak(False, x) < 1.1
    assert _peak(True, x.copy()) < 0.4
