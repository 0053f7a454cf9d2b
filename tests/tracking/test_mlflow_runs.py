"""Finished runs in a real MLflow: a database, a folder and, where there is one, a server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.experiment.file import settings_of
from benchmark.experiment.recipe import describe_experiment
from benchmark.experiment.toml import to_toml
from benchmark.exporting.running import PROGRAM, write_description
from benchmark.store.names import beside
from benchmark.tracking.trackers import check_trackers, track
from tests.comparing.toy_runs import named, write_run
from tests.finetuned import read_scored

pytest.importorskip("mlflow")

Opener = Callable[..., Context]

NAMES = ["a/b", "a_b", "ü: (é)", "..", "\u05d0\u05d1\u05d2"]
SERVER = os.environ.get("BENCHMARK_MLFLOW") or shutil.which("mlflow")
"""The command ``mlflow`` of an installation with the server, which mlflow-skinny lacks."""


class Messages:
    """Keeps the messages of a run."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def logged(context: Context) -> str:
    """Return the only message of tracking a run."""
    context.progress = kept = Messages()  # type: ignore[assignment]
    check_trackers(context.experiment)
    track(context)
    (text,) = kept.texts
    return text


def toy_run(open_small: Opener, uri: str, **settings: Any) -> Context:
    context = open_small(
        heads=named("knn", "mlp"), seeds=[0, 1], tracking={"mlflow": uri}, **settings
    )
    return write_run(context, {"knn": 0.9, "mlp": 0.6}, classes=NAMES)


def read_back(uri: str, context: Context) -> tuple[Any, list[Any], list[str], Any]:
    """Return the finished parent, its nested runs, its artifacts, and the client."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [
        item for item in client.search_experiments() if item.name == context.experiment.name
    ]
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    (parent,) = [run for run in parents if run.info.status == "FINISHED"]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    artifacts = [item.path for item in client.list_artifacts(parent.info.run_id)]
    return parent, nested, artifacts, client


def check_logged(uri: str, context: Context) -> None:
    """Compare what MLflow holds with the tables of the store."""
    parent, nested, artifacts, client = read_back(uri, context)
    assert parent.data.tags["benchmark.fingerprint"] == context.scores().fingerprint
    assert parent.data.tags["version.numpy"]
    assert parent.data.params["tune.num_trials"] == str(context.experiment.tune.num_trials)
    assert parent.data.params["seeds"] == "[0, 1]"
    assert "scores.csv" in artifacts
    ranking = read_scored(context, "ranking")
    by_name = {(run.data.params["backbone"], run.data.params["method"]): run for run in nested}
    assert len(nested) == len(ranking)
    for row in ranking.itertuples():
        metrics = by_name[row.backbone, row.method].data.metrics
        assert metrics["balanced_accuracy"] == pytest.approx(row.value)
        assert metrics["ci_low"] == pytest.approx(row.ci_low)
        assert metrics["ci_high"] == pytest.approx(row.ci_high)
        assert metrics["seed_std"] == pytest.approx(row.seed_std)
        run_id = by_name[row.backbone, row.method].info.run_id
        seeds = client.get_metric_history(run_id, "test/balanced_accuracy")
        values = {item.step: item.value for item in seeds}
        assert values == pytest.approx(dict(enumerate(row.seed_values)))
        # Names of classes that MLflow would not take, or take for one another.
        assert sum(key.startswith("test/recall/") for key in metrics) == 3 * len(NAMES)


@pytest.mark.slow
def test_a_database_holds_a_run_once(open_small: Opener, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = toy_run(open_small, uri)
    before = dict(os.environ)
    text = logged(run)
    assert text.startswith(f"MLflow: logged to {uri}: run ")
    check_logged(uri, run)
    assert logged(run).startswith(f"MLflow: {uri} has this run already: ")
    check_logged(uri, run)
    assert dict(os.environ) == before
    # Other scores are another run.
    changed = toy_run(open_small, uri, evaluate={"seed": 5})
    assert "logged to" in logged(changed)


def test_a_folder_holds_a_run(
    open_small: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = toy_run(open_small, "file:mine")
    assert logged(run).startswith(f"MLflow: logged to file://{tmp_path}/mine: run ")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_logged(f"file://{tmp_path}/mine", run)
    # A repetition by others has no tracker; the experiment in the store keeps its own.
    assert "[tracking]" not in describe_experiment(run)["toml"]
    assert f'mlflow = "file:{tmp_path}/mine"' in to_toml(settings_of(run))


def test_exports_of_the_run_are_logged_to_their_methods_once(
    open_small: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = tmp_path / "exports"
    run = open_small(
        heads=named("knn", "mlp"),
        seeds=[0, 1],
        tracking={"mlflow": f"file:{tmp_path}/mine", "exports": str(exports)},
    )
    write_run(run, {"knn": 0.9, "mlp": 0.6}, classes=NAMES)
    assert logged(run).endswith(f"; 0 new models from '{exports}'")
    cell = next(item for item in run.prediction_cells() if (item.method, item.seed) == ("mlp", 1))
    for name, fingerprint in (("mine", cell.artefact.fingerprint), ("other", "0" * 16)):
        folder = exports / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        facts = {"kind": PROGRAM, "classes": NAMES, "bands": ["red"], "artefact": fingerprint}
        write_description(folder, facts)
    assert logged(run).endswith(f"; 1 new models from '{exports}'")
    assert logged(run).endswith(f"; 0 new models from '{exports}'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    _, nested, _, client = read_back(f"file://{tmp_path}/mine", run)
    found = {
        item.data.params["method"]: [
            file.path for file in client.list_artifacts(item.info.run_id, "models/mine")
        ]
        for item in nested
        if item.data.params["backbone"] == cell.backbone
    }
    assert found["knn"] == []
    assert found["mlp"] == ["models/mine/benchmark.json", "models/mine/model.safetensors"]


def test_a_tracker_that_fails_in_the_middle_costs_one_line(
    open_small: Opener, tmp_path: Path
) -> None:
    run = toy_run(open_small, f"file:{tmp_path}/mine")
    check_trackers(run.experiment)
    shutil.rmtree(tmp_path / "mine", ignore_errors=True)
    (tmp_path / "mine").write_text("in the way")
    run.progress = kept = Messages()  # type: ignore[assignment]
    track(run)
    (text,) = kept.texts
    assert text.startswith("MLflow: warning: not logged: ")
    assert text.endswith(f"; the results are in {run.store.uri}")
    assert run.scores().is_complete


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Start an MLflow server, and end it."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        *(str(SERVER), "server", "--backend-store-uri", f"sqlite:///{folder}/server.db"),
        *("--artifacts-destination", str(folder / "artifacts"), "--workers", "1"),
        *("--host", "127.0.0.1", "--port", address.rpartition(":")[2]),
    ]
    surroundings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=surroundings, start_new_session=True
        )
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.skip(
                    "mlflow has no server here: "
                    + (folder / "server.log").read_text().strip().rpartition("\n")[2]
                )
            with socket.socket() as found:
                if found.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0:
                    break
            time.sleep(0.5)
        yield f"http://{address}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
            process.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(
    not SERVER, reason="no command mlflow: set BENCHMARK_MLFLOW to one with a server"
)
def test_a_server_shows_a_run_and_its_loss_costs_one_line(
    open_small: Opener, tmp_path: Path
) -> None:
    with server(tmp_path) as uri:
        run = toy_run(open_small, uri)
        assert logged(run).startswith(f"MLflow: logged to {uri}: run ")
        check_logged(uri, run)
        assert logged(run).startswith(f"MLflow: {uri} has this run already: ")
    run.progress = kept = Messages()  # type: ignore[assignment]
    track(run)
    assert kept.texts[0].startswith("MLflow: warning: not logged: ")
    with pytest.raises(UsageError, match=r"does not answer as an MLflow server: \w+"):
        check_trackers(run.experiment)


def test_trials_are_steps(open_small: Opener) -> None:
    import pyarrow as pa

    from benchmark.tables import TRIALS
    from benchmark.tracking.content import Point, points_of

    cell = open_small(heads=named("knn")).prediction_cells()[0]
    rows = [
        {"trial": number, "params": "{}", "val_score": score, "seconds": 1.0, "state": "complete"}
        for number, score in enumerate((0.5, None, 0.75))
    ]
    cell.artefact.write_table(beside("trials"), pa.Table.from_pylist(rows, schema=TRIALS))
    cell.artefact.commit({})
    assert points_of(cell) == [
        Point("trials/val_score", 0, 0.5),
        Point("trials/val_score", 2, 0.75),
    ]
