"""Several experiments in one command, and what the parser itself answers."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark import api
from benchmark.cli.commands import invoke
from benchmark.cluster.connection import Cluster
from benchmark.experiment.cells import Cell, CellResult
from benchmark.results import CellResults, RunResult
from benchmark.store.artefacts import Store
from tests.cli.test_commands import write_experiment, write_images

Texts = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the experiments a.toml and b.toml on the same images."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    for name in ("a", "b"):
        text = write_experiment(Path(f"{name}.toml"), Path("images")).read_text()
        Path(f"{name}.toml").write_text(text.replace('"toy"', f'"{name}"'))
    return tmp_path


class Runs:
    """Replaces ``api.run``: keeps what it is given, and returns one cell."""

    def __init__(self, failing: str = "") -> None:
        self.names: list[str] = []
        self.clusters: list[Any] = []
        self._failing = failing

    def __call__(self, experiment: Any, **given: Any) -> RunResult:
        self.names.append(experiment.name)
        self.clusters.append(given["address"])
        artefact = Store("runs").artefact("tune", experiment.name, "0")
        cell = Cell(stage="tune", artefact=artefact, dataset="folder", method="knn", seed=0)
        status = "failed" if experiment.name == self._failing else "complete"
        result = CellResult(cell=cell, status=status, reason="no memory" if self._failing else "")
        return RunResult(
            store="runs",
            scores=None,
            report=f"runs/{experiment.name}.html",
            cells=CellResults([result]),
            stage_cells=CellResults([result]),
            tables=[],
        )


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runs]:
    def replace(failing: str = "") -> Runs:
        found = Runs(failing)
        monkeypatch.setattr(api, "run", found)
        return found

    return replace


def test_several_experiments_run_in_order_on_one_cluster(
    here: Path, runs: Callable[..., Runs], capsys: Texts
) -> None:
    done = runs()
    assert invoke(["run", "b.toml", "a.toml"]) == 0
    assert done.names == ["b", "a"]
    first, second = done.clusters
    assert isinstance(first, Cluster)
    assert first is second
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert [line for line in lines if "toml" in line or "html" in line] == [
        *("b.toml", "runs/b.html"),
        *("a.toml", "runs/a.html"),
    ]


def test_the_document_of_one_experiment_is_an_object_and_of_several_a_list(
    here: Path, runs: Callable[..., Runs], capsys: Texts
) -> None:
    runs()
    assert invoke(["run", "a.toml", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert invoke(["run", "a.toml", "b.toml", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == one
    assert second["report"] == "runs/b.html"


def test_a_failed_cell_does_not_keep_the_next_experiment_from_running(
    here: Path, runs: Callable[..., Runs], capsys: Texts
) -> None:
    done = runs(failing="a")
    assert invoke(["run", "a.toml", "b.toml"]) == 1
    assert done.names == ["a", "b"]
    assert capsys.readouterr().err == "benchmark: 1 cell failed: no memory\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"random"', '"randm"', "b.toml: unknown backbone 'randm'. Did you mean 'random'?"),
        ('root = "images"', 'root = "nowhere"', "root = 'nowhere': does not exist"),
        ("\n[dataset]", '\nstore = "b.toml"\n[dataset]', "store 'b.toml"),
    ],
)
def test_every_experiment_is_checked_before_the_first_starts(
    here: Path, runs: Callable[..., Runs], capsys: Texts, old: str, new: str, message: str
) -> None:
    done = runs()
    text = Path("b.toml").read_text()
    assert old in text
    Path("b.toml").write_text(text.replace(old, new))
    assert invoke(["run", "a.toml", "b.toml"]) == 2
    assert message in capsys.readouterr().err
    assert done.names == []


def test_a_cluster_that_is_given_is_used_and_left_open(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Cluster] = []
    monkeypatch.setattr(Cluster, "close", lambda self: closed.append(self))
    cluster = Cluster("10.0.0.7:6379")
    with api.open_context(api.load("a.toml"), address=cluster) as context:
        assert context.cluster is cluster
    assert closed == []
    with api.open_context(api.load("a.toml"), address="10.0.0.7:6379") as context:
        assert context.cluster.place == "10.0.0.7:6379"
    assert len(closed) == 1


def test_status_and_dry_runs_show_several(here: Path, capsys: Texts) -> None:
    for command in (["status"], ["run", "--dry-run"], ["embed", "--dry-run"]):
        assert invoke([*command, "a.toml", "b.toml", "--json"]) == 0
        first, second = json.loads(capsys.readouterr().out)
        assert first["cells"][0]["status"] == second["cells"][-1]["status"] == "missing"
    assert invoke(["status", "a.toml", "b.toml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a.toml"
    assert "b.toml" in lines
    assert lines.count("runs") == 2


def test_one_experiment_is_watched_at_a_time(here: Path, capsys: Texts) -> None:
    assert invoke(["status", "a.toml", "b.toml", "--watch"]) == 2
    assert "--watch shows one experiment, not 2; give one" in capsys.readouterr().err


def test_the_version_is_one_line(capsys: Texts) -> None:
    assert invoke(["--version"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    python = re.escape(platform.python_version())
    assert re.fullmatch(rf"benchmark \S+( \(git [0-9a-f]{{12}}\+?\))?, Python {python}", line)


def test_the_shell_completes_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: Texts
) -> None:
    monkeypatch.setenv("_BENCHMARK_COMPLETE", "complete_bash")
    for words, found in (("benchmark ini", "init"), ("benchmark run --dry", "--dry-run")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit, match="0"):
            invoke([])
        assert capsys.readouterr().out.split() == [found]


def test_completion_that_cannot_be_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Texts
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: "bash")
    assert invoke(["--install-completion"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmark: the completion cannot be installed: ")
