"""A run keeps a copy of the experiment file as it was read, and reports later changes.

A whole run whose file is edited meanwhile is in tests/stages/test_watching.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import config
from benchmark.config import build
from benchmark.experiment.file import describe_change, keep
from benchmark.store.artefacts import Store
from tests.scenes import SMALLEST


@pytest.fixture
def path(tmp_path: Path, scenes: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALLEST.format(root=scenes))
    return path


def test_a_copy_can_be_run_again_and_is_written_once(path: Path, tmp_path: Path) -> None:
    settings = ["seeds=[3]", 'report.title="two\nlines"']
    experiment = config.load(path, settings)
    store = Store(str(tmp_path / "runs"))
    keep(experiment, store)
    (copy,) = (tmp_path / "runs" / "experiments").iterdir()
    text = copy.read_text()
    assert text == path.read_text() + '# --set seeds=[3]\n# --set report.title="two lines"\n'
    assert config.load(copy).heads == experiment.heads
    written = copy.stat().st_mtime_ns
    keep(config.load(path, settings), store)
    assert copy.stat().st_mtime_ns == written
    keep(config.load(path), store)
    assert len(list((tmp_path / "runs" / "experiments").iterdir())) == 2


def test_an_experiment_without_a_file_has_no_copy(tmp_path: Path) -> None:
    content = {"name": "x", "backbones": ["mean_color"], "dataset": {"name": "folder", "root": "/"}}
    experiment = build(content)
    keep(experiment, Store(str(tmp_path / "runs")))
    assert list(tmp_path.iterdir()) == []
    assert describe_change(experiment) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_text(path.read_text() + "\n"), "has changed"),
        (lambda path: path.unlink(), "is gone"),
        (lambda path: path.write_bytes(b"\xff"), "cannot be read any more"),
        (lambda path: path.touch(), ""),
    ],
)
def test_a_change_is_told(path: Path, change, message: str) -> None:
    experiment = config.load(path)
    change(path)
    end = "since this run began: its results are of the earlier content"
    assert describe_change(experiment) == (f"{path} {message} {end}" if message else "")
