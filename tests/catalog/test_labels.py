"""A table of labels of an image folder: formats, splits, and one line for each mistake."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark.catalog.datasets import DATASETS
from benchmark.catalog.folder import rows as table_rows
from benchmark.catalog.folder.source import FolderSource, open_folder
from benchmark.catalog.names import check_names
from benchmark.config import DatasetConfig, build
from benchmark.errors import UsageError

PATHS = [f"{folder}/{number}.png" for folder in ("x", "y/z") for number in range(6)]
LABELS = ["forest", "water"] * 6
SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
SCENES = [f"s{number // 2}" for number in range(12)]
REGIONS = ["north"] * 4 + ["south"] * 4 + ["west"] * 4
BODY = [f"{path},{label}" for path, label in zip(PATHS, LABELS, strict=True)]


@pytest.fixture(autouse=True)
def _own_digest_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve labelled images below ``photos``, one more, and ``photos`` as seen from outside."""
    monkeypatch.chdir(tmp_path)
    for seed, path in enumerate([*PATHS, "more.png", "../out.png"]):
        save(tmp_path / "photos" / path, seed)
    return tmp_path / "photos"


def with_column(values: Sequence[str]) -> list[str]:
    return [f"{line},{value}" for line, value in zip(BODY, values, strict=True)]


def write(lines: Sequence[str], header: str = "path,label") -> str:
    Path("labels.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return "labels.csv"


def open_labels(labels: str = "labels.csv", **settings: Any) -> FolderSource:
    content = {"name": "folder", "root": "photos", "patch_size": 8, "labels": labels}
    return open_folder(DatasetConfig.model_validate({**content, **settings}))


def read_back(source: FolderSource) -> dict[str, tuple[str, str, str | None, str | None]]:
    """Return label, split, scene and region of each image."""
    return {
        row["patch_id"]: (
            source.classes[row["label"]],
            row["split"],
            row["scene"],
            row["region"],
        )
        for row in source.candidates.to_pylist()
    }


# --- what is read --------------------------------------------------------------------------


def test_all_columns_reach_the_candidates_and_folders_mean_nothing(photos: Path) -> None:
    lines = [",".join(row) for row in zip(PATHS, LABELS, SPLITS, SCENES, REGIONS, strict=True)]
    before = sorted(photos.rglob("*"))
    source = open_labels(write(lines, "path,label,split,scene,region"))
    assert source.classes == ("forest", "water")
    rows = zip(LABELS, SPLITS, SCENES, REGIONS, strict=True)
    assert read_back(source) == dict(zip(PATHS, rows, strict=True))
    assert source.notes == (
        "Images left out because the table of labels does not name them: 1, e.g. 'more.png'.",
    )
    assert sorted(photos.rglob("*")) == before
    images = source.read(source.find("00000").candidates)
    assert images.pixels.shape == (12, 3, 8, 8)
    assert images.problems == ()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_spreadsheets_write_the_same_table(
    photos: Path, delimiter: str, bom: bytes, end: str
) -> None:
    del photos
    expected = open_labels(write(BODY))
    lines = [line.replace(",", delimiter) for line in ["Path, LABEL ", *BODY]]
    # Excel ends a table with empty rows and cells.
    text = end.join([*lines, delimiter, ""])
    Path("labels.csv").write_bytes(bom + text.encode())
    found = open_labels()
    assert read_back(found) == read_back(expected)
    assert found.digest() == expected.digest()


def test_parquet_is_read_too(photos: Path) -> None:
    del photos
    frame = pd.DataFrame({"path": PATHS, "label": pd.Categorical([10, 9] * 6), "split": SPLITS})
    frame.to_parquet("labels.parquet")
    source = open_labels("labels.parquet")
    assert source.classes == ("9", "10")
    assert read_back(source)["x/0.png"] == ("10", "train", None, None)


def test_paths_may_be_absolute_or_have_back_slashes(photos: Path) -> None:
    lines = [str(photos / line) for line in BODY[:6]]
    lines += [line.replace("/", "\\") for line in BODY[6:]]
    assert set(read_back(open_labels(write(lines)))) == set(PATHS)


def test_names_are_compared_in_one_unicode_form(photos: Path) -> None:
    name, label = "é.png", "forêt"
    save(photos / unicodedata.normalize("NFD", name), 50)
    lines = [*BODY, f"{name},{label}", f"more.png,{unicodedata.normalize('NFD', label)}"]
    source = open_labels(write(lines))
    assert source.classes == ("forest", "forêt", "water")
    assert unicodedata.normalize("NFD", name) in read_back(source)


def test_two_files_that_differ_in_their_form_only_are_not_confused(photos: Path) -> None:
    for form in ("NFC", "NFD"):
        save(photos / unicodedata.normalize(form, "é.png"), 50)
    lines = [*BODY, *(f"{unicodedata.normalize(form, 'é.png')},water" for form in ("NFC", "NFD"))]
    assert len(read_back(open_labels(write(lines)))) == 14


def test_a_link_to_the_root_is_the_root(photos: Path) -> None:
    Path("link").symlink_to(photos)
    absolute = Path("link").absolute()
    lines = [f"{absolute}/{line}" for line in BODY]
    assert set(read_back(open_labels(write(lines), root="link"))) == set(PATHS)


@pytest.mark.parametrize(
    ("header", "prefix", "note"),
    [
        (",path,label", "7,", "not used: one without a name."),
        ("Unnamed: 0,path,label", "7,", "not used: 'unnamed: 0'."),
        ("lat,path,label", "7,", "not used: 'lat'."),
    ],
)
def test_other_columns_are_named_in_a_note(
    photos: Path, header: str, prefix: str, note: str
) -> None:
    del photos
    source = open_labels(write([prefix + line for line in BODY], header))
    assert any(note in item for item in source.notes)


def test_trailing_commas_are_no_columns(photos: Path) -> None:
    del photos
    assert len(read_back(open_labels(write([f"{line},," for line in BODY])))) == 12


def test_a_repeated_row_counts_once(photos: Path) -> None:
    del photos
    source = open_labels(write([*BODY, BODY[0]]))
    assert len(read_back(source)) == 12
    assert "Rows of the table of labels that repeat another one: 1." in source.notes


def test_classes_that_look_alike_are_noted(photos: Path) -> None:
    del photos
    notes = open_labels(write([*BODY, "more.png,Water"])).notes
    assert "Classes whose names differ in case or spaces only: 'Water', 'water'." in notes


def test_a_splits_csv_in_the_root_is_not_read(photos: Path) -> None:
    (photos / "splits.csv").write_text("path,split\nnonsense,\n")
    notes = open_labels(write(BODY)).notes
    assert "splits.csv is not read, because [dataset] labels is set." in notes


def test_the_table_may_lie_in_the_root_without_a_note(photos: Path) -> None:
    Path(write(BODY)).rename(photos / "labels.csv")
    assert not any("hidden or not PNG" in note for note in open_labels("photos/labels.csv").notes)


# --- splits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Train", "VAL", "test"), ("training", "validation", "testing"), ("train", "dev", "Holdout")],
)
def test_the_usual_words_for_splits(photos: Path, train: str, val: str, test: str) -> None:
    del photos
    words = [train] * 8 + [val] * 2 + [test] * 2
    source = open_labels(write(with_column(words), "path,label,split"))
    assert [item[1] for item in read_back(source).values()] == SPLITS


def test_regions_decide_where_they_are_named(photos: Path) -> None:
    del photos
    source = open_labels(
        write(with_column(REGIONS), "path,label,region"),
        val_regions=["south"],
        test_regions=["west"],
    )
    split_of = {"north": "train", "south": "val", "west": "test"}
    assert all(item[1] == split_of[str(item[3])] for item in read_back(source).values())
    assert not any("random" in note for note in source.notes)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_random_split_keeps_scenes_and_identical_images_together(photos: Path, seed: int) -> None:
    # The last image of s0 is the first of s1: both scenes must be in one split.
    (photos / "x/2.png").write_bytes((photos / "x/1.png").read_bytes())
    source = open_labels(write(with_column(SCENES), "path,label,scene"), seed=seed)
    splits_of: dict[str | None, set[str]] = {}
    for _, split, scene, _ in read_back(source).values():
        splits_of.setdefault(scene, set()).add(split)
    assert all(len(found) == 1 for found in splits_of.values())
    assert splits_of["s0"] == splits_of["s1"]
    assert set.union(*splits_of.values()) == {"train", "val", "test"}
    assert any(f"random by scene (seed {seed})" in note for note in source.notes)


# --- identity ------------------------------------------------------------------------------


def test_the_digest_is_of_the_content_not_of_the_path_or_order(photos: Path) -> None:
    del photos
    lines = with_column(SPLITS)
    before = open_labels(write(lines, "path,label,split")).digest()
    Path("labels.csv").rename("moved.csv")
    assert open_labels("moved.csv").digest() == before
    assert open_labels(write(lines[::-1], "path,label,split")).digest() == before
    changed = [lines[0].replace("forest", "water"), *lines[1:]]
    assert open_labels(write(changed, "path,label,split")).digest() != before
    moved = [lines[0], lines[1].replace("train", "val"), *lines[2:]]
    assert open_labels(write(moved, "path,label,split")).digest() != before


def test_a_folder_whose_classes_have_another_order_has_another_digest(photos: Path) -> None:
    for number, path in enumerate(PATHS):
        save(photos.parent / f"plain/{('10', '9')[number % 2]}/{path.replace('/', '-')}", number)
    root = photos.parent / "plain"
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    content = {"name": "folder", "root": "plain", "patch_size": 8}
    by_folder = open_folder(DatasetConfig.model_validate(content))
    by_table = open_labels(write([f"{path},{path.split('/')[0]}" for path in paths]), root="plain")
    assert by_folder.classes == ("10", "9")
    assert by_table.classes == ("9", "10")
    # Both have the same rows, but their labels are other numbers.
    assert by_folder.digest() != by_table.digest()


def test_fingerprints_of_folders_without_a_table_have_no_new_key() -> None:
    entry = DATASETS.get("folder")
    assert entry.settings == {"val_fraction", "test_fraction", "bands", "value_range"}
    assert entry.digested == {"labels", "class_level"}
    assert entry.beside_labels == {"val_regions", "test_regions"}


def test_regions_apply_beside_labels_only() -> None:
    dataset = {"name": "folder", "root": "photos", "val_regions": ["a"], "test_regions": ["b"]}
    content = {"name": "x", "backbones": ["mean_color"], "dataset": dataset}
    with pytest.raises(UsageError, match="'folder' without 'labels'; remove it"):
        check_names(build(content))
    check_names(build({**content, "dataset": {**dataset, "labels": "labels.csv"}}))


# --- mistakes ------------------------------------------------------------------------------

SPLIT_HEADER = "path,label,split"


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        ("path,lable", BODY, r": unknown column 'lable'\. Did you mean 'label'\?"),
        ("path,label,splits", with_column(SPLITS), r": unknown column 'splits'\. Did you mean"),
        ("path,class", BODY, r": the column 'label' is missing .* it has \['path', 'class'\]"),
        ("path,path", BODY, ": the column 'path' appears twice"),
        ("path,label", [*BODY, "more.png,"], " line 14: 'more.png' has no label"),
        ("path,label", [*BODY, ",water"], " line 14: the path is empty"),
        ("path,label", [*BODY, "no.png,water"], " line 14: 'no.png' does not exist; correct"),
        ("path,label", [*BODY, f"{'n' * 300}.png,water"], " line 14: 'nnn.*does not exist"),
        ("path,label", [*BODY, "../out.png,water"], r" line 14: '../out.png' is outside the root"),
        ("path,label", [*BODY, "/etc/x.png,water"], " line 14: '/etc/x.png' is outside the root"),
        ("path,label", [*BODY, "x/0.png,water"], " line 14: .* 'water', and 'forest' on line 2"),
        ("path,label", [*BODY, "more.png,a,b"], " line 14: more cells than the 2 columns"),
        ("path,label", [*BODY, f"more.png,{'n' * 201}"], " line 14: the label .* 201 characters"),
        ("path,label", [*BODY, 'more.png,"a\nb"'], r" line 15: the label .* control character"),
        ("path,label", [*BODY, '"more.png,a', "b,c"], " line 15: .* does not exist"),
        ("path,label", [], ": names no images; write one row per image"),
        ("path,label", ["", ",", ""], ": names no images; write one row per image"),
        ("path,label", [f"{path},a" for path in PATHS], ": there is only one class, 'a'; add im"),
        (SPLIT_HEADER, with_column(["train"] * 11 + ["eval"]), " line 13: unknown split 'eval'"),
        (SPLIT_HEADER, with_column(["train"] * 11 + [""]), " line 13: .* has no split; fill"),
        (SPLIT_HEADER, with_column(["train"] * 8 + ["test"] * 4), ": there are no val images"),
        ("path,label,scene", with_column([*SCENES[:11], ""]), " line 13: .* has no scene; fill"),
        ("path,label,scene", with_column(["s1"] * 6 + ["s2"] * 6), ": .* scenes needs three scen"),
        (
            "path,label,split,scene",
            [f"{line},s" for line in with_column(SPLITS)],
            r": scene 's' is in train \(line 2\) and in val \(line 10\)",
        ),
    ],
)
def test_each_mistake_in_a_table_is_one_line(
    photos: Path, header: str, lines: list[str], message: str
) -> None:
    del photos
    with pytest.raises(UsageError, match=rf"^\[dataset\] labels = 'labels.csv'{message}") as error:
        open_labels(write(lines, header))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "values", "settings", "message"),
    [
        ("region", REGIONS, {"val_regions": ["south"]}, "'test_regions' is missing; set both"),
        (
            "region",
            REGIONS,
            {"val_regions": ["south"], "test_regions": ["wst"]},
            r"region 'wst' of \[dataset\] test_regions\. Did you mean 'west'\?",
        ),
        (
            "region",
            [*REGIONS[:11], ""],
            {"val_regions": ["south"], "test_regions": ["west"]},
            "line 13: no region; fill it",
        ),
        (
            "scene",
            SCENES,
            {"val_regions": ["south"], "test_regions": ["west"]},
            "no image has a region; give",
        ),
        (
            "split",
            SPLITS,
            {"val_regions": ["south"], "test_regions": ["west"]},
            "have splits, and .* val_regions is set; remove one",
        ),
        ("region", REGIONS, {"val_fraction": 0.6, "test_fraction": 0.6}, "leave nothing for train"),
    ],
)
def test_regions_and_splits_that_contradict_the_settings(
    photos: Path, header: str, values: list[str], settings: dict[str, Any], message: str
) -> None:
    del photos
    with pytest.raises(UsageError, match=message):
        open_labels(write(with_column(values), f"path,label,{header}"), **settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the column 'path' is missing from the first line; it is empty"),
        ("path,label\né.png,a".encode("latin-1"), "UTF-8 CSV: byte 0xe9 in line 2"),
        ("path,label\nx,y".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (b"path,label\nx\0,y", "line 2: contains a NUL byte"),
        (b"x" * 10**6, "line 1: has more than 65,536 bytes"),
        (b"path,label\n" + b"x" * 5000 + b",y", "line 2: 'path' has 5,000 characters"),
        (b"PAR1 and no more", "is a damaged Parquet file"),
    ],
    ids=["empty", "latin-1", "utf-16", "nul", "no line end", "long cell", "parquet"],
)
def test_what_is_no_table_is_one_line(photos: Path, content: bytes, message: str) -> None:
    del photos
    Path("labels.csv").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        open_labels()


def test_a_table_that_is_too_large_is_not_read(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del photos
    monkeypatch.setattr(table_rows, "MAX_TABLE_BYTES", 2**20)
    Path("labels.csv").write_bytes(b"path,label\n" + b"x,y\n" * 2**19)
    with pytest.raises(UsageError, match="cannot be read: it is larger than 1 MiB"):
        open_labels()


def test_parquet_with_a_column_that_is_no_text(photos: Path) -> None:
    del photos
    buffer = io.BytesIO()
    pd.DataFrame({"path": PATHS, "label": [[1]] * 12}).to_parquet(buffer)
    Path("labels.parquet").write_bytes(buffer.getvalue())
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        open_labels("labels.parquet")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("none.csv", "cannot be read: No such file"),
        ("photos", "it is a directory; give the path of a file"),
        ("/dev/zero", "it is a device; give the path of a regular file"),
        ("x.csv", "lies in the root: write the path from the current folder, 'photos/x.csv'"),
    ],
)
def test_a_path_that_leads_to_no_table(photos: Path, labels: str, message: str) -> None:
    (photos / "x.csv").write_text("path,label\n")
    with pytest.raises(UsageError, match=message):
        open_labels(labels)
