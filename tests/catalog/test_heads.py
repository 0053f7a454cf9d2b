"""Every head searches what PROTOCOL says, and every configuration drawn builds and fits."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import optuna
import pytest

from benchmark.catalog.contracts.heads import CHECKS, Case, quietly
from benchmark.catalog.heads import HEADS
from benchmark.specs import Head

NUM_TRIALS = 50
FIXED_SCALERS = {"nearest_centroid": "l2", "cosine_knn": "l2"}
SCALERS = {"none": None, "standard": "StandardScaler", "l2": "Normalizer"}


def draws(head: Head) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the configurations of 50 trials, and the distributions they were drawn from."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(NUM_TRIALS):
        trial = study.ask()
        found.append((head.suggest(trial), trial.distributions))
    return found


def space(head: Head) -> dict[str, Any]:
    return draws(head)[0][1]


def test_the_heads_are_those_of_the_issue() -> None:
    assert HEADS.names() == [
        *("logistic_regression", "mlp", "knn", "ridge", "linear_svm", "lda", "nearest_centroid"),
        *("hist_gradient_boosting", "cosine_knn", "majority"),
    ]


def test_logistic_regression_searches_what_the_protocol_says() -> None:
    assert space(HEADS.get("logistic_regression")) == {
        "C": optuna.distributions.FloatDistribution(1e-6, 1e5, log=True),
        "scaler": optuna.distributions.CategoricalDistribution(("none", "standard", "l2")),
        "class_weight": optuna.distributions.CategoricalDistribution(("none", "balanced")),
    }


def test_the_mlp_searches_what_the_issue_says() -> None:
    found = space(HEADS.get("mlp"))
    assert found["width"] == optuna.distributions.IntDistribution(16, 512, log=True)
    assert {"alpha", "learning_rate"} <= set(found)
    assert found["alpha"].log
    assert found["learning_rate"].log


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_draws_stay_in_bounds_and_cover_the_space(head: Head) -> None:
    found = draws(head)
    if not head.is_searched:
        assert all(params == {} for params, _ in found)
        return
    for name, distribution in found[0][1].items():
        values = [params[name] for params, _ in found]
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            assert set(values) == set(distribution.choices)
            continue
        assert distribution.low <= min(values) <= max(values) <= distribution.high
        if distribution.log:
            low, high = math.log(distribution.low), math.log(distribution.high)
            shares = [(math.log(value) - low) / (high - low) for value in values]
            assert min(shares) < 0.15
            assert max(shares) > 0.85


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_every_head_keeps_the_contract(head: Head, check: Any) -> None:
    with quietly():
        check(Case(head))


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_every_draw_builds_the_pipeline_that_it_names(head: Head) -> None:
    for params, _ in draws(head):
        model = head.build(params, 0)
        scaler = SCALERS[params.get("scaler", FIXED_SCALERS.get(head.name, "none"))]
        assert [type(step).__name__ for step in model[:-1]] == ([scaler] if scaler else [])
        estimator = getattr(model[-1], "estimator", model[-1]).get_params()
        state = estimator.get("random_state", 0)
        if isinstance(state, np.random.RandomState):
            # An instance, so that every epoch of an MLP has an order of its own.
            assert state.randint(2**31) == np.random.RandomState(0).randint(2**31)
        else:
            assert state == 0
        for name in params.keys() & {"C", "alpha", "shrinkage", "max_iter", "max_features"}:
            assert estimator[name] == params[name]
        if "class_weight" in params:
            expected = None if params["class_weight"] == "none" else "balanced"
            assert estimator["class_weight"] == expected
        if "priors" in params:
            family = {"equal": "EqualPriorLDA", "train": "LinearDiscriminantAnalysis"}
            assert type(model[-1]).__name__ == family[params["priors"]]
        if "width" in params:
            assert estimator["hidden_layer_sizes"] == (params["width"],)
            assert estimator["learning_rate_init"] == params["learning_rate"]
        if "n_neighbors" in params:
            assert estimator["n_neighbors"] == params["n_neighbors"]
            assert estimator["weights"] == params["weights"]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_a_copy_is_equal(head: Head) -> None:
    copy = pickle.loads(pickle.dumps(head))
    assert copy == head
    assert copy.suggest is head.suggest


def test_the_majority_class_is_always_answered() -> None:
    x = np.zeros((5, 2), np.float32)
    model = HEADS.get("majority").build({}, 0).fit(x, np.array([2, 2, 1, 0, 2]))
    assert model.predict(x).tolist() == [2] * 5
    np.testing.assert_array_equal(model.predict_proba(x), [[0.0, 0.0, 1.0]] * 5)


def test_only_the_majority_is_a_floor() -> None:
    assert [head.name for head in HEADS if head.is_floor] == ["majority"]


def test_only_the_mlp_is_trained_by_epochs() -> None:
    assert [head.name for head in HEADS if head.num_epochs] == ["mlp"]


@pytest.mark.parametrize(("drawn", "num_rows", "k"), [(50, 12, 12), (12, 12, 12), (3, 12, 3)])
def test_a_neighbour_count_is_at_most_that_of_the_rows(drawn: int, num_rows: int, k: int) -> None:
    head = HEADS.get("knn")
    model = head.build({"n_neighbors": drawn, "weights": "uniform", "scaler": "l2"}, 0)
    assert head.adapt is not None
    head.adapt(model, num_rows)
    assert model[-1].n_neighbors == k
