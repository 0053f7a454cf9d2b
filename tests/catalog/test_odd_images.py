"""Images as users have them that were once read wrongly: the right pixels, a note, or one line."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from benchmark.catalog.folder import alike, contents, facts
from benchmark.catalog.folder.alike import find_alike
from benchmark.catalog.folder.bandnames import is_doubtful, name_bands
from benchmark.catalog.folder.decoding import Decoded, ImageError, alpha_kind, decode
from benchmark.catalog.folder.facts import describe, examine_images
from benchmark.catalog.folder.source import FolderSource, open_folder
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.exporting.standalone import Classifier, without_transparent
from benchmark.progress import LoggedProgress, heard_by
from benchmark.store.cache import cache_folder

FAULTS = Path(__file__).resolve().parents[3] / "shared/faults"
SIDE = 16

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning:rasterio")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def noise(seed: int, bands: int = 3, high: int = 256, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, high, (bands, SIDE, SIDE)).astype(dtype)


def open_at(root: Path, **settings: Any) -> FolderSource:
    return open_folder(
        DatasetConfig.model_validate(
            {"name": "folder", "root": str(root), "patch_size": SIDE, **settings}
        )
    )


Write = Callable[[Path, str, int], None]


def write_all(root: Path, write: Write, *, count: int = 3) -> Path:
    """Call ``write`` with the path, without a suffix, of each image of the classes a and b."""
    for name in "ab":
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            write(root / name / str(number), name, number)
    return root


def seed_of(name: str, number: int) -> int:
    return ord(name) * 100 + number


def save_tiff(path: Path, pixels: NDArray[Any], names: tuple[str, ...] = (), **more: Any) -> Path:
    colors = more.pop("colors", None)
    mask = more.pop("mask", None)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(pixels),
        height=pixels.shape[1],
        width=pixels.shape[2],
        dtype=pixels.dtype,
        **more,
    ) as dataset:
        dataset.write(pixels)
        if names:
            dataset.descriptions = names
        if colors:
            dataset.colorinterp = colors
        if mask is not None:
            dataset.write_mask(mask)
    return path


def save_png(path: Path, pixels: NDArray[np.uint8], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(path, **more)
    return path


def patch_of(source: FolderSource, path: str) -> NDArray[np.uint8]:
    row = source.candidates["patch_id"].to_pylist().index(path)
    images = source.read(source.candidates.slice(row, 1))
    assert not images.problems, images.problems
    return images.pixels[0]


def has_note(source: FolderSource, *texts: str) -> bool:
    return any(all(text in note for text in texts) for note in source.notes)


# --- pages ---------------------------------------------------------------------------------


def test_every_page_of_one_band_is_a_band(tmp_path: Path) -> None:
    def write(path: Path, name: str, number: int) -> None:
        pixels = noise(seed_of(name, number), 13)
        tifffile.imwrite(f"{path}.tif", pixels, photometric="minisblack")

    source = open_at(write_all(tmp_path, write))
    assert source.bands == tuple(f"band_{number}" for number in range(1, 14))
    np.testing.assert_array_equal(patch_of(source, "b/2.tif"), noise(seed_of("b", 2), 13))
    assert has_note(source, "bands are read from pages: 6, e.g. 'a/0.tif'")


def test_samples_in_the_last_axis_are_bands_or_refused(tmp_path: Path) -> None:
    pixels = noise(1, 13).transpose(1, 2, 0)
    tifffile.imwrite(tmp_path / "rows.tif", pixels, photometric="minisblack")
    with pytest.raises(ImageError, match=r"has 16 pages of 16 x 13 px: probably an image of 16 x"):
        decode(tmp_path / "rows.tif")
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(decode(tmp_path / "x.tif").pixels, noise(1, 13))


def test_other_pages_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise(0).transpose(1, 2, 0)[None].repeat(2, 0), photometric="rgb")
    with pytest.raises(ImageError, match=r"has 2 pages, and page 1 has 3 bands; a page must be"):
        decode(path)
    with tifffile.TiffWriter(path) as file:
        file.write(noise(0, 1)[0], photometric="minisblack")
        file.write(noise(0, 1)[0, :8, :8], photometric="minisblack")
    with pytest.raises(ImageError, match=r"has 2 pages that differ, e.g. 16 x 16 px of uint8"):
        decode(path)
    tifffile.imwrite(path, noise(0, 5), photometric="minisblack", truncate=True)
    with pytest.raises(ImageError, match=r"holds 256 values, but its description .* says 1,280"):
        decode(path)


def test_overviews_and_internal_masks_are_no_pages(tmp_path: Path) -> None:
    path = save_tiff(tmp_path / "x.tif", noise(0))
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2])
    image = decode(path)
    np.testing.assert_array_equal(image.pixels, noise(0))
    assert image.how == ()


# --- band order ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("descriptions", "colors", "names"),
    [
        (("B2", "B3", "B4"), (), ("blue", "green", "red")),
        (("B04", "B03", "B02"), (), ("red", "green", "blue")),
        (("SR_B4", "SR_B3", "SR_B2", "SR_B5"), (), ("red", "green", "blue", "nir")),
        (("B2", "B3", "B4", "B8"), (), ("blue", "green", "red", "nir")),
        (("B3", "B2", "B1"), (), ("red", "green", "blue")),
        (("B8", "B4", "B3"), (), ("nir", "red", "green")),
        (("Band 2", "band_3", "BAND 4"), (), ("blue", "green", "red")),
        (("R", "G", "B", "N"), (), ("red", "green", "blue", "nir")),
        (("Blue", "Green", "Red", "Near Infrared"), (), ("blue", "green", "red", "nir")),
        (("B4 (Red)", "B3 (Green)", "B2 (Blue)"), (), ("red", "green", "blue")),
        (("nir", "red", "green"), (), ("nir", "red", "green")),
        (("Red", "Green", "Blue", "DEM"), (), ("red", "green", "blue", "dem")),
        (("Blue", "", "Red"), (), ("blue", "green", "red")),
        (("B1", "B2", "B3"), (), None),
        (("Band 1", "Band 2", "Band 3"), (), None),
        (("vv", "vh", "ratio"), (), None),
        (("Red", "Red Edge", "NIR"), (), ("red", "red edge", "nir")),
        (("Red", "Red", "Red"), (), None),
        ((None, None, None), ("blue", "green", "red"), ("blue", "green", "red")),
        ((None, None, None), ("gray", "undefined", "undefined"), None),
        (("vv", "vh"), (), None),
    ],
)
def test_names_of_bands(
    descriptions: tuple[str | None, ...],
    colors: tuple[str, ...],
    names: tuple[str, ...] | None,
) -> None:
    assert name_bands(descriptions, colors) == names


def test_descriptions_that_name_colours_twice_are_doubtful() -> None:
    assert is_doubtful(("Red", "Red", "Red"))
    assert is_doubtful(("Blue", None, None))
    assert not is_doubtful(("vv", "vh", "ratio"))
    assert not is_doubtful(("Red", "Green", "Blue"))


def test_codes_of_a_sensor_name_the_bands_and_it_is_said(tmp_path: Path) -> None:
    def write(path: Path, name: str, number: int) -> None:
        save_tiff(Path(f"{path}.tif"), noise(seed_of(name, number)), ("B2", "B3", "B4"))

    source = open_at(write_all(tmp_path, write))
    assert source.bands == ("blue", "green", "red")
    np.testing.assert_array_equal(patch_of(source, "a/1.tif"), noise(seed_of("a", 1)))
    assert has_note(source, "B2, B3, B4 are taken for those of Sentinel-2: blue, green, red")
    named = open_at(tmp_path, bands=["red", "green", "blue"])
    assert named.bands == ("red", "green", "blue")
    assert has_note(named, "the files' own names, blue, green, red, are not used")
    assert named.digest() == plain_digest(named) != source.digest()


def test_each_file_is_read_in_the_order_of_its_own_names(tmp_path: Path) -> None:
    def write(path: Path, name: str, number: int) -> None:
        pixels = noise(seed_of(name, number))
        if number == 0:
            save_tiff(Path(f"{path}.tif"), pixels, ("Red", "Green", "Blue"))
        elif number == 1:
            save_tiff(Path(f"{path}.tif"), pixels[::-1], ("B2", "B3", "B4"))
        else:
            save_png(Path(f"{path}.png"), pixels)

    source = open_at(write_all(tmp_path, write))
    assert source.bands == ("red", "green", "blue")
    for path in source.candidates["patch_id"].to_pylist():
        want = noise(seed_of(path[0], int(path[2])))
        np.testing.assert_array_equal(patch_of(source, path), want)
    assert has_note(source, "reordered to red, green, blue: 2, e.g. 'a/1.tif'")


def test_a_file_with_other_bands_is_a_problem_and_unclear_names_are_asked_about(
    tmp_path: Path,
) -> None:
    def write(path: Path, name: str, number: int) -> None:
        names = ("nir", "red", "green") if (name, number) == ("b", 2) else ("red", "green", "blue")
        save_tiff(Path(f"{path}.tif"), noise(seed_of(name, number)), names)

    source = open_at(write_all(tmp_path / "one", write))
    (problem,) = source.read(source.candidates).problems
    assert problem.reason.startswith("names its bands nir, red, green, but other images")

    def write_unclear(path: Path, name: str, number: int) -> None:
        save_tiff(Path(f"{path}.tif"), noise(seed_of(name, number)), ("Red", "Red", "Red"))

    root = write_all(tmp_path / "two", write_unclear)
    with pytest.raises(UsageError, match=r"'a/0.tif' describes its bands as .* name every band in"):
        open_at(root)
    assert open_at(root, bands=["red", "green", "blue"]).bands == ("red", "green", "blue")


def test_files_without_names_among_others_are_said(tmp_path: Path) -> None:
    def write(path: Path, name: str, number: int) -> None:
        names = ("Blue", "Green", "Red") if number else ()
        pixels = noise(seed_of(name, number), dtype=np.uint16)
        save_tiff(Path(f"{path}.tif"), pixels, names)

    source = open_at(write_all(tmp_path, write), value_range=[0, 255])
    # The first has no names, so it is red, green, blue; the others follow it.
    assert source.bands == ("red", "green", "blue")
    np.testing.assert_array_equal(patch_of(source, "a/1.tif"), noise(seed_of("a", 1))[::-1])
    assert has_note(source, "do not name their bands, taken for red, green, blue: 2")


# --- pixel type and range ------------------------------------------------------------------


def write_mixed(path: Path, name: str, number: int) -> None:
    """Write uint16 in class a and uint8 in class b."""
    dtype, high = (np.uint16, 3000) if name == "a" else (np.uint8, 256)
    save_tiff(Path(f"{path}.tif"), noise(seed_of(name, number), 3, high, dtype))


def test_uint16_beside_uint8_is_refused_with_both_named(tmp_path: Path) -> None:
    root = write_all(tmp_path, write_mixed)
    message = r"3 of uint16 \(e.g. 'a/0.tif'\), 3 of uint8 \(e.g. 'b/0.tif'\); convert them to one"
    for settings in ({}, {"value_range": [0, 3000]}):
        with pytest.raises(UsageError, match=message):
            open_at(root, **settings)
    source = open_at(root, value_range=[0, 3000], on_error="skip")
    images = source.read(source.candidates)
    assert images.rows.tolist() == [0, 1, 2]
    assert "holds uint8 pixels" in images.problems[0].reason
    assert has_note(source, "differ in their pixel type", "uint8 cannot be used")


def write_u16(path: Path, name: str, number: int) -> None:
    pixels = 100 + noise(seed_of(name, number), 3, 2900, np.uint16)
    save_tiff(Path(f"{path}.tif"), pixels, photometric="MINISBLACK")


def test_clipped_pixels_are_said_and_a_range_that_clips_all_is_refused(tmp_path: Path) -> None:
    root = write_all(tmp_path, write_u16)
    assert not has_note(open_at(root, value_range=[100, 3000]), "value_range")
    clipped = open_at(root, value_range=[100, 1550])
    assert any(re.search(r"clipped to 0 or 255: about (4|5)\d%, and", n) for n in clipped.notes)
    with pytest.raises(
        UsageError, match=r"\[0.0, 10.0\] clips every pixel; the images hold uint16"
    ):
        open_at(root, value_range=[0, 10])
    assert has_note(open_at(root, value_range=[0, 60_000]), "have few and similar values")


def test_the_proposed_range_is_that_of_all_files(tmp_path: Path) -> None:
    def write(path: Path, name: str, number: int) -> None:
        pixels = 50 + noise(seed_of(name, number), 3, 900, np.uint16)
        pixels[:, 0, 0] = 7 if (name, number) == ("a", 2) else 1000 + seed_of(name, number)
        save_tiff(Path(f"{path}.tif"), pixels)

    with pytest.raises(UsageError, match=r"set \[dataset\] value_range = \[7, 10802\]"):
        open_at(write_all(tmp_path, write))


# --- pixels without data -------------------------------------------------------------------


def write_nodata(path: Path, name: str, number: int) -> None:
    pixels = 100 + noise(seed_of(name, number), 3, 2900, np.int16)
    pixels[:, :4] = -9999
    save_tiff(Path(f"{path}.tif"), pixels, nodata=-9999)


def test_nodata_is_left_out_of_the_range_filled_and_counted(tmp_path: Path) -> None:
    root = write_all(tmp_path, write_nodata)
    with pytest.raises(UsageError, match=r"int16 pixels from 1\d\d to 29\d\d .*nodata left out"):
        open_at(root)
    source = open_at(root, value_range=[-500, 3000])
    patch = patch_of(source, "a/0.tif")
    assert (patch[:, :4] == 0).all()
    assert (patch[:, 4:] > 30).all()
    assert has_note(source, "without data", "became 0: 6, at most 25% of one")


def test_nodata_of_uint8_and_masks_become_black(tmp_path: Path) -> None:
    white = noise(0) // 2
    white[:, :4] = 255
    image = decode(save_tiff(tmp_path / "white.tif", white, nodata=255))
    assert image.invalid is not None
    assert image.invalid[:, :4].all()
    assert not image.invalid[:, 4:].any()
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[:, :3] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = save_tiff(tmp_path / "masked.tif", noise(1), mask=mask)
    hidden = decode(path).invalid
    assert hidden is not None
    np.testing.assert_array_equal(hidden, (mask == 0)[None].repeat(3, 0))


def test_images_of_nothing_are_left_out_and_named(tmp_path: Path) -> None:
    def write(path: Path, name: str, number: int) -> None:
        pixels = noise(seed_of(name, number)).astype(np.float32) / 255
        if number == 4:
            pixels[:, :10] = np.nan
        elif number == 3:
            pixels[:, :6] = np.inf
        save_tiff(Path(f"{path}.tif"), pixels, nodata=np.nan)

    source = open_at(write_all(tmp_path, write, count=5), value_range=[0, 1])
    ids = source.candidates["patch_id"].to_pylist()
    assert len(ids) == 8
    assert not {"a/4.tif", "b/4.tif"} & {*ids}
    assert has_note(source, "more than 50% of their values", ": 2 ('a/4.tif', 'b/4.tif').")
    assert (patch_of(source, "a/3.tif")[:, :6] == 0).all()


def test_a_class_of_nothing_is_refused(tmp_path: Path) -> None:
    def write(path: Path, name: str, number: int) -> None:
        pixels = noise(seed_of(name, number)).astype(np.float32)
        if name == "b":
            pixels[:] = np.nan
        save_tiff(Path(f"{path}.tif"), pixels)

    with pytest.raises(UsageError, match=r"every image of class 'b' has more than 50% of values"):
        open_at(write_all(tmp_path, write), value_range=[0, 1])


# --- alpha ---------------------------------------------------------------------------------


def write_rgba(path: Path, name: str, number: int) -> None:
    save_png(Path(f"{path}.png"), noise(seed_of(name, number), 4))


def test_the_fourth_band_of_a_png_is_said_or_read(tmp_path: Path) -> None:
    root = write_all(tmp_path, write_rgba)
    source = open_at(root)
    assert source.bands == ("red", "green", "blue")
    np.testing.assert_array_equal(patch_of(source, "a/0.png"), noise(seed_of("a", 0), 4)[:3])
    assert has_note(source, "The last of 4 bands is marked as alpha and left out", "'a/0.png'")
    kept = open_at(root, bands=["red", "green", "blue", "nir"])
    np.testing.assert_array_equal(patch_of(kept, "a/0.png"), noise(seed_of("a", 0), 4))


def test_alpha_of_two_values_is_a_mask(tmp_path: Path) -> None:
    def write(path: Path, name: str, number: int) -> None:
        pixels = noise(seed_of(name, number), 4) | 1
        pixels[3] = 255
        pixels[3, :2] = 0
        save_png(Path(f"{path}.png"), pixels)

    source = open_at(write_all(tmp_path, write))
    patch = patch_of(source, "a/0.png")
    assert (patch[:, :2] == 0).all()
    assert (patch[:, 2:] > 0).all()
    assert has_note(source, "transparent", "became 0: 6, at most 12%")
    assert not has_note(source, "marked as alpha")


@pytest.mark.parametrize(
    ("values", "kind"), [((255, 255), "opaque"), ((0, 255), "mask"), ((0, 0), "mask")]
)
def test_kinds_of_alpha(values: tuple[int, int], kind: str) -> None:
    assert alpha_kind(np.array([values], np.uint8)) == kind
    assert alpha_kind(np.array([[0, 7, 255]], np.uint8)) == "varied"


# --- orientation and colour space ----------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured_as_by_an_exported_model(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    path = tmp_path / f"x{suffix}"
    if suffix == ".tif":
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, pixels, photometric="rgb", extratags=tags)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
    found = decode(path)
    with Image.open(path) as picture:
        want = np.asarray(ImageOps.exif_transpose(picture).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(found.pixels, want)
    assert found.how == (() if orientation == 1 else ("turned",))
    model = object.__new__(Classifier)
    model.bands, model.patch_size = ["red", "green", "blue"], 12
    left = (want.shape[2] - 12) // 2
    top = (want.shape[1] - 12) // 2
    np.testing.assert_array_equal(model.read(path), want[:, top : top + 12, left : left + 12])


def test_turned_images_are_said_and_change_the_digest(tmp_path: Path) -> None:
    def write(path: Path, name: str, number: int) -> None:
        exif = Image.Exif()
        exif[274] = 6
        save_png(Path(f"{path}.png"), noise(seed_of(name, number)), exif=exif)

    source = open_at(write_all(tmp_path, write))
    assert has_note(source, "turned upright", "6, e.g. 'a/0.png'")


def test_transparent_pixels_of_an_exported_models_picture_are_black() -> None:
    pixels = np.full((4, 4, 4), 200, np.uint8)
    pixels[0, :, 3] = 0
    found = np.asarray(without_transparent(Image.fromarray(pixels)).convert("RGB"))
    assert (found[0] == 0).all()
    assert (found[1:] == 200).all()
    pixels[1, 0, 3] = 7
    assert (np.asarray(without_transparent(Image.fromarray(pixels))) == 200).all()


def test_lab_becomes_rgb(tmp_path: Path) -> None:
    """L = 50, a = 20, b = -20 is (137, 109, 154) in sRGB; the white point costs some."""
    lab = np.tile(np.array([[[128, 20, 236]]], np.uint8), (SIDE, SIDE, 1))
    tifffile.imwrite(tmp_path / "x.tif", lab, photometric="cielab")
    image = decode(tmp_path / "x.tif")
    assert image.pixels.shape == (3, SIDE, SIDE)
    assert np.abs(image.pixels[:, 0, 0].astype(int) - (137, 109, 154)).max() <= 4
    assert image.how == ("lab",)
    tifffile.imwrite(tmp_path / "y.tif", lab, photometric="icclab")
    with pytest.raises(ImageError, match=r"colour space ICC L\*a\*b\*; store it as RGB"):
        decode(tmp_path / "y.tif")


# --- duplicates ----------------------------------------------------------------------------


def test_equal_pixels_in_other_bytes_are_one_image(tmp_path: Path) -> None:
    def write(path: Path, name: str, number: int) -> None:
        text = PngInfo()
        text.add_text("id", f"{name}{number}")
        save_png(Path(f"{path}.png"), noise(number), pnginfo=text)

    source = open_at(write_all(tmp_path, write, count=6))
    table = source.candidates.to_pydict()
    split_of = dict(zip(table["patch_id"], table["split"], strict=True))
    assert all(split_of[f"a/{n}.png"] == split_of[f"b/{n}.png"] for n in range(6))
    assert has_note(source, "identical images with different labels: 6, e.g. 'a/0.png' and 'b/0")


def smooth(seed: int, side: int = 64) -> Image.Image:
    """A picture with structure, as photographs have it."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def test_nearly_identical_images_stay_together(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(12):
            smooth(seed_of(name, number)).save(tmp_path / name / f"{number:02d}.png")
    plain = open_at(tmp_path)
    assert not has_note(plain, "nearly identical")
    for number in range(12):
        picture = smooth(seed_of("a", number))
        picture.save(tmp_path / "a" / f"x{number:02d}.jpg", quality=70)
        picture.resize((40, 40)).save(tmp_path / "a" / f"y{number:02d}.png")
    smooth(seed_of("b", 3)).save(tmp_path / "a" / "z.jpg")
    for seed in range(4):
        source = open_at(tmp_path, seed=seed)
        table = source.candidates.to_pydict()
        split_of = dict(zip(table["patch_id"], table["split"], strict=True))
        for number in range(12):
            same = {f"a/{number:02d}.png", f"a/x{number:02d}.jpg", f"a/y{number:02d}.png"}
            assert len({split_of[path] for path in same}) == 1
        assert split_of["a/z.jpg"] == split_of["b/03.png"]
        assert has_note(source, "nearly identical images (by difference hash)", "13 of 38 images")
        assert has_note(source, "nearly identical images with different labels: 1", "'b/03.png'")
        assert not has_note(source, "in different splits: ")


def test_images_with_hardly_any_contrast_are_not_alike() -> None:
    """Water: the neighbours of a flat picture differ by noise, whose signs say nothing."""
    rng = np.random.default_rng(0)
    found = {}
    for number in range(200):
        slope = np.linspace(0, 3, 64)[None, :, None] + rng.normal(100, 1, (64, 64, 3))
        pixels = np.rint(slope).astype(np.uint8).transpose(2, 0, 1)
        found[str(number)] = describe(Decoded(pixels, (None,) * 3, False))
    flat = np.full((3, 64, 64), 100, np.uint8)
    found["flat"] = describe(Decoded(flat, (None,) * 3, False))
    found["flatter"] = describe(Decoded(flat + 1, (None,) * 3, False))
    assert find_alike(found) == {}


def test_too_many_images_are_not_compared_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_all(tmp_path, write_rgba)
    monkeypatch.setattr(alike, "MAX_IMAGES", 5)
    monkeypatch.setattr(contents, "MAX_IMAGES", 5)
    assert has_note(open_at(root), "More than 5 images: nearly identical ones are not looked for")


# --- the cache of facts --------------------------------------------------------------------


def test_facts_are_computed_once_for_each_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_all(tmp_path, write_nodata)
    settings = {"value_range": [-500, 3000]}
    first = open_at(root, **settings)

    def fail(path: Path) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(facts, "_examine", fail)
    assert open_at(root, **settings) == first
    database = cache_folder() / "images.sqlite"
    database.write_bytes(b"no database")
    monkeypatch.undo()
    assert examine_images(root, {"a/0.tif": "1" * 32}, where="x").keys() == {"a/0.tif"}


def plain_digest(source: FolderSource) -> str:
    """Return the digest of version 0.1.0, without marks."""
    table = source.candidates.to_pydict()
    digests = contents._digest_files(source.root, table["patch_id"], "x")
    plain = [
        [name, name[0], split, None, None, digests[name]]
        for name, split in zip(table["patch_id"], table["split"], strict=True)
    ]
    return hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).hexdigest()


# --- plain folders keep their digest -------------------------------------------------------


def test_plain_images_have_no_mark_in_the_digest(tmp_path: Path) -> None:
    """Digests of version 0.1.0: patches of plain folders are not computed again."""

    def write(path: Path, name: str, number: int) -> None:
        save_tiff(Path(f"{path}.tif"), noise(seed_of(name, number)), ("Blue", "Green", "Red"))

    write_all(tmp_path, write)
    for settings in ({}, {"bands": ["x", "y", "z"]}):
        source = open_at(tmp_path, **settings)
        assert source.digest() == plain_digest(source)
    turned = Image.Exif()
    turned[274] = 3
    save_png(tmp_path / "a" / "turned.png", noise(1), exif=turned)
    source = open_at(tmp_path)
    assert source.digest() != plain_digest(source)


# --- the inputs beside the project ---------------------------------------------------------


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not FAULTS.is_dir():
        pytest.skip(f"{FAULTS} is absent")
    root = tmp_path_factory.mktemp("faults")
    subprocess.run([sys.executable, FAULTS / "bands.py", root], check=True)
    return root


@pytest.mark.parametrize(
    ("case", "settings", "result"),
    [
        ("pages13_u8", {}, "band_13"),
        ("mixed_u16_u8", {"value_range": [0, 3000]}, "differ in their pixel type"),
        ("nan_all_b", {"value_range": [0, 1]}, "every image of class 'b' has more than"),
        ("nodata_i16", {}, r"value_range = \[100, 2999\]"),
        ("desc_bgr", {}, "blue green red"),
        ("s2_b2b3b4", {}, "blue green red"),
        ("two_band", {}, "band_1 band_2"),
        ("s2_13_u16", {"value_range": [0, 3000]}, "band_13"),
        ("png16", {"value_range": [0, 3000]}, "red green blue"),
        ("same_pixels_other_label", {}, "different labels: 4"),
    ],
)
def test_every_case_of_the_faults(
    case: str, settings: dict[str, Any], result: str, faults: Path
) -> None:
    try:
        source = open_at(faults / case, **settings)
        text = " ".join([*source.bands, *source.notes])
    except UsageError as error:
        text = str(error)
    assert re.search(result, text), text


class Messages(LoggedProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def test_what_takes_long_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "MANY", 6)
    root = write_all(
        tmp_path / "many",
        lambda path, name, number: save_png(
            path.with_suffix(".png"), noise(seed_of(name, number))
        ) and None,
    )  # fmt: skip
    progress = Messages()
    with heard_by(progress):
        open_at(root)
        open_at(root)
    (said,) = progress.texts
    assert "many': looks at the pixels of 6 images, once for each content" in said


def test_of_very_many_images_some_are_examined_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_all(
        tmp_path / "many",
        lambda path, name, number: save_png(
            path.with_suffix(".png"), noise(seed_of(name, number))
        ) and None,
        count=6,
    )  # fmt: skip
    whole = open_at(root)
    monkeypatch.setattr(facts, "MAX_EXAMINED", 5)
    some = open_at(root)
    assert has_note(some, "Of 12 different images one in 3 was examined")
    assert some.digest() == whole.digest()
    assert len(examine_images(root, {"a/0.png": "0", "a/1.png": "1"}, where="")) == 2
    assert patch_of(some, "b/5.png").shape == (3, SIDE, SIDE)
