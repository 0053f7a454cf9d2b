"""The leaderboard: many runs, one file, to which is appended and in which nothing changes."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import benchmark as bm
from benchmark.comparing.board import BOARD, append, board_tables, rank, read_board, rows_of_run
from benchmark.comparing.runs import FinishedRun, latest_runs, open_store, run_of
from benchmark.errors import CellError, UsageError
from benchmark.experiment.context import Context
from tests.comparing.toy_runs import draw_patches, named, write_run
from tests.finetuned import learned

Opener = Callable[..., Context]

HEADS = named("knn", "mlp")


def write(
    open_small: Opener, store: Path, knn: float = 0.9, *, mlp: float = 0.6, **settings: object
) -> FinishedRun:
    return run_of(
        write_run(open_small(store=store, heads=HEADS, **settings), {"knn": knn, "mlp": mlp})
    )


def test_rows_are_those_of_the_ranking(open_small: Opener, tmp_path: Path) -> None:
    run = write(open_small, tmp_path / "a", seeds=[0, 1])
    rows = rows_of_run(run)
    ranking = run.ranking.to_pylist()
    assert [row["value"] for row in rows] == [row["value"] for row in ranking]
    assert [row["ci_low"] for row in rows] == [row["ci_low"] for row in ranking]
    assert {row["num_seeds"] for row in rows} == {2}
    test = draw_patches().column("split").to_pylist().count("test")
    assert {row["num_patches"] for row in rows} == {test}
    assert rows[0]["run"] == run.artefact.fingerprint
    assert len(rows[0]["dataset_digest"]) == 32


def test_rows_are_appended_and_the_same_run_adds_nothing(
    open_small: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "board.parquet"
    one, two = write(open_small, tmp_path / "a"), write(open_small, tmp_path / "b", 0.7, mlp=0.5)
    first, num_first = append(path, rows_of_run(one))
    assert num_first == 2
    before = path.read_bytes()
    assert append(path, rows_of_run(one))[1] == 0
    assert path.read_bytes() == before
    whole, num_added = append(path, [*rows_of_run(one), *rows_of_run(two)])
    assert num_added == 2
    assert whole.slice(0, 2) == first
    assert read_board(path) == whole
    # A copy of the store is the same run, wherever it lies.
    shutil.copytree(one.store.root, tmp_path / "copy")
    (moved,) = latest_runs(open_store(str(tmp_path / "copy")))
    assert append(path, rows_of_run(moved))[1] == 0
    assert sorted(item.name for item in path.parent.iterdir()) == [
        "board.parquet",
        "board.parquet.lock",
    ]


def test_only_the_same_patches_and_train_sets_are_ranked_together(
    open_small: Opener, tmp_path: Path
) -> None:
    runs = [
        write(open_small, tmp_path / "a", 0.8),
        write(open_small, tmp_path / "b", 0.95, backbones=[learned("other")]),
        write(open_small, tmp_path / "c", 0.99, dataset={"patch_size": 16}),
        write(open_small, tmp_path / "d", 0.7, protocol={"label_fractions": [0.5]}),
    ]
    frame = bm.leaderboard(*(run.store.uri for run in runs))
    assert frame.index.names == ["dataset", "patches", "train_set", "rank"]
    flat = frame.reset_index()
    boards = dict(iter(flat.groupby(["patches", "train_set"], sort=False)))
    assert len(boards) == 3
    first = boards[runs[0].patches_fingerprint, "all"]
    assert first["rank"].tolist() == [1, 2, 3, 3]
    assert first["backbone"].tolist()[:2] == ["other", "mean_color"]
    assert first["value"].is_monotonic_decreasing
    # The best score of all is of other patches, and leads there alone.
    other = boards[runs[2].patches_fingerprint, "all"]
    assert other["rank"].tolist() == [1, 2]
    assert other["value"].max() == flat["value"].max()
    tables = board_tables(frame)
    assert [len(table.rows) for table in tables] == [4, 2, 2]
    shown = frame._repr_html_()
    assert shown.count("<table>") == 3 and "trained on 50%" in shown
    assert type(frame.head(2)) is pd.DataFrame
    assert tables[2].title.endswith("trained on 50%")


def test_what_depends_on_no_backbone_is_ranked_once_for_each_run(
    open_small: Opener, tmp_path: Path
) -> None:
    backbones = [learned("x"), learned("y")]
    runs = [
        run_of(
            write_run(
                open_small(store=tmp_path / name, heads=named("knn", "majority"), backbones=some),
                {"knn": 0.8, "majority": 0.2},
            )
        )
        for name, some in (("a", backbones), ("b", backbones[:1]))
    ]
    rows = [row for run in runs for row in rows_of_run(run)]
    board, num_added = append(tmp_path / "board.parquet", rows)
    # The file keeps what was scored.
    assert num_added == board.num_rows == 6
    frame = rank(board).reset_index()
    floors = frame[frame["method"] == "majority"]
    assert floors["backbone"].tolist() == ["any backbone", "any backbone"]
    assert floors["store"].nunique() == 2
    assert frame["rank"].tolist() == [1, 1, 1, 4, 4]


def test_a_later_run_of_an_experiment_in_a_store_takes_the_place_of_the_earlier(
    open_small: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "board.parquet"
    run = write(open_small, tmp_path / "a")
    append(path, rows_of_run(run))
    later = {**run.manifest, "provenance": {**run.manifest["provenance"], "written": "2099-01-01"}}
    board, num_added = append(path, rows_of_run(replace(run, manifest=later)))
    assert num_added == 2
    assert board.num_rows == 4
    frame = rank(board)
    assert len(frame) == 2
    assert set(frame["written"]) == {"2099-01-01"}


def test_processes_that_append_at_once_lose_no_row(open_small: Opener, tmp_path: Path) -> None:
    path = tmp_path / "board.parquet"
    rows = rows_of_run(write(open_small, tmp_path / "a"))
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(
            target=append, args=(path, [row | {"experiment": f"e{number}"} for row in rows])
        )
        for number in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert read_board(path).num_rows == 12


def test_files_that_are_no_board_are_refused_and_kept(open_small: Opener, tmp_path: Path) -> None:
    run = write(open_small, tmp_path / "a")
    path = tmp_path / "board.parquet"
    for content, message in [
        (b"not Parquet", "cannot be read: "),
        (pa.table({"value": [1.0]}), "was not written by `benchmark leaderboard`"),
        (
            BOARD.empty_table().replace_schema_metadata({b"benchmark_leaderboard": b"9"}),
            "has version '9', this program reads 1",
        ),
        (
            BOARD.empty_table().select(["dataset"]),
            "missing column",
        ),
    ]:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(content, path)
        before = path.read_bytes()
        with pytest.raises(UsageError, match=message):
            append(path, rows_of_run(run))
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("board.csv", r"'board.csv' is no name of a file \*.parquet"),
        ("s3://bucket/board.parquet", r"is no name of a file \*.parquet on this machine"),
        ("", "out = '': it is empty"),
        ("none.parquet", "there is no file 'none.parquet'; name a store to add"),
    ],
)
def test_wrong_files_are_refused(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bm.leaderboard(out=given)


def test_a_board_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to show; name a store"):
        bm.leaderboard()
    with pytest.raises(UsageError, match="holds no complete scores"):
        bm.leaderboard(tmp_path)


def test_scores_without_a_column_are_named(open_small: Opener, tmp_path: Path) -> None:
    run = write(open_small, tmp_path / "a")
    run.artefact.write_table("scores.parquet", run.scores.drop_columns(["artefact"]))
    with pytest.raises(CellError, match=r"lacks the column 'artefact'; run `benchmark evaluate`"):
        bm.leaderboard(run.store.uri)
