"""The command ``query``: a table, CSV and JSON of the same rows."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from benchmark.cli import querying
from benchmark.cli.commands import invoke
from benchmark.experiment.context import Context
from tests.comparing.toy_runs import named, write_run

pytest.importorskip("duckdb")

Texts = pytest.CaptureFixture[str]

NAMES = ["<b>bold</b>", 'a "quoted", one', "line\nbreak", "\u05d0\u05d1\u05d2", "plain"]
CLASSES = "SELECT label, class_name, label / 0 AS inf, NULL AS a, 1 AS a FROM classes ORDER BY 1"


@pytest.fixture
def store(open_small: Callable[..., Context]) -> str:
    context = write_run(open_small(heads=named("knn")), {"knn": 0.9}, classes=NAMES)
    return context.store.uri


def test_the_three_forms_agree(store: str, capsys: Texts) -> None:
    assert invoke(["query", CLASSES, store, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["columns"] == ["label", "class_name", "inf", "a", "a_1"]
    assert [row["class_name"] for row in found["rows"]] == NAMES
    assert found["rows"][0] == {
        **{"label": 0, "class_name": NAMES[0], "inf": None, "a": None, "a_1": 1}
    }
    assert invoke(["query", CLASSES, store, "--csv"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == found["columns"]
    assert [row[1] for row in rows[1:]] == NAMES
    assert invoke(["query", CLASSES, store]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:6]][2] == ["2", "line"]
    assert "break" in lines[3]


def test_a_terminal_shows_the_first_rows(
    store: str, capsys: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(querying, "NUM_SHOWN", 3)
    sql = "SELECT patch_id FROM patches ORDER BY 1"
    assert invoke(["query", sql, store]) == 0
    out = capsys.readouterr().out
    assert "p00002" in out
    assert "p00003" not in out
    assert "and more: the first 3 rows are shown" in out
    assert invoke(["query", f"{sql} LIMIT 3", store]) == 0
    assert "and more" not in capsys.readouterr().out


def test_errors_are_one_line(store: str, capsys: Texts) -> None:
    for arguments, message in [
        (["SELECT nothing FROM scores"], 'Binder Error: Referenced column "nothing" not found'),
        (["DROP VIEW scores"], "DROP is refused, because stores are only read"),
        (["SELECT 1", "--csv", "--json"], "--csv does not go with --json; give one of them"),
    ]:
        sql, *options = arguments
        assert invoke(["query", sql, store, *options]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1


def test_a_missing_duckdb_is_named_with_its_extra(store: str) -> None:
    code = (
        "import sys; sys.modules['duckdb'] = None\n"
        "from benchmark.cli.commands import invoke\n"
        f"sys.exit(invoke(['query', 'SELECT 1', {store!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "run `pip install 'backbone-benchmark[query]'`" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("sql", "code", "num_lines"), [("SHOW TABLES", 0, 0), ("DELETE", 2, 1)])
def test_a_process_that_queries_ends_without_more_words(
    store: str, sql: str, code: int, num_lines: int
) -> None:
    command = [sys.executable, "-m", "benchmark", "query", sql, store]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.count("\n") == num_lines
