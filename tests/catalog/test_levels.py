"""Folders and tables of splits as users have them: levels, links, names, thumbnails."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.catalog.folder.source import FolderSource, open_folder
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError

FAULTS = Path(__file__).resolve().parents[3] / "shared/faults"
NFC, NFD = (unicodedata.normalize(form, "Forêt") for form in ("NFC", "NFD"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def open_at(root: Path, **settings: Any) -> FolderSource:
    return open_folder(
        DatasetConfig.model_validate(
            {"name": "folder", "root": str(root), "patch_size": 8, **settings}
        )
    )


def fill(root: Path, folders: list[str], count: int = 3) -> Path:
    for place, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rng = np.random.default_rng(100 * place + number)
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


def split_of(source: FolderSource) -> dict[str, str]:
    table = source.candidates.to_pydict()
    return dict(zip(table["patch_id"], table["split"], strict=True))


# --- levels --------------------------------------------------------------------------------


def test_training_dev_and_testing_are_splits(tmp_path: Path) -> None:
    tops = ("Training", "dev", "testing")
    source = open_at(fill(tmp_path, [f"{top}/{name}" for top in tops for name in "ab"]))
    assert source.classes == ("a", "b")
    found = split_of(source)
    assert [found[f"{top}/a/0.png"] for top in tops] == ["train", "val", "test"]


def test_training_and_testing_alone_lack_val(tmp_path: Path) -> None:
    fill(tmp_path, [f"{top}/{name}" for top in ("training", "testing") for name in "ab"])
    with pytest.raises(UsageError, match=r"there are no val images; .* or write a splits.csv"):
        open_at(tmp_path)


def test_a_level_that_repeats_is_asked_about(tmp_path: Path) -> None:
    fill(tmp_path, [f"{top}/{name}" for top in ("MS", "RGB") for name in "abc"][:-1])
    message = (
        r"each of 2 folders \(e.g. 'MS' and 'RGB'\) holds the same 2 folders \(e.g. 'a' and 'b'\)"
        r".* class_level = 1 for 'MS' and 'RGB', or 2 for 'a' and 'b'"
    )
    with pytest.raises(UsageError, match=message):
        open_at(tmp_path)
    first = open_at(tmp_path, class_level=1)
    assert first.classes == ("MS", "RGB")
    second = open_at(tmp_path, class_level=2)
    assert second.classes == ("a", "b", "c")
    assert any("above the classes, not used: MS, RGB;" in note for note in second.notes)
    assert first.digest() != second.digest()


def test_a_level_below_splits_may_be_chosen(tmp_path: Path) -> None:
    tops = ("train", "val", "test")
    fill(tmp_path, [f"{top}/{sub}/{name}" for top in tops for sub in "xy" for name in "ab"], 1)
    with pytest.raises(UsageError, match=r"class_level = 2 for 'x' and 'y', or 3 for 'a' and 'b'"):
        open_at(tmp_path)
    source = open_at(tmp_path, class_level=3)
    assert source.classes == ("a", "b")
    assert split_of(source)["val/y/a/0.png"] == "val"
    with pytest.raises(UsageError, match=r"class_level = 4, but 'test/x/a/0.png' has 3 folders"):
        open_at(tmp_path, class_level=4)


@pytest.mark.parametrize(
    "folders",
    [
        ["forest/2019", "urban/2020"],
        ["forest/images", "urban/images"],
        ["forest/2019", "forest/2020", "urban/2019", "urban/2020", "urban"],
    ],
)
def test_other_folders_below_classes_are_no_question(tmp_path: Path, folders: list[str]) -> None:
    assert open_at(fill(tmp_path, folders)).classes == ("forest", "urban")


def test_class_level_and_labels_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="class_level is for classes that are folders, but"):
        open_at(fill(tmp_path, ["a", "b"]), labels="labels.csv", class_level=1)


# --- thumbnails and links ------------------------------------------------------------------


def test_folders_of_thumbnails_are_no_classes(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b", "@eaDir", "b/@eaDir", "__MACOSX/a", "#recycle"])
    source = open_at(tmp_path)
    assert source.classes == ("a", "b")
    assert source.candidates.num_rows == 6
    assert any("Folders of thumbnails or of the system, left out: 4" in n for n in source.notes)


def test_linked_classes_are_said_to_be_links(tmp_path: Path) -> None:
    fill(tmp_path / "real", ["a", "b"])
    (tmp_path / "links").mkdir()
    for name in "ab":
        (tmp_path / "links" / name).symlink_to(tmp_path / "real" / name)
    message = r"besides 2 linked folders, which are not followed, e.g. 'a' to '.*/real/a'; set root"
    with pytest.raises(UsageError, match=message):
        open_at(tmp_path / "links")


# --- names ---------------------------------------------------------------------------------


def test_classes_in_two_unicode_forms_are_one(tmp_path: Path) -> None:
    tops = (("train", NFC), ("val", NFD), ("test", NFD))
    fill(tmp_path, [f"{top}/{name}" for top, form in tops for name in (form, "b")])
    source = open_at(tmp_path)
    assert source.classes == (NFC, "b")
    counts = Counter(source.candidates["label"].to_pylist())
    assert counts == {0: 9, 1: 9}


def test_a_class_in_one_form_keeps_its_name(tmp_path: Path) -> None:
    """Stores of earlier versions have it in their digests."""
    assert open_at(fill(tmp_path, [NFD, "b"])).classes == (NFD, "b")


def test_classes_that_differ_in_case_are_named(tmp_path: Path) -> None:
    tops = (("train", "Forest"), ("val", "forest"), ("test", "forest"))
    fill(tmp_path / "one", [f"{top}/{name}" for top, form in tops for name in (form, "b")])
    with pytest.raises(UsageError, match=r"'forest' has no train images.*the class 'Forest'"):
        open_at(tmp_path / "one")
    source = open_at(fill(tmp_path / "two", ["Forest", "forest", "b"]))
    assert any("differ in case or spaces only: 'Forest', 'forest'" in n for n in source.notes)


def test_long_names_of_classes_are_kept_and_line_breaks_refused(tmp_path: Path) -> None:
    long = 120 * "x"
    assert open_at(fill(tmp_path, ["a", long])).classes == ("a", long)
    fill(tmp_path, ["two\nlines"])
    with pytest.raises(UsageError, match=r"folder 'two\\nlines' of .* control character '\\n'"):
        open_at(tmp_path)


# --- tables --------------------------------------------------------------------------------

ROWS = [
    (f"{name}/{number}.png", split)
    for name in "ab"
    for number, split in enumerate(("train", "dev", "testing"))
]


@pytest.mark.parametrize(
    "text",
    [
        "path;split\n" + "".join(f"{path};{split}\n" for path, split in ROWS),
        "path\tsplit\n" + "".join(f"{path}\t{split}\n" for path, split in ROWS),
        "path,split\n" + "".join(f"{path},{split}\n".replace("/", "\\") for path, split in ROWS),
        ",path,split\n" + "".join(f"{n},{path},{split}\n" for n, (path, split) in enumerate(ROWS)),
        "path,split\r\n" + "".join(f"{path},{split}\r\n" for path, split in ROWS) + ",\r\n,\r\n",
        "path,split\n" + "".join(f"{path},{split},,\n" for path, split in ROWS),
        "path,split\r" + "".join(f"{path},{split}\r" for path, split in ROWS),
    ],
    ids=["semicolon", "tab", "windows", "index", "empty rows", "trailing commas", "old mac"],
)
def test_tables_of_splits_as_tools_write_them(tmp_path: Path, text: str) -> None:
    fill(tmp_path, ["a", "b"])
    (tmp_path / "splits.csv").write_bytes(text.encode())
    found = split_of(open_at(tmp_path))
    assert [found[path] for path, _ in ROWS] == 2 * ["train", "val", "test"]


def test_a_table_names_images_in_another_unicode_form(tmp_path: Path) -> None:
    fill(tmp_path, [NFD, "b"])
    lines = [(path.replace("a/", f"{NFC}/"), split) for path, split in ROWS]
    text = "path,split\n" + "".join(f"{path},{split}\n" for path, split in lines)
    (tmp_path / "splits.csv").write_text(text, encoding="utf-8")
    assert split_of(open_at(tmp_path))[f"{NFD}/1.png"] == "val"


# --- the inputs beside the project ---------------------------------------------------------

READ = r"\('a', 'b'\)"


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not FAULTS.is_dir():
        pytest.skip(f"{FAULTS} is absent")
    root = tmp_path_factory.mktemp("faults")
    subprocess.run([sys.executable, FAULTS / "splits.py", root], check=True)
    return root


@pytest.mark.parametrize(
    ("case", "result"),
    [
        ("bom", READ),
        ("semicolon", READ),
        ("tab", READ),
        ("winpath", READ),
        ("crlf_trailing", READ),
        ("pandas_index", READ),
        ("cr_only", READ),
        ("dev_split", READ),
        ("nfc_nfd_csv", "'b'"),
        ("nfc_nfd_levels", "'b'"),
        ("root_link", READ),
        ("links_files", f"{READ}.*Links to files outside the folder: 12"),
        ("mac_zip", f"{READ}.*thumbnails or of the system, left out: 2"),
        ("utf16", "it is UTF-16; save it as UTF-8"),
        ("label_column", "unknown column 'label'"),
        ("nan_scene", "scene 'nan' is in train"),
        ("comment", "column 'path' is missing from the first line"),
        ("abs_prefix", "line 2: 'images/a/0.png' does not exist"),
        ("case_levels", "the class 'Forest'"),
        ("training_testing", "there are no val images"),
        ("two_products", "class_level = 1 for 'MS' and 'RGB', or 2 for 'a' and 'b'"),
        ("no_val", "there are no val images"),
        ("kaggle", "images lie directly in 'test'"),
        ("links_folders", "besides 2 linked folders, which are not followed"),
    ],
)
def test_every_case_of_the_faults(case: str, result: str, faults: Path) -> None:
    try:
        source = open_at(faults / case)
        text = f"{source.classes} {' '.join(source.notes)}"
    except UsageError as error:
        text = str(error)
    assert re.search(result, text), text


def test_classes_of_a_few_images_and_of_one_colour_are_said(tmp_path: Path) -> None:
    if not FAULTS.is_dir():
        pytest.skip(f"{FAULTS} is absent")
    subprocess.run([sys.executable, FAULTS / "tiny.py", tmp_path], check=True)
    source = open_at(tmp_path)
    assert source.classes == ("flat", "other", "single", "three")
    assert split_of(source)["single/0.png"] == "train"
    assert {"Classes without val images: single.", "Classes without test images: single."} <= {
        *source.notes
    }
    images = source.read(source.candidates)
    assert not images.problems
    colours = [item.reshape(3, -1) for item in images.pixels[:4]]
    assert [np.unique(item).tolist() for item in colours] == [[20], [70], [120], [170]]
