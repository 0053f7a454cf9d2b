"""A refit gives the model that was scored; a fit in segments equals a fit at once."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import skops.io
from sklearn.metrics import balanced_accuracy_score
from threadpoolctl import threadpool_limits

import benchmark as bm
from benchmark.catalog.heads import HEADS
from benchmark.errors import CellError, UsageError
from benchmark.search.bookkeeping import Segment
from benchmark.search.fitting import Rows, fit_segment, refit, scores_of_all
from benchmark.specs import Head

K, D = 3, 6
SEED = 5
EPOCHS = 20

PARAMS: dict[str, dict[str, Any]] = {
    "logistic_regression": {"C": 1.0, "scaler": "standard", "class_weight": "balanced"},
    "mlp": {"width": 16, "alpha": 1e-4, "learning_rate": 0.01, "scaler": "standard"},
    "knn": {"n_neighbors": 3, "weights": "distance", "scaler": "l2"},
    "ridge": {"alpha": 1.0, "scaler": "standard", "class_weight": "balanced"},
    "linear_svm": {"C": 1.0, "scaler": "standard", "class_weight": "balanced"},
    "lda": {"shrinkage": 0.1, "priors": "equal", "scaler": "none"},
    "nearest_centroid": {},
    "hist_gradient_boosting": {
        "max_iter": 20,
        "learning_rate": 0.1,
        "max_leaf_nodes": 4,
        "max_features": 0.5,
        "l2_regularization": 0.1,
        "class_weight": "balanced",
    },
    "cosine_knn": {},
    "majority": {},
}

SHORT = {
    head.name: head if head.num_epochs is None else dataclasses.replace(head, num_epochs=EPOCHS)
    for head in HEADS
}
ITERATIVE = [head for head in SHORT.values() if head.num_epochs]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Fit as a trial's process does: several BLAS threads may add up in another order."""
    with threadpool_limits(1):
        yield


def make_rows(seed: int = 0, *, num_train: int = 150, noise: float = 1.2) -> Rows:
    """Return noisy clusters, one per class, as read-only float32 arrays like those of Ray."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(K, D))
    parts: dict[str, Any] = {}
    for name, size in (("train", num_train), ("val", 60), ("test", 40)):
        labels = generator.integers(0, K, size).astype(np.int32)
        values = centres[labels] + noise * generator.normal(size=(size, D))
        parts[f"x_{name}"] = values.astype(np.float32)
        if name != "test":
            parts[f"y_{name}"] = labels
        if name != "train":
            parts[f"ids_{name}"] = np.array([f"{name}-{i:03d}" for i in range(size)])
    for array in parts.values():
        array.flags.writeable = False
    return Rows(**parts)


ROWS = make_rows()


def whole(head: Head, params: dict[str, Any] | None = None) -> Segment:
    return Segment("fit", 0, params or PARAMS[head.name], 0, head.num_epochs or 0)


def chosen(head: Head, scores: list[float], params: dict[str, Any] | None = None) -> Segment:
    epochs = scores.index(max(scores)) + 1 if head.num_epochs else 0
    return Segment("refit", 0, params or PARAMS[head.name], 0, epochs)


def val_score(y_score: np.ndarray, rows: Rows = ROWS) -> float:
    return balanced_accuracy_score(rows.y_val, y_score.argmax(axis=1))


def test_every_head_of_the_catalog_is_fitted_here() -> None:
    assert set(PARAMS) == set(HEADS.names())


@pytest.mark.parametrize("head", SHORT.values(), ids=lambda head: head.name)
def test_the_refit_scores_on_val_what_the_search_saw(head: Head) -> None:
    fitted, _ = fit_segment(head, ROWS, whole(head), seed=SEED)
    _, val, test = refit(head, ROWS, chosen(head, fitted.scores), seed=SEED, on="train")
    assert val_score(val) == pytest.approx(max(fitted.scores), abs=1e-12)
    assert (val.shape, test.shape) == ((60, K), (40, K))
    assert val.dtype == test.dtype == np.float32
    np.testing.assert_allclose(val.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("scaler", ["none", "standard", "l2"])
@pytest.mark.parametrize("head", ITERATIVE, ids=lambda head: head.name)
def test_the_refit_is_the_scored_model_at_every_epoch(head: Head, scaler: str) -> None:
    params = {**PARAMS[head.name], "scaler": scaler}
    patient = dataclasses.replace(head, patience=EPOCHS)
    fitted, _ = fit_segment(patient, ROWS, whole(patient, params), seed=SEED)
    for epoch in (1, 7, EPOCHS):
        segment = Segment("refit", 0, params, 0, epoch)
        _, val, _ = refit(patient, ROWS, segment, seed=SEED, on="train")
        assert val_score(val) == pytest.approx(fitted.scores[epoch - 1], abs=1e-12)


@pytest.mark.parametrize("scaler", ["none", "standard", "l2"])
@pytest.mark.parametrize("head", ITERATIVE, ids=lambda head: head.name)
def test_segments_in_a_row_equal_one_go_bit_for_bit(head: Head, scaler: str) -> None:
    params = {**PARAMS[head.name], "scaler": scaler}
    patient = dataclasses.replace(head, patience=EPOCHS)
    one, one_state = fit_segment(patient, ROWS, Segment("fit", 0, params, 0, 15), seed=SEED)
    first, state = fit_segment(patient, ROWS, Segment("fit", 0, params, 0, 5), seed=SEED)
    second, state = fit_segment(
        patient, ROWS, Segment("fit", 0, params, 5, 15), seed=SEED, state=state
    )
    assert first.scores + second.scores == one.scores
    assert not (first.is_stopped or second.is_stopped or one.is_stopped)
    for a, b in zip(state.model[-1].coefs_, one_state.model[-1].coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("head", ITERATIVE, ids=lambda head: head.name)
def test_patience_is_counted_across_segments(head: Head) -> None:
    params = {**PARAMS[head.name], "learning_rate": 1e-6}
    impatient = dataclasses.replace(head, patience=4)
    first, state = fit_segment(impatient, ROWS, Segment("fit", 0, params, 0, 3), seed=SEED)
    second, ended = fit_segment(
        impatient, ROWS, Segment("fit", 0, params, 3, 15), seed=SEED, state=state
    )
    one, _ = fit_segment(impatient, ROWS, Segment("fit", 0, params, 0, 15), seed=SEED)
    assert first.scores + second.scores == one.scores
    assert second.is_stopped
    assert ended is None
    best = one.scores.index(max(one.scores)) + 1
    assert len(one.scores) == best + 4


@pytest.mark.parametrize("head", ITERATIVE, ids=lambda head: head.name)
def test_a_perfect_val_score_ends_the_training(head: Head) -> None:
    easy = make_rows(noise=0.01)
    fitted, state = fit_segment(head, easy, whole(head), seed=SEED)
    assert fitted.scores[-1] == 1.0
    assert 1.0 not in fitted.scores[:-1]
    assert fitted.is_stopped
    assert state is None


@pytest.mark.parametrize("head", SHORT.values(), ids=lambda head: head.name)
def test_a_refit_on_train_and_val_sees_both(head: Head) -> None:
    segment = chosen(head, [0.0] * 9 + [1.0])
    model, val, test = refit(head, ROWS, segment, seed=SEED, on="train+val")
    same = Rows(
        x_train=np.concatenate([ROWS.x_train, ROWS.x_val]),
        y_train=np.concatenate([ROWS.y_train, ROWS.y_val]),
        **{name: getattr(ROWS, name) for name in Rows._fields if not name.endswith("_train")},
    )
    other, val_too, test_too = refit(head, same, segment, seed=SEED, on="train")
    np.testing.assert_array_equal(val, val_too)
    np.testing.assert_array_equal(test, test_too)
    assert len(model) == len(other)
    if head.name != "majority":
        _, without, _ = refit(head, ROWS, segment, seed=SEED, on="train")
        assert not np.array_equal(val, without)


@pytest.mark.parametrize("head", SHORT.values(), ids=lambda head: head.name)
def test_the_same_seed_gives_the_same_bits(head: Head) -> None:
    one, other = (
        refit(head, ROWS, chosen(head, [0.0, 1.0]), seed=SEED, on="train")[1:] for _ in range(2)
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("head", ITERATIVE, ids=lambda head: head.name)
def test_another_seed_gives_another_iterative_head(head: Head) -> None:
    one, other = (
        refit(head, ROWS, chosen(head, [0.0, 1.0]), seed=seed, on="train")[1] for seed in (0, 1)
    )
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("head", SHORT.values(), ids=lambda head: head.name)
def test_the_rows_are_left_as_they_were(head: Head) -> None:
    copies = [array.copy() for array in ROWS]
    fitted, _ = fit_segment(head, ROWS, whole(head), seed=SEED)
    refit(head, ROWS, chosen(head, fitted.scores), seed=SEED, on="train+val")
    for array, copy in zip(ROWS, copies, strict=True):
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("head", SHORT.values(), ids=lambda head: head.name)
def test_a_saved_head_loads_and_predicts_the_same(head: Head, tmp_path: Path) -> None:
    model, val, test = refit(head, ROWS, chosen(head, [0.0, 1.0]), seed=SEED, on="train")
    (tmp_path / "head.skops").write_bytes(skops.io.dumps(model))
    loaded = bm.load_head(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(ROWS.x_val).astype(np.float32), val)
    np.testing.assert_array_equal(loaded.predict_proba(ROWS.x_test).astype(np.float32), test)
    np.testing.assert_array_equal(loaded.predict(ROWS.x_test), model.predict(ROWS.x_test))
    np.testing.assert_array_equal(loaded[-1].classes_, np.arange(K))


@pytest.mark.parametrize("head", SHORT.values(), ids=lambda head: head.name)
def test_every_drawn_configuration_saves_and_loads(head: Head, tmp_path: Path) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(4):
        params = head.suggest(study.ask())
        params = {**params, **({"n_neighbors": 5} if "n_neighbors" in params else {})}
        segment = chosen(head, [0.0, 1.0], params)
        model, val, _ = refit(head, ROWS, segment, seed=SEED, on="train")
        (tmp_path / "head.skops").write_bytes(skops.io.dumps(model))
        loaded = bm.load_head(str(tmp_path))
        np.testing.assert_array_equal(loaded.predict_proba(ROWS.x_val).astype(np.float32), val)


def test_a_folder_without_a_head_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"head\.skops: no such head"):
        bm.load_head(tmp_path)


class NotScikitLearn:
    """A type that a stranger could have put into a saved head."""

    def __init__(self) -> None:
        self.value = 1


def test_a_head_of_foreign_types_is_refused(tmp_path: Path) -> None:
    (tmp_path / "head.skops").write_bytes(skops.io.dumps(NotScikitLearn()))
    with pytest.raises(UsageError, match=r"contains types that are not trusted: .*NotScikitLearn"):
        bm.load_head(tmp_path)


def test_a_file_that_is_no_head_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "head.skops").write_bytes(b"not a zip file")
    with pytest.raises(UsageError, match=r"head\.skops: "):
        bm.load_head(tmp_path)


def test_classes_that_a_head_never_saw_score_zero() -> None:
    spread = scores_of_all(np.array([[0.25, 0.75]], np.float32), np.array([1, 3], np.int32), 5)
    assert spread.dtype == np.float32
    np.testing.assert_array_equal(spread, [[0.0, 0.25, 0.0, 0.75, 0.0]])


@pytest.mark.parametrize("head", SHORT.values(), ids=lambda head: head.name)
def test_a_class_that_train_lacks_is_never_predicted_and_breaks_nothing(head: Head) -> None:
    labels = np.where(ROWS.y_train == 1, 0, ROWS.y_train).astype(np.int32)
    rows = ROWS._replace(y_train=labels)
    fitted, _ = fit_segment(head, rows, whole(head), seed=SEED)
    model, val, _ = refit(head, rows, chosen(head, fitted.scores), seed=SEED, on="train")
    assert val.shape[1] == 2
    spread = scores_of_all(val, model[-1].classes_, K)
    assert (spread[:, 1] == 0).all()
    assert max(fitted.scores) == pytest.approx(val_score(spread, rows), abs=1e-12)


@pytest.mark.parametrize("head", SHORT.values(), ids=lambda head: head.name)
def test_a_class_that_val_lacks_does_not_count(head: Head) -> None:
    kept = ROWS.y_val != 2
    rows = ROWS._replace(x_val=ROWS.x_val[kept], y_val=ROWS.y_val[kept], ids_val=ROWS.ids_val[kept])
    fitted, _ = fit_segment(head, rows, whole(head), seed=SEED)
    _, val, _ = refit(head, rows, chosen(head, fitted.scores), seed=SEED, on="train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = balanced_accuracy_score(rows.y_val, val.argmax(axis=1))
    assert max(fitted.scores) == pytest.approx(expected, abs=1e-12)


def test_a_learning_head_is_ahead_of_the_floor() -> None:
    best = {}
    for head in SHORT.values():
        fitted, _ = fit_segment(head, ROWS, whole(head), seed=SEED)
        best[head.name] = max(fitted.scores)
    assert best["majority"] == pytest.approx(1 / K)
    assert all(score > 0.6 for name, score in best.items() if name != "majority")


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_more_neighbours_than_rows_are_all_rows(weights: str, tmp_path: Path) -> None:
    """Half of the trials failed on few rows, without a word."""
    head, rows = SHORT["knn"], make_rows(num_train=12)
    params = {"n_neighbors": 50, "weights": weights, "scaler": "standard"}
    outcome, _ = fit_segment(head, rows, whole(head, params), seed=SEED)
    all_rows, _ = fit_segment(head, rows, whole(head, {**params, "n_neighbors": 12}), seed=SEED)
    assert (outcome.error, outcome.scores) == ("", all_rows.scores)
    for on, k in (("train", 12), ("train+val", 50)):
        model, _, _ = refit(head, rows, whole(head, params), seed=SEED, on=on)
        assert model[-1].n_neighbors == k
        skops.io.dump(model, tmp_path / "head.skops")
        assert bm.load_head(tmp_path)[-1].n_neighbors == k


def test_as_many_neighbours_as_rows_or_fewer_change_nothing() -> None:
    head = SHORT["knn"]
    for k in (1, 30, len(ROWS.x_train)):
        params = {"n_neighbors": k, "weights": "uniform", "scaler": "none"}
        plain = head.build(params, SEED).fit(ROWS.x_train, ROWS.y_train)
        _, val, test = refit(head, ROWS, whole(head, params), seed=SEED, on="train")
        np.testing.assert_array_equal(val, plain.predict_proba(ROWS.x_val).astype(np.float32))
        np.testing.assert_array_equal(test, plain.predict_proba(ROWS.x_test).astype(np.float32))


def build_svc(params: Any, seed: int) -> Any:
    from sklearn.svm import SVC

    return SVC()


def build_contrary(params: Any, seed: int) -> Any:
    """Build a classifier that predicts another class than the most probable one."""
    from sklearn.naive_bayes import GaussianNB

    class Contrary(GaussianNB):  # type: ignore[misc]
        def predict(self, X: Any) -> Any:
            return (super().predict(X) + 1) % K

    return Contrary()


@pytest.mark.parametrize("name", ["ridge", "linear_svm"])
def test_a_trial_finds_no_scale_and_the_refit_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []
    monkeypatch.setattr(
        "benchmark.catalog.estimators._fit_scale", lambda *_: found.append(2.0) or 2.0
    )
    fit_segment(HEADS.get(name), make_rows(), Segment("fit", 0, PARAMS[name], 0, 1), seed=SEED)
    assert found == []
    model, *_ = refit(
        HEADS.get(name), make_rows(), Segment("refit", 0, PARAMS[name], 0, 1), seed=SEED, on="train"
    )
    assert model[-1].scale_ == 2.0


def test_an_own_head_is_scored_on_val_by_its_most_probable_class() -> None:
    """As on test: a support vector machine with probabilities may predict another class."""
    head = dataclasses.replace(HEADS.get("majority"), build=build_contrary, own={"code": "x"})
    found, _ = fit_segment(head, ROWS, whole(head, {}), seed=SEED)
    _, val, _ = refit(head, ROWS, whole(head, {}), seed=SEED, on="train")
    assert found.scores == [pytest.approx(val_score(val))]
    assert found.scores[0] > 0.5


@pytest.mark.parametrize("kind", ["fit", "refit"])
def test_a_head_without_probabilities_is_named(kind: Any) -> None:
    head = dataclasses.replace(HEADS.get("majority"), name="svc", build=build_svc)
    segment = Segment(kind, 0, {}, 0, 0)
    with pytest.raises(CellError, match=r"^head 'svc' needs predict_proba, and its 'SVC' has"):
        if kind == "fit":
            fit_segment(head, ROWS, segment, seed=0)
        else:
            refit(head, ROWS, segment, seed=0, on="train")
