"""Arrays in memory: what is accepted, what is written once, and one line for each mistake."""

from __future__ import annotations

import pickle
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

import benchmark as bm
from benchmark.catalog.arrays.source import ArraySource, open_arrays
from benchmark.catalog.arrays.writing import IMAGES, TABLE
from benchmark.catalog.datasets import DATASETS
from benchmark.catalog.folder.images import scale_pixels
from benchmark.catalog.folder.source import open_folder
from benchmark.config import DatasetConfig, Experiment
from benchmark.errors import UsageError
from benchmark.specs import Source
from tests.catalog.test_labels import save

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "LABELS.md"

COUNT = 12
LABELS = ["forest", "water"] * 6
SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def noise(count: int = COUNT, bands: int = 3, side: int = 8) -> NDArray[np.uint8]:
    shape = (count, bands, side, side)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


IMAGES_OK = noise()


def build(images: Any = IMAGES_OK, labels: Any = LABELS, **settings: Any) -> Experiment:
    return bm.build(
        dataset=bm.from_arrays(images, labels, **settings), backbones=["mean_color"], heads=["knn"]
    )


def open_built(images: Any = IMAGES_OK, labels: Any = LABELS, **settings: Any) -> ArraySource:
    return open_arrays(build(images, labels, **settings).dataset)


def pixels_of(source: ArraySource) -> NDArray[np.uint8]:
    found = source.read(source.candidates)
    assert found.problems == ()
    return found.pixels


def names_of(source: ArraySource) -> list[str]:
    return [source.classes[label] for label in source.candidates["label"].to_pylist()]


# --- what is accepted ----------------------------------------------------------------------


def test_arrays_become_a_source() -> None:
    scenes = [f"s{row // 2}" for row in range(COUNT)]
    source: Source = open_built(scenes=scenes, regions=["north"] * 11 + [None], splits=SPLITS)
    assert source.classes == ("forest", "water")
    assert source.bands == ("red", "green", "blue")
    (unit,) = source.units()
    found = source.find(unit).candidates
    assert found["scene"].to_pylist() == scenes
    assert found["region"].to_pylist() == ["north"] * 11 + [None]
    assert found["split"].to_pylist() == SPLITS
    rows = found.take([7, 2])
    np.testing.assert_array_equal(source.read(rows).pixels, IMAGES_OK[[7, 2]])


@pytest.mark.parametrize(
    ("images", "settings"),
    [
        (torch.from_numpy(IMAGES_OK), {}),
        (list(IMAGES_OK), {}),
        ([torch.from_numpy(image) for image in IMAGES_OK], {}),
        (IMAGES_OK.transpose(0, 2, 3, 1), {"channels": "last"}),
        (np.asfortranarray(IMAGES_OK), {}),
        (IMAGES_OK.astype(np.float32) / 255, {"value_range": (0, 1)}),
        (torch.from_numpy(IMAGES_OK).double().requires_grad_(), {"value_range": (0, 255)}),
    ],
    ids=["torch", "list", "tensors", "channels last", "fortran", "float32", "gradient"],
)
def test_the_same_pixels_in_any_form_are_the_same_data(
    images: Any, settings: dict[str, Any]
) -> None:
    source = open_built(images, **settings)
    np.testing.assert_array_equal(pixels_of(source), IMAGES_OK)
    assert source.digest() == open_built().digest()


def test_other_types_are_scaled_as_the_images_of_a_folder() -> None:
    images = np.random.default_rng(0).integers(0, 9000, (COUNT, 5, 8, 8)).astype(np.int16)
    source = open_built(images, value_range=(100, 8000), bands=list("abcde"))
    assert source.bands == tuple("abcde")
    np.testing.assert_array_equal(pixels_of(source), scale_pixels(images, (100.0, 8000.0)))


def test_one_band_is_used_as_three_and_images_are_cropped_to_the_patch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 12, 8), dtype=np.uint8)
    source = open_built(images)
    assert source.bands == ("red", "green", "blue")
    np.testing.assert_array_equal(pixels_of(source), images[:, :, 2:10].repeat(3, axis=1))
    assert "Images of 12 x 8 px are cropped to their centre." in source.notes
    assert pixels_of(open_built(images, patch_size=16)).shape == (COUNT, 3, 16, 16)


@pytest.mark.parametrize(
    ("labels", "settings", "classes"),
    [
        ([10, 9] * 6, {}, ("9", "10")),
        (np.array([0, 1] * 6, np.uint8), {"classes": ["water", "crop"]}, ("water", "crop")),
        (torch.tensor([2, 0] * 6), {"classes": ["a", "b", "c"]}, ("a", "c")),
        (["b", "a"] * 6, {"classes": ("b", "a")}, ("b", "a")),
        (pd.Series(["b", "a"] * 6, dtype="category"), {}, ("a", "b")),
        ([True, False] * 6, {}, ("False", "True")),
        (["forêt", "forêt"] * 5 + ["a", "a"], {}, ("a", "forêt")),
    ],
    ids=["ints", "numpy", "torch", "ordered", "pandas", "bools", "unicode"],
)
def test_labels_are_strings_or_whole_numbers(
    labels: Any, settings: dict[str, Any], classes: tuple[str, ...]
) -> None:
    source = open_built(labels=labels, **settings)
    assert source.classes == classes
    has_names = "classes" in settings and not isinstance(labels, list)
    if has_names:
        assert names_of(source) == [settings["classes"][int(label)] for label in labels]
    elif classes[-1] != "forêt":
        assert names_of(source) == [str(label) for label in labels]


def test_regions_and_scenes_decide_the_split_as_in_a_table() -> None:
    regions = ["north"] * 4 + ["south"] * 4 + ["west"] * 4
    source = open_built(regions=regions, val_regions=["south"], test_regions=["west"])
    assert source.candidates["split"].to_pylist() == ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    by_scene = open_built(scenes=np.arange(COUNT) // 2, seed=3).candidates.to_pandas()
    assert (by_scene.groupby("scene")["split"].nunique() == 1).all()
    assert set(by_scene["split"]) == {"train", "val", "test"}


# --- what is written -----------------------------------------------------------------------


def test_arrays_are_written_once_and_found_by_another_build() -> None:
    experiment = build(name="mine")
    root = Path(experiment.dataset.root)
    assert experiment.name == "mine"
    assert root.parent == Path("runs/arrays").absolute()
    assert sorted(path.name for path in root.iterdir()) == [IMAGES, TABLE]
    before = (root / IMAGES).stat()
    again = build(IMAGES_OK.copy(), list(LABELS), name="mine")
    assert again.dataset == experiment.dataset
    assert (root / IMAGES).stat() == before
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_what_was_cut_is_written_again() -> None:
    root = Path(build().dataset.root)
    (root / IMAGES).write_bytes((root / IMAGES).read_bytes()[:-1000])
    np.testing.assert_array_equal(pixels_of(open_built()), IMAGES_OK)


@pytest.mark.parametrize("what", ["pixels", "labels", "scenes", "splits", "regions"])
def test_the_digest_is_of_all_that_is_given(what: str) -> None:
    given: dict[str, Any] = {
        "labels": LABELS,
        "scenes": list(range(COUNT)),
        "splits": SPLITS,
        "regions": ["north"] * COUNT,
    }
    before = open_built(**given)
    images = IMAGES_OK
    if what == "pixels":
        images = images.copy()
        images[5, 2, 7, 7] ^= 1
    else:
        other = {"labels": "water", "scenes": 99, "splits": "val", "regions": "south"}[what]
        given[what] = [other, *given[what][1:]]
    after = open_built(images, **given)
    assert after.digest() != before.digest()
    assert after.root != before.root


@pytest.mark.parametrize(
    "changed",
    [
        {"classes": ["water", "forest"]},
        {"bands": ["blue", "green", "red"]},
        {"images": IMAGES_OK.reshape(COUNT, 3, 8, 8).reshape(COUNT, 1, 24, 8), "patch_size": 8},
    ],
)
def test_the_order_of_classes_and_bands_and_the_shape_are_in_the_digest(
    changed: dict[str, Any],
) -> None:
    assert open_built(**changed).digest() != open_built().digest()


def test_a_source_travels_without_its_pixels() -> None:
    source = open_built(noise(300, side=64), [0, 1] * 150)
    assert len(pickle.dumps(source)) < 60_000 < 300 * 3 * 64 * 64
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(pixels_of(copy), noise(300, side=64))


def test_a_changed_pixel_on_disk_is_a_problem() -> None:
    source = open_built()
    path = source.root / IMAGES
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = source.read(source.candidates)
    assert found.rows.tolist() == list(range(COUNT - 1))
    (problem,) = found.problems
    assert problem.path == str(path)
    assert re.search(r"image 11 has changed; delete the folder '.*' and make it", problem.reason)
    path.unlink()
    assert len(source.read(source.candidates).problems) == COUNT


def test_arrays_go_where_all_machines_read_them(tmp_path: Path) -> None:
    data = bm.from_arrays(IMAGES_OK, LABELS, folder=tmp_path / "shared")
    experiment = bm.build(dataset=data, backbones=["mean_color"], store="s3://bucket/runs")
    assert Path(experiment.dataset.root).parent == tmp_path / "shared"


def test_settings_that_arrays_do_not_change_stay_out_of_the_fingerprint() -> None:
    entry = DATASETS.get("arrays")
    assert entry.settings == {"val_fraction", "test_fraction"}
    assert entry.digested == {"val_regions", "test_regions"}


# --- mistakes ------------------------------------------------------------------------------

FLOATS = IMAGES_OK / 255.0
WITH_NAN = FLOATS.copy()
WITH_NAN[3, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES_OK.transpose(0, 2, 3, 1), r"are 8 x 3 px; .* \(is it channels='last'\?\)"),
        (IMAGES_OK[:, 0], r"shape \(12, 8, 8\), not \(N, C, H, W\); write one band as images\[:, "),
        (IMAGES_OK[0], r"shape \(3, 8, 8\), not \(N, C, H, W\)$"),
        (IMAGES_OK[:0], "there are none"),
        (IMAGES_OK[:, :, :4], "are 4 x 8 px; the sides are 8 to 4096 px"),
        (FLOATS, r"hold float64 values from 0.0 to 1.0; set value_range = \(0.0, 1.0\)"),
        (WITH_NAN, r"images\[3\] holds NaN or infinite values"),
        (IMAGES_OK > 3, "hold bool values; give uint8"),
        (IMAGES_OK.astype(complex), "hold complex128 values"),
        ("photos", r"shape \(\), not"),
        (torch.from_numpy(IMAGES_OK).bfloat16(), "cannot be read as an array: .*BFloat16"),
        ([IMAGES_OK[0], IMAGES_OK[1, :, 1:]], r"images\[1\] is uint8 \(3, 7, 8\), but images\[0\]"),
    ],
)
def test_wrong_images_are_one_line(images: Any, message: str) -> None:
    with pytest.raises(
        UsageError, match=f"^from_arrays: images.*{message}|^from_arrays: {message}"
    ):
        bm.from_arrays(images, LABELS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:5], "there are 12 images, but 5 labels"),
        (["a"] * 12, "there is only one class, 'a'"),
        ([1.5] * 12, r"labels\[0\] is 1.5; give strings or whole numbers"),
        (np.array([1.0, 2.0] * 6), "labels are float64; give strings or whole numbers"),
        ([None, "a"] * 6, r"labels\[0\] is None"),
        ([0, "a"] * 6, "labels mix strings and other values"),
        (["a", float("nan")] * 6, "labels mix strings and other values"),
        (["a", ""] * 6, r"labels\[1\]: the name '' has 0 characters"),
        (["a", "b\tc"] * 6, r"labels\[1\]: .* control character"),
        (
            np.eye(12),
            r"labels have the shape \(12, 12\), not \(12,\); for one-hot labels give labels.argmax",
        ),
        ([[0], [1]] * 6, r"labels\[0\] is \[0\]"),
        (5, r"labels have the shape \(\)"),
    ],
)
def test_wrong_labels_are_one_line(labels: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^from_arrays: {message}"):
        bm.from_arrays(IMAGES_OK, labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ["forest"]}, r": labels\[1\] = 'water' is not in classes"),
        ({"classes": ["forest", "watr"]}, r": labels\[1\] = 'water' .* Did you mean 'watr'\?"),
        ({"labels": [0, 2] * 6, "classes": ["a", "b"]}, r": labels\[1\] = 2, but classes has 2 na"),
        ({"labels": [0, -1] * 6, "classes": ["a", "b"]}, r": labels\[1\] = -1, but classes has 2"),
        ({"classes": "ab"}, ": classes = 'ab'; write a list of names"),
        ({"classes": ["a", "a"]}, ": classes = .* names one twice"),
        ({"classes": 5}, ": classes = 5; write a list of names"),
        ({"bands": ["red"]}, r": bands = \['red'\] names 1, but images have 3"),
        ({"bands": ["a", "b", "b"]}, ": bands = .* names one twice"),
        ({"scenes": [0] * 5}, ": there are 12 images, but 5 scenes"),
        ({"scenes": [0] * 12}, ": there are no val images"),
        ({"scenes": [*range(11), None]}, r": scenes\[11\] is None"),
        ({"scenes": ["s"] * 12, "splits": SPLITS}, r": scene 's' is in train \(row 0\) and in val"),
        ({"splits": ["train"] * 11 + ["hold"]}, r": splits\[11\]: unknown split 'hold'"),
        ({"splits": ["train"] * 12}, ": there are no val images"),
        ({"val_regions": ["a"], "test_regions": ["b"]}, ": .*no image has a region"),
        ({"seed": 1.5}, r" \[dataset\]: 'seed' = 1.5"),
        ({"sead": 1}, r" \[dataset\]: unknown setting 'sead'\. Did you mean 'seed'\?"),
        ({"root": "here"}, ": 'root' does not apply to arrays"),
        ({"labels_": 1}, r" \[dataset\]: unknown setting 'labels_'"),
        ({"name": "a b"}, ": 'name' = 'a b': use 1 to 64"),
        ({"channels": "any"}, ": channels = 'any'; write 'first' or 'last'"),
        ({"folder": 5}, ": folder = 5: "),
        ({"folder": "a\0b"}, ": folder = .*control character"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    given = {"labels": LABELS, **settings}
    with pytest.raises(UsageError, match=f"^from_arrays{message}") as error:
        bm.from_arrays(IMAGES_OK, **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value_range", [3, (3, 1), (0, float("nan")), (0, 1, 2), "ab"])
def test_a_wrong_value_range_is_one_line(value_range: Any) -> None:
    with pytest.raises(UsageError, match=r"^from_arrays: value_range = .* is not a range"):
        bm.from_arrays(FLOATS, LABELS, value_range=value_range)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "build: the setting 'backbones' is missing"),
        ({"backbones": ["mean_colr"]}, "unknown backbone 'mean_colr'. Did you mean 'mean_color'"),
        ({"backbones": ["mean_color"], "had": ["knn"]}, "build: unknown setting 'had'"),
        ({"backbones": ["mean_color"], "dataset": IMAGES_OK}, "dataset is a ndarray; give from_"),
        ({"backbones": ["mean_color"], "store": "s3://b/r"}, "'s3://b/r' is not a folder of this"),
    ],
)
def test_an_experiment_that_is_wrong_writes_nothing(settings: dict[str, Any], message: str) -> None:
    data = {"dataset": bm.from_arrays(IMAGES_OK, LABELS)}
    with pytest.raises(UsageError, match=message):
        bm.build(**{**data, **settings})
    assert not list(Path().iterdir())


def test_a_folder_that_cannot_be_written_is_one_line() -> None:
    Path("runs").write_text("a file")
    with pytest.raises(UsageError, match=r"^from_arrays: the arrays cannot be written to '.*runs"):
        build()


@pytest.mark.parametrize("damage", ["absent", "other", "cut"])
def test_a_folder_without_arrays_is_one_line(damage: str) -> None:
    config = build().dataset
    table = Path(config.root) / TABLE
    if damage == "absent":
        table.unlink()
    elif damage == "other":
        pd.DataFrame({"a": [1]}).to_parquet(table)
    else:
        table.write_bytes(table.read_bytes()[:50])
    message = "holds no arrays; make them" if damage == "absent" else "is damaged: .* make it again"
    with pytest.raises(UsageError, match=rf"^\[dataset\] root = '.*': .*{message}"):
        open_arrays(config)


def test_an_experiment_of_a_folder_is_built_with_paths() -> None:
    experiment = bm.build(
        name="photos",
        backbones=["mean_color"],
        store=Path("results"),
        dataset={"name": "folder", "root": Path("photos")},
        tune={"num_trials": 3},
    )
    assert experiment.store == "results"
    assert experiment.dataset == DatasetConfig(name="folder", root="photos")
    assert experiment.tune.num_trials == 3


# --- the document --------------------------------------------------------------------------


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_the_documents_table_and_its_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (table,) = examples("csv")
    plain, regional = examples("toml")
    for seed, line in enumerate(table.splitlines()[1:]):
        save(tmp_path / "photos" / line.split(",")[0], seed)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/labels.csv").write_text(table)
    content = tomllib.loads(plain)
    content["dataset"] |= {"patch_size": 8}
    by_scene = open_folder(bm.build(**content).dataset)
    assert set(by_scene.candidates["split"].to_pylist()) == {"train", "val", "test"}
    content["dataset"] |= tomllib.loads(regional)["dataset"]
    by_region = open_folder(bm.build(**content).dataset).candidates
    assert by_region["split"].to_pylist() == ["train"] * 4 + ["val"] * 2 + ["test"] * 2


@pytest.mark.slow
def test_the_documents_arrays_are_run_and_found_complete(ray_session: None) -> None:
    (code,) = examples("python")
    labels = np.arange(48) % 2
    images = noise(48) // 2 + (100 * labels[:, None, None, None]).astype(np.uint8)
    names: dict[str, Any] = {"images": images, "labels": labels, "scenes": np.arange(48) // 4}
    exec(code, names)
    scores = bm.scores(names["exp"]).reset_index()
    accuracy = scores[(scores["metric"] == "accuracy") & (scores["split"] == "test")]
    assert accuracy["value"].tolist() == [1.0]
    data = bm.from_arrays(images, labels, scenes=names["scenes"], classes=["water", "forest"])
    again = bm.build(dataset=data, backbones=["mean_color"], heads=["logistic_regression"])
    assert {cell.status for cell in bm.status(again)} == {"complete"}
