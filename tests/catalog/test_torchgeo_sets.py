"""Data sets of torchgeo by name: their splits, bands and pixels, and one line for each mistake."""

from __future__ import annotations

import hashlib
import inspect
import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchgeo.datasets
from numpy.typing import NDArray
from PIL import Image

import benchmark as bm
from benchmark.catalog.contracts.datasets import CHECKS, Case
from benchmark.catalog.datasets import find_dataset
from benchmark.catalog.downloads import UNFINISHED
from benchmark.catalog.folder.images import scale_bands
from benchmark.catalog.folder.source import open_folder
from benchmark.catalog.names import check_names
from benchmark.catalog.torchgeo import named as named_module
from benchmark.catalog.torchgeo.ranges import band_ranges
from benchmark.catalog.torchgeo.sets import FORMS, Named, band_names
from benchmark.cli.commands import invoke
from benchmark.config import DatasetConfig, build
from benchmark.errors import BenchmarkError, UsageError
from tests.hdf5 import IS_INSTALLED, hdf5_module
from tests.torchgeo_layouts import (
    EUROSAT_CLASSES,
    EUROSAT_FOLDER,
    HDF5_WRITERS,
    WRITERS,
    write_eurosat,
)

ALL_NAMES = sorted([*WRITERS, *HDF5_WRITERS])
EUROSAT_BANDS = (
    "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir",
    "water_vapour", "cirrus", "swir1", "swir2", "nir_narrow",
)  # fmt: skip


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a data set once, in a folder of its own."""
    folder = tmp_path_factory.mktemp("sets")

    def write(name: str) -> Path:
        root = folder / name
        if not root.exists():
            if name in WRITERS:
                WRITERS[name](root)
            else:
                HDF5_WRITERS[name](root, hdf5_module())
        return root

    return write


@pytest.fixture
def hdf5(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchgeo and this package import h5py, or its stand-in."""
    monkeypatch.setitem(sys.modules, "h5py", hdf5_module())


def config_of(name: str, root: Path, **settings: Any) -> DatasetConfig:
    content = {"name": f"torchgeo:{name}", "root": str(root), "patch_size": 64, **settings}
    return build({"name": "x", "backbones": ["x"], "dataset": content}).dataset


def open_named(name: str, root: Path, **settings: Any) -> Any:
    config = config_of(name, root, **settings)
    return find_dataset(config.name).open(config)


def read_all(source: Any) -> dict[str, NDArray[np.uint8]]:
    found = {}
    for unit in source.units():
        rows = source.find(unit).candidates
        images = source.read(rows)
        assert images.problems == ()
        found |= dict(zip(rows["patch_id"].to_pylist(), images.pixels, strict=True))
    return found


def rows_of(source: Any) -> dict[str, dict[str, Any]]:
    units = [source.find(unit).candidates.to_pylist() for unit in source.units()]
    return {row["patch_id"]: row for rows in units for row in rows}


def test_every_class_of_torchgeo_with_one_label_per_image_is_found_and_written_here() -> None:
    assert sorted(FORMS) == ALL_NAMES
    # Others that give a label, and why they are no data set of one class per image.
    others = {
        "BigEarthNet": "several labels", "BigEarthNetV2": "several labels",
        "COWC": "no names of classes", "COWCCounting": "a count", "COWCDetection": "no names",
        "CopernicusBenchBase": "abstract", "CopernicusBenchBigEarthNetS1": "several labels",
        "CopernicusBenchBigEarthNetS2": "several labels",
        "CopernicusBenchLC100ClsS3": "several labels", "CropHarvest": "time series",
        "DIOR": "boxes", "DigitalTyphoon": "sequences", "EverWatch": "boxes", "FAIR1M": "boxes",
        "ForestDamage": "boxes", "IDTReeS": "boxes", "InriaAerialImageLabeling": "masks",
        "LEVIRCD": "masks", "LEVIRCDBase": "masks", "LEVIRCDPlus": "masks",
        "MMEarth": "several sensors", "NonGeoClassificationDataset": "abstract",
        "PASTIS": "masks", "ReforesTree": "boxes", "SKIPPD": "a number", "SODAA": "boxes",
        "SustainBenchCropYield": "a number", "TreeSatAI": "several labels",
        "TropicalCyclone": "a number", "VHR10": "boxes", "WesternUSALiveFuelMoisture": "a number",
        "ZueriCrop": "masks", "BioMassters": "a raster",
    }  # fmt: skip
    labelled = {
        name
        for name in torchgeo.datasets.__all__
        if inspect.isclass(item := getattr(torchgeo.datasets, name))
        and issubclass(item, torchgeo.datasets.NonGeoDataset)
        and "'label'" in inspect.getsource(item)
    }
    folders = {
        name
        for name in torchgeo.datasets.__all__
        if inspect.isclass(item := getattr(torchgeo.datasets, name))
        and issubclass(item, torchgeo.datasets.NonGeoClassificationDataset)
    }
    assert labelled - {*FORMS} == {*others} & labelled
    assert folders - {*FORMS} == {"NonGeoClassificationDataset"}


@pytest.mark.parametrize("name", ALL_NAMES)
def test_pixels_labels_and_splits_are_those_of_torchgeo(
    name: str, roots: Callable[[str], Path], hdf5: None
) -> None:
    root = roots(name)
    side = {"FireRisk": 320, "So2Sat": 32, "CopernicusBenchLCZS2": 32}.get(name, 0)
    side = side or (128 if name in ("ADVANCE", "MillionAID") else 64)
    side = 256 if name in ("UCMerced", "RESISC45", "PatternNet") else side
    source = open_named(name, root, patch_size=side)
    pixels, rows = read_all(source), rows_of(source)
    named = Named(name, str(root))
    num_read = 0
    for theirs, split in named.splits().items():
        dataset = named.open(theirs)
        for index in range(len(dataset)):
            sample = dataset[index]
            image = sample["image"].numpy()
            (label,) = np.atleast_1d(sample["label"].numpy()).tolist()
            key = key_of(dataset, index, theirs, rows)
            ranges = getattr(source, "reader", source).ranges
            wanted = image if ranges is None else scale_bands(image, ranges)
            assert np.array_equal(pixels[key], wanted.astype(np.uint8)), key
            assert source.classes[rows[key]["label"]] == dataset.classes[label]
            if rows[key]["split"] != split:
                # Drawn from train, which a note says.
                assert split == "train"
                assert any("drawn" in note or "random" in note for note in source.notes)
            num_read += 1
    assert num_read == len(rows)
    assert source.is_synthetic is False


def key_of(dataset: Any, index: int, split: str | None, rows: dict[str, Any]) -> str:
    """Return the patch_id of a sample of torchgeo."""
    if hasattr(dataset, "samples"):
        path = dataset.samples[index][0]
    elif hasattr(dataset, "files"):
        item = dataset.files[index]
        path = item["image"] if isinstance(item, dict) else item.replace(".jpg", ".tif")
    else:
        return f"{split}/{index:07d}"
    (key,) = [key for key in rows if path.endswith(key.rpartition("/")[2]) and fits(path, key)]
    return key


def fits(path: str, key: str) -> bool:
    return "/" not in path or path.endswith(key)


@pytest.mark.parametrize("name", ["EuroSAT", "PatternNet", "So2Sat"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sets_keep_the_contract(
    name: str, check: Any, roots: Callable[[str], Path], hdf5: None
) -> None:
    config = config_of(name, roots(name), patch_size=32)
    check(Case(find_dataset(config.name), config))


def test_eurosat_has_its_bands_its_splits_and_the_ranges_of_train(
    roots: Callable[[str], Path],
) -> None:
    source = open_named("EuroSAT", roots("EuroSAT"))
    assert source.bands == EUROSAT_BANDS
    assert source.classes == EUROSAT_CLASSES
    rows = list(rows_of(source).values())
    assert [sum(row["split"] == split for row in rows) for split in ("train", "val", "test")] == [
        40, 20, 20,
    ]  # fmt: skip
    dataset = torchgeo.datasets.EuroSAT(str(roots("EuroSAT")))
    assert source.reader.ranges == band_ranges(item["image"].numpy() for item in dataset)
    (note,) = source.notes
    assert "from its 1st to 99th percentile on train" in note
    assert "coastal 214 to " in note


def test_pixels_equal_those_of_a_folder_with_the_same_range(roots: Callable[[str], Path]) -> None:
    root = roots("EuroSAT")
    given = {"patch_size": 64, "value_range": [0.0, 10000.0]}
    one = read_all(open_named("EuroSAT", root, **given))
    content = {"name": "folder", "root": str(root / EUROSAT_FOLDER), **given}
    config = build({"name": "x", "backbones": ["x"], "dataset": content}).dataset
    other = read_all(open_folder(config))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["EuroSAT", "So2Sat"])
def test_bands_are_chosen_by_name_and_order(
    name: str, roots: Callable[[str], Path], hdf5: None
) -> None:
    root = roots(name)
    whole = open_named(name, root, patch_size=32)
    some = open_named(name, root, patch_size=32, bands=["nir", "blue"])
    assert some.bands == ("nir", "blue")
    places = [whole.bands.index(band) for band in some.bands]
    one, other = read_all(whole), read_all(some)
    assert all(np.array_equal(one[key][places], other[key]) for key in one)
    assert whole.digest() != some.digest()
    with pytest.raises(UsageError, match=r"no band 'nirr'\. Did you mean 'nir'\?"):
        open_named(name, root, bands=["nirr"])
    with pytest.raises(UsageError, match="names a band twice"):
        open_named(name, root, bands=["nir", "nir"])


def test_the_digest_follows_contents_splits_and_ranges(tmp_path: Path) -> None:
    write_eurosat(tmp_path / "a", classes=("Forest", "River"))
    first = open_named("EuroSAT", tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert open_named("EuroSAT", tmp_path / "b").digest() == first.digest()
    assert open_named("EuroSAT", tmp_path / "a", value_range=[0, 9]).digest() != first.digest()
    river = tmp_path / "b" / EUROSAT_FOLDER / "River"
    shutil.copy(river / "River_2.tif", river / "River_1.tif")
    assert open_named("EuroSAT", tmp_path / "b").digest() != first.digest()
    for split in ("val", "test"):
        path = tmp_path / "a" / f"eurosat-{split}.txt"
        path.rename(tmp_path / "a" / f"moved-{split}.txt")
    (tmp_path / "a" / "moved-val.txt").rename(tmp_path / "a" / "eurosat-test.txt")
    (tmp_path / "a" / "moved-test.txt").rename(tmp_path / "a" / "eurosat-val.txt")
    assert open_named("EuroSAT", tmp_path / "a").digest() != first.digest()


def test_missing_splits_are_drawn_by_fraction_and_seed(roots: Callable[[str], Path]) -> None:
    root = roots("FireRisk")
    source = open_named("FireRisk", root)
    (note,) = [note for note in source.notes if "split" in note]
    assert note.startswith("The data have no test split: 3 images of train, drawn by class (seed 0")
    rows = rows_of(source)
    assert {row["split"] for key, row in rows.items() if key.startswith("val/")} == {"val"}
    other = rows_of(open_named("FireRisk", root, seed=7))
    assert [row["split"] for row in rows.values()] != [row["split"] for row in other.values()]
    more = rows_of(open_named("FireRisk", root, test_fraction=0.5))
    assert sum(row["split"] == "test" for row in more.values()) == 9
    (random,) = open_named("PatternNet", roots("PatternNet")).notes
    assert "is random (seed 0)" in random


def test_samples_that_cannot_be_read_are_problems(
    roots: Callable[[str], Path], tmp_path: Path, hdf5: None
) -> None:
    root = tmp_path / "set"
    shutil.copytree(roots("So2Sat"), root)
    source = pickle.loads(pickle.dumps(open_named("So2Sat", root, patch_size=32)))
    (root / "validation.h5").write_bytes(b"")
    rows = source.candidates
    images = source.read(rows)
    assert len(images.rows) == 15
    assert len(images.problems) == 6
    assert images.problems[0].path == f"{root}: validation/0000000"


def test_a_damaged_image_is_a_problem(tmp_path: Path) -> None:
    write_eurosat(tmp_path, classes=("Forest", "River"))
    broken = tmp_path / EUROSAT_FOLDER / "River" / "River_1.tif"
    broken.write_bytes(broken.read_bytes()[:100])
    source = open_named("EuroSAT", tmp_path)
    images = source.read(source.candidates)
    assert [problem.path for problem in images.problems] == [str(broken)]


@pytest.mark.skipif(IS_INSTALLED, reason="h5py is installed")
@pytest.mark.parametrize("name", sorted(HDF5_WRITERS))
def test_without_h5py_the_line_says_what_to_install(
    name: str, roots: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match="needs the package h5py; run `pip install h5py`"):
        open_named(name, roots(name))


def test_what_is_absent_or_incomplete_is_one_line(
    tmp_path: Path, roots: Callable[[str], Path], hdf5: None
) -> None:
    root = tmp_path / "none"
    with pytest.raises(UsageError, match="is not there; run `benchmark prepare torchgeo:EuroSAT"):
        open_named("EuroSAT", root)
    with pytest.raises(UsageError, match="is not there; torchgeo does not download it: put its"):
        open_named("So2Sat", root)
    shutil.copytree(roots("UCMerced"), root)
    removed = root / "UCMerced_LandUse" / "Images" / "beach" / "beach01.tif"
    removed.unlink()
    with pytest.raises(UsageError, match=r"1 of 12 images that uc_merced-train\.txt lists are mis"):
        open_named("UCMerced", root)
    Image.new("RGB", (256, 256)).save(removed)
    (root / "uc_merced-val.txt").unlink()
    with pytest.raises(UsageError, match=r"torchgeo cannot open it: FileNotFoundError"):
        open_named("UCMerced", root)
    (root / "uc_merced-val.txt").write_text((root / "uc_merced-train.txt").read_text())
    with pytest.raises(UsageError, match=r"agricultural00\.tif' is in train and in val"):
        open_named("UCMerced", root)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("EuroSta", r"torchgeo has no data set 'EuroSta'\. Did you mean 'EuroSAT'"),
        ("eurosat", r"torchgeo has no data set 'eurosat'\. Did you mean 'EuroSAT'"),
        ("LoveDA", "torchgeo's LoveDA is no set of images with one label each; those are: ADVANCE"),
        ("", r"torchgeo has no data set ''\. Known: ADVANCE"),
        ("NonGeoDataset", "is no set of images with one label each"),
    ],
)
def test_an_unknown_name_is_one_line(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        f'name = "x"\nbackbones = ["mean_color"]\n[dataset]\nname = "torchgeo:{name}"\nroot = "."\n'
    )
    assert invoke(["run", str(path), "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(line)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"purity": 0.5}, "'purity' does not apply to the data set 'torchgeo:EuroSAT'"),
        ({"labels": "labels.csv"}, "'labels' does not apply"),
        ({"settings": {"a": 1}}, "takes no settings; they are for own code"),
    ],
)
def test_settings_of_other_data_sets_are_refused(settings: dict[str, Any], message: str) -> None:
    content = {"name": "torchgeo:EuroSAT", "root": ".", **settings}
    with pytest.raises(UsageError, match=message):
        check_names(build({"name": "x", "backbones": ["mean_color"], "dataset": content}))


def test_a_range_that_is_none_is_refused(roots: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match=r"value_range = \[9.0, 1.0\] is not a range"):
        open_named("EuroSAT", roots("EuroSAT"), value_range=[9.0, 1.0])


def test_the_list_names_the_sources_without_torchgeo() -> None:
    code = (
        "import sys; from benchmark.catalog.datasets import find_dataset; "
        "from benchmark.cli.commands import invoke; find_dataset('torchgeo:EuroSAT'); "
        "find_dataset('hf-datasets:org/name'); invoke(['list', 'datasets']); "
        "sys.exit('torchgeo' in sys.modules or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert (
        f"torchgeo:NAME             public data sets of torchgeo: {', '.join(FORMS)}" in done.stdout
    )
    for form in ("hf-datasets:ORG/NAME", "package.module:attribute"):
        assert form in done.stdout


def test_the_contract_can_be_checked_by_name(
    roots: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = roots("RESISC45")
    assert all(item.is_ok for item in bm.check("torchgeo:RESISC45", settings={"root": str(root)}))


def test_prepare_downloads_whole_sets_with_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, bool, bool]] = []
    real = torchgeo.datasets.UCMerced

    class Downloading(real):  # type: ignore[misc, valid-type]
        def __init__(self, root: str, split: str, download: bool = False, checksum: bool = False):
            if download:
                calls.append((split, download, checksum))
                if not (Path(root) / "UCMerced_LandUse").exists():
                    sys.stdout.write("torchgeo prints this\n")
                    WRITERS["UCMerced"](Path(root))
            super().__init__(root, split)

    monkeypatch.setattr(torchgeo.datasets, "UCMerced", Downloading)
    root = tmp_path / "new"
    (root / UNFINISHED / "UCMerced_LandUse").mkdir(parents=True)  # of an interrupted one
    assert invoke(["prepare", "torchgeo:UCMerced", "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "dataset": "torchgeo:UCMerced",
        "root": str(root),
    }
    assert calls == [(split, True, True) for split in ("train", "val", "test")]
    assert not (root / UNFINISHED).exists()
    assert len(rows_of(open_named("UCMerced", root))) == 24
    assert bm.prepare("torchgeo:UCMerced", root, progress=None) == root
    assert len(calls) == 3


def test_torchgeos_own_download_is_unpacked_and_its_checksums_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchgeo.datasets import EuroSAT100

    served = tmp_path / "served"
    write_eurosat(served, "EuroSAT100", classes=("Forest", "River"))
    archive = shutil.make_archive(str(served / "EuroSAT100"), "zip", served, "ds")
    lists = {split: served / f"eurosat-100-{split}.txt" for split in ("train", "val", "test")}
    monkeypatch.setattr(EuroSAT100, "split_md5s", {key: md5(path) for key, path in lists.items()})
    with serving(served) as url:
        monkeypatch.setattr(EuroSAT100, "url", url)
        with pytest.raises(BenchmarkError, match=r"failed: RuntimeError: File not found or corr"):
            bm.prepare("torchgeo:EuroSAT100", tmp_path / "new", progress=None)
        monkeypatch.setattr(EuroSAT100, "md5", md5(Path(archive)))
        root = bm.prepare("torchgeo:EuroSAT100", tmp_path / "new", progress=None)
    assert len(rows_of(open_named("EuroSAT100", root))) == 16


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on this machine; yields its address."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_a_failed_download_leaves_the_root_empty_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchgeo.datasets import eurosat

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("the server stopped")

    monkeypatch.setattr(eurosat, "download_url", fail)
    with pytest.raises(BenchmarkError, match=r"failed: .*the server stopped.*; try again"):
        bm.prepare("torchgeo:EuroSAT", tmp_path / "new", progress=None)
    assert [item.name for item in (tmp_path / "new").iterdir()] == [UNFINISHED]
    with pytest.raises(UsageError, match=r"torchgeo:So2Sat: torchgeo does not download it: put"):
        bm.prepare("torchgeo:So2Sat", tmp_path / "new", progress=None)


def test_the_bands_have_the_names_of_the_package() -> None:
    assert band_names("So2Sat") == (
        *(f"s1_b{number}" for number in range(1, 9)),
        "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir_narrow",
        "swir1", "swir2",
    )  # fmt: skip
    assert band_names("CopernicusBenchEuroSATS1") == ("vv", "vh")
    assert band_names("UCMerced") is None


def test_an_entry_is_pickled_and_keeps_its_name() -> None:
    entry = find_dataset("torchgeo:EuroSAT")
    copy = pickle.loads(pickle.dumps(entry))
    assert copy.open.args == ("EuroSAT",)
    assert replace(copy, open=entry.open, prepare=entry.prepare) == entry
    assert entry.slug == "torchgeo-EuroSAT"
    assert named_module.open_set is entry.open.func
