"""Train sets of regions: parts that no train set or seed changes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmark.config import build
from benchmark.errors import UsageError
from benchmark.experiment.region_sets import region_sets
from benchmark.experiment.train_sets import PatchRows
from benchmark.protocol_settings import TransferConfig

REGIONS = ("north", "south", "west")
LEAVE_ONE_OUT = TransferConfig()


def make_rows(*, num_scenes: int = 10, with_scenes: bool = True) -> PatchRows:
    """Three classes in every scene; each region has one split of the data."""
    found = [
        (region, split, f"{region}{scene}", label)
        for region, split in zip(REGIONS, ("train", "val", "test"), strict=True)
        for scene in range(num_scenes)
        for label in (0, 1, 2, 0)
    ]
    region, split, scene, label = (list(column) for column in zip(*found, strict=True))
    return PatchRows(
        np.array([f"p{i:04d}" for i in range(len(found))], dtype=object),
        np.array(split, dtype=object),
        np.array(label, np.int32),
        np.array(scene if with_scenes else [None] * len(found), dtype=object),
        np.array(region, dtype=object),
        ("water", "trees", "barren"),
    )


def change(rows: PatchRows, column: str, where: Any, value: Any) -> PatchRows:
    changed = getattr(rows, column).copy()
    changed[where] = value
    return rows._replace(**{column: changed})


def pick(rows: PatchRows, at: Any) -> PatchRows:
    return PatchRows(*(column[at] for column in rows[:5]), rows.classes)


def roles_of(transfer: TransferConfig, rows: PatchRows, seed: int = 0) -> dict[str, Any]:
    regions = sorted({*rows.regions.tolist()} - {None})
    return {item.name: item.rule(rows, seed) for item in region_sets(transfer, regions)}


def sizes(rows: PatchRows, roles: Any, region: str) -> tuple[int, ...]:
    """Scenes of train, val and test in a region."""
    mine = rows.regions == region
    return tuple(
        len({*rows.scenes[mine & (roles == part)].tolist()}) for part in ("train", "val", "test")
    )


def test_one_region_is_left_out_of_train_and_val_in_turn() -> None:
    rows = make_rows()
    found = roles_of(LEAVE_ONE_OUT, rows)
    assert list(found) == ["all but north", "all but south", "all but west"]
    for name, roles in found.items():
        for region in REGIONS:
            is_out = name == f"all but {region}"
            assert sizes(rows, roles, region) == ((0, 0, 4) if is_out else (4, 2, 4))


def test_a_scene_is_in_one_part_and_parts_depend_on_nothing_but_the_region() -> None:
    rows = make_rows()
    first, *others = roles_of(LEAVE_ONE_OUT, rows).values()
    matrix = roles_of(TransferConfig(train=(("north",), ("south",), ("west",))), rows)
    for roles in (*others, *matrix.values()):
        np.testing.assert_array_equal(first == "test", roles == "test")
        for scene in np.unique(rows.scenes):
            assert len({*roles[rows.scenes == scene].tolist()}) == 1
    # Neither the seed, nor the order of the rows, nor other regions change a part.
    again = roles_of(LEAVE_ONE_OUT, rows, seed=7)["all but north"]
    np.testing.assert_array_equal(again, first)
    order = np.random.default_rng(0).permutation(len(rows.ids))
    again = roles_of(LEAVE_ONE_OUT, pick(rows, order))["all but north"]
    np.testing.assert_array_equal(again, first[order])
    fewer = rows.regions != "west"
    again = roles_of(LEAVE_ONE_OUT, pick(rows, fewer))["all but north"]
    np.testing.assert_array_equal(again, first[fewer])


def test_a_region_with_splits_of_its_own_keeps_them() -> None:
    rows = make_rows()
    at = np.flatnonzero(rows.regions == "north")
    own = change(rows, "splits", at, np.repeat(["test", "train", "val", "train"], 10))
    roles = roles_of(LEAVE_ONE_OUT, own)["all but west"]
    np.testing.assert_array_equal(roles[at], own.splits[at])


def test_a_region_that_is_only_trained_in_has_no_test_and_one_only_tested_is_whole() -> None:
    rows = make_rows()
    transfer = TransferConfig(train=(("north",), ("north", "south")), test=("south", "west"))
    found = roles_of(transfer, rows)
    assert list(found) == ["only north", "only north + south"]
    alone, both = found.values()
    assert sizes(rows, alone, "north") == (8, 2, 0)
    assert sizes(rows, alone, "west") == (0, 0, 10)
    # Another train set is trained in it: its test patches are the same here.
    assert sizes(rows, alone, "south") == (0, 0, 4)
    assert sizes(rows, both, "south") == (4, 2, 4)


def test_without_scenes_patches_are_drawn_by_class() -> None:
    rows = make_rows(with_scenes=False)
    roles = roles_of(LEAVE_ONE_OUT, rows)["all but west"]
    north = rows.regions == "north"
    for label, count in ((0, 20), (1, 10), (2, 10)):
        mine = roles[north & (rows.labels == label)]
        assert (mine == "test").sum() == 0.4 * count
        assert (mine == "val").sum() == 0.2 * count


def test_patches_without_a_region_are_not_used() -> None:
    rows = make_rows()
    other = change(rows, "regions", np.flatnonzero(rows.regions == "west"), None)
    roles = roles_of(LEAVE_ONE_OUT, other)
    assert list(roles) == ["all but north", "all but south"]
    assert {*roles["all but north"][rows.regions == "west"].tolist()} == {""}


@pytest.mark.parametrize(
    ("transfer", "rows", "message"),
    [
        (
            LEAVE_ONE_OUT,
            change(make_rows(), "regions", slice(None), None),
            "transfer: the patches have no regions; give each a region",
        ),
        (
            LEAVE_ONE_OUT,
            change(make_rows(), "regions", slice(None), "north"),
            "transfer: all patches are of the region 'north'; it needs two",
        ),
        (
            TransferConfig(train=(("north",), ("sout",))),
            make_rows(),
            "transfer: no patch is of a region 'sout'. Did you mean 'south'?",
        ),
        (
            TransferConfig(test=("abroad",)),
            make_rows(),
            "transfer: no patch is of a region 'abroad'. Known: north, south, west.",
        ),
        (
            LEAVE_ONE_OUT,
            make_rows(num_scenes=2),
            "transfer: region 'south' has no val patches: its 2 scenes cannot be divided into "
            "train, val and test; add scenes, or list the regions of train and test without it",
        ),
        (
            LEAVE_ONE_OUT,
            make_rows(num_scenes=1),
            "transfer: region 'south' has no test patches: its 1 scene cannot be divided",
        ),
        (
            TransferConfig(train=(("north",),), test=("west",)),
            change(make_rows(), "labels", slice(2, 40, 4), 1),
            "transfer: region 'north' has no train patches of class 'barren'; train in more",
        ),
        (
            TransferConfig(train=(("north", "south"),), test=("west",)),
            change(make_rows(), "labels", slice(2, 80, 4), 1),
            "transfer: regions ['north', 'south'] have no train patches of class 'barren'",
        ),
        (
            LEAVE_ONE_OUT,
            change(make_rows(), "scenes", slice(0, 4), "west3"),
            "transfer: scene 'west3' is in the regions 'north' and 'west'; put a scene into one",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused_in_one_line(
    transfer: TransferConfig, rows: PatchRows, message: str
) -> None:
    # Regions to leave out that are not known yet are those of the rows.
    (first, *_) = region_sets(transfer, None)
    with pytest.raises(UsageError) as found:
        first.rule(rows, 0)
    assert str(found.value).startswith(message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("leave_one", "'leave_one': write \"leave_one_region_out\", or a table of regions"),
        (3, "3: should be a table"),
        ({"train": ["a"]}, "names one region; name another one to test on"),
        ({"train": ["a"], "test": ["a"]}, "names one region"),
        ({"train": ["a", "a"]}, "'train' = ['a', 'a']: 'a' is listed twice"),
        ({"train": [["a", "b"], ["b", "a"]]}, "'a + b' is listed twice"),
        ({"train": [[]]}, "'train' = [[]]: holds a list without a region"),
        ({"train": [3, "b"]}, "'train' = 3: should be"),
        ({"test": ["a", "a"]}, "'test' = ['a', 'a']: 'a' is listed twice"),
        ({"trai": ["a"]}, "unknown setting 'trai'. Did you mean 'train'?"),
    ],
)
def test_settings_that_say_nothing_are_refused(value: Any, message: str) -> None:
    with pytest.raises(UsageError) as found:
        build(experiment(transfer=value), where="x.toml")
    assert str(found.value).startswith("x.toml [protocol.transfer]: ")
    assert message in str(found.value)


def experiment(**protocol: Any) -> dict[str, Any]:
    dataset = {"name": "folder", "root": "x"}
    return {"name": "a", "backbones": ["random"], "dataset": dataset, "protocol": protocol}


def test_leaving_one_out_is_the_table_without_settings() -> None:
    by_name = build(experiment(transfer="leave_one_region_out"), where="x.toml")
    assert by_name.protocol.transfer == LEAVE_ONE_OUT
    assert build(experiment(transfer={}), where="x.toml") == by_name
    # A saved experiment names every setting.
    saved = by_name.model_dump(mode="json", include={"protocol"})["protocol"]
    assert build(experiment(**saved), where="x.toml") == by_name


def test_a_transfer_alone_is_a_grid() -> None:
    given = experiment(transfer="leave_one_region_out", label_fractions=[])
    assert build(given, where="x.toml").protocol.label_fractions == ()
