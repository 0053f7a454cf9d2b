"""Every stage shares its cells with other runs, in the one place where cells are computed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmark.errors import CellError
from benchmark.experiment.cells import Cell
from benchmark.stages.base import Stage
from benchmark.store.leases import Leases


class ToyStage(Stage):
    """Eight cells, each of which takes a moment; those named fail."""

    name = "toy"

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self.failing = failing
        self.computed: list[int] = []

    def cells(self, context):
        return [
            Cell(stage="toy", artefact=context.store.artefact("toy", "x", f"{n:016x}"), dataset="x")
            for n in range(8)
        ]

    def compute(self, context, cells):
        for cell in cells:
            self.begin(context, cell)

    def begin(self, context, cell):
        number = int(cell.artefact.fingerprint, 16)
        self.computed.append(number)
        time.sleep(0.05)
        if number in self.failing:
            context.fail(cell.artefact, "on purpose")
        else:
            cell.artefact.commit({})


class LateStage(ToyStage):
    leases_late = True

    def compute(self, context, cells):
        for cell in cells:
            if context.leases.acquire_one(cell.artefact):
                self.begin(context, cell)


@pytest.fixture
def open_run(open_small, monkeypatch):
    monkeypatch.setattr(Leases, "wait", lambda self: time.sleep(0.01))
    return open_small


@pytest.mark.parametrize("kind", [ToyStage, LateStage])
def test_two_runs_at_once_compute_each_cell_once_and_both_see_all_complete(open_run, kind):
    stages, results = [kind(), kind()], []
    threads = [
        threading.Thread(target=lambda stage=stage: results.append(stage.run(open_run())))
        for stage in stages
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(stages[0].computed + stages[1].computed) == list(range(8))
    assert [item.status for result in results for item in result.cells] == ["complete"] * 16
    assert not (Path(open_run().store.root) / "leases").exists()


@pytest.mark.parametrize("kind", [ToyStage, LateStage])
def test_a_run_waits_for_what_another_computes_and_says_for_whom(open_run, kind, caplog):
    other = open_run()
    stage, context = kind(), open_run()
    (first, *_) = [cell.artefact for cell in stage.cells(other)]
    with other.leases, caplog.at_level(logging.INFO, "benchmark"):
        assert other.leases.acquire([first])
        run = threading.Thread(target=stage.run, args=(context,))
        run.start()
        while "1 cell is computed by process" not in caplog.text:
            time.sleep(0.01)
        assert sorted(stage.computed) == list(range(1, 8))
        first.commit({})
        run.join(60)
    assert not run.is_alive()
    assert sorted(stage.computed) == list(range(1, 8))


@pytest.mark.parametrize("kind", [ToyStage, LateStage])
def test_a_failed_cell_is_tried_once_by_a_run_and_leaves_its_neighbours_alone(open_run, kind):
    stage = kind(failing=[3])
    result = stage.run(open_run())
    assert sorted(stage.computed) == list(range(8))
    assert [item.status for item in result.cells].count("complete") == 7
    assert [item.reason for item in result.cells if item.status == "failed"] == ["on purpose"]


def test_a_store_that_takes_no_lease_fails_the_cells_with_its_reason(open_run, monkeypatch):
    def refuse(self, path, content):
        raise CellError("no space left on the device")

    context, stage = open_run(), ToyStage()
    monkeypatch.setattr("benchmark.store.artefacts.Store.write", refuse)
    result = stage.run(context)
    assert {(item.status, item.reason) for item in result.cells} == {
        ("failed", "no space left on the device")
    }
    assert stage.computed == []


def test_one_listing_tells_a_run_whether_a_cell_is_complete_and_damaged(open_run, monkeypatch):
    context, stage = open_run(), ToyStage()
    artefacts = [cell.artefact for cell in stage.cells(context)]
    for artefact in artefacts[:3]:
        artefact.write_bytes("part-000000.bin", b"x")
        artefact.commit({})
    Path(artefacts[0].file("part-000000.bin")).write_bytes(b"xx")
    listed, asked = [], []
    sizes, has = context.store.sizes, context.store.has
    monkeypatch.setattr(context.store, "sizes", lambda name: listed.append(name) or sizes(name))
    monkeypatch.setattr(context.store, "has", lambda name: asked.append(name) or has(name))
    stage.discard_damage(context)
    folders = [artefact.folder for artefact in artefacts]
    # Once more to discard what is damaged, under a lease.
    assert [name for name in listed if name in folders] == [folders[0], *folders]
    assert asked == []
    assert [item.is_complete for item in artefacts] == [False, True, True] + [False] * 5
