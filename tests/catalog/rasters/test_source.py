"""The user's own scenes: windows, labels, pixels, ranges and resampling, with known answers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from benchmark.catalog.contracts.datasets import CHECKS, Case
from benchmark.catalog.datasets import DATASETS
from benchmark.catalog.rasters.opening import open_rasters
from benchmark.catalog.rasters.source import LISTING, RasterSource
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.raster_settings import RastersConfig
from tests.ranges import serve
from tests.rasters import CLASSES, UTM, picture, stripes, write_pairs, write_raster

PATTERNS = {"images": "images/*.tif", "labels": "labels/*.tif", "classes": CLASSES}


def config(root: object, rasters: dict[str, Any] | None = None, **settings: Any) -> DatasetConfig:
    content = {"name": "rasters", "root": str(root), "patch_size": 16}
    table = {"rasters": PATTERNS | (rasters or {})}
    return DatasetConfig.model_validate(content | table | settings)


def opened(root: object, rasters: dict[str, Any] | None = None, **settings: Any) -> RasterSource:
    return open_rasters(config(root, rasters, **settings))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def three(root: Path, labels: np.ndarray, image: np.ndarray | None = None, **more: Any) -> Path:
    """Write three equal scenes that lie apart; ``more``: of the first label file."""
    for number in range(3):
        x = 400_000 + 1000 * number
        pixels = picture(labels) if image is None else image
        write_raster(root / f"images/s{number}.tif", pixels, x=x)
        write_raster(root / f"labels/s{number}.tif", labels, x=x, **(more if not number else {}))
    return root


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("rasters", [{}, {"block_m": 60, "buffer_m": 3}, {"gsd_m": 2.0}], ids=str)
def test_it_keeps_the_contract_of_data_sets(pairs: Path, rasters: Any, check: Any) -> None:
    size = 8 if "gsd_m" in rasters else 16
    check(Case(DATASETS.get("rasters"), config(pairs, rasters, patch_size=size)))


def test_windows_of_one_class_with_their_place_and_pixels(pairs: Path) -> None:
    source = opened(pairs)
    assert source.classes == ("water", "trees")
    assert source.bands == ("red", "green", "blue")
    found = source.find("s1")
    assert found.num_examined == 16 and not found.problems and not found.remarks
    table = found.candidates
    labels = stripes(64, 64)
    image = picture(labels)
    for row in table.to_pylist():
        window = labels[row["row"] : row["row"] + 16, row["col"] : row["col"] + 16]
        assert row["label"] == (0 if (window == 1).all() else 1)
        assert row["purity"] == 1.0
    read = source.read(table)
    for pixels, row in zip(read.pixels, table.to_pylist(), strict=True):
        part = image[:, row["row"] : row["row"] + 16, row["col"] : row["col"] + 16]
        assert (pixels == part).all()
    first = table.to_pylist()[0]
    assert (round(first["lon"], 2), round(first["lat"], 2)) == (-76.17, 39.74)


def test_a_stride_moves_windows_by_less_and_by_more_than_their_side(pairs: Path) -> None:
    near, far = opened(pairs, {"stride": 4}), opened(pairs, {"stride": 40})
    assert near.find("s0").num_examined == 13 * 13
    assert far.find("s0").num_examined == 4
    assert set(far.find("s0").candidates["row"].to_pylist()) <= {0, 40}
    starts = near.find("s0").candidates["row"].to_pylist()
    assert 4 * 11 in starts
    assert any("Windows overlap (stride = 4" in note for note in near.notes)
    assert not any("Windows overlap" in note for note in far.notes)


def test_purity_counts_nodata_and_ignored_pixels_against_a_window(tmp_path: Path) -> None:
    labels = np.full((32, 32), 1, np.uint8)
    labels[:16, 16:] = 2
    labels[:2, :16] = 9  # ignored: 32 of 256 px
    labels[16:20, 16:] = 0  # nodata: 64 of 256 px
    three(tmp_path, labels, nodata=0)
    found = opened(tmp_path, {"ignore": [9]}, purity=0.8).find("s0")
    purities = {
        (row["row"], row["col"]): round(row["purity"], 4) for row in found.candidates.to_pylist()
    }
    assert purities == {(0, 0): 0.875, (0, 16): 1.0, (16, 0): 1.0}
    assert {tally.text.split(" (")[0]: tally.num for tally in found.remarks} == {
        "Label pixels without data": 64,
        "Label pixels whose value is in ignore, or null": 32,
    }


def test_overlapping_windows_count_a_pixel_without_data_once(tmp_path: Path) -> None:
    labels = np.full((32, 32), 1, np.uint8)
    labels[10:20, 10:20] = 0
    labels[0, 0] = 2
    three(tmp_path, labels, nodata=0)
    (tally,) = opened(tmp_path, {"stride": 4}).find("s0").remarks
    assert tally.num == 100


def test_a_nodata_value_that_is_a_class_is_that_class_and_it_is_said(tmp_path: Path) -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[16:] = 2
    three(tmp_path, labels, nodata=0)
    classes = {"background": 0, "trees": 2}
    for rasters, size in (({}, 16), ({"gsd_m": 2.0}, 8)):
        found = opened(tmp_path, {"classes": classes, **rasters}, patch_size=size).find("s0")
        assert sorted(found.candidates["label"].to_pylist()) == [0, 0, 1, 1]
        assert "nodata value is in classes" in found.remarks[0].text


def test_labels_of_other_types_and_their_own_nodata(tmp_path: Path) -> None:
    labels = np.full((32, 32), 70_000, np.int32)
    labels[16:] = -5
    labels[:, 16:] = -9999
    for kind in ("int32", "float32"):
        root = three(tmp_path / kind, labels.astype(kind), picture(stripes(32, 32)))
        settings = {"classes": {"a": 70_000, "b": -5}, "label_nodata": -9999}
        found = opened(root, settings).find("s0")
        assert found.candidates["label"].to_pylist() == [0, 1]
        assert not found.problems
        assert found.remarks[0].num == 512


def test_unknown_values_are_listed_with_their_counts(tmp_path: Path) -> None:
    labels = stripes(32, 32)
    labels[0, :5] = 77
    labels[1, :2] = 200
    found = opened(three(tmp_path, labels)).find("s0")
    assert found.candidates.num_rows == 0
    (problem,) = found.problems
    assert problem.path == "labels/s0.tif"
    assert "holds unknown values: 77 (5 px), 200 (2 px); add them to" in problem.reason


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_pixel_types_are_scaled_by_each_band_of_train_alone(
    tmp_path: Path, dtype: str
) -> None:
    labels = stripes(64, 64)
    splits = ["train", "train", "val", "test"]
    rows = ["image,label,split"]
    for number, split in enumerate(splits):
        image = picture(labels, dtype=dtype)
        image[1] *= 10
        if split != "train":
            image *= 5
        x = 400_000 + 1000 * number
        write_raster(tmp_path / f"i{number}.tif", image, x=x)
        write_raster(tmp_path / f"l{number}.tif", labels, x=x)
        rows.append(f"i{number}.tif,l{number}.tif,{split}")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    source = open_rasters(
        DatasetConfig.model_validate(
            {
                "name": "rasters",
                "root": str(tmp_path),
                "patch_size": 16,
                "rasters": {"index": "index.csv", "classes": CLASSES},
            }
        )
    )
    ranges = source.reader.ranges
    assert ranges is not None
    assert [round(low, -1) for low, _ in ranges] == [60, 600, 60]
    assert [round(high, -1) for _, high in ranges] == [200, 1990, 200]
    (note,) = [note for note in source.notes if "by the range of each band in train" in note]
    assert f"{dtype} pixels became 0 to 255" in note and "green 60" in note
    table = source.find("i0").candidates
    pixels = source.read(table).pixels
    low, high = ranges[1]
    row = table.to_pylist()[0]
    image = (
        picture(labels, dtype=dtype)[1, row["row"] : row["row"] + 16, row["col"] :][:, :16] * 10.0
    )
    wanted = np.rint(np.clip((image - low) * 255 / (high - low), 0, 255))
    assert np.abs(pixels[0, 1] - wanted).max() <= 1


def test_value_range_is_one_range_for_all_bands(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, num=3, dtype="uint16")
    source = opened(root, value_range=[0, 510])
    table = source.find("s0").candidates
    row = table.to_pylist()[0]
    image = picture(stripes(64, 64))[:, row["row"] : row["row"] + 16, row["col"] :][:, :, :16]
    assert np.abs(source.read(table).pixels[0] - image / 2).max() <= 0.5
    assert "uint16 pixels from 0 to 510 (value_range) became 0 to 255." in source.notes


def test_values_without_data_become_0_and_empty_patches_are_left_out(tmp_path: Path) -> None:
    labels = np.full((32, 32), 1, np.uint8)
    labels[16:] = 2
    image = picture(labels, dtype="float32")
    image[:, :16, :12] = -1  # the first window: three quarters
    image[:, :4, 16:] = np.nan
    three(tmp_path, labels, image)
    source = opened(tmp_path, {"image_nodata": -1})
    table = source.find("s0").candidates
    images = source.read(table)
    assert not images.problems
    assert images.rows.tolist() == [1, 2, 3]
    assert (images.pixels[0, :, :4] == 0).all() and (images.pixels[0, :, 4:] > 0).any()
    assert [(item.patch_id, item.text.split(" ")[1]) for item in images.remarks] == [
        ("s0-00000-00000", "left"),
        ("s0-00000-00016", "with"),
    ]
    assert source.reader.ranges is not None and source.reader.ranges[0][0] > 50


def test_gsd_averages_images_and_takes_the_most_frequent_label(tmp_path: Path) -> None:
    labels = stripes(64, 64)
    speckled = labels.copy()
    speckled[::2, ::2] = 3 - np.minimum(labels, 2)[::2, ::2]  # one of four pixels
    for number in range(3):
        x = 400_000 + 1000 * number
        write_raster(tmp_path / f"images/s{number}.tif", picture(labels), x=x)
        write_raster(tmp_path / f"labels/s{number}.tif", speckled, x=x)
    source = opened(tmp_path, {"gsd_m": 2.0}, patch_size=8)
    scene = source.scenes["s0"]
    assert (scene.grid.height, scene.grid.width) == (32, 32)
    table = source.find("s0").candidates
    assert table.num_rows == 16 and set(table["purity"].to_pylist()) == {1.0}
    means = picture(labels).reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
    row = table.to_pylist()[5]
    part = means[:, row["row"] : row["row"] + 8, row["col"] : row["col"] + 8]
    assert np.abs(source.read(table).pixels[5] - part).max() <= 0.51
    assert any("resampled to pixels of 2 m" in note for note in source.notes)


@pytest.mark.parametrize("gsd", [2.0, 1.7, 0.6])
def test_resampled_bands_do_not_mix_with_a_band_called_alpha_nor_with_nodata(
    tmp_path: Path, gsd: float
) -> None:
    labels = np.full((64, 64), 1, np.uint8)
    labels[32:] = 2
    image = picture(labels, bands=4)
    image[:3] = 100
    image[3] = np.random.default_rng(0).integers(8, 255, (64, 64))  # near infrared
    image[1, 5, :] = 7
    three(tmp_path, labels, image)
    source = opened(tmp_path, {"gsd_m": gsd, "image_nodata": 7}, patch_size=8, bands=list("abcd"))
    table = source.find("s0").candidates
    pixels = source.read(table).pixels
    assert (pixels[:, 0] == 100).all()
    assert (pixels[:, 1] == 100).all()
    alone = source.read(table.slice(3, 1)).pixels
    assert (alone[0] == pixels[3]).all()
    if gsd == 2.0:
        means = image[3].reshape(32, 2, 32, 2).mean(axis=(1, 3))
        row = table.to_pylist()[3]
        part = means[row["row"] : row["row"] + 8, row["col"] : row["col"] + 8]
        assert np.abs(pixels[3, 3] - part).max() <= 0.5


def test_gsd_puts_labels_of_another_grid_and_crs_on_that_of_the_image(tmp_path: Path) -> None:
    from rasterio.warp import Resampling, calculate_default_transform, reproject

    labels = stripes(64, 64)
    for number in range(3):
        x = 400_000 + 1000 * number
        image = write_raster(tmp_path / f"images/s{number}.tif", picture(labels), x=x)
        import rasterio

        with rasterio.open(image) as file:
            transform, width, height = calculate_default_transform(
                UTM, "EPSG:3857", 64, 64, *file.bounds
            )
            target = np.zeros((height, width), np.uint8)
            reproject(
                labels, target, src_transform=file.transform, src_crs=UTM,
                dst_transform=transform, dst_crs="EPSG:3857", resampling=Resampling.nearest,
            )  # fmt: skip
        write_raster(
            tmp_path / f"labels/s{number}.tif",
            target,
            crs="EPSG:3857",
            transform=transform,
            nodata=0,
        )
    source = opened(tmp_path, {"gsd_m": 1.0})
    found = source.find("s1")
    assert not found.problems
    assert found.candidates.num_rows == 16
    for row in found.candidates.to_pylist():
        middle = labels[row["row"] + 8, row["col"] + 8]
        assert row["label"] == (0 if middle == 1 else 1)


def test_geographic_scenes_get_square_pixels_on_the_ground(tmp_path: Path) -> None:
    labels = stripes(64, 64)
    from rasterio.transform import from_origin

    for number in range(3):
        more = {"crs": "EPSG:4326", "transform": from_origin(10 + number, 60, 2e-4, 1e-4)}
        write_raster(tmp_path / f"images/s{number}.tif", picture(labels), **more)
        write_raster(tmp_path / f"labels/s{number}.tif", labels, **more)
    grid = opened(tmp_path, {"gsd_m": 30.0}, patch_size=8).scenes["s0"].grid
    assert np.allclose(grid.gsd_m(), 30, rtol=0.011)


def test_jpeg_2000_and_cloud_optimised_geotiff_are_read(tmp_path: Path) -> None:
    labels = stripes(64, 64)
    image = picture(labels)
    for number, (suffix, more) in enumerate(
        [
            ("jp2", {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}),
            ("tif", {"driver": "COG"}),
            ("tiff", {"interleave": "band", "BIGTIFF": "YES"}),
        ]
    ):
        x, compress = 400_000 + 1000 * number, {"compress": None} if suffix == "jp2" else {}
        write_raster(tmp_path / f"i{number}.{suffix}", image, x=x, **more, **compress)
        write_raster(tmp_path / f"l{number}.tif", labels, x=x)
    rows = [f"i{n}.{suffix},l{n}.tif" for n, suffix in enumerate(("jp2", "tif", "tiff"))]
    (tmp_path / "index.csv").write_text("\n".join(["image,label", *rows]))
    source = opened(tmp_path, {"images": None, "labels": None, "index": "index.csv"})
    for name in ("i0", "i1", "i2"):
        table = source.find(name).candidates
        row = table.to_pylist()[0]
        part = image[:, row["row"] : row["row"] + 16, row["col"] : row["col"] + 16]
        assert (source.read(table).pixels[0] == part).all()
    with serve(tmp_path) as server:
        there = opened(server.url, {"images": None, "labels": None, "index": "index.csv"})
        for name in ("i0", "i1", "i2"):
            table = there.find(name).candidates
            np.testing.assert_array_equal(there.read(table).pixels, source.read(table).pixels)


def test_alpha_hides_pixels_and_a_fourth_band_called_alpha_can_be_named(tmp_path: Path) -> None:
    labels = np.full((32, 32), 1, np.uint8)
    labels[16:] = 2
    image = picture(labels, bands=4)
    image[3] = 255
    image[3, :4] = 0
    import rasterio

    three(tmp_path, labels, image)
    with rasterio.open(tmp_path / "images/s0.tif") as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    hidden = opened(tmp_path)
    assert hidden.bands == ("red", "green", "blue")
    images = hidden.read(hidden.find("s0").candidates)
    assert (images.pixels[0, :, :4] == 0).all() and (images.pixels[0, :, 4:] > 0).all()
    kept = opened(tmp_path, bands=["red", "green", "blue", "nir"])
    assert kept.read(kept.find("s0").candidates).pixels.shape[1] == 4


def test_bands_are_put_into_one_order_by_their_names(tmp_path: Path) -> None:
    labels = stripes(32, 32)
    image = picture(labels)
    for number in range(3):
        x = 400_000 + 1000 * number
        turned = number == 2
        write_raster(
            tmp_path / f"images/s{number}.tif",
            image[::-1] if turned else image,
            x=x,
            names=("blue", "green", "red") if turned else ("red", "green", "blue"),
        )
        write_raster(tmp_path / f"labels/s{number}.tif", labels, x=x)
    source = opened(tmp_path)
    one, other = (source.read(source.find(name).candidates).pixels for name in ("s0", "s2"))
    assert (one == other).all()
    assert any("reordered" in note for note in source.notes)


def test_thirteen_bands_keep_their_names(tmp_path: Path) -> None:
    labels = stripes(32, 32)
    for number in range(3):
        x = 400_000 + 1000 * number
        names = tuple(f"X{band}" for band in range(13))
        image = picture(labels, bands=13, dtype="uint16")
        write_raster(tmp_path / f"images/s{number}.tif", image, x=x, names=names)
        write_raster(tmp_path / f"labels/s{number}.tif", labels, x=x)
    source = opened(tmp_path)
    assert source.bands == tuple(f"x{band}" for band in range(13))
    assert source.read(source.find("s0").candidates).pixels.shape[1:] == (13, 16, 16)


def test_the_digest_follows_contents_settings_and_the_order_of_classes(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, num=3)
    whole = opened(root).digest()
    assert opened(root).digest() == whole
    turned = {"trees": [2, 3], "water": 1}
    for other in ({"classes": turned}, {"stride": 8}, {"ignore": [9]}, {"gsd_m": 2.0}):
        size = 8 if "gsd_m" in other else 16
        assert opened(root, other, patch_size=size).digest() != whole
    assert opened(root, {"images": "images/s*.tif", "labels": "labels/s*.tif"}).digest() != whole
    write_raster(root / "labels/s1.tif", stripes(64, 64, side=8), x=400_074)
    assert opened(root).digest() != whole


OTHER = {
    "images": "images/s*.tif",
    "labels": "labels/s*.tif",
    "index": "x.csv",
    "image_asset": "a",
    "label_asset": "a",
    "classes": {"trees": [2, 3], "water": 1},
    "ignore": [9],
    "label_field": "kind",
    "label_layer": "one",
    "image_nodata": 7,
    "label_nodata": 99,
    "stride": 8,
    "gsd_m": 2.0,
    "block_m": 60.0,
    "buffer_m": 1.0,
}


def test_every_setting_is_in_the_digest_or_finds_files() -> None:
    assert OTHER.keys() == RastersConfig.model_fields.keys()
    found = {"images", "labels", "index", "image_asset", "label_asset"}
    assert found | {"classes"} == LISTING
    base = RastersConfig()
    for name in OTHER.keys() - LISTING:
        changed = RastersConfig.model_validate({name: OTHER[name]})
        dumps = [
            item.model_dump(mode="json", exclude_defaults=True, exclude=LISTING)
            for item in (base, changed)
        ]
        assert dumps[0] != dumps[1], name


def test_a_truncated_image_loses_its_patches_alone(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, num=3)
    path = root / "images/s0.tif"
    source = opened(root)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    images = source.read(source.find("s0").candidates)
    assert 0 <= len(images.rows) < 16
    (problem,) = images.problems
    assert problem.path == "images/s0.tif" and "patches lost" in problem.reason


def test_it_pickles_small(pairs: Path) -> None:
    assert len(pickle.dumps(opened(pairs))) < 20_000


def test_corners_go_around_the_window(pairs: Path) -> None:
    source = opened(pairs, {"block_m": 60})
    table = source.find("s0").candidates
    corners = source.corners(table)
    assert corners.shape == (table.num_rows, 4, 2)
    assert np.allclose(corners.mean(axis=1)[:, 0], table["lon"].to_numpy(), atol=1e-7)


@pytest.mark.parametrize(
    ("rasters", "message"),
    [
        ({"classes": {"a": 1, "b": 1}}, "value 1 is listed twice in classes and ignore"),
        ({"classes": {"a": 1, "b": 2}, "ignore": [2]}, "value 2 is listed twice"),
        ({"classes": {"a": 1}}, "classes: name at least two"),
        ({"classes": {"a": 1, "b": "x"}}, "'x' is a text, but the labels are rasters"),
        ({"classes": {}}, r"classes is missing: .* 'labels/s0.tif' holds 1 \(1,536 px\), 2 "),
        ({"classes": CLASSES, "label_nodata": 1}, "label_nodata = 1: is in classes"),
        ({"stride": 1, "gsd_m": 0.001}, "stride = 1: gives"),
        ({"gsd_m": 50.0}, "px when resampled is smaller than a patch of 16 px"),
        ({"buffer_m": 5.0}, "buffer_m: needs block_m"),
        ({"label_field": "kind"}, "label_field: is for polygons, but the labels are rasters"),
    ],
)
def test_wrong_settings_are_one_line(pairs: Path, rasters: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(pairs, rasters)


def test_rasters_without_their_table_say_so(pairs: Path) -> None:
    content = {"name": "rasters", "root": str(pairs)}
    with pytest.raises(UsageError, match=r"\[dataset.rasters\] is missing; name the files"):
        open_rasters(DatasetConfig.model_validate(content))


def test_changed_files_are_not_taken_for_those_of_an_earlier_opening(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, dtype="uint16", num=3)
    before = opened(root)
    assert opened(root).reader.ranges == before.reader.ranges is not None
    for path in (root / "images").iterdir():
        with rasterio.open(path, "r+") as file:
            file.write(file.read() + np.uint16(1000))
    after = opened(root)
    assert after.reader.ranges != before.reader.ranges
    with rasterio.open(root / "labels/s0.tif", "r+") as file:
        file.crs = "EPSG:32617"
    with pytest.raises(UsageError, match=r"'labels/s0.tif' its grid .* EPSG:32617"):
        opened(root)


def test_a_damaged_memory_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_pairs(tmp_path / "data", dtype="uint16", num=3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = opened(root)
    for file in (tmp_path / "cache").rglob("*.sqlite"):
        file.write_bytes(b"x" * 5000)
    assert opened(root) == before
