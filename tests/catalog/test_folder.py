"""A folder of labelled images: layouts, splits, duplicates, pixel types, bands and damage."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp

from benchmark.catalog.folder import decoding
from benchmark.catalog.folder.bandnames import band_names
from benchmark.catalog.folder.decoding import ImageError, decode
from benchmark.catalog.folder.images import crop_and_resize, scale_pixels
from benchmark.catalog.folder.listed import UNIT_SIZE
from benchmark.catalog.folder.source import FolderSource, open_folder
from benchmark.config import DatasetConfig
from benchmark.drawing import Group, draw_splits
from benchmark.errors import UsageError
from benchmark.specs import Images, Source
from benchmark.tables import CANDIDATES, check_table

UCMERCED = Path(__file__).resolve().parents[2].parent / "shared/data/ucmerced-mini"

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning:rasterio")


@pytest.fixture(autouse=True)
def _own_digest_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def config(root: Path | str, **settings: Any) -> DatasetConfig:
    return DatasetConfig.model_validate(
        {"name": "folder", "root": str(root), "patch_size": 8, **settings}
    )


def noise(seed: int, shape: tuple[int, ...] = (8, 8, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_tiff(
    path: Path,
    pixels: NDArray[Any],
    *,
    descriptions: tuple[str, ...] | None = None,
    colors: tuple[ColorInterp, ...] | None = None,
    palette: dict[int, tuple[int, int, int, int]] | None = None,
    driver: str = "GTiff",
    **options: Any,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver=driver,
        count=count,
        height=height,
        width=width,
        dtype=pixels.dtype.name,
        **options,
    ) as dataset:
        dataset.write(pixels)
        if descriptions:
            dataset.descriptions = descriptions
        if colors:
            dataset.colorinterp = colors
        if palette:
            dataset.write_colormap(1, palette)
    return path


def fill(root: Path, counts: dict[str, int], *, seed: int = 0) -> Path:
    """Write so many different PNG images into each folder."""
    for place, (folder, count) in enumerate(counts.items()):
        for number in range(count):
            save_png(root / folder / f"{number:03d}.png", noise(seed + 1000 * place + number))
    return root


def candidates(source: FolderSource) -> pa.Table:
    return pa.concat_tables([source.find(unit).candidates for unit in source.units()])


def splits(source: FolderSource) -> dict[str, str]:
    table = source.candidates
    return dict(zip(table["patch_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def classes_and_splits(source: FolderSource) -> list[tuple[str, str]]:
    """Return class and split of each image."""
    labels = source.candidates["label"].to_pylist()
    names = [source.classes[label] for label in labels]
    return list(zip(names, source.candidates["split"].to_pylist(), strict=True))


def read_one(source: FolderSource, path: str) -> Images:
    table = candidates(source)
    row = table["patch_id"].to_pylist().index(path)
    return source.read(table.slice(row, 1))


# --- layouts -------------------------------------------------------------------------------


def test_class_folders_become_a_source(tmp_path: Path) -> None:
    fill(tmp_path, {"Forest": 5, "beach": 6, "crop": 7})
    source: Source = open_folder(config(tmp_path))
    assert source.classes == ("Forest", "beach", "crop")
    assert source.bands == ("red", "green", "blue")
    assert source.is_synthetic is False
    assert source.units() == ["00000"]
    found = source.find("00000")
    assert found.num_examined == 18
    assert found.problems == ()
    table = check_table(found.candidates, CANDIDATES, what="folder")
    assert table["patch_id"].to_pylist() == sorted(table["patch_id"].to_pylist())
    for row in table.to_pylist():
        assert source.classes[row["label"]] == row["patch_id"].split("/")[0]
        assert row["purity"] == 1.0
        for name in ("scene", "region", "row", "col", "lon", "lat"):
            assert row[name] is None
    images = source.read(table)
    assert images.pixels.shape == (18, 3, 8, 8)
    assert images.pixels.dtype == np.uint8
    assert images.rows.tolist() == list(range(18))
    np.testing.assert_array_equal(images.pixels[0], noise(0).transpose(2, 0, 1))


def test_rows_are_read_in_the_order_given(tmp_path: Path) -> None:
    source = open_folder(config(fill(tmp_path, {"a": 4, "b": 4})))
    table = candidates(source)
    whole = source.read(table).pixels
    order = [5, 0, 3]
    np.testing.assert_array_equal(source.read(table.take(order)).pixels, whole[order])
    nothing = source.read(table.slice(0, 0))
    assert nothing.pixels.shape == (0, 3, 8, 8)
    assert nothing.rows.shape == (0,)


def test_source_pickles_and_does_not_depend_on_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "data", {"a": 3, "b": 3})
    monkeypatch.chdir(tmp_path)
    source = open_folder(config("data"))
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    monkeypatch.chdir("/")
    assert copy.read(candidates(copy)).pixels.shape == (6, 3, 8, 8)


def test_units_cover_every_image_once(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 150, "b": 150})
    source = open_folder(config(tmp_path))
    assert source.units() == ["00000", "00001"]
    sizes = [source.find(unit).num_examined for unit in source.units()]
    assert sizes == [UNIT_SIZE, 300 - UNIT_SIZE]
    check_table(candidates(source), CANDIDATES, what="folder")
    assert source.find("00001").candidates["patch_id"][-1].as_py() == "b/149.png"


def test_find_opens_no_file(tmp_path: Path) -> None:
    source = open_folder(config(fill(tmp_path, {"a": 3, "b": 3})))
    shutil.rmtree(tmp_path / "a")
    assert source.find("00000").num_examined == 6
    images = source.read(candidates(source))
    assert images.rows.tolist() == [3, 4, 5]
    assert len(images.problems) == 3
    assert "No such file" in images.problems[0].reason


def test_suffixes_in_any_case_and_nested_folders(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b/2020/north": 3})
    Image.fromarray(noise(7)).save(tmp_path / "a" / "x.JPeG")
    Image.fromarray(noise(8)).save(tmp_path / "b" / "x.JPG")
    save_tiff(tmp_path / "b" / "deep" / "er" / "x.TIF", noise(9).transpose(2, 0, 1))
    source = open_folder(config(tmp_path))
    assert source.classes == ("a", "b")
    paths = candidates(source)["patch_id"].to_pylist()
    assert {"a/x.JPeG", "b/x.JPG", "b/deep/er/x.TIF", "b/2020/north/000.png"} < set(paths)
    assert source.read(candidates(source)).problems == ()


def test_other_files_are_ignored_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3, "__old/.cache": 1})
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "a" / ".hidden.png").write_bytes(b"")
    (tmp_path / "b" / "x.png.aux.xml").write_text("<x/>")
    source = open_folder(config(tmp_path))
    assert candidates(source).num_rows == 6
    note = next(note for note in source.notes if "ignored" in note)
    assert ": 3, e.g. 'README.md'" in note
    assert any(note.endswith("not used as class: __old.") for note in source.notes)


def test_linked_folders_are_named_and_not_followed(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "b" / "000.png")
    source = open_folder(config(tmp_path))
    assert candidates(source).num_rows == 7
    assert any("not followed: 1, e.g. 'a/loop'" in note for note in source.notes)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    fill(tmp_path, {f"{top}/{name}": 2 for top in ("train", val, "TEST") for name in "ab"})
    source = open_folder(config(tmp_path))
    assert source.classes == ("a", "b")
    found = splits(source)
    assert found["train/a/000.png"] == "train"
    assert found[f"{val}/b/001.png"] == "val"
    assert found["TEST/a/000.png"] == "test"
    assert source.notes == ()


def test_two_folders_of_one_split_are_ambiguous(tmp_path: Path) -> None:
    fill(tmp_path, {f"{top}/{name}": 1 for top in ("train", "val", "valid") for name in "ab"})
    with pytest.raises(UsageError, match="'val' and 'valid' both mean val; keep one"):
        open_folder(config(tmp_path))


def test_split_folder_beside_a_class_is_ambiguous(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 2, "train/b": 2, "extra": 2})
    with pytest.raises(UsageError, match="split folder 'train' lies beside 'extra'; put"):
        open_folder(config(tmp_path))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    source = open_folder(config(fill(tmp_path, {"bus": 4, "train": 4})))
    assert source.classes == ("bus", "train")


def test_images_in_a_split_folder_without_class(tmp_path: Path) -> None:
    fill(tmp_path, {"train": 2, "test": 2})
    with pytest.raises(UsageError, match="lie directly in 'test'; put them into one folder per"):
        open_folder(config(tmp_path))


def test_class_absent_from_train_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "test/a": 1, "test/marsh": 1})
    with pytest.raises(UsageError, match="class 'marsh' has no train images; add some"):
        open_folder(config(tmp_path))


def test_class_absent_from_val_or_test_is_noted(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 2, "train/b": 2, "train/c": 1, "val/a": 1, "test/a": 1, "test/b": 1})
    notes = open_folder(config(tmp_path)).notes
    assert notes == ("Classes without val images: b, c.", "Classes without test images: c.")


def test_a_split_without_images_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1})
    with pytest.raises(UsageError, match=r"there are no val images; .* add some to val"):
        open_folder(config(tmp_path))


def test_root_missing_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"root = '.*/nowhere': does not exist; name the folder"):
        open_folder(config(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder; name the folder"):
        open_folder(config(tmp_path / "file"))


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="holds no PNG, JPEG or TIFF images; put them"):
        open_folder(config(tmp_path))


def test_images_directly_in_the_root(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3, ".": 2})
    with pytest.raises(UsageError, match=r"2 images are not in a class folder, e.g. '000.png'"):
        open_folder(config(tmp_path))


def test_one_class_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only one class, 'forest'; add a folder with images"):
        open_folder(config(fill(tmp_path, {"forest": 5})))


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    name = os.fsencode(tmp_path / "a") + b"/caf\xe9.png"
    try:
        shutil.copy(os.fsencode(tmp_path / "a" / "000.png"), name)
    except OSError:
        pytest.skip("the file system refuses names that are not UTF-8")
    with pytest.raises(UsageError, match=r"'a/caf\\udce9.png' is not UTF-8; rename it"):
        open_folder(config(tmp_path))


# --- the random split ----------------------------------------------------------------------


def test_random_split_is_stratified_and_declared(tmp_path: Path) -> None:
    source = open_folder(config(fill(tmp_path, {"a": 40, "b": 10, "c": 3})))
    counts = Counter(classes_and_splits(source))
    assert [counts["a", split] for split in ("train", "val", "test")] == [24, 8, 8]
    assert [counts["b", split] for split in ("train", "val", "test")] == [6, 2, 2]
    assert [counts["c", split] for split in ("train", "val", "test")] == [1, 1, 1]
    (note,) = source.notes
    assert "random (seed 0)" in note
    assert "optimistic" in note


def test_random_split_follows_the_seed_and_not_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, {"a": 12, "b": 12})
    first = open_folder(config(tmp_path))
    walk = os.walk

    def backwards(*args: Any, **kwargs: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, names, files in walk(*args, **kwargs):
            names.reverse()
            yield folder, names, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    again = open_folder(config(tmp_path))
    assert again == first
    assert again.digest() == first.digest()
    other = open_folder(config(tmp_path, seed=1))
    assert splits(other) != splits(first)
    assert other.digest() != first.digest()


def test_random_split_is_the_same_for_ever(tmp_path: Path) -> None:
    """A changed draw would silently change every score, so it must be a deliberate step."""
    source = open_folder(config(fill(tmp_path, {"a": 5, "b": 4})))
    found = splits(source)
    assert [path for path in found if found[path] == "val"] == ["a/000.png", "b/001.png"]
    assert [path for path in found if found[path] == "test"] == ["a/001.png", "b/000.png"]


def test_small_classes_get_train_first(tmp_path: Path) -> None:
    source = open_folder(config(fill(tmp_path, {"a": 5, "one": 1, "two": 2})))
    counts = Counter(classes_and_splits(source))
    assert counts["one", "train"] == 1
    assert (counts["two", "train"], counts["two", "test"]) == (1, 1)
    assert "Classes without val images: one, two." in source.notes
    assert "Classes without test images: one." in source.notes


def test_fractions_that_leave_no_train(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 5, "b": 5})
    with pytest.raises(UsageError, match="leave nothing for train; make their sum less than 1"):
        open_folder(config(tmp_path, val_fraction=0.5, test_fraction=0.5))
    source = open_folder(config(tmp_path, val_fraction=0.45, test_fraction=0.5))
    counts = Counter(classes_and_splits(source))
    assert min(counts.values()) >= 1
    assert len(counts) == 6


def test_a_duplicate_stays_in_one_split(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 12, "b": 12})
    for number in range(12):
        shutil.copy(tmp_path / "a" / f"{number:03d}.png", tmp_path / "a" / f"copy{number}.png")
    for seed in range(10):
        source = open_folder(config(tmp_path, seed=seed))
        found = splits(source)
        for number in range(12):
            assert found[f"a/{number:03d}.png"] == found[f"a/copy{number}.png"]
        assert not any("identical" in note for note in source.notes)


def test_duplicates_with_different_labels_are_noted(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 6, "b": 6})
    shutil.copy(tmp_path / "a" / "003.png", tmp_path / "b" / "x.png")
    shutil.copy(tmp_path / "a" / "001.png", tmp_path / "b" / "y.png")
    source = open_folder(config(tmp_path))
    assert splits(source)["a/003.png"] == splits(source)["b/x.png"]
    notes = [note for note in source.notes if "identical" in note]
    assert notes == [
        "Groups of identical images with different labels: 2, e.g. 'a/001.png' and 'b/y.png'."
    ]


def test_duplicates_in_two_given_splits_are_noted(tmp_path: Path) -> None:
    fill(tmp_path, {f"{top}/{name}": 2 for top in ("train", "val", "test") for name in "ab"})
    shutil.copy(tmp_path / "train/a/000.png", tmp_path / "test/a/leak.png")
    (note,) = open_folder(config(tmp_path)).notes
    assert note == (
        "Groups of identical images in different splits: 1, e.g. 'test/a/leak.png' "
        "and 'train/a/000.png'."
    )


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=12), min_size=2, max_size=5),
    seed=st.integers(-5, 2**32),
    fractions=st.tuples(st.floats(0.01, 0.49), st.floats(0.01, 0.49)),
    shuffle=st.randoms(use_true_random=False),
)
def test_draw_keeps_its_promises(
    sizes: list[list[int]], seed: int, fractions: tuple[float, float], shuffle: Any
) -> None:
    groups = [
        Group(
            tuple(f"{label}/{number}_{copy}.png" for copy in range(size)),
            frozenset({str(label)}),
        )
        for label, own in enumerate(sizes)
        for number, size in enumerate(own)
    ]
    val, test = fractions
    found = draw_splits(groups, seed=seed, val_fraction=val, test_fraction=test)
    assert set(found) == {path for group in groups for path in group.paths}
    assert all(len({found[path] for path in group.paths}) == 1 for group in groups)
    for label, own in enumerate(sizes):
        present = {split for path, split in found.items() if path.startswith(f"{label}/")}
        assert "train" in present
        assert len(present) == min(3, len(own))
    shuffle.shuffle(groups)
    assert draw_splits(groups, seed=seed, val_fraction=val, test_fraction=test) == found


@example(labels=[{0, 2}, {0, 1}, {1, 2}], seed=0)
@settings(max_examples=150, deadline=None)
@given(
    labels=st.lists(st.sets(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=20),
    seed=st.integers(0, 1000),
)
def test_draw_with_conflicting_labels_leaves_no_class_without_train(
    labels: list[set[int]], seed: int
) -> None:
    groups = [
        Group(
            tuple(f"{label}/{number}.png" for label in sorted(own)),
            frozenset(str(label) for label in own),
        )
        for number, own in enumerate(labels)
    ]
    found = draw_splits(groups, seed=seed, val_fraction=0.2, test_fraction=0.2)
    assert set(found) == {path for group in groups for path in group.paths}
    for label in set().union(*labels):
        present = {split for path, split in found.items() if path.startswith(f"{label}/")}
        assert "train" in present


# --- splits.csv ----------------------------------------------------------------------------


def write_table(root: Path, lines: Iterable[str], *, header: str = "path,split") -> None:
    (root / "splits.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


ALL = [
    f"{name}/00{number}.png,{split}"
    for name in "ab"
    for number, split in enumerate(("train", "val", "test"))
]


def test_table_gives_splits_scenes_and_regions(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 3})
    rows = [f"{line},s_{line.split(',')[1]},{'west' if line < 'b' else ''}" for line in ALL]
    # As a spreadsheet writes it: a byte order mark, CRLF, capitals, an empty line.
    text = "\r\n".join(["Path, Split ,scene,region", *rows, "", ""])
    (tmp_path / "splits.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    source = open_folder(config(tmp_path))
    table = {row["patch_id"]: row for row in candidates(source).to_pylist()}
    assert set(table) == {line.split(",")[0] for line in ALL}
    assert table["a/001.png"]["split"] == "val"
    assert table["a/001.png"]["scene"] == "s_val"
    assert table["a/001.png"]["region"] == "west"
    assert table["b/002.png"]["split"] == "test"
    assert table["b/002.png"]["region"] is None
    assert source.notes == (
        "Images left out because splits.csv does not list them: 1, e.g. 'a/003.png'.",
    )


def test_table_above_split_folders_wins_and_classes_stay(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1, ".": 1})
    lines = ["train/a/000.png,train", "train/b/000.png,train", "train/a/001.png,valid"]
    lines += ["train/b/001.png,val", "./test/a/000.png,test", "test/b/000.png,test"]
    write_table(tmp_path, lines)
    source = open_folder(config(tmp_path))
    assert source.classes == ("a", "b")
    assert splits(source)["train/a/001.png"] == "val"


def test_duplicates_across_the_tables_splits_are_noted(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    shutil.copy(tmp_path / "a" / "000.png", tmp_path / "a" / "002.png")
    write_table(tmp_path, ALL)
    (note,) = open_folder(config(tmp_path)).notes
    assert "images in different splits: 1, e.g. 'a/000.png' and 'a/002.png'" in note


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (["a/009.png,train"], "path,split", r"line 8: 'a/009.png' does not exist; correct"),
        (["a/notes.txt,train"], "path,split", r"line 8: 'a/notes.txt' is hidden, in a linked"),
        (["../out.png,train"], "path,split", r"line 8: '../out.png' is outside the root; write"),
        (["a/../b/000.png,train"], "path,split", r"line 8: 'a/../b/000.png' is outside the root"),
        (["/etc/x.png,train"], "path,split", r"line 8: '/etc/x.png' is outside the root"),
        (["root.png,train"], "path,split", r"line 8: 'root.png' lies directly in the root; put"),
        (["a/000.png,test"], "path,split", r"line 8: 'a/000.png' is listed on line 2 too"),
        (["a/003.png,eval"], "path,split", r"line 8: unknown split 'eval'; write train, val or"),
        (["a/003.png"], "path,split", r"line 8: unknown split ''; write train, val or test"),
        (["a/003.png,val,x"], "path,split", r"line 8: more cells than the 2 columns"),
        ([], "path,split,scenes", r"unknown column 'scenes'. Did you mean 'scene'\?"),
        ([], "path,split,split", r"the column 'split' appears twice; remove"),
        ([], "split,region", r"the column 'path' is missing from the first line"),
    ],
)
def test_table_errors(tmp_path: Path, lines: list[str], header: str, message: str) -> None:
    root = tmp_path / "data"
    fill(root, {"a": 4, "b": 3})
    save_png(root / "root.png", noise(1))
    save_png(tmp_path / "out.png", noise(1))
    (root / "a" / "notes.txt").write_text("")
    write_table(root, [*ALL, *lines], header=header)
    with pytest.raises(UsageError, match=f"splits.csv:? {message}"):
        open_folder(config(root))


def test_table_without_rows_or_no_csv(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    write_table(tmp_path, [])
    with pytest.raises(UsageError, match=r"splits.csv: lists no images; write one row per image"):
        open_folder(config(tmp_path))
    (tmp_path / "splits.csv").write_bytes(b"")
    with pytest.raises(UsageError, match="column 'path' is missing"):
        open_folder(config(tmp_path))
    (tmp_path / "splits.csv").write_bytes("path,split\ncafé".encode("latin-1"))
    with pytest.raises(UsageError, match=r"splits.csv: cannot be read as UTF-8 CSV"):
        open_folder(config(tmp_path))


def test_scene_in_two_splits(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    lines = [f"{line},scene{number}" for number, line in enumerate(ALL)]
    lines[4] = f"{ALL[4]},scene0"
    write_table(tmp_path, lines, header="path,split,scene")
    message = r"scene 'scene0' is in train \(line 2\) and in val \(line 6\); put a scene"
    with pytest.raises(UsageError, match=message):
        open_folder(config(tmp_path))


def test_scene_missing_from_one_row(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    lines = [
        f"{line},{'x' + line.split(',')[1] if number else ''}" for number, line in enumerate(ALL)
    ]
    write_table(tmp_path, lines, header="path,split,scene")
    with pytest.raises(UsageError, match=r"line 2: 'a/000.png' has no scene; fill the column"):
        open_folder(config(tmp_path))


# --- the digest ----------------------------------------------------------------------------


def test_digest_covers_what_changes_the_patches(tmp_path: Path) -> None:
    root = fill(tmp_path / "one", {"a": 3, "b": 3})
    rows = [f"{line},s_{line.split(',')[1]},r" for line in ALL]
    write_table(root, rows, header="path,split,scene,region")
    digests = [open_folder(config(root)).digest()]
    moved = shutil.copytree(root, tmp_path / "two")
    assert open_folder(config(moved)).digest() == digests[0]

    def changed(label: str) -> None:
        digest = open_folder(config(root)).digest()
        assert digest not in digests, label
        digests.append(digest)

    write_table(root, [rows[0].replace(",r", ",q"), *rows[1:]], header="path,split,scene,region")
    changed("region")
    write_table(
        root, [row.replace("s_val", "other") for row in rows], header="path,split,scene,region"
    )
    changed("scene")
    swapped = [row.replace("a/001.png,val,s_val", "a/001.png,test,s_test") for row in rows]
    write_table(root, swapped, header="path,split,scene,region")
    changed("split")
    save_png(root / "a" / "000.png", noise(99))
    changed("content")
    (root / "b").rename(root / "c")
    write_table(
        root, [row.replace("b/", "c/") for row in swapped], header="path,split,scene,region"
    )
    changed("label")


# --- pixels --------------------------------------------------------------------------------


def with_first(root: Path) -> Path:
    """Fill a folder such that a file ``a/000.*`` written by the test comes first."""
    return fill(root, {"b": 3})


def open_images(root: Path, **settings: Any) -> FolderSource:
    """Open a folder to which the second class is added by copies of the first."""
    if not (root / "b").exists():
        shutil.copytree(root / "a", root / "b")
    images = sorted(path for name in "ab" for path in (root / name).iterdir())
    lines = []
    for folder in "ab":
        own = [path for path in images if path.parent.name == folder]
        names = ["train"] * (len(own) - 2) + ["val", "test"]
        lines += [f"{p.relative_to(root)},{s}" for p, s in zip(own, names, strict=True)]
    write_table(root, lines)
    return open_folder(config(root, **settings))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "RGB"])
def test_every_8_bit_png_becomes_rgb(tmp_path: Path, mode: str) -> None:
    with_first(tmp_path)
    image = Image.fromarray(noise(5)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(noise(6, (8, 8))))
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    (tmp_path / "a").mkdir()
    for number in range(3):
        image.save(tmp_path / "a" / f"00{number}.png")
    source = open_images(tmp_path)
    assert source.bands == ("red", "green", "blue")
    images = source.read(candidates(source))
    assert images.problems == ()
    np.testing.assert_array_equal(images.pixels[0], expected)


@pytest.mark.filterwarnings("error:Palette images with Transparency")
def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(noise(5)).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes([0, 10, 20]))
    found = decode(tmp_path / "x.png")
    assert found.has_alpha
    np.testing.assert_array_equal(
        found.pixels[:3], np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    )


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg")
    pixels = decode(tmp_path / "x.jpg").pixels
    assert pixels.shape == (3, 8, 8)
    assert pixels[0].min() > 200
    assert pixels[1:].max() < 60


@pytest.mark.parametrize(
    ("count", "bands"),
    [
        (1, ("red", "green", "blue")),
        (2, ("band_1", "band_2")),
        (3, ("red", "green", "blue")),
        (4, ("red", "green", "blue", "nir")),
        (5, ("band_1", "band_2", "band_3", "band_4", "band_5")),
    ],
)
def test_tiff_of_any_band_count(tmp_path: Path, count: int, bands: tuple[str, ...]) -> None:
    arrays = [noise(number, (count, 8, 8)) for number in range(3)]
    for number, pixels in enumerate(arrays):
        save_tiff(tmp_path / "a" / f"00{number}.tif", pixels, photometric="MINISBLACK", alpha="NO")
    source = open_images(tmp_path)
    assert source.bands == bands
    images = source.read(candidates(source))
    assert images.problems == ()
    assert images.pixels.shape == (6, len(bands), 8, 8)
    expected = arrays[0].repeat(3, axis=0) if count == 1 else arrays[0]
    np.testing.assert_array_equal(images.pixels[0], expected)


def test_band_names_from_the_file(tmp_path: Path) -> None:
    for number in range(3):
        save_tiff(
            tmp_path / "a" / f"{number}.tif",
            noise(number, (5, 8, 8)),
            descriptions=("Blue", "Green", "Red", "NIR", "SWIR1"),
        )
    assert open_images(tmp_path).bands == ("blue", "green", "red", "nir", "swir1")
    names = ("a", "b", "c", "d", "e")
    assert open_images(tmp_path, bands=names).bands == names


@pytest.mark.parametrize(
    ("descriptions", "bands"),
    [
        ((None, None, None), ("red", "green", "blue")),
        (("blue", "Green", "red"), ("blue", "green", "red")),
        (("nir", "red", "green"), ("red", "green", "blue")),
        (("blue", "green", "red", "nir"), ("blue", "green", "red", "nir")),
        (("vv", "vh"), ("vv", "vh")),
        (("vv", "VV "), ("band_1", "band_2")),
        (("vv", None), ("band_1", "band_2")),
    ],
)
def test_band_names(descriptions: tuple[str | None, ...], bands: tuple[str, ...]) -> None:
    assert band_names(descriptions) == bands


def test_bands_setting_must_match(tmp_path: Path) -> None:
    for number in range(3):
        save_tiff(tmp_path / "a" / f"{number}.tif", noise(number, (5, 8, 8)))
    with pytest.raises(UsageError, match=r"names 2, but 'a/0.tif' has 5 bands; name each band"):
        open_images(tmp_path, bands=("x", "y"))
    with pytest.raises(UsageError, match=r"names a band twice"):
        open_images(tmp_path, bands=("x", "x", "y", "z", "w"))


def test_one_band_may_keep_its_own_name(tmp_path: Path) -> None:
    for number in range(3):
        save_tiff(tmp_path / "a" / f"{number}.tif", noise(number, (1, 8, 8)))
    source = open_images(tmp_path, bands=("vv",))
    assert source.read(candidates(source)).pixels.shape == (6, 1, 8, 8)
    with pytest.raises(UsageError, match=r"names 2, but 'a/0.tif' has 1 band; name"):
        open_images(tmp_path, bands=("vv", "vh"))


def test_alpha_of_a_tiff_is_dropped_and_said(tmp_path: Path) -> None:
    """GDAL marks the fourth of four 8-bit bands as alpha, also where it is near infrared."""
    for number in range(3):
        save_tiff(tmp_path / "a" / f"{number}.tif", noise(number, (4, 8, 8)))
    source = open_images(tmp_path)
    assert source.bands == ("red", "green", "blue")
    np.testing.assert_array_equal(read_one(source, "a/0.tif").pixels[0], noise(0, (4, 8, 8))[:3])
    assert any("marked as alpha and left out (e.g. in 'a/0.tif')" in n for n in source.notes)
    kept = open_images(tmp_path, bands=("red", "green", "blue", "nir"))
    assert not any("alpha" in note for note in kept.notes)
    np.testing.assert_array_equal(read_one(kept, "a/0.tif").pixels[0], noise(0, (4, 8, 8)))


def test_palette_tiff_becomes_rgb(tmp_path: Path) -> None:
    index = noise(3, (1, 8, 8)) % 3
    palette = {0: (10, 20, 30, 255), 1: (200, 0, 0, 255), 2: (0, 0, 250, 255)}
    save_tiff(tmp_path / "x.tif", index, palette=palette)
    pixels = decode(tmp_path / "x.tif").pixels
    expected = np.array([palette[int(i)][:3] for i in index.ravel()], np.uint8)
    np.testing.assert_array_equal(pixels, expected.reshape(8, 8, 3).transpose(2, 0, 1))


def test_other_band_count_is_a_problem(tmp_path: Path) -> None:
    with_first(tmp_path)
    save_tiff(tmp_path / "a" / "000.tif", noise(0).transpose(2, 0, 1))
    save_tiff(tmp_path / "a" / "001.tif", noise(1, (5, 8, 8)))
    save_tiff(tmp_path / "a" / "002.tif", noise(2, (1, 8, 8)))
    source = open_images(tmp_path)
    images = source.read(candidates(source))
    assert images.rows.tolist() == [0, 3, 4, 5]
    assert images.pixels.shape == (4, 3, 8, 8)
    assert [problem.path for problem in images.problems] == [
        str(tmp_path / "a" / "001.tif"),
        str(tmp_path / "a" / "002.tif"),
    ]
    assert images.problems[0].reason == "has 5 bands, but the folder's first image has 3"
    assert images.problems[1].reason == "has 1 band, but the folder's first image has 3"


def test_uint16_needs_a_range(tmp_path: Path) -> None:
    pixels = np.linspace(34, 2871, 3 * 64).reshape(3, 8, 8).astype(np.uint16)
    for number in range(3):
        save_tiff(tmp_path / "a" / f"{number}.tif", pixels)
    with pytest.raises(
        UsageError,
        match=r"6 images hold uint16 pixels from 34 to 2871 \(e.g. 'a/0.tif'\), nodata left out; "
        r"set \[dataset\] value_range = \[34, 2871\], or a narrower one",
    ):
        open_images(tmp_path)
    source = open_images(tmp_path, value_range=(34.0, 2871.0))
    patch = source.read(candidates(source)).pixels[0]
    expected = np.rint((pixels.astype(float) - 34) / (2871 - 34) * 255)
    np.testing.assert_array_equal(patch, expected)
    clipped = open_images(tmp_path, value_range=[1000, 2000])
    patch = clipped.read(candidates(clipped)).pixels[0]
    assert (patch[pixels <= 1000] == 0).all()
    assert (patch[pixels >= 2000] == 255).all()


def test_float32_with_nan_and_infinity() -> None:
    pixels = np.array([[[math.nan, -math.inf, math.inf, -2.0, 0.5, 1.0]]], np.float32)
    assert scale_pixels(pixels, (0.0, 1.0)).tolist() == [[[0, 0, 255, 0, 128, 255]]]


def test_range_is_observed_without_nan(tmp_path: Path) -> None:
    pixels = np.full((3, 8, 8), 0.25, np.float32)
    pixels[0, 0] = math.nan
    for number in range(3):
        save_tiff(tmp_path / "a" / f"{number}.tif", pixels)
    with pytest.raises(UsageError, match=r"float32 pixels .* value_range = \[0.25, 1.25\]"):
        open_images(tmp_path)


@pytest.mark.parametrize("value_range", [(5.0, 5.0), (9.0, 1.0)])
def test_value_range_must_be_a_range(tmp_path: Path, value_range: tuple[float, float]) -> None:
    fill(tmp_path, {"a": 3})
    with pytest.raises(UsageError, match=r"is not a range; write \[low, high\] with low < high"):
        open_images(tmp_path, value_range=value_range)


def test_value_range_leaves_uint8_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3})
    source = open_images(tmp_path, value_range=(0.0, 10.0))
    np.testing.assert_array_equal(
        source.read(candidates(source)).pixels[0], noise(0).transpose(2, 0, 1)
    )
    assert any("value_range does not apply" in note for note in source.notes)


def test_uint16_among_uint8_is_a_problem(tmp_path: Path) -> None:
    with_first(tmp_path)
    for number in range(2):
        save_png(tmp_path / "a" / f"00{number}.png", noise(number))
    save_tiff(tmp_path / "a" / "002.tif", np.full((3, 8, 8), 700, np.uint16))
    with pytest.raises(UsageError, match=r"5 of uint8 .*1 of uint16 \(e.g. 'a/002.tif'\); convert"):
        open_images(tmp_path)
    images = read_one(open_images(tmp_path, on_error="skip"), "a/002.tif")
    assert images.pixels.shape == (0, 3, 8, 8)
    assert images.problems[0].reason == (
        "holds uint16 pixels from 700 to 700, but the folder's other images are uint8; convert it "
        "to uint8"
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_16_bit_png_keeps_its_low_bytes(tmp_path: Path, count: int) -> None:
    """PIL would drop the low byte of colour images, so 12-bit data would come out black."""
    pixels = noise(4, (count, 8, 8)).astype(np.uint16) + 1000
    image = decode(save_tiff(tmp_path / "x.png", pixels, driver="PNG"))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.has_alpha == (count in (2, 4))


# --- geometry ------------------------------------------------------------------------------


def test_centre_crop_of_a_known_picture(tmp_path: Path) -> None:
    """16 x 40 px: the left and right 12 columns go, the centre 16 x 16 stays as it is."""
    picture = np.zeros((16, 40, 3), np.uint8)
    picture[:, :12] = (255, 0, 0)
    picture[:, 28:] = (0, 0, 255)
    picture[:, 12:28] = noise(1, (16, 16, 3))
    save_png(tmp_path / "x.png", picture)
    patch = crop_and_resize(decode(tmp_path / "x.png").pixels, 16)
    np.testing.assert_array_equal(patch, noise(1, (16, 16, 3)).transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (41, 41), (40, 41), (8, 9)])
def test_resize_equals_resizing_the_whole_and_cropping(shape: tuple[int, int]) -> None:
    pixels = noise(2, (2, *shape))
    patch = crop_and_resize(pixels, 20)
    side = min(shape)
    for band, got in zip(pixels, patch, strict=True):
        top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
        square = Image.fromarray(band[top : top + side, left : left + side])
        want = np.asarray(square.resize((20, 20), Image.Resampling.BILINEAR))
        # At the crop's edges the filter also sees the pixels beside it.
        np.testing.assert_allclose(got[2:-2, 2:-2], want[2:-2, 2:-2].astype(int), atol=1)
    if shape == (40, 60):
        whole = Image.fromarray(pixels[0]).resize((30, 20), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(patch[0], np.asarray(whole)[:, 5:25])


def test_reducing_is_antialiased() -> None:
    """A checkerboard of single pixels becomes gray, not black or white."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[None]
    patch = crop_and_resize(board, 8)
    assert abs(patch.astype(int) - 127).max() <= 8


# --- damage --------------------------------------------------------------------------------


def test_truncated_empty_and_wrong_files_are_problems(tmp_path: Path) -> None:
    with_first(tmp_path)
    whole = save_png(tmp_path / "a" / "000.png", noise(0, (32, 32, 3))).read_bytes()
    (tmp_path / "a" / "001.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a" / "002.png").write_bytes(b"")
    (tmp_path / "a" / "003.jpg").write_bytes(b"no picture")
    tiff = save_tiff(tmp_path / "a" / "004.tif", noise(1, (3, 64, 64)))
    tiff.write_bytes(tiff.read_bytes()[:9000])
    (tmp_path / "a" / "005.tif").write_bytes(b"")
    (tmp_path / "a" / "006.png").symlink_to(tmp_path / "gone.png")
    source = open_images(tmp_path)
    images = source.read(candidates(source))
    assert images.rows.tolist() == [0, 7, 8, 9]
    assert len(images.pixels) == 4
    reasons = {Path(problem.path).name: problem.reason for problem in images.problems}
    assert reasons["001.png"].startswith("cannot be decoded (damaged or too large): ")
    assert reasons["002.png"] == "is empty (0 bytes)"
    assert "cannot identify" in reasons["003.jpg"]
    assert "TIFFReadEncodedStrip" in reasons["004.tif"]
    assert "not recognized" in reasons["005.tif"]
    assert "No such file" in reasons["006.png"]
    assert not any("\n" in reason for reason in reasons.values())
    assert not any("identical" in note for note in source.notes)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "lzw.tif", "tiled.tif"])
def test_no_truncated_file_yields_other_pixels(tmp_path: Path, name: str) -> None:
    pixels = noise(3, (48, 48, 3))
    path = tmp_path / name
    if name.endswith(".tif"):
        options: dict[str, dict[str, Any]] = {
            "x.tif": {},
            "lzw.tif": {"compress": "lzw"},
            "tiled.tif": {"tiled": True, "blockxsize": 16, "blockysize": 16},
        }
        save_tiff(path, pixels.transpose(2, 0, 1), **options[name])
    else:
        Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    expected = decode(path).pixels
    refused = 0
    for size in {*range(0, len(whole), 97), *range(len(whole) - 20, len(whole))}:
        path.write_bytes(whole[:size])
        try:
            found = decode(path).pixels
        except ImageError:
            refused += 1
        else:
            # Only what follows the pixels may be missing.
            np.testing.assert_array_equal(found, expected)
            assert size >= len(whole) - 20
    assert refused > len(whole) // 100


def test_bands_come_from_the_first_readable_image(tmp_path: Path) -> None:
    with_first(tmp_path)
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"00{number}.tif").write_bytes(b"broken")
    source = open_images(tmp_path)
    assert source.bands == ("red", "green", "blue")
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(UsageError, match=r"no image is readable; 'a/000.tif' cannot"):
        open_images(tmp_path)


def test_decompression_bombs_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_png(tmp_path / "x.png", noise(0, (40, 40, 3)))
    save_tiff(tmp_path / "x.tif", noise(0, (3, 40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="decompression bomb"):
        decode(tmp_path / "x.png")
    monkeypatch.setattr(decoding, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(ImageError, match="GiB decoded; an image is one patch"):
        decode(tmp_path / "x.tif")


def test_a_tiff_suffix_opens_no_other_format(tmp_path: Path) -> None:
    """A VRT reads other files, which neither the folder nor the digest would know."""
    save_tiff(tmp_path / "secret.tif", noise(0, (1, 8, 8)))
    (tmp_path / "x.tif").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">'
        '<SimpleSource><SourceFilename relativeToVRT="1">secret.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(ImageError, match="not recognized"):
        decode(tmp_path / "x.tif")


# --- the whole -----------------------------------------------------------------------------


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, benchmark.catalog.folder.source\n"
        "heavy = {'PIL', 'rasterio', 'torch'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not UCMERCED.is_dir(), reason=f"{UCMERCED} is absent")
def test_ucmerced_mini() -> None:
    source = open_folder(config(UCMERCED, patch_size=64))
    assert source.classes == (
        "agricultural",
        "beach",
        "chaparral",
        "forest",
        "freeway",
        "parkinglot",
        "river",
    )
    table = check_table(candidates(source), CANDIDATES, what="ucmerced-mini")
    counts = Counter(table["split"].to_pylist())
    assert counts["train"] > counts["val"] > 0
    assert set(classes_and_splits(source)) == {
        (name, split) for name in source.classes for split in ("train", "val", "test")
    }
    images = source.read(table.slice(0, 24))
    assert images.problems == ()
    assert images.pixels.shape == (24, 3, 64, 64)
    assert images.pixels.std() > 10


def test_links_that_form_a_loop_are_one_line_or_one_problem(tmp_path: Path) -> None:
    root = fill(tmp_path / "images", {"a": 12, "b": 12})
    (root / "a" / "loop.png").symlink_to("loop.png")
    (root / "c").symlink_to("c")
    (problem,) = read_one(open_folder(config(root)), "a/loop.png").problems
    assert "cannot be opened: Too many levels of symbolic links" in problem.reason
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=r"cannot be opened: .*Too many levels"):
        open_folder(config(tmp_path / "loop"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_a_pipe_or_a_device_is_a_problem_and_not_waited_for(tmp_path: Path, name: str) -> None:
    root = fill(tmp_path / "images", {"a": 12, "b": 12})
    os.mkfifo(root / "a" / name)
    (root / "b" / name).symlink_to("/dev/zero")
    source = open_folder(config(root))
    for folder in "ab":
        (problem,) = read_one(source, f"{folder}/{name}").problems
        assert "is no regular file" in problem.reason


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "broken link"])
def test_a_split_table_that_cannot_be_read_is_not_ignored(tmp_path: Path, kind: str) -> None:
    root = fill(tmp_path / "images", {"a": 12, "b": 12})
    path = root / "splits.csv"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("splits.csv" if kind == "loop" else "moved.csv")
    with pytest.raises(UsageError, match=r"splits.csv: is no regular file, or a link to none"):
        open_folder(config(root))
