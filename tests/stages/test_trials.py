"""Where trials are counted, failed ones are too."""

from __future__ import annotations

from typing import Any

from benchmark.experiment.cells import Cell
from benchmark.stages.report.trials import count_trials, describe_failures
from benchmark.store.artefacts import Artefact, Store

FAILED = {"num_trials": 8, "failed_trials": 2, "remark": "2 of 8 trials failed, the first: no k"}


def cell(artefact: Artefact, method: str) -> Cell:
    return Cell(stage="tune", artefact=artefact, dataset="x", backbone="b", method=method, seed=0)


def test_a_count_of_trials_names_the_failed_ones() -> None:
    assert count_trials(FAILED) == "8 (2 failed)"
    assert count_trials({"num_trials": 8}) == 8


def test_each_cell_with_failed_trials_gives_the_first_reason(tmp_path: Any) -> None:
    artefact = Store(str(tmp_path)).artefact("tune", "x", "0" * 16)
    cells = [(cell(artefact, "knn"), FAILED), (cell(artefact, "mlp"), {"num_trials": 8})]
    assert describe_failures(cells) == (" b / knn / seed 0: 2 of 8 trials failed, the first: no k.")
    assert describe_failures(cells[1:]) == ""
