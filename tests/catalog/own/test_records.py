"""A list of records is a source of patches; a wrong record is one line."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.catalog.own.records import Records, RecordSource
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.tables import CANDIDATES, check_table


def read_pixels(record: Any) -> np.ndarray:
    return np.full((3, 16, 16), record.get("value", 7), np.uint8)


def records(count: int = 24, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"p{number:03d}", "label": "ab"[number % 2], "value": number % 256, **more}
        for number in range(count)
    ]


def source(items: Any, tmp_path: Path, **settings: Any) -> RecordSource:
    config = DatasetConfig(name="mine:open", root=str(tmp_path), patch_size=16, **settings)
    return RecordSource.of(Records(items, read_pixels), config)


def splits_of(found: RecordSource) -> dict[str, str]:
    table = found.candidates
    return dict(zip(table["patch_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def test_every_record_is_a_candidate_with_its_pixels(tmp_path: Path) -> None:
    found = source(records(600, split=None), tmp_path)
    assert found.classes == ("a", "b")
    units = found.units()
    assert len(units) == 3
    table = [found.find(unit).candidates for unit in units]
    assert [part.num_rows for part in table] == [256, 256, 88]
    check_table(table[0], CANDIDATES, what="candidates")
    images = pickle.loads(pickle.dumps(found)).read(table[1].slice(3, 2))
    assert images.pixels[:, 0, 0, 0].tolist() == [3, 4]
    assert found.notes[0].startswith("The split into train, val and test is random (seed 0)")


def test_a_drawn_split_keeps_the_records_of_a_scene_together(tmp_path: Path) -> None:
    items = [{**item, "scene": f"s{n // 4}"} for n, item in enumerate(records(48))]
    found = source(items, tmp_path)
    splits = splits_of(found)
    by_scene = {item["scene"]: splits[item["id"]] for item in items}
    assert all(splits[item["id"]] == by_scene[item["scene"]] for item in items)
    assert set(by_scene.values()) == {"train", "val", "test"}
    assert found.notes == ()
    assert splits_of(source(items[::-1], tmp_path)) == splits
    assert splits_of(source(items, tmp_path, seed=1)) != splits


def test_given_splits_are_kept(tmp_path: Path) -> None:
    items = [
        {**item, "split": ("train", "validation", "TEST")[n // 2 % 3]}
        for n, item in enumerate(records())
    ]
    splits = splits_of(source(items, tmp_path))
    assert [splits[f"p{n:03d}"] for n in (0, 2, 4)] == ["train", "val", "test"]


def test_the_digest_is_that_of_records_splits_and_files(tmp_path: Path) -> None:
    for n in range(24):
        (tmp_path / f"{n:02d}.bin").write_bytes(b"%d" % n)
    items = [
        {"path": tmp_path / f"{n:02d}.bin", "label": "ab"[n % 2], "value": n} for n in range(24)
    ]
    before = source(items, tmp_path).digest()
    assert source(items[::-1], tmp_path).digest() == before
    assert source([{**items[0], "value": 99}, *items[1:]], tmp_path).digest() != before
    assert source([{**items[0], "label": "b"}, *items[1:]], tmp_path).digest() != before
    assert source(items, tmp_path, seed=5).digest() != before
    (tmp_path / "00.bin").write_bytes(b"another")
    assert source(items, tmp_path).digest() != before


def test_the_digest_does_not_depend_on_where_the_data_lie(tmp_path: Path) -> None:
    digests = []
    for name in ("here", "there"):
        root = tmp_path / name
        root.mkdir()
        for n in range(24):
            (root / f"{n:02d}.bin").write_bytes(b"%d" % n)
        items = [{"path": path, "label": "ab"[n % 2]} for n, path in enumerate(root.iterdir())]
        items = [{**item, "label": "ab"[int(item["path"].stem) % 2]} for item in items]
        digests.append(source(items, root).digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], r"the reader returned no records from root = "),
        (["a.png"], r"record 0 is 'a\.png'; give a dictionary with 'label'"),
        ([{"id": "a"}], r"record 0 is \{'id': 'a'\}; give a dictionary with 'label'"),
        ([{"label": "a"}], r"record 0 has neither 'path' nor 'id'"),
        (records(2) * 2, r"record 2: 'p000' appears twice; give each an 'id' of its own"),
        (records(split="trian"), "'p000': unknown split 'trian'; write train, val or test"),
        (
            [*records(2, split="train"), {"id": "x", "label": "a"}],
            r"'x' has no 'split', but others",
        ),
        (
            [
                *records(2, split="train", scene="s"),
                *[{**records(3)[2], "split": "val", "scene": "s"}],
            ],
            r"scene 's' is in train and in val; put a scene into one split",
        ),
        (records(split="train"), r"there are no val images"),
        ([{"id": str(n), "label": "a"} for n in range(9)], r"there is only one class, 'a'"),
    ],
)
def test_a_wrong_record_is_one_line(tmp_path: Path, items: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        source(items, tmp_path)


def test_what_reading_raises_is_the_problem_of_one_patch(tmp_path: Path) -> None:
    def fail(record: Any) -> Any:
        if record["value"] == 1:
            raise KeyError("band")
        return read_pixels(record)

    config = DatasetConfig(name="mine:open", root=str(tmp_path), patch_size=16)
    found = RecordSource.of(Records(records(), fail), config)
    images = found.read(found.candidates.slice(0, 3))
    assert images.rows.tolist() == [0, 2]
    (problem,) = images.problems
    assert problem.path == "p001"
    assert problem.reason.endswith("KeyError: 'band'")
    assert "test_records.py, line " in problem.reason
