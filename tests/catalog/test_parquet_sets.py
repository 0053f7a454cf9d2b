"""Data sets of the Hugging Face hub: splits, pixels and labels, and one line for each mistake."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors
from numpy.typing import NDArray
from PIL import Image

import benchmark as bm
from benchmark.catalog.contracts.datasets import CHECKS, Case
from benchmark.catalog.datasets import find_dataset
from benchmark.catalog.downloads import UNFINISHED
from benchmark.catalog.names import check_names
from benchmark.catalog.parquet import downloading, encoded
from benchmark.cli.commands import invoke
from benchmark.config import DatasetConfig, build
from benchmark.errors import BenchmarkError, UsageError
from tests.parquet_sets import (
    CARD,
    CLASSES,
    IMAGE,
    encode,
    pixels_of,
    rows_of,
    write_set,
    write_shard,
)
from tests.torchgeo_layouts import optical_of, write_tiff

NAME = "hf-datasets:org/name"


def config_of(root: Path, name: str = NAME, **settings: Any) -> DatasetConfig:
    content = {"name": name, "root": str(root), "patch_size": 32, **settings}
    return build({"name": "x", "backbones": ["x"], "dataset": content}).dataset


def open_set(root: Path, **settings: Any) -> Any:
    config = config_of(root, **settings)
    return find_dataset(config.name).open(config)


def splits_of(source: Any) -> dict[str, str]:
    rows = source.candidates.to_pylist()
    return {row["patch_id"]: row["split"] for row in rows}


def read_all(source: Any) -> NDArray[np.uint8]:
    images = source.read(source.candidates)
    assert images.problems == ()
    return images.pixels


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    write_set(root)
    return root


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_set_keeps_the_contract(check: Any, whole: Path) -> None:
    config = config_of(whole)
    check(Case(find_dataset(config.name), config))


def test_pixels_labels_and_splits_are_those_of_the_shards(whole: Path) -> None:
    source = open_set(whole)
    assert source.classes == CLASSES
    assert source.bands == ("red", "green", "blue")
    rows = source.candidates.to_pylist()
    read = dict(zip([row["patch_id"] for row in rows], read_all(source), strict=True))
    words = {"train": "train", "val": "validation", "test": "test"}
    for row in rows:
        path, _, index = row["patch_id"].rpartition(":")
        table = pq.read_table(whole / path).slice(int(index), 1).to_pylist()[0]
        number = int(table["image"]["path"].partition(".")[0])
        assert np.array_equal(read[row["patch_id"]], pixels_of(number).transpose(2, 0, 1))
        assert source.classes[row["label"]] == CLASSES[number % 3] == CLASSES[table["label"]]
        assert path.startswith(f"data/{words[row['split']]}-")
    assert len(rows) == 24


def test_rows_are_read_in_any_order_and_from_their_row_groups_only(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    real = pq.ParquetFile.iter_batches

    def counted(self: Any, size: int, *, row_groups: list[int], columns: list[str]) -> Any:
        groups.extend(row_groups)
        return real(self, size, row_groups=row_groups, columns=columns)

    source = pickle.loads(pickle.dumps(open_set(whole)))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    chosen = source.candidates.take([5, 23, 4])
    pixels = read_all_of(source, chosen)
    assert groups == [1, 1]
    whole_pixels = read_all(source)
    assert np.array_equal(pixels, whole_pixels[[5, 23, 4]])


def read_all_of(source: Any, candidates: pa.Table) -> NDArray[np.uint8]:
    images = source.read(candidates)
    assert images.problems == ()
    return images.pixels


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_every_row_is_found_whatever_the_batch(
    batch: int, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "BATCH", batch)
    path = whole / "data" / "validation-00000-of-00001.parquet"
    wanted = [item["bytes"] for item in pq.read_table(path)["image"].to_pylist()]
    for rows in ([0], [5], [1, 3, 4], range(6)):
        assert [*encoded.iterate_rows(path, "image", rows)] == [wanted[row] for row in rows]
    with pytest.raises(IndexError, match="6 rows, and row 6 is wanted"):
        [*encoded.iterate_rows(path, "image", [6])]


def test_splits_come_from_the_card_then_from_names_and_folders(tmp_path: Path) -> None:
    write_set(tmp_path / "a", card=False)
    named = open_set(tmp_path / "a")
    write_set(tmp_path / "b")
    assert splits_of(open_set(tmp_path / "b")) == splits_of(named)
    swapped = CARD.replace("split: test", "split: dev").replace("split: validation", "split: test")
    (tmp_path / "b" / "README.md").write_text(swapped)
    other = splits_of(open_set(tmp_path / "b"))
    assert {other[name] for name, split in splits_of(named).items() if split == "test"} == {"val"}
    for place in ("train/0.parquet", "Validation/0.parquet", "test/part_1.parquet"):
        write_shard(tmp_path / "c" / place, rows_of(0, 6))
    for place in ("train.parquet", "val_0.parquet", "test-1.parquet"):
        write_shard(tmp_path / "d" / place, rows_of(0, 6))
    for place in ("name-train-00000-of-00001", "my_test_file", "validation1"):
        write_shard(tmp_path / "e" / "test" / f"{place}.parquet", rows_of(0, 6))
    for letter in "cde":
        found = splits_of(open_set(tmp_path / letter))
        assert sorted(found.values()) == ["test"] * 6 + ["train"] * 6 + ["val"] * 6


def test_a_column_gives_the_splits_that_the_files_do_not_tell(tmp_path: Path) -> None:
    words = ["training"] * 3 + ["Validation", "test"] + ["train"] * 3
    rows = rows_of(0, 8) | {"split": words}
    write_shard(tmp_path / "a" / "0.parquet", rows)
    expected = ["train"] * 3 + ["val", "test"] + ["train"] * 3
    source = open_set(tmp_path / "a")
    assert [*splits_of(source).values()] == expected
    assert "The splits are those of the column 'split'." in source.notes
    # push_to_hub writes one split, train, where the data set has none.
    write_shard(tmp_path / "b" / "train-00000-of-00001.parquet", rows)
    assert [*splits_of(open_set(tmp_path / "b")).values()] == expected
    for split in ("train", "val", "test"):
        write_shard(tmp_path / "c" / f"{split}.parquet", rows)
    found = splits_of(open_set(tmp_path / "c"))
    assert {split for name, split in found.items() if name.startswith("val")} == {"val"}
    write_shard(tmp_path / "d" / "0.parquet", rows | {"split": list(range(8))})
    notes = open_set(tmp_path / "d").notes
    assert any("is random (seed 0)" in note for note in notes)
    for letter, words, message in (
        ("e", ["train"] * 7 + ["extra"], "column 'split': unknown split 'extra'; write train, val"),
        ("f", ["train"] * 7 + [None], "1 of 8 rows have no split, e.g. row 7; write the file"),
    ):
        write_shard(tmp_path / letter / "0.parquet", rows | {"split": words})
        with pytest.raises(UsageError, match=message):
            open_set(tmp_path / letter)
    write_shard(tmp_path / "a" / "1.parquet", rows_of(8, 6))
    with pytest.raises(UsageError, match=r"'0.parquet' and '1.parquet' differ in the column of sp"):
        open_set(tmp_path / "a")


def test_webp_is_read_and_an_animation_is_a_problem(tmp_path: Path) -> None:
    rows = rows_of(0, 12)
    for number in range(12):
        file = io.BytesIO()
        frames = [Image.fromarray(pixels_of(number + more)) for more in range(2)]
        more = {"save_all": True, "append_images": frames[1:]} if number == 11 else {}
        frames[0].save(file, "WEBP", lossless=True, **more)
        rows["image"][number] = {"bytes": file.getvalue(), "path": None}
    write_shard(tmp_path / "0.parquet", rows)
    source = open_set(tmp_path)
    images = source.read(source.candidates)
    for row, pixels in zip(images.rows, images.pixels, strict=True):
        expected = pixels_of(int(source.candidates["patch_id"][row].as_py().rpartition(":")[2]))
        np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))
    (problem,) = images.problems
    assert problem.path.endswith("row 11")
    assert problem.reason == "is an animation; store one image"


def test_the_default_subset_of_a_card_is_read_and_a_card_without_splits_says_nothing(
    tmp_path: Path,
) -> None:
    write_set(tmp_path)
    write_shard(tmp_path / "other" / "train.parquet", rows_of(50, 6))
    (tmp_path / "README.md").write_text(
        CARD.replace("configs:", "configs:\n- config_name: other\n  data_files: other/*")
    )
    assert len(splits_of(open_set(tmp_path))) == 24
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_dir: b\n---\n")
    with pytest.raises(UsageError, match="are in the folders"):
        open_set(tmp_path)
    assert len(splits_of(open_set(tmp_path / "data"))) == 24


def test_missing_splits_are_drawn_and_equal_images_stay_together(tmp_path: Path) -> None:
    rows = rows_of(0, 30)
    for name in rows:
        rows[name] += rows[name][:15]
    write_shard(tmp_path / "part-0.parquet", rows)
    source = open_set(tmp_path)
    found = [*splits_of(source).values()]
    assert {*found} == {"train", "val", "test"}
    assert found[30:] == found[:15]
    assert any("is random (seed 0)" in note for note in source.notes)
    assert [*splits_of(open_set(tmp_path, seed=3)).values()] != found
    write_set(tmp_path / "more", per_split={"train": 24, "test": 6}, card=False)
    notes = open_set(tmp_path / "more").notes
    assert any(note.startswith("The data have no val split: 6 images of train") for note in notes)


def test_labels_may_be_names_or_numbers(tmp_path: Path) -> None:
    rows = rows_of(0, 30)
    rows["label"] = [CLASSES[label] for label in rows["label"]]
    write_shard(tmp_path / "a" / "0.parquet", rows, classes=None)
    assert open_set(tmp_path / "a").classes == tuple(sorted(CLASSES))
    rows["label"] = [(2, 10, 1)[number % 3] for number in range(30)]
    write_shard(tmp_path / "b" / "0.parquet", rows, classes=None)
    assert open_set(tmp_path / "b").classes == ("1", "2", "10")
    labels = pa.dictionary(pa.int8(), pa.string())
    rows["label"] = pa.array([CLASSES[number % 3] for number in range(30)]).dictionary_encode()
    table = pa.table({"picture": pa.array(rows["image"], IMAGE), "label": rows["label"]})
    assert table.schema.field("label").type != labels
    (tmp_path / "c").mkdir()
    pq.write_table(table, tmp_path / "c" / "0.parquet")
    assert open_set(tmp_path / "c").classes == tuple(sorted(CLASSES))


def test_images_of_many_bands_are_read_and_need_a_range(tmp_path: Path) -> None:
    rows = rows_of(0, 30)
    for number in range(30):
        path = tmp_path / "image.tif"
        write_tiff(path, optical_of(number))
        rows["image"][number] = {"bytes": path.read_bytes(), "path": None}
    write_shard(tmp_path / "0.parquet", rows)
    with pytest.raises(
        UsageError, match=r"16 images hold uint16 pixels from .*set \[dataset\] val"
    ):
        open_set(tmp_path)
    given: dict[str, Any] = {"value_range": [0, 5100], "patch_size": 64}
    source = open_set(tmp_path, **given)
    assert len(source.bands) == 13
    expected = np.rint(optical_of(7) / 20).astype(np.uint8)
    assert np.array_equal(read_all(source)[7], expected)
    assert open_set(tmp_path, value_range=[0, 9000]).reader.value_range == (0, 9000)


def test_the_digest_follows_pixels_labels_and_splits(whole: Path, tmp_path: Path) -> None:
    first = open_set(whole).digest()
    shutil.copytree(whole, tmp_path / "a")
    assert open_set(tmp_path / "a").digest() == first
    path = tmp_path / "a" / "data" / "test-00000-of-00001.parquet"
    rows = rows_of(18, 6)
    write_shard(path, rows)
    assert open_set(tmp_path / "a").digest() == first
    rows["image"][2] = {"bytes": encode(pixels_of(99)), "path": "99.png"}
    write_shard(path, rows)
    changed = open_set(tmp_path / "a").digest()
    rows["label"][2] = 1
    write_shard(path, rows)
    relabelled = open_set(tmp_path / "a").digest()
    (tmp_path / "a" / "README.md").unlink()
    path.rename(path.with_name("dev-00000-of-00001.parquet"))
    moved = path.with_name("validation-00000-of-00001.parquet")
    moved.rename(path)
    assert len({first, changed, relabelled, open_set(tmp_path / "a").digest()}) == 4


def test_a_damaged_image_or_shard_is_a_problem(tmp_path: Path) -> None:
    rows = rows_of(0, 6)
    rows["image"][1] = {"bytes": b"RIFF0000WEBP", "path": None}
    rows["image"][2] = {"bytes": None, "path": "elsewhere.png"}
    rows["image"][3] = {"bytes": rows["image"][3]["bytes"][:300], "path": None}
    rows["image"][4] = None
    for split in ("train", "val"):
        write_shard(tmp_path / f"{split}.parquet", rows_of(6, 6))
    write_shard(tmp_path / "test.parquet", rows)
    source = open_set(tmp_path)
    images = source.read(source.candidates)
    assert len(images.rows) == 14
    reasons = {problem.path: problem.reason for problem in images.problems}
    place = f"{tmp_path / 'test.parquet'} row "
    assert "cannot be decoded" in reasons[f"{place}1"]
    assert "holds no bytes" in reasons[f"{place}2"] == reasons[f"{place}4"]
    assert "cannot be decoded" in reasons[f"{place}3"]
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    (tmp_path / "val.parquet").unlink()
    reasons = dict(source.read(source.candidates).problems)
    assert "cannot be read: ArrowInvalid" in reasons[str(tmp_path / "train.parquet")]
    assert "cannot be read: FileNotFoundError" in reasons[str(tmp_path / "val.parquet")]


def _two_images(root: Path) -> None:
    rows = rows_of(0, 6)
    write_shard(root / "train.parquet", {**rows, "mask": rows["image"]})


def _without(column: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        rows = {name: values for name, values in rows_of(0, 6).items() if name != column}
        write_shard(root / "train.parquet", rows | {"classes": [1] * 6})

    return write


def _labels(values: list[Any], **given: Any) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        write_shard(root / "train.parquet", {**rows_of(0, 6), "label": values}, **given)

    return write


def _files(*paths: str, card: str = "") -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for path in paths:
            write_shard(root / path, rows_of(0, 6))
        if card:
            (root / "README.md").write_text(f"---\n{card}\n---\n")

    return write


def _other_classes(root: Path) -> None:
    write_shard(root / "test.parquet", rows_of(0, 6))
    write_shard(root / "train.parquet", rows_of(0, 6), classes=CLASSES[::-1])


def _damaged(root: Path) -> None:
    write_set(root, card=False)
    path = root / "data" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])


SUBSETS = "configs:\n- config_name: a\n  data_files: x\n- config_name: b\n  data_files: y"
NO_TEST = "configs:\n- config_name: a\n  data_files:\n  - split: test\n    path: data/test-*"
TWICE = (
    "configs:\n- config_name: a\n  data_files:\n  - split: train\n    path: '*'\n"
    "  - split: test\n    path: x.parquet"
)
ODD_SPLIT = "configs:\n- config_name: a\n  data_files:\n  - split: extra\n    path: '*'"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda root: None, r"does not exist; run `benchmark prepare hf-datasets:org/name --root"),
        (lambda root: root.write_text(""), "is not a folder; run `benchmark prepare"),
        (lambda root: root.mkdir(), "holds no Parquet files; run `benchmark prepare"),
        (_damaged, r"'data/test-00000-of-00001\.parquet': is damaged or no Parquet file: .*remove"),
        (
            _files("data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet"),
            "1 of 3 Parquet files of 'train' are missing in 'data', e.g. number 00001; run",
        ),
        (_files("train.parquet", "tset.parquet"), "'tset.parquet': unknown split 'tset'; write tr"),
        (_files("train_test.parquet", "val.parquet"), "unknown split 'train_test'; write train, v"),
        (_files("default/partial-train/0000.parquet"), "the hub converted in part; fetch the data"),
        (_files("good.parquet", "bad.parquet"), "'bad.parquet': unknown split 'bad'"),
        (
            _files("rgb/train.parquet", "all/train.parquet"),
            r"are in the folders \['all', 'rgb'\]; name the one that holds your data set as root",
        ),
        (_files("x.parquet", card=SUBSETS), r"lists the subsets \['a', 'b'\] and none as the def"),
        (_files("x.parquet", card=NO_TEST), r"no Parquet file is \['data/test-\*'\]; run"),
        (_files("x.parquet", card=ODD_SPLIT), r"README.md: unknown split 'extra'; write train"),
        (_files("x.parquet", card=TWICE), "'x.parquet' is in train and in test; correct the card"),
        (_files("x.parquet", card="configs: [1"), "data files that it lists cannot be read: "),
        (_files("x.parquet", card="configs: 7"), "data files that it lists cannot be read: "),
        (_two_images, r"the columns \['image', 'mask'\] hold images; write the data set with one"),
        (_without("label"), r"no column 'label'; its columns are \['image', 'classes'\]; rename"),
        (_without("image"), "no column holds encoded images .*; its columns are"),
        (_labels([[0], [1], [0, 1], [0], [1], [2]], classes=None), "several labels per image are"),
        (_labels([0.5] * 6, classes=None), "'label' holds double; a label is one whole number or"),
        (_labels([0, 1, -1, 0, 1, 2]), "the label -1 is none of 0 to 2, which have names"),
        (_labels([0, 1, 2, None, 1, 2]), "1 of 6 rows have no label, e.g. row 3; write"),
        (_labels([0] * 6), "there is only one class, 'River'"),
        (_labels(["", "a", "b", "a", "b", "a"], classes=None), "the label '' has 0 characters"),
        (_other_classes, r"'test.parquet' and 'train.parquet' differ in the names of the classes"),
        (_files("test.parquet", "val.parquet"), "there are no train images"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    write: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    write(root)
    with pytest.raises(UsageError, match=message) as caught:
        open_set(root)
    assert str(caught.value).startswith(f"[dataset] name = '{NAME}', root = '{root}'")


def test_the_contract_can_be_checked_by_name(whole: Path) -> None:
    assert all(item.is_ok for item in bm.check(NAME, settings={"root": str(whole)}))
    with pytest.raises(UsageError, match="takes no settings; they are for own code"):
        find_dataset(NAME, settings={"a": 1})


def test_a_set_without_a_readable_image_says_why(tmp_path: Path) -> None:
    rows = rows_of(0, 6)
    rows["image"] = [{"bytes": b"GIF89a", "path": None}] * 6
    for split in ("train", "val", "test"):
        write_shard(tmp_path / f"{split}.parquet", rows)
    with pytest.raises(UsageError, match=r"no image is readable; .*is not PNG, JPEG, TIFF or WebP"):
        open_set(tmp_path)


@pytest.mark.parametrize("name", ["hf-datasets:", "hf-datasets:one", "hf-datasets:a/b/c", "hf-x:"])
def test_a_name_of_another_form_is_one_line(name: str, tmp_path: Path) -> None:
    content = {"name": name, "root": str(tmp_path)}
    experiment = build({"name": "x", "backbones": ["mean_color"], "dataset": content})
    with pytest.raises(UsageError, match=r"write hf-datasets:ORG/NAME|package\.module:attribute"):
        check_names(experiment)


def test_prepare_fetches_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def fetch(repo: str, *, revision: str | None, local_dir: Path, **given: Any) -> None:
        calls.append((repo, revision, given["repo_type"]))
        if len(calls) == 1:
            write_shard(local_dir / "data" / "train-00007-of-00008.parquet", rows_of(0, 6))
            raise OSError("the server stopped")
        write_set(local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(downloading, "_check_reachable", lambda *given: None)
    root = tmp_path / "new"
    name = f"{NAME}@v1"
    with pytest.raises(BenchmarkError, match=r"failed: OSError: the server stopped; try again"):
        bm.prepare(name, root, progress=None)
    assert [item.name for item in root.iterdir()] == [UNFINISHED]
    with pytest.raises(UsageError, match="holds no Parquet files"):
        open_set(root)
    for _ in range(2):
        assert invoke(["prepare", name, "--root", str(root)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == str(root)
    assert calls == [("org/name", "v1", "dataset")] * 2
    assert open_set(root).candidates.num_rows == 24
    assert not (root / UNFINISHED).exists()


def _answer(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    error.args = ("no",)
    return error


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            errors.GatedRepoError,
            "its terms must be accepted on https://huggingface.co/datasets/org",
        ),
        (errors.RepositoryNotFoundError, "the hub has no such data set, or you have no access"),
        (errors.RevisionNotFoundError, "the hub has no revision 'v1'"),
        (None, r"holds no Parquet files; try .* hf-datasets:org/name@refs/convert/parquet"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    raised: type[Exception] | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(repo: str, **given: Any) -> None:
        if raised is not None:
            raise _answer(raised)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(downloading, "_check_reachable", lambda *given: None)
    with pytest.raises(UsageError, match=message):
        bm.prepare(f"{NAME}@v1", tmp_path, progress=None)


def test_without_a_network_prepare_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(downloading, "is_reachable", lambda endpoint: False)
    assert invoke(["prepare", NAME, "--root", str(tmp_path / "new")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no Parquet files and the hub cannot be reached; run this with network" in line
    assert not (tmp_path / "new").exists()
