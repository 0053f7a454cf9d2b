"""A search gives the same trials and winner in whatever order its results arrive."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.catalog.heads import HEADS
from benchmark.search.bookkeeping import (
    BATCH,
    KEEP,
    NUM_STARTUP,
    Best,
    Outcome,
    Search,
    Segment,
    plan_rungs,
)
from benchmark.specs import Head
from benchmark.tables import TRIALS, check_table

MLP = HEADS.get("mlp")
LOGISTIC = HEADS.get("logistic_regression")
MAJORITY = HEADS.get("majority")

Score = Callable[[dict[str, Any], int], float]

RUNGS = (5, 15)


def smooth(params: dict[str, Any], epoch: int) -> float:
    """Score a configuration: better with training, at a pace and up to a level of its own."""
    text = json.dumps(params, sort_keys=True).encode()
    level = int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") / 2**32
    return 0.9 * level * (1 - 0.8 ** (epoch + 1))


def peaked(params: dict[str, Any], epoch: int) -> float:
    """Score a configuration that gets worse after some epochs, with ties between epochs."""
    text = json.dumps(params, sort_keys=True).encode()
    top = 3 + int.from_bytes(hashlib.blake2b(text, digest_size=1).digest(), "big") % 12
    return round(0.8 - 0.02 * abs(top - epoch) + top / 1000, 3)


def outcome(
    head: Head | ToySpace, segment: Segment, score: Score, fails: frozenset[int]
) -> Outcome:
    if segment.trial in fails:
        return Outcome([], 0.25, error=f"trial {segment.trial} failed")
    if head.num_epochs is None:
        return Outcome([score(segment.params, 0)], 0.25)
    epochs = range(segment.first_epoch + 1, segment.last_epoch + 1)
    scores = [score(segment.params, epoch) for epoch in epochs]
    history = [score(segment.params, epoch) for epoch in range(1, segment.last_epoch + 1)]
    for length in range(segment.first_epoch + 1, segment.last_epoch + 1):
        best = max(range(length), key=lambda i: (history[i], -i)) + 1
        if length - best >= head.patience:
            return Outcome(scores[: length - segment.first_epoch], 0.25, is_stopped=True)
    return Outcome(scores, 0.25, is_stopped=False)


def drive(
    search: Search,
    head: Head | ToySpace,
    *,
    score: Score = smooth,
    num_slots: int = 1,
    order: random.Random | None = None,
    fails: frozenset[int] = frozenset(),
) -> list[Segment]:
    """Run a search with so many slots, finishing running segments in a random order."""
    running: list[Segment] = []
    done = []
    while not search.is_finished:
        while len(running) < num_slots and (segment := search.next()) is not None:
            running.append(segment)
        assert running, "the search neither ends nor gives work"
        segment = running.pop(order.randrange(len(running)) if order else 0)
        done.append(segment)
        if segment.kind == "refit":
            search.tell(segment, Outcome([], 0.5))
        else:
            search.tell(segment, outcome(head, segment, score, fails))
    assert not running
    assert search.next() is None
    return done


def table_of(search: Search) -> list[dict[str, Any]]:
    return search.trials_table().to_pylist()


def work_of(done: list[Segment]) -> list[tuple[str, int, int, int]]:
    return sorted((item.kind, item.trial, item.first_epoch, item.last_epoch) for item in done)


@settings(max_examples=40, deadline=None)
@given(
    head=st.sampled_from([MLP, LOGISTIC]),
    score=st.sampled_from([smooth, peaked]),
    num_slots=st.integers(1, 20),
    num_trials=st.sampled_from([1, 4, 10, 17]),
    order=st.randoms(use_true_random=False),
    fails=st.frozensets(st.integers(0, 16), max_size=4),
)
def test_the_order_in_which_results_arrive_changes_nothing(
    head: Head,
    score: Score,
    num_slots: int,
    num_trials: int,
    order: random.Random,
    fails: frozenset[int],
) -> None:
    one = Search(head, num_trials=num_trials, seed=7, rungs=RUNGS)
    other = Search(head, num_trials=num_trials, seed=7, rungs=RUNGS)
    first = drive(one, head, score=score, fails=fails)
    second = drive(other, head, score=score, num_slots=num_slots, order=order, fails=fails)
    assert table_of(one) == table_of(other)
    assert one.best == other.best
    assert work_of(first) == work_of(second)


@pytest.mark.parametrize("head", [MLP, LOGISTIC], ids=lambda head: head.name)
@pytest.mark.parametrize("num_trials", [1, 10, 17])
def test_a_search_has_as_many_trials_as_were_asked_for(head: Head, num_trials: int) -> None:
    search = Search(head, num_trials=num_trials, seed=0, rungs=RUNGS)
    assert search.num_trials == num_trials
    assert search.num_running == num_trials
    done = drive(search, head)
    assert search.num_running == 0
    assert search.is_searched
    table = check_table(search.trials_table(), TRIALS, what="trials")
    assert table.schema.equals(TRIALS)
    assert table["trial"].to_pylist() == list(range(num_trials))
    assert [item.kind for item in done].count("refit") == 1
    assert done[-1].kind == "refit"


def test_the_first_trials_are_drawn_together_and_the_rest_in_batches() -> None:
    search = Search(LOGISTIC, num_trials=NUM_STARTUP + BATCH + 2, seed=0, rungs=RUNGS)
    sizes = []
    while True:
        batch = []
        while (segment := search.next()) is not None:
            batch.append(segment)
        if not batch or batch[0].kind == "refit":
            break
        sizes.append(len(batch))
        for segment in batch:
            search.tell(segment, outcome(LOGISTIC, segment, smooth, frozenset()))
    assert sizes == [NUM_STARTUP, BATCH, 2]


def test_another_seed_draws_other_trials_and_the_same_seed_the_same() -> None:
    tables = []
    for seed in (0, 0, 1):
        search = Search(MLP, num_trials=17, seed=seed, rungs=RUNGS)
        drive(search, MLP)
        tables.append([row["params"] for row in table_of(search)])
    assert tables[0] == tables[1]
    assert not set(tables[0]) & set(tables[2])


def test_more_trials_begin_with_the_same_trials() -> None:
    few, many = (Search(MLP, num_trials=number, seed=3, rungs=RUNGS) for number in (10, 20))
    drive(few, MLP)
    drive(many, MLP)
    assert table_of(many)[:10] == table_of(few)


def test_later_trials_learn_from_earlier_ones() -> None:
    def distance(params: dict[str, Any]) -> float:
        return abs(math.log10(params["C"] / 100))

    search = Search(LOGISTIC, num_trials=40, seed=0, rungs=RUNGS)
    drive(search, LOGISTIC, score=lambda params, epoch: 1 - distance(params) / 10)
    drawn = [distance(json.loads(row["params"])) for row in table_of(search)]
    assert sum(drawn[-20:]) / 20 < 0.6 * sum(drawn[:NUM_STARTUP]) / NUM_STARTUP


def test_the_best_is_the_first_trial_of_the_highest_score_at_its_first_best_epoch() -> None:
    search = Search(MLP, num_trials=10, seed=0, rungs=RUNGS)
    done = drive(search, MLP, score=peaked)
    rows = [row for row in table_of(search) if row["state"] == "complete"]
    best = search.best
    assert best is not None
    assert best.val_score == max(row["val_score"] for row in rows)
    assert best.trial == min(row["trial"] for row in rows if row["val_score"] == best.val_score)
    epochs = [peaked(best.params, epoch) for epoch in range(1, MLP.num_epochs + 1)]
    assert best.num_epochs == epochs.index(max(epochs)) + 1
    assert done[-1] == Segment("refit", best.trial, best.params, 0, best.num_epochs)


def test_equal_scores_are_won_by_the_first_trial_at_the_first_epoch() -> None:
    search = Search(MLP, num_trials=12, seed=0, rungs=RUNGS)
    drive(search, MLP, score=lambda params, epoch: 0.5)
    best = search.best
    assert best is not None
    assert (best.trial, best.num_epochs, best.val_score) == (0, 1, 0.5)


def test_a_head_that_is_not_searched_gets_one_trial() -> None:
    search = Search(MAJORITY, num_trials=50, seed=0, rungs=RUNGS)
    assert search.num_trials == 1
    done = drive(search, MAJORITY, score=lambda params, epoch: 0.2)
    assert work_of(done) == [("fit", 0, 0, 0), ("refit", 0, 0, 0)]
    assert search.best == Best(0, {}, 0, 0.2)


def test_a_head_without_epochs_is_fitted_once_and_never_pruned() -> None:
    search = Search(LOGISTIC, num_trials=10, seed=0, rungs=RUNGS)
    done = drive(search, LOGISTIC)
    assert {(item.first_epoch, item.last_epoch) for item in done} == {(0, 0)}
    assert {row["state"] for row in table_of(search)} == {"complete"}
    assert {row["num_epochs"] for row in table_of(search)} == {0}


def test_without_pruning_every_trial_goes_on_to_its_own_end() -> None:
    search = Search(MLP, num_trials=10, seed=0, rungs=())
    done = drive(search, MLP)
    fits = [item for item in done if item.kind == "fit"]
    assert {(item.first_epoch, item.last_epoch) for item in fits} == {(0, MLP.num_epochs)}
    assert {row["state"] for row in table_of(search)} == {"complete"}


def test_a_head_of_few_epochs_has_only_the_rungs_below_them() -> None:
    short = dataclasses.replace(MLP, num_epochs=10)
    search = Search(short, num_trials=10, seed=0, rungs=RUNGS)
    done = drive(search, short)
    fits = {(item.first_epoch, item.last_epoch) for item in done if item.kind == "fit"}
    assert fits == {(0, RUNGS[0]), (RUNGS[0], 10)}


def test_pruning_keeps_the_winner_of_a_search_without_it() -> None:
    pruned, whole = (Search(MLP, num_trials=10, seed=1, rungs=rungs) for rungs in (RUNGS, ()))
    work = [
        sum(item.last_epoch - item.first_epoch for item in drive(search, MLP))
        for search in (pruned, whole)
    ]
    assert pruned.best == whole.best
    assert work[0] < 0.75 * work[1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_in_three_goes_on_from_every_rung(seed: int) -> None:
    search = Search(MLP, num_trials=NUM_STARTUP, seed=seed, rungs=RUNGS)
    done = drive(search, MLP)
    arrived = NUM_STARTUP
    for rung in RUNGS:
        gone_on = sum(item.kind == "fit" and item.first_epoch == rung for item in done)
        assert 1 <= gone_on <= arrived // KEEP + 1
        arrived = gone_on


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_no_pruned_trial_was_ahead_of_the_best(seed: int) -> None:
    search = Search(MLP, num_trials=25, seed=seed, rungs=RUNGS)
    drive(search, MLP, score=peaked)
    best = search.best
    assert best is not None
    rows = table_of(search)
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    assert all(row["val_score"] <= best.val_score for row in rows)


@pytest.mark.parametrize("head", [MLP, LOGISTIC], ids=lambda head: head.name)
def test_failed_trials_are_recorded_and_do_not_win(head: Head) -> None:
    fails = frozenset({0, 3, 11})
    search = Search(head, num_trials=12, seed=0, rungs=RUNGS)
    drive(search, head, fails=fails)
    rows = table_of(search)
    assert {row["trial"] for row in rows if row["state"] == "failed"} == fails
    assert {row["val_score"] for row in rows if row["state"] == "failed"} == {None}
    assert search.first_error() == "trial 0 failed"
    assert search.best is not None
    assert search.best.trial not in fails


@pytest.mark.parametrize("head", [MLP, LOGISTIC, MAJORITY], ids=lambda head: head.name)
def test_a_search_whose_trials_all_fail_ends_without_a_winner(head: Head) -> None:
    search = Search(head, num_trials=12, seed=0, rungs=RUNGS)
    done = drive(search, head, fails=frozenset(range(12)))
    assert search.is_finished
    assert search.best is None
    assert search.num_running == 0
    assert all(item.kind == "fit" for item in done)
    assert {row["state"] for row in table_of(search)} == {"failed"}
    assert check_table(search.trials_table(), TRIALS, what="trials").num_rows == search.num_trials


def test_a_trial_that_fails_in_a_later_segment_leaves_another_winner() -> None:
    undisturbed = Search(MLP, num_trials=10, seed=0, rungs=RUNGS)
    drive(undisturbed, MLP)
    assert undisturbed.best is not None
    winner = undisturbed.best.trial
    search = Search(MLP, num_trials=10, seed=0, rungs=RUNGS)
    while not search.is_finished:
        segment = search.next()
        assert segment is not None
        if segment.kind == "refit":
            search.tell(segment, Outcome([], 0.5))
        elif segment.trial == winner and segment.first_epoch:
            search.tell(segment, Outcome([], 0.25, error="its worker process died"))
        else:
            search.tell(segment, outcome(MLP, segment, smooth, frozenset()))
    assert search.best is not None
    assert search.best.trial != winner
    assert table_of(search)[winner]["state"] == "failed"


def test_seconds_are_those_of_all_segments() -> None:
    search = Search(LOGISTIC, num_trials=10, seed=0, rungs=RUNGS)
    drive(search, LOGISTIC)
    assert search.seconds == pytest.approx(2.5)
    assert sum(row["seconds"] for row in table_of(search)) == pytest.approx(2.5)


def test_params_are_written_as_json_of_what_was_fitted() -> None:
    search = Search(MLP, num_trials=3, seed=0, rungs=RUNGS)
    done = drive(search, MLP)
    for segment in done:
        assert json.loads(table_of(search)[segment.trial]["params"]) == segment.params


def test_optuna_stays_as_talkative_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    drive(Search(LOGISTIC, num_trials=3, seed=0, rungs=RUNGS), LOGISTIC)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr().err == ""


def test_rungs_count_patches_so_that_small_sets_are_not_pruned_too_early() -> None:
    assert plan_rungs(11_135) == (3, 9)
    assert plan_rungs(1_000) == (30, 90)
    assert plan_rungs(160) == (188, 564)
    assert plan_rungs(1_000_000) == (3, 9)


FIRST = {"learning_rate": 0.002, "backbone_ratio": 0.2, "augmentation": "none"}


@dataclasses.dataclass(frozen=True)
class ToySpace:
    """Something with epochs, of three settings."""

    is_searched: bool = True
    num_epochs: int | None = 20
    patience: int = 5

    @staticmethod
    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
            "backbone_ratio": trial.suggest_float("backbone_ratio", 0.01, 1.0, log=True),
            "augmentation": trial.suggest_categorical("augmentation", ("none", "flips")),
        }


@pytest.mark.parametrize("num_trials", [1, 4, 17])
def test_the_first_trial_is_the_one_that_was_given(num_trials: int) -> None:
    search = Search(ToySpace(), num_trials=num_trials, seed=0, rungs=RUNGS, first=FIRST)
    drive(search, ToySpace())
    rows = [json.loads(row["params"]) for row in table_of(search)]
    assert len(rows) == num_trials
    assert rows[0] == FIRST
    assert FIRST not in rows[1:]


def test_a_first_trial_that_wins_is_refitted_as_it_is() -> None:
    search = Search(ToySpace(), num_trials=6, seed=0, first=FIRST)
    done = drive(search, ToySpace(), score=lambda params, epoch: float(params == FIRST))
    assert done[-1] == Segment("refit", 0, FIRST, 0, 1)


def test_a_space_that_is_not_searched_is_the_first_trial_alone() -> None:
    search = Search(ToySpace(is_searched=False), num_trials=6, seed=0, first=FIRST)
    drive(search, ToySpace())
    (row,) = table_of(search)
    assert json.loads(row["params"]) == FIRST


def test_without_a_first_trial_all_are_drawn() -> None:
    for seed in (0, 1):
        search = Search(ToySpace(), num_trials=4, seed=seed)
        drive(search, ToySpace())
        assert FIRST not in [json.loads(row["params"]) for row in table_of(search)]


@settings(max_examples=20, deadline=None)
@given(
    num_slots=st.integers(1, 20),
    num_trials=st.sampled_from([1, 4, 12]),
    order=st.randoms(use_true_random=False),
    fails=st.frozensets(st.integers(0, 11), max_size=3),
)
def test_with_a_first_trial_the_order_of_results_changes_nothing_either(
    num_slots: int, num_trials: int, order: random.Random, fails: frozenset[int]
) -> None:
    one, other = (
        Search(ToySpace(), num_trials=num_trials, seed=7, rungs=RUNGS, first=FIRST)
        for _ in range(2)
    )
    drive(one, ToySpace(), fails=fails)
    drive(other, ToySpace(), num_slots=num_slots, order=order, fails=fails)
    assert table_of(one) == table_of(other)
    assert one.best == other.best


def test_the_first_trial_given_is_left_as_it_was() -> None:
    given_first = dict(FIRST)
    drive(Search(ToySpace(), num_trials=4, seed=0, first=given_first), ToySpace())
    assert given_first == FIRST


def test_failed_trials_are_counted_with_the_reason_of_the_first() -> None:
    search = Search(LOGISTIC, num_trials=8, seed=0)
    drive(search, LOGISTIC, num_slots=8, order=random.Random(1), fails=frozenset({5, 2}))
    remark = "2 of 8 trials failed, the first: trial 2 failed"
    assert (search.num_failed, search.describe_failures()) == (2, remark)
    assert search.failures() == {"failed_trials": 2, "remark": remark}


def test_without_failed_trials_nothing_is_said() -> None:
    search = Search(LOGISTIC, num_trials=3, seed=0)
    drive(search, LOGISTIC)
    assert (search.num_failed, search.describe_failures(), search.failures()) == (0, "", {})
