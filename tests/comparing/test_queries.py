"""SQL over the tables of a run: it reads them all, and can reach and change nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import benchmark as bm
from benchmark.comparing.queries import MOST_MESSAGE
from benchmark.errors import CellError, UsageError
from benchmark.experiment.context import Context
from tests.comparing.toy_runs import named, write_run
from tests.finetuned import read_scored

pytest.importorskip("duckdb")

Opener = Callable[..., Context]

NAMES = ["<b>bold</b>", 'a "quoted", one', "line\nbreak", "\u05d0\u05d1\u05d2", "x" * 150]


@pytest.fixture
def run(open_small: Opener) -> Context:
    return write_run(
        open_small(heads=named("knn", "mlp"), seeds=[0, 1]), {"knn": 0.9, "mlp": 0.6}, classes=NAMES
    )


def contents(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def ask(sql: str, run: Context) -> pd.DataFrame:
    return bm.query(sql, run.store.uri)


def test_tables_hold_what_the_store_does(run: Context) -> None:
    ranking = ask("SELECT method, value FROM ranking ORDER BY value DESC", run)
    expected = read_scored(run, "ranking")
    assert ranking["method"].tolist() == expected["method"].tolist()
    assert ranking["value"].tolist() == expected["value"].tolist()
    found = ask("SELECT count(*) AS num, count(DISTINCT split) AS splits FROM patches", run)
    assert found.iloc[0].tolist() == [300, 3]
    assert set(ask("SHOW TABLES", run)["name"]) == {
        *("calibration", "classes", "comparison", "confusion", "curve", "patches"),
        *("predictions", "ranking", "runs", "scores", "trials"),
    }
    columns = ask("DESCRIBE patches", run)["column_name"].tolist()
    assert columns[:2] == ["patch_id", "split"]
    assert "image" not in columns
    runs = ask("FROM runs", run)
    assert runs["patches_fingerprint"].tolist() == [run.patches.fingerprint]


def test_recall_by_sql_is_the_tables_own(run: Context) -> None:
    found = ask(
        "SELECT method, seed, class_name, avg((y_pred = label)::INT) AS recall FROM predictions "
        "JOIN patches USING (patch_id) JOIN classes USING (label, patches_fingerprint) "
        "WHERE split = 'test' GROUP BY ALL",
        run,
    ).set_index(["method", "seed", "class_name"])["recall"]
    scores = run.scores().read_table(names=["scores.parquet"]).to_pandas()
    wanted = scores[scores["metric"].str.startswith("recall/") & (scores["split"] == "test")]
    assert len(found) == len(wanted) == 2 * 2 * 5
    for row in wanted.itertuples():
        name = NAMES[run.source.classes.index(row.metric.partition("/")[2])]
        assert found[row.method, row.seed, name] == pytest.approx(row.value)


def test_experiments_of_a_store_are_told_apart_and_share_their_patches(
    open_small: Opener,
) -> None:
    for name, accuracy in (("one", 0.9), ("two", 0.9)):
        run = write_run(open_small(heads=named("knn"), name=name), {"knn": accuracy})
    assert ask("SELECT DISTINCT experiment FROM scores ORDER BY 1", run)["experiment"].tolist() == [
        *("one", "two")
    ]
    assert ask("SELECT count(*) AS num FROM patches", run)["num"].tolist() == [300]
    found = ask("SELECT experiment, count(*) AS num FROM predictions GROUP BY ALL", run)
    assert set(found["experiment"]) == {"one", "two"}
    assert found["num"].nunique() == 1


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DELETE FROM scores", "query: DELETE is refused, because stores are only read"),
        ("CREATE TABLE x AS SELECT 1", "CREATE is refused"),
        ("COPY scores TO 'out.csv'", "COPY is refused"),
        ("ATTACH 'x.db'", "ATTACH is refused"),
        ("INSTALL httpfs", "LOAD is refused"),
        ("SET threads = 1", "SET is refused"),
        ("PRAGMA version", "PRAGMA is refused"),
        ("EXPLAIN SELECT 1", "EXPLAIN is refused"),
        ("SELECT 1; DROP VIEW scores", "query: holds 2 statements; give one"),
        ("", "query: holds 0 statements"),
        ("SELEC 1", 'Parser Error: syntax error at or near "SELEC"'),
        ("SELECT * FROM nothing", "Table with name nothing does not exist"),
        ("SELECT nothing FROM scores", 'column "nothing" not found'),
        ("SELECT 1 / 'x'", "Could not convert string 'x'"),
        ("SELECT * FROM read_csv('/etc/hostname')", "file system operations are disabled"),
        ("SELECT * FROM read_text('/etc/hostname')", "file system operations are disabled"),
        ("SELECT * FROM glob('/*')", "file system operations are disabled"),
        ("SELECT * FROM '/etc/hostname'", "does not exist"),
        ("SELECT * FROM read_parquet('https://example.org/x')", "are disabled"),
        ("FROM enable_logging('QueryLog', storage='file', storage_path='l')", "locked"),
        ("SELECT * FROM runs_of_python", "does not exist"),
        ("SELECT '\ud800'", "query: contains characters that are not valid UTF-8"),
        ("SELECT 1" + " + 1" * 30_000, "query: it has 120,008 characters"),
        ("(" * 9_000, "Parser Error"),
        (f"SELECT {'x' * 5_000} FROM scores", "not found"),
    ],
)
def test_what_would_write_or_reach_elsewhere_is_refused_in_one_line(
    sql: str, message: str, run: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(str(tmp_path))
    runs_of_python = pd.DataFrame({"a": [1]})
    with pytest.raises(UsageError, match=r".") as caught:
        ask(sql, run)
    text = str(caught.value)
    assert message in text
    assert text.startswith("query: ")
    assert len(text) <= len("query: ") + MOST_MESSAGE
    assert contents(str(tmp_path)) == before
    del runs_of_python


def test_a_table_named_by_an_expression_is_read(run: Context) -> None:
    found = ask("SELECT count(*) AS num FROM query_table('pre' || 'dictions')", run)
    assert found["num"].iloc[0] > 0


def test_a_cell_that_is_gone_is_named_where_it_is_asked_for(run: Context) -> None:
    cell = run.prediction_cells()[0].artefact
    cell.delete("_manifest.json")
    assert len(ask("SELECT * FROM scores", run)) > 0
    with pytest.raises(CellError, match=r"knn-seed0-.*: the predictions are not complete"):
        ask("SELECT * FROM predictions", run)


def test_a_store_without_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no complete scores"):
        bm.query("SELECT 1", tmp_path)
    with pytest.raises(UsageError, match=r'bm.query: sql = 7: give a statement, e.g. "SELECT'):
        bm.query(7, tmp_path)  # type: ignore[arg-type]
