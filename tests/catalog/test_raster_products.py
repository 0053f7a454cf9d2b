"""Rasters of embeddings: footprints are sampled, and what is wrong is refused."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.warp import transform as warp

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.contracts.checking import check_entry
from benchmark.catalog.own.public import CATALOGS
from benchmark.catalog.products import layouts, pixels
from benchmark.catalog.products.rasters import RasterProduct, open_header
from benchmark.catalog.roots.root import open_root
from benchmark.errors import UsageError
from benchmark.options import BackboneOptions
from tests.object_store import DENIED, KEYS, serve_objects
from tests.product_rasters import (
    NORTH,
    WEST,
    dequantise,
    footprints,
    quantise,
    unit_vectors,
    write_alphaearth,
    write_copernicus,
    write_raster,
    write_tessera,
)
from tests.ranges import serve


def open_product(path: Path | str, **options: Any) -> RasterProduct:
    given = BackboneOptions(**options) if options else None
    product = find_backbone(f"embeddings:{path}", where="x.toml", options=given).product
    assert isinstance(product, RasterProduct)
    return pickle.loads(pickle.dumps(product))  # type: ignore[no-any-return]


def sample(product: RasterProduct, corners: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the vectors with their shares without data, in the order of the footprints."""
    sampler = pickle.loads(pickle.dumps(product.open()))
    found = np.full((len(corners), product.dim + 1), np.nan, np.float32)
    for request in sampler.requests(corners):
        found[request.patches] = sampler.sample(request)
    return found


@pytest.mark.parametrize("is_south_up", [False, True])
def test_the_mean_of_a_footprint_in_alphaearths_layout(tmp_path: Path, is_south_up: bool) -> None:
    vectors = unit_vectors(200, 150)
    vectors[:, 20:24, 20:28] = np.nan
    write_alphaearth(tmp_path, vectors, is_south_up=is_south_up)
    product = open_product(tmp_path)
    assert (product.dim, product.layout.name, product.facts["years"]) == (64, "AlphaEarth", [2021])
    # Half of the pixels of the second footprint have no data, all of the third's.
    found = sample(product, footprints([100, 20, 20], [60, 20, 20], 8)[:2])
    stored = dequantise(quantise(vectors))
    np.testing.assert_allclose(
        found[0, :-1], stored[:, 100:108, 60:68].mean(axis=(1, 2)), atol=1e-6
    )
    np.testing.assert_allclose(found[1, :-1], stored[:, 24:28, 20:28].mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(found[:, -1], [0, 0.5])
    assert np.isnan(sample(product, footprints(20, 20, 4))).all()


def test_mean_and_std_and_the_centre(tmp_path: Path) -> None:
    vectors = unit_vectors(64, 64, 128) * 20
    write_tessera(tmp_path, vectors)
    corners = footprints([8], [16], 10)
    both = open_product(tmp_path, sample="mean+std")
    assert (both.layout.name, both.dim, both.facts["years"]) == ("TESSERA", 256, [2024])
    inside = vectors[:, 8:18, 16:26].reshape(128, -1)
    expected = np.concatenate([inside.mean(axis=1), inside.std(axis=1)])
    np.testing.assert_allclose(sample(both, corners)[0, :-1], expected, rtol=1e-4, atol=1e-6)
    centre = open_product(tmp_path, sample="centre")
    (found,) = sample(centre, footprints([8], [16], 11))
    np.testing.assert_array_equal(found[:-1], vectors[:, 13, 21])
    assert len({item.revision() for item in (both, centre, open_product(tmp_path))}) == 3


def test_a_footprint_smaller_than_a_pixel_takes_the_pixel_that_holds_it(tmp_path: Path) -> None:
    vectors = unit_vectors(32, 32)
    write_alphaearth(tmp_path, vectors)
    corners = footprints([3.1], [5.6], 0.2)
    np.testing.assert_array_equal(
        sample(open_product(tmp_path), corners)[0, :-1], dequantise(quantise(vectors))[:, 3, 5]
    )


def test_files_are_stitched_and_each_pixel_counts_once(tmp_path: Path) -> None:
    vectors = unit_vectors(64, 192)
    # They overlap by 32 columns, and the second has no data in some of them.
    hidden = vectors.copy()
    hidden[:, :, 70:80] = np.nan
    write_alphaearth(tmp_path, vectors[:, :, :96], name="a")
    write_alphaearth(tmp_path, hidden[:, :, 64:], name="b", west=WEST + 640)
    product = open_product(tmp_path)
    found = sample(product, footprints([10, 10, 10], [76, 60, 10], 30))
    stored = dequantise(quantise(vectors))
    for row, col in zip(found, (76, 60, 10), strict=True):
        expected = stored[:, 10:40, col : col + 30].mean(axis=(1, 2))
        np.testing.assert_allclose(row[:-1], expected, atol=1e-6)
    np.testing.assert_array_equal(found[:, -1], 0)


def test_files_of_two_zones_are_stitched(tmp_path: Path) -> None:
    """A smooth field on the grids of two zones, which overlap a little: no pixel is lost."""
    border, lat = -78.0, 40.6
    for zone in (17, 18):
        crs = f"EPSG:326{zone}"
        (x,), (y,) = warp("EPSG:4326", crs, [border], [lat])
        x, y = round(x, -1), round(y, -1)
        rows, cols = np.mgrid[:100, :100] + 0.5
        lons, lats = warp(
            crs, "EPSG:4326", (x - 500 + 10 * cols).ravel(), (y + 500 - 10 * rows).ravel()
        )
        values = 1e3 * np.array([np.array(lons) - border, np.array(lats) - lat], np.float32)
        beyond = (np.array(lons) - border) * (1 if zone == 17 else -1)
        values[:, beyond > 0.0003] = np.nan
        write_raster(
            tmp_path / f"{zone}N" / "a.tif", values.reshape(2, 100, 100), crs=crs,
            west=x - 500, north=y + 500,
        )  # fmt: skip
    east, north = 0.002, 0.0015
    box = np.array([[-east, north], [-east, -north], [east, -north], [east, north]])
    (found,) = sample(open_product(tmp_path), box[None] + np.array([border, lat]))
    # The mean of the field is at the centre; a pixel is 0.1 wide.
    np.testing.assert_allclose(found[:2], 0, atol=0.02)
    assert found[2] == 0


def test_scale_offset_and_nodata_of_the_file_or_the_experiment(tmp_path: Path) -> None:
    values = np.arange(3 * 64 * 64, dtype=np.int16).reshape(3, 64, 64) % 90 + 1
    values[1, :, 4] = -9
    path = write_raster(tmp_path / "a.tif", values, nodata=-9)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.5, 2.0, 1.0), (1.0, 0.0, -1.0)
    corners = footprints([0], [0], 8)
    is_valid = np.arange(8) != 4
    inside = values[:, :8, :8][:, :, is_valid].mean(axis=(1, 2))
    found = sample(open_product(path), corners)[0]
    np.testing.assert_allclose(found[:-1], inside * [0.5, 2, 1] + [1, 0, -1], rtol=1e-6)
    assert found[-1] == pytest.approx(1 / 8)
    found = sample(open_product(path, scale=0.1, offset=-2.0, nodata=-99.0), corners)[0]
    np.testing.assert_allclose(found[:-1], values[:, :8, :8].mean(axis=(1, 2)) * 0.1 - 2, rtol=1e-5)


def test_a_large_footprint_is_read_in_strips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit_vectors(128, 128)
    write_alphaearth(tmp_path, vectors)
    corners = footprints([3], [5], 101)
    whole = sample(open_product(tmp_path, sample="mean+std"), corners)
    monkeypatch.setattr(pixels, "STRIP_VALUES", 64 * 101 * 7)
    np.testing.assert_allclose(
        sample(open_product(tmp_path, sample="mean+std"), corners), whole, atol=1e-6
    )


def test_thousands_of_bands_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2_000, 4, 4)).astype(np.float32)
    path = write_raster(tmp_path / "a.tif", values, blockxsize=16, blockysize=16, interleave="band")
    product = open_product(path)
    assert product.dim == 2_000
    (found,) = sample(product, footprints([0], [0], 2))
    np.testing.assert_allclose(found[:-1], values[:, :2, :2].mean(axis=(1, 2)), atol=1e-6)


def test_a_web_server_sends_the_blocks_that_are_touched(tmp_path: Path) -> None:
    path = write_alphaearth(tmp_path, unit_vectors(512, 512))
    # Nine footprints in one block, and one at the corner of four others.
    rows, cols = [*([130, 140, 150] * 3), 316], [*sorted([200, 210, 220] * 3), 316]
    with serve(path.parent) as server:
        product = open_product(f"{server.url}/{path.name}")
        revision = product.revision()
        server.reset()
        found = sample(product, footprints(rows, cols, 8))
        local = sample(open_product(path), footprints(rows, cols, 8))
        np.testing.assert_array_equal(found, local)
        # Of 64 blocks, five, and the header.
        num_bytes, size = server.num_bytes(), path.stat().st_size
        num_gets = sum(item.method == "GET" for item in server.requests)
        assert num_bytes < size * 5 / 64 + 150_000 < size / 10
        assert num_gets <= 12
        # Many footprints share their blocks: a quarter of the file is sent once.
        server.reset()
        places = np.random.default_rng(0).uniform(0, 240, size=(2, 200))
        sample(open_product(f"{server.url}/{path.name}"), footprints(*places, 12.8))
        assert server.num_bytes() < 0.35 * size
        assert sum(item.method == "GET" for item in server.requests) <= 40
        assert open_product(f"{server.url}/{path.name}").revision() == revision
        server.faults.has_tags = False
        with pytest.raises(UsageError, match="neither ETag nor Last-Modified"):
            open_product(f"{server.url}/{path.name}").revision()


def test_a_bucket_sends_the_blocks_that_are_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    paths = [
        write_alphaearth(tmp_path, unit_vectors(256, 256, seed=number), name=str(number), west=west)
        for number, west in enumerate((WEST, WEST + 2560))
    ]
    # Footprints in one block, and one on both files.
    corners = footprints([130, 140, 150, 30], [130, 140, 150, 252], 8)
    with serve_objects() as objects:
        product = open_product(objects.upload(tmp_path, "aef"))
        assert product.files == ("2021/17N/0.tiff", "2021/17N/1.tiff")
        revision, seen = product.revision(), objects.faults.seen
        seen.clear()
        found = sample(product, corners)
        np.testing.assert_array_equal(found, sample(open_product(tmp_path), corners))
        # Of 32 blocks three, in pages of 16 KiB, and five times a header of 32 KiB: of each file,
        # and again for the footprints on one file and on both.
        size = sum(path.stat().st_size for path in paths)
        most = size * 3 / 32 + 3 * 2 * 2**14 + 5 * 2**15
        assert sum(item.num_bytes for item in seen) <= most < size / 5
        assert len(seen) <= 15
        objects.faults.slow_down_every = 4
        np.testing.assert_array_equal(sample(open_product(objects.uri("aef")), corners), found)
        assert objects.faults.count(503) > 0
        objects.faults.reset()
        # The settings of a URI are no part of its last folder.
        zone = open_product(objects.uri("aef/2021/17N"))
        assert (zone.facts["years"], zone.revision()) == ([2021], revision)
        objects.faults.refuse = lambda verb, path: DENIED if "list-type" in path else None
        with pytest.raises(UsageError, match=r"^x.toml: .*scheme=http': access denied; check the"):
            open_product(objects.uri("aef"))
        assert open_product(objects.uri("aef/2021/17N/0.tiff")).dim == 64


def test_two_years_at_one_place_are_refused_unless_one_is_chosen(tmp_path: Path) -> None:
    for year in (2020, 2021):
        write_alphaearth(tmp_path, unit_vectors(64, 64, seed=year), year=year)
    corners = footprints([0, 30], [0, 30], 8)
    with pytest.raises(
        UsageError, match=r"2 patches lie on .* several years \(2020, 2021\).*'year'"
    ):
        sample(open_product(tmp_path), corners)
    product = open_product(tmp_path, year=2020)
    assert product.facts["years"] == [2020]
    expected = dequantise(quantise(unit_vectors(64, 64, seed=2020)))[:, :8, :8].mean(axis=(1, 2))
    np.testing.assert_allclose(sample(product, corners)[0, :-1], expected, atol=1e-6)
    # The folder of a year is that year.
    assert open_product(tmp_path / "2020").facts["years"] == [2020]
    with pytest.raises(UsageError, match="'year' = 2019: its files are of 2020, 2021; choose one"):
        open_product(tmp_path, year=2019)
    # Years at different places are no contradiction.
    write_alphaearth(tmp_path / "b", unit_vectors(64, 64), year=2020)
    write_alphaearth(tmp_path / "b", unit_vectors(64, 64), year=2021, west=WEST + 640)
    assert open_product(tmp_path / "b").facts["years"] == [2020, 2021]
    assert np.isfinite(sample(open_product(tmp_path / "b"), footprints([9, 9], [9, 70], 8))).all()


def test_values_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    corners = footprints([0], [0], 8)
    values = np.ones((3, 64, 64), np.float32)
    values[1, 2, 2], values[0, 40, 40] = np.nan, np.inf
    product = open_product(write_raster(tmp_path / "nan.tif", values))
    assert sample(product, corners)[0, -1] == pytest.approx(1 / 64)
    with pytest.raises(UsageError, match=r"'nan.tif' holds infinite values"):
        sample(product, footprints([36], [36], 8))
    path = write_alphaearth(tmp_path / "long", 0.5 * unit_vectors(64, 64))
    with pytest.raises(UsageError, match=r"have length 0\.5 after AlphaEarth's de-quantisation"):
        sample(open_product(path.parent.parent.parent), corners)
    # Its owner says what the values are.
    assert np.isfinite(sample(open_product(path, scale=1.0), corners)).all()


def test_a_file_that_stops_in_the_middle_is_named(tmp_path: Path) -> None:
    first = write_alphaearth(tmp_path, unit_vectors(256, 64), name="a")
    second = write_alphaearth(tmp_path, unit_vectors(256, 64), name="b", west=WEST + 640)
    # The header of a COG is at its start: opening it tells nothing.
    rasterio.shutil.copy(second, tmp_path / "cog", driver="COG", blocksize=64, overviews="none")
    whole = (tmp_path / "cog").read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    product = open_product(tmp_path)
    # A footprint on both: the message names the one that is damaged.
    with pytest.raises(UsageError, match=r"^x.toml: .*'2021/17N/b.tiff': cannot be read"):
        sample(product, footprints([240], [60], 8))
    first.write_bytes(b"II*\0")
    with pytest.raises(UsageError, match=r"'2021/17N/a.tiff' cannot be read"):
        open_product(tmp_path)


def test_rasters_without_a_place_or_at_another_one_are_refused(tmp_path: Path) -> None:
    values = unit_vectors(64, 64, 4)
    with pytest.raises(UsageError, match=r"'none.tif' has no coordinate reference system"):
        open_product(write_raster(tmp_path / "none.tif", values, crs=None))
    product = open_product(write_raster(tmp_path / "far.tif", values, north=NORTH - 1e6))
    with pytest.raises(UsageError, match=r"1 rasters touch none of the 2 patches: .*64 x 64 px"):
        sample(product, footprints([0, 0], [0, 0], 8))
    local = 'LOCAL_CS["plan",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    with pytest.raises(UsageError, match=r"'plan.tif' has a coordinate reference system without"):
        open_product(write_raster(tmp_path / "plan.tif", values, crs=local))
    with pytest.raises(UsageError, match="holds complex64; store one real pixel type"):
        open_product(write_raster(tmp_path / "complex.tif", values.astype(np.complex64)))


def test_more_bands_than_can_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.tif"
    profile = {"driver": "GTiff", "count": 10_000, "height": 1, "width": 1, "dtype": "uint8"}
    place = {"crs": "EPSG:26918", "transform": rasterio.transform.from_origin(4e5, 4e6, 10, 10)}
    with rasterio.open(path, "w", **profile, **place) as file:
        file.write(np.ones((10_000, 1, 1), np.uint8))
    with pytest.raises(UsageError, match="has 10,000 bands; rasters of embeddings have at most"):
        find_backbone(f"embeddings:{path}")


def test_files_that_differ_or_options_of_tables_are_refused(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", unit_vectors(64, 64, 4))
    write_raster(tmp_path / "b.tif", unit_vectors(64, 64, 5), west=WEST + 640)
    with pytest.raises(UsageError, match=r"'b.tif' differs from 'a.tif' in its bands"):
        open_product(tmp_path).open()
    with pytest.raises(UsageError, match=r"'id_column' does not apply .*nodata, offset, sample"):
        open_product(tmp_path / "a.tif", id_column="id")
    with pytest.raises(UsageError, match="'sample' does not apply"):
        find_backbone("mean_color", options=BackboneOptions(sample="centre"))
    (tmp_path / "c.csv").write_text("id,0,1\n")
    with pytest.raises(UsageError, match=r"several kinds \(.csv, .tif\)"):
        open_product(tmp_path)


def test_the_checks_of_a_raster_product_read_the_middle_of_each_file(tmp_path: Path) -> None:
    write_alphaearth(tmp_path, unit_vectors(64, 64))
    results = check_entry(f"embeddings:{tmp_path}", CATALOGS, settings={})
    assert [item.name for item in results if not item.is_ok] == []
    path = write_alphaearth(tmp_path, 2 * unit_vectors(64, 64), west=WEST + 640, name="z")
    failed = [
        it for it in check_entry(f"embeddings:{tmp_path}", CATALOGS, settings={}) if not it.is_ok
    ]
    assert [item.name for item in failed] == ["has usable middles"]
    assert path.name in failed[0].reason


def test_what_is_known_of_a_product_by_its_name(tmp_path: Path) -> None:
    """Copernicus-Embed has zeros where it has no data; Embedded Seamless Data holds codes."""
    values = unit_vectors(64, 64, 12)
    values[:, 10:14, 10:18], values[0, 20:40] = 0, 0
    product = open_product(write_raster(tmp_path / "embed_map_310k.tif", values))
    assert product.layout.name == "Copernicus-Embed"
    assert sample(product, footprints([10], [10], 8))[0, -1] == 0.5
    codes = np.ones((12, 64, 64), np.uint16)
    path = write_raster(tmp_path / "esd" / "SDC30_EBD_V001_02VMN_2024.tif", codes)
    with pytest.raises(UsageError, match=r"2024.tif' is named as .* numbers of codes.*decode them"):
        open_product(path.parent)
    # After they were decoded.
    open_product(write_raster(path, values))


def torchgeo_class(name: str) -> Any:
    datasets = pytest.importorskip("torchgeo.datasets")
    if not hasattr(datasets, name):
        import torchgeo

        pytest.skip(f"torchgeo {torchgeo.__version__} has no class {name}: it came with 0.9")
    return getattr(datasets, name)


@pytest.mark.parametrize(
    ("name", "file", "layout"),
    [
        ("TesseraEmbeddings", "grid_-80.95_40.65_2024.tiff", layouts.TESSERA),
        ("CopernicusEmbed", "embed_map_310k.tif", layouts.COPERNICUS),
        ("EmbeddedSeamlessData", "SDC30_EBD_V001_02VMN_2024.tif", layouts.ESD),
        ("GoogleSatelliteEmbedding", "2024/17N/a.tiff", layouts.ALPHAEARTH),
    ],
)
def test_names_are_those_of_torchgeos_catalogue(
    name: str, file: str, layout: layouts.Layout, tmp_path: Path
) -> None:
    kind = torchgeo_class(name)
    is_esd, is_alphaearth = layout is layouts.ESD, layout is layouts.ALPHAEARTH
    dtype = np.uint16 if is_esd else np.int8 if is_alphaearth else np.float32
    values = np.ones((64 if is_alphaearth else 128, 4, 4), dtype)
    write_raster(tmp_path / file, values)
    header = open_header(open_root(str(tmp_path)), file, "x")
    assert layouts.find_layout(header, "product") is layout
    base = file.rpartition("/")[2]
    assert fnmatch(base, kind.filename_glob)
    told = re.match(kind.filename_regex, base, re.VERBOSE)
    assert told
    if "date" in told.groupdict():
        assert kind.date_format == "%Y"
        assert layouts.year_of(file, "product") == int(told["date"])
    if is_alphaearth:
        assert kind.all_bands == layouts.ALPHAEARTH_BANDS
        path = str(tmp_path / file)
        assert kind(path)._filepath_to_timestamp(path)[0].year == layouts.year_of(file, "product")


@pytest.mark.parametrize(
    ("name", "write", "dim"),
    [
        ("RasterDataset", write_alphaearth, 64),
        ("GoogleSatelliteEmbedding", write_alphaearth, 64),
        ("TesseraEmbeddings", write_tessera, 128),
        ("CopernicusEmbed", write_copernicus, 12),
    ],
)
def test_torchgeos_own_class_gives_the_same_vectors(
    tmp_path: Path, name: str, write: Callable[..., Path], dim: int
) -> None:
    """The first is what the others inherit from, and older."""
    kind = torchgeo_class(name)
    write(tmp_path, unit_vectors(64, 64, dim))
    # Both have the whole file as one footprint, in which each pixel counts.
    dataset = kind(tmp_path)
    image = dataset[dataset.bounds]["image"].numpy()
    values = dequantise(image) if write is write_alphaearth else image
    (found,) = sample(open_product(tmp_path), footprints([0], [0], 64))
    assert found[-1] == 0
    np.testing.assert_allclose(found[:-1], values.mean(axis=(1, 2)), atol=1e-6)
