"""Tests of the server of forks: what a fork holds does not depend on the tests before it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.exporting.cells import run_alone
from tests.forks import LOADED
from tests.pairs import run_pair

HERE = Path(__file__).parent
PRELOAD = "set_forkserver_preload"


def test_one_module_says_what_forks_hold() -> None:
    naming = [
        path.relative_to(HERE).as_posix()
        for path in HERE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == PRELOAD
    ]
    assert naming == ["forks.py"]
    assert {name.partition(".")[0] for name in LOADED}.isdisjoint({"benchmark", "tests"})


@pytest.mark.slow
def test_a_fork_after_a_pair_that_trains_finds_no_benchmark(tmp_path: Path) -> None:
    run_pair(_write_rank, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank0", "rank1"]
    lines = "import os, torch; print(os.environ['HF_HUB_OFFLINE'])\nimport benchmark"
    with pytest.raises(AssertionError, match="ImportError: this package is not installed here"):
        run_alone(lines, cwd=tmp_path)
    assert (tmp_path / "printed.txt").read_text() == "1\n"


def _write_rank(rank: int, folder: str) -> None:
    (Path(folder) / f"rank{rank}").touch()
