"""Two runs are compared on the patches that both have, with the benchmark's own test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import benchmark as bm
from benchmark.comparing.paired import compare_runs
from benchmark.comparing.runs import find_run, run_of
from benchmark.errors import CellError, UsageError
from benchmark.experiment.context import Context
from tests.comparing.toy_runs import draw_patches, named, write_run
from tests.finetuned import learned, read_scored

Opener = Callable[..., Context]

GOOD = {"knn": 0.9, "mlp": 0.6}
POOR = {"knn": 0.5, "mlp": 0.6}


def relabelled(table: pa.Table, column: str, values: list[object]) -> pa.Table:
    place = table.schema.get_field_index(column)
    field = table.schema.field(place)
    return table.set_column(place, field, pa.array(values, field.type))


@pytest.fixture
def two(open_small: Opener, tmp_path: Path) -> tuple[Context, Context]:
    """Return a run, and one whose `knn` is worse on the same patches; `mlp` is the same."""
    contexts = [open_small(store=tmp_path / name, heads=named("knn", "mlp")) for name in "ab"]
    return write_run(contexts[0], GOOD), write_run(contexts[1], POOR)


def test_differences_are_those_of_the_scores_and_of_the_benchmarks_own_test(
    two: tuple[Context, Context],
) -> None:
    a, b = map(run_of, two)
    found = compare_runs(a, b).content
    rows = {(row["kind"], row["method_a"]): row for row in found["rows"]}
    assert rows.keys() == {("headline", "knn"), ("method", "knn"), ("method", "mlp")}
    values = [read_scored(item, "ranking").set_index("method")["value"] for item in two]
    knn = rows["method", "knn"]
    assert knn["value_a"] == pytest.approx(values[0]["knn"])
    assert knn["value_b"] == pytest.approx(values[1]["knn"])
    assert knn["difference"] == pytest.approx(values[1]["knn"] - values[0]["knn"])
    assert knn["ci_low"] <= knn["difference"] <= knn["ci_high"] < 0
    assert knn["verdict"] == "worse"
    # The same predictions: nothing differs, and the interval still is no point.
    mlp = rows["method", "mlp"]
    assert (mlp["difference"], mlp["p_value"]) == (0.0, 1.0)
    assert mlp["verdict"] == "right on the same patches"
    assert mlp["ci_low"] < 0 < mlp["ci_high"]
    leaders = rows["headline", "knn"]
    assert leaders["method_b"] == "mlp"
    assert leaders["difference"] == pytest.approx(values[1]["mlp"] - values[0]["knn"])
    # The other way round every sign is turned.
    turned = {(row["kind"], row["method_b"]): row for row in compare_runs(b, a).content["rows"]}
    for key, row in rows.items():
        other = turned[key]
        assert other["difference"] == pytest.approx(-row["difference"])
        assert (other["ci_low"], other["ci_high"]) == pytest.approx(
            (-row["ci_high"], -row["ci_low"])
        )
        assert other["p_value"] == row["p_value"]


def test_the_gain_over_a_leader_of_one_run_is_that_of_its_ranking(
    open_small: Opener, tmp_path: Path
) -> None:
    # The ranking's difference of two methods must be the comparison's of two runs with one each.
    both = open_small(store=tmp_path / "both", heads=named("knn", "mlp"))
    write_run(both, {"knn": 0.8, "mlp": 0.7})
    alone = [open_small(store=tmp_path / head, heads=named(head)) for head in ("mlp", "knn")]
    for context in alone:
        write_run(context, {"knn": 0.8, "mlp": 0.7})
    row = compare_runs(*map(run_of, alone)).content["rows"][0]
    behind = read_scored(both, "ranking").iloc[1]
    assert row["difference"] == pytest.approx(behind["difference"])
    assert row["ci_low"] == pytest.approx(behind["difference_low"])
    assert row["p_value"] == pytest.approx(behind["p_value"])


def test_what_depends_on_no_backbone_is_compared_once_whatever_the_backbones(
    open_small: Opener, tmp_path: Path
) -> None:
    heads = named("knn", "majority")
    one = open_small(store=tmp_path / "a", heads=heads, backbones=[learned("x"), learned("y")])
    two = open_small(store=tmp_path / "b", heads=heads, backbones=[learned("z")])
    for context in (one, two):
        write_run(context, {"knn": 0.8, "majority": 0.2})
    found = compare_runs(run_of(one), run_of(two)).content
    rows = [row for row in found["rows"] if row["kind"] == "method"]
    assert [(row["backbone_a"], row["method_b"]) for row in rows] == [("any backbone", "majority")]
    assert (rows[0]["seeds_a"], rows[0]["verdict"]) == (1, "right on the same patches")
    assert found["methods_only_a"] == ["all / x / knn", "all / y / knn"]
    # Where it leads, it is a leader as any other.
    alone = open_small(store=tmp_path / "c", heads=named("majority"), backbones=[learned("z")])
    write_run(alone, {"majority": 0.2})
    first = compare_runs(run_of(one), run_of(alone)).content["rows"][0]
    assert (first["kind"], first["backbone_b"]) == ("headline", "any backbone")


def test_only_shared_test_patches_count(open_small: Opener, tmp_path: Path) -> None:
    table = draw_patches()
    is_test = np.array([item == "test" for item in table["split"].to_pylist()])
    dropped = np.flatnonzero(is_test)[:7]
    fewer = table.take(np.setdiff1d(np.arange(table.num_rows), dropped))
    # A patch of test in A that trains in B.
    moved = np.flatnonzero(np.array(fewer["split"].to_pylist()) == "test")[0]
    splits = fewer["split"].to_pylist()
    splits[moved] = "train"
    other = relabelled(fewer, "split", splits)
    a = write_run(open_small(store=tmp_path / "a", heads=named("knn")), GOOD, table=table)
    b = write_run(open_small(store=tmp_path / "b", heads=named("knn")), GOOD, table=other)
    found = compare_runs(run_of(a), run_of(b)).content
    num = int(is_test.sum())
    assert found["patches"] == {
        "shared": num - 8,
        "only_a": 8,
        "only_b": 0,
        "unit": "scene",
        "num_units": 12,
    }
    assert f"{num - 8} test patches are in both runs, 8 in A alone" in found["notes"][0]


def test_labels_that_differ_are_refused_and_named(open_small: Opener, tmp_path: Path) -> None:
    table = draw_patches()
    labels = table["label"].to_pylist()
    place = table["split"].to_pylist().index("test")
    labels[place] = (labels[place] + 1) % 5
    names = ['a "quoted"', "line\nbreak", "<b>bold</b>", "\u05d0\u05d1\u05d2", "plain"]
    a = write_run(
        open_small(store=tmp_path / "a", heads=named("knn")), GOOD, table=table, classes=names
    )
    b = write_run(
        open_small(store=tmp_path / "b", heads=named("knn")),
        GOOD,
        table=relabelled(table, "label", labels),
        classes=names,
    )
    with pytest.raises(UsageError, match=r"the labels of 1 of \d+ shared test patches differ: "):
        compare_runs(run_of(a), run_of(b))
    # Classes in another order are the same labels.
    turned = [4 - label for label in table["label"].to_pylist()]
    c = write_run(
        open_small(store=tmp_path / "c", heads=named("knn")),
        GOOD,
        table=relabelled(table, "label", turned),
        classes=names[::-1],
    )
    found = compare_runs(run_of(a), run_of(c)).content
    assert found["rows"][1]["difference"] == pytest.approx(0.0, abs=0.2)
    assert any("in another order" in note for note in found["notes"])


def test_runs_without_a_shared_patch_are_refused(open_small: Opener, tmp_path: Path) -> None:
    table = draw_patches()
    renamed = relabelled(table, "patch_id", [f"q{i:05d}" for i in range(table.num_rows)])
    a = write_run(open_small(store=tmp_path / "a", heads=named("knn")), GOOD, table=table)
    b = write_run(open_small(store=tmp_path / "b", heads=named("knn")), GOOD, table=renamed)
    with pytest.raises(UsageError, match="share none of their"):
        compare_runs(run_of(a), run_of(b))


def test_patches_that_do_not_give_the_scores_are_refused(two: tuple[Context, Context]) -> None:
    a, b = two
    table = draw_patches()
    table = relabelled(table, "label", table["label"].to_pylist()[::-1])
    b.patches.write_table("part-000000.parquet", table)
    with pytest.raises(CellError, match=r"but the table of scores has 0\.\d+; run `benchmark eval"):
        compare_runs(run_of(b), run_of(b))
    b.patches.delete("_manifest.json")
    with pytest.raises(CellError, match=r"its patches .* are not complete in the store"):
        compare_runs(run_of(a), run_of(b))


def test_cross_validated_runs_are_compared_on_all_patches(
    open_small: Opener, tmp_path: Path
) -> None:
    table = draw_patches()
    folds = {"protocol": {"cross_validation": 3}, "heads": named("knn")}
    # Every cell predicts all patches; each patch counts by the cell that did not train on it.
    held = relabelled(table, "split", ["test"] * table.num_rows)
    a, b = (
        write_run(open_small(store=tmp_path / name, **folds), accuracy, table=held)
        for name, accuracy in (("a", GOOD), ("b", POOR))
    )
    found = compare_runs(run_of(a), run_of(b)).content
    assert found["patches"]["shared"] == table.num_rows
    row = found["rows"][1]
    assert row["train_set_a"] == "3 folds"
    assert row["value_a"] == pytest.approx(read_scored(a, "ranking")["value"].iloc[0])
    assert row["verdict"] == "worse"
    split = write_run(open_small(store=tmp_path / "c", heads=named("knn")), GOOD, table=table)
    with pytest.raises(UsageError, match="is scored by 3-fold cross-validation and"):
        compare_runs(run_of(a), run_of(split))


def test_a_store_is_read_without_its_data(two: tuple[Context, Context], tmp_path: Path) -> None:
    a, b = two
    found = bm.compare(a.store.uri, f"{b.store.uri}/{b.scores().folder}")
    assert found.content == compare_runs(run_of(a), run_of(b)).content
    assert "<table>" in found._repr_html_()
    assert repr(found).startswith("<RunComparison: 3 rows on ")
    with pytest.raises(UsageError, match="holds no complete scores"):
        find_run(str(tmp_path / "nowhere"))


def test_several_experiments_of_a_store_are_named(open_small: Opener, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(open_small(store=tmp_path / "runs", heads=named("knn"), name=name), GOOD)
    with pytest.raises(UsageError, match=r"scores of 2 experiments; .*evaluate/one-[0-9a-f]{16}, "):
        find_run(str(tmp_path / "runs"))
