"""A leaderboard of many runs: a Parquet file to which the scores of finished runs are appended."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.catalog.heads import reads_embeddings
from benchmark.catalog.metrics import HEADLINE
from benchmark.comparing.runs import FinishedRun
from benchmark.errors import CellError, UsageError, one_line
from benchmark.experiment.cells import TextTable
from benchmark.fields import check_file_path, shown
from benchmark.options import ANY_BACKBONE
from benchmark.store.provenance import now
from benchmark.tables import check_table, column

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "1"
MARK = b"benchmark_leaderboard"
"""Key of the version in the file's metadata."""
LOCK_TIMEOUT_S = 60.0
DIGITS_SHOWN = 8
"""Of a digest, in a title."""

BOARD = pa.schema(
    [
        column("dataset", pa.string(), "name of the data set"),
        column(
            "dataset_digest",
            pa.string(),
            "digest of its source files; null: the patches are not in the store any more",
            nullable=True,
        ),
        column("patches", pa.string(), "fingerprint of the patches: data, sampling, patch size"),
        column("train_set", pa.string(), "rows that the method was trained on, e.g. `all`"),
        column("backbone", pa.string(), "name of the backbone"),
        column("method", pa.string(), "name of the head, `finetune` or `finetune-MODE`"),
        column("metric", pa.string(), "name of the metric: balanced_accuracy"),
        column("split", pa.string(), "split that was scored: test"),
        column("value", pa.float64(), "the score, mean over seeds", nullable=True),
        column("ci_low", pa.float64(), "lower end of its interval on other scenes", nullable=True),
        column("ci_high", pa.float64(), "upper end of its interval on other scenes", nullable=True),
        column("confidence", pa.float64(), "level of the interval"),
        column("num_seeds", pa.int64(), "seeds behind the score"),
        column("seed_std", pa.float64(), "standard deviation over seeds", nullable=True),
        column("is_floor", pa.bool_(), "whether any useful method should be better"),
        column("num_patches", pa.int64(), "patches of test"),
        column("experiment", pa.string(), "name of the experiment"),
        column("run", pa.string(), "fingerprint of the scores"),
        column("store", pa.string(), "store of the run"),
        column("version", pa.string(), "version of this package that scored", nullable=True),
        column("code", pa.string(), "git commit of the code that scored", nullable=True),
        column("written", pa.string(), "when the scores were written (UTC); empty: unknown"),
        column("added", pa.string(), "when the row was added (UTC)"),
    ]
).with_metadata({MARK: VERSION})
"""One row per run, train set, backbone and method, in the order in which they were added."""

IDENTITY = ("experiment", "run", "written", "train_set", "backbone", "method", "value")
"""A row with these is on the board once, wherever its store lies. Two runs of one experiment may
end in the same second."""
PLACE = ("dataset", "dataset_digest", "patches", "train_set")
"""Only rows that have all of these in common are ranked together."""
SUCCESSION = ("store", "experiment", *PLACE, "backbone", "method")
"""Of rows that have these in common the one whose scores were written last is ranked."""


class Leaderboard(pd.DataFrame):  # type: ignore[misc]
    """The frame of ``rank``, which notebooks show as one ranking for each data set."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        # A part of it, or what is computed from it, is a plain frame.
        return pd.DataFrame  # type: ignore[no-any-return]

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in board_tables(self))


def rows_of_run(run: FinishedRun) -> list[dict[str, Any]]:
    """Return the rows of ``BOARD`` of one run.

    Raises:
        CellError: its scores are damaged, or of another version.
    """
    found = run.scores.filter(
        (pa.compute.field("metric") == HEADLINE) & (pa.compute.field("split") == "test")
    )
    scored = {
        (row["train_set"], row["backbone"], row["method"]): row
        for row in found.select(
            ["train_set", "backbone", "method", "num_patches", "dataset"]
        ).to_pylist()
    }
    manifest = {} if run.patches is None else run.patches.manifest()
    added = now()
    rows = []
    for row in run.ranking.to_pylist():
        cell = scored[row["train_set"], row["backbone"], row["method"]]
        rows.append(
            {name: row[name] for name in BOARD.names if name in row}
            | {
                "dataset": cell["dataset"],
                "dataset_digest": (manifest.get("inputs") or {}).get("digest"),
                "patches": run.patches_fingerprint,
                "confidence": run.confidence,
                "num_patches": cell["num_patches"],
                "experiment": run.name,
                "run": run.artefact.fingerprint,
                "store": run.store.root if run.store.is_local else run.store.uri,
                "version": run.version,
                "code": run.code,
                "written": run.written,
                "added": added,
            }
        )
    return rows


def _identity(row: dict[str, Any]) -> tuple[str, ...]:
    # A score may be undefined, which does not equal itself.
    return tuple(repr(row[key]) for key in IDENTITY)


def as_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return rows as a table of ``BOARD``."""
    return check_table(pa.Table.from_pylist(rows, schema=BOARD), BOARD, what="leaderboard")


def append(path: Path, rows: Iterable[dict[str, Any]]) -> tuple[pa.Table, int]:
    """Append rows to the file of a leaderboard, which is created if it is missing.

    Rows in the file are kept as they are. A row that is there already is not added again, and a
    file to which nothing is added is not touched. Several processes may append at once.

    Args:
        path: of the file.
        rows: from ``rows_of_run``.

    Returns: the whole board, and the number of added rows.

    Raises:
        UsageError: the file is no leaderboard, or cannot be read or written.
        CellError: another process does not stop writing.
    """
    with _locked(path):
        board = read_board(path) if path.exists() else BOARD.empty_table()
        known = {_identity(row) for row in board.to_pylist()}
        new = []
        for row in rows:
            identity = _identity(row)
            if identity not in known:
                known.add(identity)
                new.append(row)
        if new:
            board = pa.concat_tables([board, as_table(new)])
            _write(path, board)
    return board, len(new)


def check_path(path: str) -> Path:
    """Return the path of a leaderboard.

    Raises:
        UsageError: it is no name of a Parquet file on this machine.
    """
    try:
        check_file_path(path)
    except ValueError as error:
        raise UsageError(f"leaderboard: --out {error}") from None
    target = Path(path)
    if "://" in path or target.suffix != ".parquet" or target.is_dir():
        raise UsageError(
            f"leaderboard: --out {shown(path, 200)} is no name of a file *.parquet on this machine"
        )
    return target


def read_board(path: Path) -> pa.Table:
    """Return the board in a file.

    Raises:
        UsageError: the file is missing, or no leaderboard that this version can read.
    """
    try:
        table = pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise UsageError(f"leaderboard: there is no file '{path}'; name a store to add") from None
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"leaderboard: '{path}' cannot be read: {one_line(error)}") from None
    version = (table.schema.metadata or {}).get(MARK, b"").decode(errors="replace")
    if not version:
        raise UsageError(
            f"leaderboard: '{path}' was not written by `benchmark leaderboard`; name another file"
        )
    if version != VERSION:
        raise UsageError(
            f"leaderboard: '{path}' has version {shown(version, 20)}, this program reads "
            f"{VERSION}; install the version that wrote it, or name another file"
        )
    try:
        return check_table(table, BOARD, what=f"leaderboard: '{path}'")
    except ValueError as error:
        raise UsageError(str(error)) from None


def rank(board: pa.Table) -> Leaderboard:
    """Return the rows that count with their ranks, best first, data set by data set.

    Only rows of the same patches and train set are ranked together. Of several runs of an
    experiment in one store, the one that was scored last counts. What depends on no backbone has
    one row for each run, with ``ANY_BACKBONE``.

    Returns: the columns of ``BOARD``, indexed by ``dataset``, ``patches``, ``train_set`` and
    ``rank``.
    """
    frame = board.to_pandas()
    frame["order"] = range(len(frame))
    # Of what is the same for every backbone, the row with most seeds.
    frame.loc[~frame["method"].map(reads_embeddings).astype(bool), "backbone"] = ANY_BACKBONE
    frame = frame.sort_values(["written", "num_seeds", "order"], kind="stable")
    frame = frame.drop_duplicates(list(SUCCESSION), keep="last").sort_values("order")
    keys = [frame[name].fillna("") for name in PLACE]
    frame["place"] = frame.groupby(keys, sort=False).ngroup()
    frame = frame.sort_values(["place", "value", "order"], ascending=[True, False, True])
    # Equal scores share a rank.
    ranks = frame.groupby("place")["value"].rank(method="min", ascending=False)
    frame["rank"] = ranks.astype("Int64")
    frame = frame.drop(columns=["order", "place"])
    return Leaderboard(frame.set_index(["dataset", "patches", "train_set", "rank"]))


def to_json(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of ``rank`` as JSON; what is unknown is None."""
    flat = frame.reset_index()
    rows: list[dict[str, Any]] = flat.astype(object).where(flat.notna(), None).to_dict("records")
    return rows


def board_tables(frame: pd.DataFrame) -> list[TextTable]:
    """Return one table for each data set and train set, to print.

    Args:
        frame: from ``rank``.
    """
    tables = []
    flat = frame.reset_index()
    keys = [flat[name].fillna("") for name in PLACE]
    for (dataset, digest, patches, train_set), rows in flat.groupby(keys, sort=False):
        num = ", ".join(f"{number:,}" for number in sorted(set(rows["num_patches"])))
        data = f"data {digest[:DIGITS_SHOWN]}, " if digest else ""
        codes = sorted({str(code) for code in rows["code"].dropna()})
        tables.append(
            TextTable(
                title=f"Balanced accuracy on {num} test patches of {dataset} ({data}patches "
                f"{patches[:DIGITS_SHOWN]}), trained on {train_set}",
                columns=(
                    *("rank", "backbone", "method", "score", "interval", "seeds", "experiment"),
                    *("store", "scored (UTC)"),
                ),
                rows=[_text_row(row) for row in rows.to_dict("records")],
                notes=(
                    "Ranks are of the scores alone: `benchmark compare A B` tests a difference.",
                    *(
                        (f"The rows were scored by {len(codes)} versions of the code.",)
                        if len(codes) > 1
                        else ()
                    ),
                ),
            )
        )
    return tables


def _text_row(row: dict[str, Any]) -> list[str]:
    return [
        str(row["rank"]),
        row["backbone"],
        row["method"] + (" (floor)" if row["is_floor"] else ""),
        *_scored(row["value"], row["ci_low"], row["ci_high"]),
        str(row["num_seeds"]),
        row["experiment"],
        row["store"],
        row["written"].partition("+")[0].replace("T", " "),
    ]


def _scored(value: float, low: float, high: float) -> tuple[str, str]:
    """Return a score and its interval as text; a score that is undefined is NaN."""
    if math.isnan(value):
        return "-", "-"
    return f"{value:.3f}", f"[{low:.3f}, {high:.3f}]"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time append to a file, by ``FILE.lock`` beside it."""
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_TIMEOUT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise CellError(
            f"leaderboard: another process has been adding to '{path}' for {LOCK_TIMEOUT_S:g} s; "
            "try again"
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield
    finally:
        lock.release()


def _write(path: Path, board: pa.Table) -> None:
    target = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        pq.write_table(board, target, compression="ZSTD")
        target.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        target.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"leaderboard: '{path}' cannot be written: {one_line(error)}")
