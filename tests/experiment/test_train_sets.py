"""Train sets give patches roles, which every reader of the patches sees as splits."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmark.experiment.cells import Cell
from benchmark.experiment.train_sets import ALL, ChosenPatches, PatchRows, TrainSet
from benchmark.search.fitting import Rows, pick_rows
from benchmark.stages.tune.shelf import find_picks
from benchmark.store.artefacts import Artefact, Store

SPLITS = ["train", "test", "val", "train", "train", "val", "test"]
CLASSES = ("water", "trees", "barren")
LABELS = [0, 1, 2, 1, 0, 0, 2]


@dataclass(frozen=True)
class Swap:
    """Trains on val and validates on the first rows of train."""

    num_val: int = 1

    def __call__(self, rows: PatchRows, seed: int) -> Any:
        del seed
        roles = rows.begin("test")
        roles[rows.splits == "val"] = "train"
        roles[np.flatnonzero(rows.splits == "train")[: self.num_val]] = "val"
        return roles


SWAPPED = TrainSet("swapped", Swap())


@pytest.fixture
def patches(tmp_path: Any) -> Artefact:
    artefact = Store(str(tmp_path)).artefact("patches", "toy", "0" * 16)
    table = pa.table(
        {
            "patch_id": [f"p{i}" for i in range(len(SPLITS))],
            "split": SPLITS,
            "label": pa.array(LABELS, pa.int32()),
            "scene": ["a", None, "b", "a", None, "b", "c"],
            "region": pa.nulls(len(SPLITS), pa.string()),
        }
    )
    artefact.write_table("part-000000.parquet", table.slice(0, 4))
    artefact.write_table("part-000001.parquet", table.slice(4))
    counts = [
        {"split": split, "region": None, "counts": dict.fromkeys(CLASSES, 1)}
        for split in ("train", "val", "test")
    ]
    artefact.commit({"classes": list(CLASSES), "class_counts": counts})
    return artefact


def test_all_is_the_table_itself(patches: Artefact) -> None:
    rows = ChosenPatches(patches, ALL, 3)
    assert rows.read_table().equals(patches.read_table())
    assert rows.class_counts == dict.fromkeys(("train", "val", "test"), (1, 1, 1))
    assert rows.num_train == 3
    assert rows.roles.tolist() == SPLITS
    assert (ALL.identity, ALL.slug) == ("all", "")


def test_roles_replace_splits_for_every_reader(patches: Artefact) -> None:
    rows = ChosenPatches(patches, SWAPPED, 0)
    assert rows.read_table(columns=["patch_id", "split"]).to_pydict() == {
        "patch_id": ["p0", "p1", "p2", "p5", "p6"],
        "split": ["val", "test", "train", "train", "test"],
    }
    found = rows.read_table(columns=["label"], splits=("train",))
    assert found.to_pydict() == {"label": [2, 0]}
    found = rows.read_table(columns=["patch_id"], names=["part-000001.parquet"], splits=("train",))
    assert found["patch_id"].to_pylist() == ["p5"]
    assert rows.class_counts == {"train": (1, 0, 1), "val": (1, 0, 0), "test": (0, 1, 1)}
    assert rows.files("part-") == patches.files("part-")


def test_another_process_chooses_the_same_rows_again(patches: Artefact) -> None:
    rows = ChosenPatches(patches, SWAPPED, 0)
    size = len(pickle.dumps(rows))
    roles = rows.roles
    # The roles stay here.
    assert len(pickle.dumps(rows)) == size
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows)).roles, roles)


def test_a_role_that_is_none_is_an_error(patches: Artefact) -> None:
    @dataclass(frozen=True)
    class Broken:
        def __call__(self, rows: PatchRows, seed: int) -> Any:
            del seed
            return rows.splits.astype("U4")

    with pytest.raises(ValueError, match=r"train set 'x': unknown roles \['trai'\]"):
        _ = ChosenPatches(patches, TrainSet("x", Broken()), 0).roles


def test_the_fields_of_a_rule_are_its_identity() -> None:
    assert SWAPPED.identity == {"rule": "Swap", "num_val": 1}
    assert TrainSet("swapped", Swap(2)).identity != SWAPPED.identity
    assert TrainSet("1%", Swap()).slug == "1-percent-"


def test_heads_pick_their_rows_among_those_of_all_train_sets(patches: Artefact) -> None:
    vectors = np.arange(len(SPLITS), dtype=np.float32)[:, None]
    split = np.array(SPLITS)
    parts = {f"x_{name}": vectors[split == name] for name in ("train", "val", "test")}
    whole = Rows(**parts, y_train=None, y_val=None, ids_val=None, ids_test=None)
    found = pick_rows(whole, find_picks(ChosenPatches(patches, SWAPPED, 0)))
    assert found.x_train.ravel().tolist() == [2, 5]
    assert found.y_train.tolist() == [2, 0]
    assert found.x_val.ravel().tolist() == [0]
    assert (found.y_val.tolist(), found.ids_val.tolist()) == ([0], ["p0"])
    assert found.ids_test.tolist() == ["p1", "p6"]
    # A split that is chosen whole is not copied.
    assert found.x_test is whole.x_test


def test_a_cell_says_its_train_set_unless_it_is_all() -> None:
    cell = Cell(stage="tune", artefact=None, dataset="d", backbone="b", method="m", seed=0)
    assert cell.label == "b / m / seed 0"
    other = Cell(
        stage="tune", artefact=None, dataset="d", backbone="b", method="m", train_set="1%", seed=0
    )
    assert other.label == "b / m / 1% / seed 0"
