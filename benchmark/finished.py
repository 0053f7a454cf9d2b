"""What the commands and Python share about finished runs: compare them, collect and query them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmark import api
from benchmark.arguments import check_type, path_text
from benchmark.config import Experiment
from benchmark.errors import UsageError
from benchmark.interactive import store_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from benchmark.comparing.paired import RunComparison
    from benchmark.comparing.queries import Answer
    from benchmark.comparing.runs import FinishedRun


def compare(
    a: str | os.PathLike[str] | Experiment, b: str | os.PathLike[str] | Experiment
) -> RunComparison:
    """Compare two runs on the test patches that both have: differences are B minus A.

    Args:
        a: an experiment, its file (``*.toml``), a store with the scores of one experiment, or a
            folder of scores (``STORE/evaluate/NAME-FINGERPRINT``).
        b: the same of the other run.

    Returns: the differences, which a notebook shows as a table; ``content`` holds them as JSON.

    Raises:
        UsageError: there are no complete scores, the runs share no test patch, or the labels of
            shared patches differ.
        CellError: a file of a store is missing, damaged, or of another version.
    """
    from benchmark.comparing.paired import compare_runs

    return compare_runs(open_run("compare: a", a), open_run("compare: b", b))


def leaderboard(
    *runs: str | os.PathLike[str] | Experiment, out: str | os.PathLike[str] | None = None
) -> pd.DataFrame:
    """Return the leaderboard of many runs, and append them to a file.

    Args:
        *runs: stores, whose experiments are all taken, experiments, or experiment files.
        out: a Parquet file, to which rows that it lacks are appended; the board holds all of its
            rows. Without ``runs`` it is only read.

    Returns:
        One row for each method of each run, indexed by ``dataset``, ``patches``, ``train_set`` and
        ``rank``, with score, interval, seeds and origin; only methods with the same patches and
        train set are ranked together.

    Raises:
        UsageError: a store has no complete scores, or the file is no leaderboard.
        CellError: scores are damaged, or of another version.
    """
    return add_to_board(runs, None if out is None else path_text("leaderboard: out", out))[0]


def add_to_board(
    given: Sequence[str | os.PathLike[str] | Experiment], out: str | None
) -> tuple[pd.DataFrame, int]:
    """Return the board as ``leaderboard`` does, and the number of rows that were added."""
    from benchmark.comparing import board

    path = None if out is None else board.check_path(out)
    rows = [row for item in given for run in _open_runs(item) for row in board.rows_of_run(run)]
    if path is not None and rows:
        table, num_added = board.append(path, rows)
    elif path is not None:
        table, num_added = board.read_board(path), 0
    elif rows:
        table, num_added = board.as_table(rows), 0
    else:
        raise UsageError(
            "leaderboard: there is nothing to show; name a store, or a file with --out"
        )
    return board.rank(table), num_added


def query(sql: str, source: str | os.PathLike[str] | Experiment) -> pd.DataFrame:
    """Return the answer to an SQL statement over the tables of an experiment or a store.

    Args:
        sql: one statement that reads, e.g. ``SELECT * FROM ranking``; docs/RESULTS.md has the
            tables. It needs the extra ``query``.
        source: a store, whose experiments are all in the tables, an experiment, or its file.

    Raises:
        UsageError: the statement is wrong or would write, or there are no complete scores.
        CellError: a file of a store is missing, damaged, or of another version.
    """
    check_type("query: sql", sql, str, 'give a statement, e.g. "SELECT * FROM ranking"')
    with open_query(sql, source) as answer:
        frame: pd.DataFrame = answer.to_frame()
        return frame


@contextmanager
def open_query(sql: str, source: str | os.PathLike[str] | Experiment) -> Iterator[Answer]:
    """Open the answer to a statement as ``query`` does; its rows are fetched by need."""
    from benchmark.comparing.queries import ask

    with ask(sql, _open_runs(source, "query: source")) as answer:
        yield answer


def _open_runs(
    given: str | os.PathLike[str] | Experiment, where: str = "leaderboard: runs"
) -> list[FinishedRun]:
    """Return the run of an experiment, or the last run of each experiment in a store."""
    from benchmark.comparing.runs import is_scores_folder, latest_runs, open_store

    if isinstance(given, Experiment):
        return [open_run(where, given)]
    text = path_text(where, given, "give stores, experiments or experiment files")
    if text.endswith(".toml") or is_scores_folder(text):
        return [open_run(where, text)]
    return latest_runs(open_store(text))


def open_run(where: str, given: str | os.PathLike[str] | Experiment) -> FinishedRun:
    """Return the complete scores of an experiment, an experiment file, or a store.

    Args:
        where: the function and the argument.
        given: as ``compare`` takes it.

    Raises:
        UsageError: there are none.
        CellError: the store cannot be read, or the scores are of a newer version.
    """
    from benchmark.comparing.runs import find_run, run_of

    store = None
    if isinstance(given, Experiment):
        experiment, store = given, store_of(where.partition(":")[0], given, None)
    else:
        text = path_text(where, given, "give an experiment, its file, or a store")
        if not text.endswith(".toml"):
            return find_run(text)
        experiment = api.load(text)
    with api.open_readable(experiment, store=store) as context:
        return run_of(context)
