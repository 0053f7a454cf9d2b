"""The stages of a run fill a cluster side by side, and give what they give one after the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from benchmark.errors import UsageError
from benchmark.stages.running import run_side_by_side
from tests.stages.test_base import ToyStage


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stages_run_side_by_side_and_give_the_same_predictions_as_in_turn(
    scenes, new_store, tmp_path
):
    """The second backbone embeds nothing before a head of the first is done."""
    for name in ("together", "in-turn"):
        shutil.copytree(new_store(), tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-m", "tests.side_by_side", str(tmp_path), str(scenes)],
        capture_output=True,
        text=True,
        timeout=560,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert {cell["status"] for cell in answer["cells"]} == {"complete"}
    spans = {item["stage"]: (item["began_s"], item["ended_s"]) for item in answer["usages"]}
    for stage in ("tune", "finetune"):
        assert spans[stage][0] < spans["embed"][1]
    manifests = {
        path.parent.name.rsplit("-", 1)[0]: path.stat().st_mtime
        for path in tmp_path.glob("together/*/*/_manifest.json")
    }
    heads_of_first = manifests["chesapeake-quick-logistic_regression-seed0"]
    assert heads_of_first < manifests["chesapeake-gated"]
    compared = 0
    for stage in ("embed", "tune", "finetune"):
        for path in tmp_path.glob(f"together/{stage}/*/part-*.parquet"):
            twin = tmp_path / "in-turn" / path.relative_to(tmp_path / "together")
            assert pq.read_table(path).equals(pq.read_table(twin)), path
            compared += 1
    assert compared >= 5


def test_searches_that_run_side_by_side_have_trials_of_different_names():
    """Ray Tune looks a trial's class up by its name, and would run the one for the other."""
    from benchmark.stages.finetune.workers import FinetuneTrial
    from benchmark.stages.tune.workers import HeadTrial

    assert FinetuneTrial.__name__ != HeadTrial.__name__


class Failing(ToyStage):
    name = "failing"

    def compute(self, context, cells):
        raise UsageError("the toy cannot work")


class Named(ToyStage):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def cells(self, context):
        return [
            type(cell)(
                stage=self.name,
                artefact=context.store.artefact(self.name, "x", cell.artefact.fingerprint),
                dataset="x",
            )
            for cell in super().cells(context)
        ]


@pytest.fixture
def admit_all(monkeypatch):
    """Let the ledger admit every stage, as on a large cluster."""
    from benchmark.cluster.connection import Cluster
    from benchmark.cluster.scheduling import Ledger

    monkeypatch.setattr(Cluster, "connect", lambda self: None)
    monkeypatch.setattr(Ledger, "admitted", lambda self, resources: {"embed", "tune", "finetune"})


def test_what_runs_beside_a_stage_that_cannot_work_is_completed_first(open_small, admit_all):
    context = open_small()
    good, bad = Named("embed"), Named("tune")
    bad.compute = Failing.compute.__get__(bad)
    with context.leases, pytest.raises(UsageError, match="the toy cannot work"):
        run_side_by_side(context, [good, bad])
    assert {item.status for item in good.status(context)} == {"complete"}


def test_an_interrupted_run_records_no_failure(open_small, admit_all):
    context = open_small()
    stage = Named("embed")

    def interrupted(context, cells):
        context.is_stopping.wait(0)
        raise KeyboardInterrupt

    stage.compute = interrupted
    with context.leases, pytest.raises(KeyboardInterrupt):
        run_side_by_side(context, [stage])
    # What its threads still notice afterwards is no failure of theirs.
    cell = stage.cells(context)[0]
    context.fail(cell.artefact, "Ray is gone")
    assert context.status(cell.artefact)[0] == "missing"


def test_a_stage_without_work_asks_for_no_cluster(open_small, monkeypatch):
    from benchmark.cluster.connection import Cluster

    context = open_small()
    stages = [Named("embed"), Named("tune"), Named("finetune")]
    for stage in stages:
        for cell in stage.cells(context):
            cell.artefact.commit({})

    def refuse(self):
        raise AssertionError("it connects")

    monkeypatch.setattr(Cluster, "connect", refuse)
    with context.leases:
        results = run_side_by_side(context, stages)
    assert [len(result.cells) for result in results] == [8, 8, 8]
    assert not any(stage.computed for stage in stages)
