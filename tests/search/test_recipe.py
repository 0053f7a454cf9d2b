"""A search of fine-tuning begins with the recipe of the file and stays around it."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmark.finetune_settings import FinetuneConfig
from benchmark.search.bookkeeping import Outcome, Search, Segment
from benchmark.search.recipe import SPAN, RecipeSpace, suggest

optuna.logging.set_verbosity(optuna.logging.WARNING)

CONFIGS = st.builds(
    FinetuneConfig,
    num_trials=st.integers(2, 12),
    num_epochs=st.integers(1, 30),
    learning_rate=st.floats(1e-7, 0.9999),
    backbone_ratio=st.floats(1e-4, 1.0),
    weight_decay=st.just(0.0) | st.floats(1e-7, 0.999),
    augmentation=st.sampled_from(["none", "flips", "flips+color"]),
    class_weight=st.sampled_from(["none", "balanced"]),
)


def begin(config: FinetuneConfig, *, seed: int = 0) -> Search:
    space = RecipeSpace(config)
    return Search(
        space, num_trials=config.num_trials, seed=seed, rungs=space.rungs(), first=space.first
    )


def drawn(search: Search) -> list[dict[str, Any]]:
    """Return the configurations of the trials that are drawn together."""
    found = []
    while (segment := search.next()) is not None:
        found.append(segment.params)
    return found


@pytest.mark.filterwarnings("error")
@settings(deadline=None, max_examples=60)
@given(CONFIGS)
@example(FinetuneConfig(num_trials=2, learning_rate=0.9995))
@example(FinetuneConfig(num_trials=2, backbone_ratio=1.0, weight_decay=0.5))
def test_the_first_trial_is_the_recipe_as_it_is(config: FinetuneConfig) -> None:
    first, *others = drawn(begin(config))
    assert config.model_copy(update=first) == config
    assert all(other != first for other in others)


@settings(deadline=None, max_examples=60)
@given(CONFIGS, st.integers(0, 2**32 - 1))
def test_every_draw_lies_around_the_recipe_and_is_a_valid_one(
    config: FinetuneConfig, seed: int
) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(4):
        params = suggest(config, study.ask())
        found = FinetuneConfig.model_validate({**config.model_dump(), **params})
        for name in ("learning_rate", "backbone_ratio"):
            ratio = getattr(found, name) / getattr(config, name)
            assert 1 / SPAN * 0.999 <= ratio <= SPAN * 1.001
        assert config.num_epochs / 2 <= found.num_epochs <= config.num_epochs
        assert (found.weight_decay > 0) is (config.weight_decay > 0)
        # Everything else is as the file says.
        assert found == config.model_copy(update=params)


def test_draws_reach_every_choice() -> None:
    config = FinetuneConfig(num_trials=30, num_epochs=4)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = [suggest(config, study.ask()) for _ in range(60)]
    assert {item["augmentation"] for item in found} == {"none", "flips", "flips+color"}
    assert {item["class_weight"] for item in found} == {"none", "balanced"}
    assert {item["num_epochs"] for item in found} == {2, 3, 4}
    rates = [item["learning_rate"] for item in found]
    assert min(rates) < 3e-4
    assert max(rates) > 3e-3


def test_one_trial_is_the_recipe_without_a_search() -> None:
    config = FinetuneConfig(num_epochs=9)
    space = RecipeSpace(config)
    assert not space.is_searched
    assert space.num_epochs == 9
    search = Search(space, num_trials=1, seed=0, first=space.first)
    segment = search.next()
    assert segment == Segment("fit", 0, space.first, 0, 9)
    search.tell(segment, Outcome([0.5, 0.7, 0.6] * 3, 1.0))
    assert search.next() == Segment("refit", 0, space.first, 0, 2)


@pytest.mark.parametrize(
    ("num_epochs", "rungs"),
    [(1, ()), (2, ()), (3, (1,)), (5, (1,)), (9, (1, 3)), (10, (1, 3)), (30, (3, 10))],
)
def test_rungs_are_thirds_of_the_epochs(num_epochs: int, rungs: tuple[int, ...]) -> None:
    assert RecipeSpace(FinetuneConfig(num_epochs=num_epochs)).rungs() == rungs


@pytest.mark.parametrize("num_epochs", range(1, 40))
def test_no_trial_ends_before_its_last_rung(num_epochs: int) -> None:
    rungs = RecipeSpace(FinetuneConfig(num_epochs=num_epochs)).rungs()
    assert all(rung < (num_epochs + 1) // 2 for rung in rungs)


def test_another_seed_draws_other_trials_after_the_same_first() -> None:
    config = FinetuneConfig(num_trials=6)
    one, two, other = (drawn(begin(config, seed=seed)) for seed in (0, 0, 1))
    assert one == two
    assert one[0] == other[0]
    assert not any(item in other[1:] for item in one[1:])
