"""The contract of a head: every configuration drawn builds, fits, scores, and can be saved."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.catalog.contracts.checks import Check, expect, pickles
from benchmark.catalog.own.trust import foreign_types

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.specs import Head

NUM_DRAWS = 20
NUM_FITTED = 5


def toy_embeddings(num_classes: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return 90 embeddings of length 5, float32 (N, D), and their labels, int32 (N,)."""
    generator = np.random.default_rng(0)
    y = np.arange(90) % num_classes
    return (generator.normal(size=(90, 5)) + y[:, None]).astype(np.float32), y.astype(np.int32)


@dataclass(frozen=True)
class Case:
    """A head, and configurations that its search space draws."""

    head: Head

    @cached_property
    def draws(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Twenty configurations, and the distributions that they are drawn from."""
        import optuna

        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        optuna.logging.set_verbosity(verbosity)
        found = []
        for _ in range(NUM_DRAWS):
            trial = study.ask()
            found.append((self.head.suggest(trial), trial.distributions))
        return found

    @cached_property
    def params(self) -> list[dict[str, Any]]:
        """One configuration for each choice of its texts: the kinds of model that it builds."""
        seen: dict[tuple[str, ...], dict[str, Any]] = {}
        for params, _ in self.draws:
            key = tuple(str(value) for value in params.values() if isinstance(value, str))
            seen.setdefault(key, params)
        return list(seen.values())

    def fit(self, params: dict[str, Any], num_classes: int, seed: int = 0) -> Any:
        """Return the estimator of a configuration, fitted on toy embeddings."""
        x, y = toy_embeddings(num_classes)
        model = self.head.build(params, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.head.num_epochs:
                scaled = model[:-1].fit_transform(x) if len(model) > 1 else x
                for _ in range(2):
                    model[-1].partial_fit(scaled, y, classes=np.unique(y))
            else:
                model.fit(x, y)
        return model


def says_whether_it_is_searched(case: Case) -> None:
    """It says that it is searched exactly where its search space is not empty."""
    has_space = any(space for _, space in case.draws)
    expect(has_space is case.head.is_searched, f"is_searched = {case.head.is_searched}")


def needs_predict_proba(case: Case) -> None:
    """Every configuration builds an estimator with fit and predict_proba."""
    for params in case.params:
        model = case.head.build(params, 0)
        for name in ("fit", "predict_proba"):
            has_it = callable(getattr(model, name, None))
            expect(has_it, f"its '{type(model).__name__}' has no {name}")


def scores_are_probabilities(case: Case) -> None:
    """It fits two and three classes, and its scores are probabilities of each class."""
    for num_classes in (2, 3):
        x, _ = toy_embeddings(num_classes)
        for params in case.params[:NUM_FITTED]:
            scores = np.asarray(case.fit(params, num_classes).predict_proba(x))
            wanted = (len(x), num_classes)
            expect(scores.shape == wanted, f"scores of shape {scores.shape}, not {wanted}")
            expect(bool(np.isfinite(scores).all()), "some scores are not finite")
            is_one = np.allclose(scores.sum(axis=1), 1.0, atol=1e-5) and scores.min() >= 0
            expect(is_one, "the scores of a patch are no probabilities: they do not sum to 1")


def knows_its_classes(case: Case) -> None:
    """A fitted estimator has classes_, the sorted labels that it saw."""
    model = case.fit(case.params[0], 3)
    found = getattr(model, "classes_", None)
    expect(found is not None and list(found) == [0, 1, 2], f"classes_ = {found}; it saw 0, 1, 2")


def is_the_same_with_the_same_seed(case: Case) -> None:
    """The same configuration and seed give the same scores."""
    x, _ = toy_embeddings(3)
    for params in case.params[:NUM_FITTED]:
        one, other = (case.fit(params, 3, seed=1).predict_proba(x) for _ in range(2))
        expect(
            np.array_equal(one, other),
            "two fits with one seed differ: take the parameter random_state or seed",
        )


def can_be_saved_and_loaded(case: Case) -> None:
    """A fitted estimator is saved and loaded with skops, and scores as before."""
    import skops.io

    x, _ = toy_embeddings(3)
    model = case.fit(case.params[0], 3)
    saved = skops.io.dumps(model)
    untrusted = skops.io.get_untrusted_types(data=saved)
    own = {type(model).__module__.partition(".")[0]}
    if hasattr(model, "steps"):
        own |= {type(step).__module__.partition(".")[0] for _, step in model.steps}
    foreign = foreign_types(untrusted, own)
    expect(not foreign, f"it contains types that are not trusted: {', '.join(foreign)}")
    loaded = skops.io.loads(saved, trusted=untrusted)
    same = np.array_equal(loaded.predict_proba(x), model.predict_proba(x))
    expect(same, "the loaded estimator scores differently")


def pickles_for_workers(case: Case) -> None:
    """The entry reaches another process."""
    pickles(case.head)


CHECKS: Sequence[Check[Case]] = (
    says_whether_it_is_searched,
    needs_predict_proba,
    scores_are_probabilities,
    knows_its_classes,
    is_the_same_with_the_same_seed,
    can_be_saved_and_loaded,
    pickles_for_workers,
)


@contextmanager
def quietly() -> Iterator[None]:
    """Ignore the warnings of fits on toy data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
