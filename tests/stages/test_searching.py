"""A search of a cell says which of its trials failed, and why the first did."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.catalog.heads import HEADS
from benchmark.experiment.cells import Cell
from benchmark.experiment.usage import summarise, usage_notes
from benchmark.search.bookkeeping import Outcome, Search
from benchmark.stages.searching import (
    CellSearch,
    CellSearcher,
    _keep_environment,
    outcome_row,
)
from benchmark.store.artefacts import Store

REMARK = "1 of 2 trials failed, the first: no such k"


def run_search(tmp_path: Any, errors: list[str]) -> tuple[CellSearcher, list[str], Search]:
    """Run a search of two trials, with these errors, as Ray Tune does; return what it said."""
    said: list[str] = []
    leases = SimpleNamespace(
        acquire_one=lambda item: True,
        release=lambda items: None,
        former_owner=lambda item: None,
    )
    context: Any = SimpleNamespace(leases=leases, progress=SimpleNamespace(message=said.append))
    progress: Any = SimpleNamespace(
        start=said.append, advance=lambda count: None, done=lambda label: None
    )
    artefact = Store(str(tmp_path)).artefact("tune", "x", "0" * 16)
    search = Search(HEADS.get("knn"), num_trials=2, seed=0)
    cell = Cell(stage="tune", artefact=artefact, dataset="x", backbone="b", method="knn", seed=0)
    item = CellSearch(cell, search, lambda *given: None, False)
    searcher = CellSearcher(context, [item], progress, slots=1)
    for number in range(3):
        assert searcher.suggest(str(number)) is not None
        error = errors[number] if number < 2 else ""
        outcome = Outcome([] if error else [0.5], 0.1, error=error)
        row = outcome_row(outcome, began=number, ended=number + 1, toll={})
        searcher.on_trial_complete(str(number), row)
    return searcher, said, search


def test_failed_trials_are_said_when_the_cell_is_done_and_beside_the_times(tmp_path: Any) -> None:
    searcher, said, search = run_search(tmp_path, ["no such k", ""])
    assert said == ["b / knn / seed 0", f"b / knn / seed 0: {REMARK}"]
    assert search.failures() == {"failed_trials": 1, "remark": REMARK}
    usage = searcher.usage("tune")
    assert (usage.num_items, usage.num_failed, usage.failure) == (2, 1, "no such k")
    assert usage_notes([usage], summarise([usage]))[-1] == f"tune: {REMARK}"


def test_nothing_is_said_of_a_search_without_failures(tmp_path: Any) -> None:
    searcher, said, _ = run_search(tmp_path, ["", ""])
    assert said == ["b / knn / seed 0"]
    assert searcher.usage("tune").num_failed == 0


def test_trials_need_no_environment_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another environment would start processes anew, and Ray would log the keys in it."""
    from ray.tune.execution import class_cache

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    _keep_environment()
    assert class_cache.DEFAULT_ENV_VARS == {}
    assert not [name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]
