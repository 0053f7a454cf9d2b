"""What the commands and Python share about finished runs: compare them, collect and query them."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import api
from benchmark.arguments import check_type, path_text, refuse
from benchmark.bars import progress_of
from benchmark.config import Experiment
from benchmark.errors import UsageError
from benchmark.interactive import check_progress, store_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from benchmark.comparing.paired import RunComparison
    from benchmark.comparing.queries import Answer
    from benchmark.comparing.reproducing import Reproduction
    from benchmark.comparing.runs import FinishedRun
    from benchmark.progress import Progress


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

    Example:
        >>> bm.compare(exp, "small.toml")
        <RunComparison: 4 rows on ... shared test patches>
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
        train set are ranked together. A notebook shows one ranking for each data set.

    Raises:
        UsageError: a store has no complete scores, or the file is no leaderboard.
        CellError: scores are damaged, or of another version.

    Example:
        >>> board = bm.leaderboard(exp, out="board.parquet")
        >>> sorted(board["method"])
        ['knn', 'logistic_regression', 'majority']
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

    Example:
        >>> bm.query("SELECT backbone, method FROM ranking ORDER BY value LIMIT 1", exp)
             backbone    method
        0  mean_color  majority
    """
    check_type("query: sql", sql, str, 'give a statement, e.g. "SELECT * FROM ranking"')
    with open_query(sql, source) as answer:
        frame: pd.DataFrame = answer.to_frame()
        return frame


def figures(
    experiment: Experiment,
    out: str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write every figure of the report as PDF, SVG and PNG, and every table as MD, TEX and CSV.

    Args:
        experiment: from ``load``; its scores must be complete.
        out: folder of the files; files of the same names are replaced.
        store: None: that of its last run in this process, else the experiment's.

    Returns: the files, figures first, in the order of the page.

    Raises:
        UsageError: there are no complete scores, or the folder cannot be written.
        CellError: a file of the store is missing or damaged.

    Example:
        >>> files = bm.figures(exp, "figures")  # doctest: +SKIP
    """
    where = store_of("figures", experiment, store)
    return write_figures(experiment, Path(path_text("figures: out", out)), store=where)


def write_figures(experiment: Experiment, out: Path, *, store: str | None) -> list[Path]:
    """Write the files as ``figures`` does."""
    from benchmark.comparing.runs import run_of

    if out.exists() and not out.is_dir():
        raise UsageError(f"figures: --out '{out}' is a file; give a folder")
    with api.open_readable(experiment, store=store) as context:
        run_of(context)
        from benchmark.stages.publishing import publish

        return publish(context, out)


def reproduce(
    source: str | os.PathLike[str],
    *,
    store: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    tolerance: float = 1e-9,
    anyway: bool = False,
    address: str | None = None,
    progress: Progress | bool | None = True,
) -> Reproduction:
    """Repeat the run of a page or manifest in a fresh store, and compare the scores.

    Args:
        source: the page of a report (``index.html``), or the manifest of scores
            (``STORE/evaluate/NAME-FINGERPRINT/_manifest.json``).
        store: a new folder or URI; one in which the same repetition was interrupted goes on.
        root: folder of the data, if they have moved.
        tolerance: largest difference of equal scores, 0 to 1.
        anyway: run even though data or weights differ.
        address: of a Ray cluster; None starts Ray on this machine.
        progress: as for ``run``.

    Returns: changes of data, weights, versions and code, and the scores of both. If data or
    weights differ, nothing is computed.

    Raises:
        UsageError: the source holds no experiment, the store is not fresh, or the data are missing.

    Example:
        >>> bm.reproduce(bm.report(exp).path, store="again", progress=False)
        <Reproduction of small: equal scores>
    """
    where = path_text("reproduce: source", source, "give a page or a manifest")
    place = path_text("reproduce: store", store)
    check_type("reproduce: tolerance", tolerance, Real, "give a number from 0 to 1")
    if not 0 <= tolerance <= 1:
        raise refuse("reproduce: tolerance", tolerance, "give a number from 0 to 1")
    check_type("reproduce: anyway", anyway, bool, "give True or False")
    check_progress("reproduce", progress)
    data = None if root is None else path_text("reproduce: root", root)
    with progress_of(progress) as receiver:
        return repeat(
            where,
            store=place,
            root=data,
            tolerance=tolerance,
            anyway=anyway,
            address=address,
            progress=receiver,
        )


def repeat(
    source: str,
    *,
    store: str,
    root: str | None,
    tolerance: float,
    anyway: bool,
    address: str | None,
    progress: Progress | None,
) -> Reproduction:
    """Repeat a run as ``reproduce`` does."""
    from benchmark.comparing import reproducing
    from benchmark.comparing.runs import run_of

    recipe = reproducing.read_recipe(source)
    experiment = reproducing.rebuild(recipe, root=root)
    with api.open_context(experiment, store=store) as context:
        changes = reproducing.find_changes(recipe, context)
        finish = partial(
            reproducing.conclude, recipe, changes, store=context.store.uri, tolerance=tolerance
        )
        if any(change.kind in reproducing.DECIDING for change in changes) and not anyway:
            return finish(None)
        reproducing.claim(context.store, recipe)
    api.run(experiment, store=store, address=address, progress=progress)
    with api.open_context(experiment, store=store) as context:
        return finish(run_of(context) if context.scores().is_complete else None)


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
