"""Zarr stores of embeddings give the vectors of equal GeoTIFFs, and what is unclear is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from benchmark.catalog.contracts.products import PLACED_CHECKS
from benchmark.errors import UsageError
from tests.catalog.test_raster_products import open_product, sample
from tests.product_rasters import (
    NORTH,
    PIXEL_M,
    WEST,
    footprints,
    quantise,
    unit_vectors,
    write_alphaearth,
    write_raster,
    write_tessera,
)
from tests.product_zarrs import quantise_pixels, write_tessera_zarr, write_xarray_zarr

CORNERS = footprints([100, 20, 20, 3, 60.2], [60, 20, 21, 7, 31.4], 8)


def tessera_vectors(seed: int = 0) -> np.ndarray[Any, Any]:
    """Return vectors (128, 150, 110), of which some pixels have no data."""
    vectors = 20 * unit_vectors(150, 110, 128, seed)
    vectors[:, 20:24, 20:28] = np.nan
    return vectors


def dequantise_pixels(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what a store of TESSERA holds of vectors."""
    values, scales = quantise_pixels(vectors)
    return np.asarray(values * np.where(np.isinf(scales), np.nan, scales), np.float32)


@pytest.mark.parametrize("rule", ["mean", "mean+std", "centre"])
def test_tesseras_store_gives_the_vectors_of_its_geotiffs(tmp_path: Path, rule: str) -> None:
    vectors = {year: tessera_vectors(year) for year in (2023, 2024)}
    store = write_tessera_zarr(tmp_path / "tessera.zarr", vectors)
    product = open_product(store, year=2024, sample=rule)
    assert (product.layout.name, product.facts["years"]) == ("TESSERA", [2024])
    write_tessera(tmp_path / "tif", dequantise_pixels(vectors[2024]))
    others = open_product(tmp_path / "tif", sample=rule)
    found = sample(product, CORNERS)
    np.testing.assert_array_equal(found, sample(others, CORNERS))
    # Half of the pixels of the second footprint have no data.
    assert found[1, -1] == pytest.approx(0 if rule == "centre" else 0.5, nan_ok=True)
    assert product.dim == (256 if rule == "mean+std" else 128)


def test_two_years_and_two_zones_of_a_store_are_those_of_files(tmp_path: Path) -> None:
    vectors = tessera_vectors()
    store = write_tessera_zarr(tmp_path / "t.zarr", {2023: vectors, 2024: vectors})
    with pytest.raises(UsageError, match=r"5 patches lie on .* years \(2023, 2024\); set 'year'"):
        sample(open_product(store), CORNERS)
    with pytest.raises(UsageError, match="'year' = 2020: its files are of 2023, 2024"):
        open_product(store, year=2020)
    # The next zone, in which the same places are 6 degrees from the meridian.
    write_tessera_zarr(store, {2024: vectors}, zone=18, west=9_000.0, north=4_515_000.0)
    product = open_product(tmp_path, year=2024)
    assert [header.path for header in product.open().headers] == [
        "t.zarr/utm17/embeddings", "t.zarr/utm18/embeddings",
    ]  # fmt: skip
    np.testing.assert_array_equal(
        sample(product, CORNERS), sample(open_product(store / "utm17", year=2024), CORNERS)
    )


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("order", [("band", "y", "x"), ("y", "x", "band"), ("x", "band", "y")])
def test_the_layout_of_xarray_gives_the_vectors_of_a_geotiff(
    tmp_path: Path, zarr_format: int, order: tuple[str, ...]
) -> None:
    values = unit_vectors(150, 110, 6)
    values[2, 20:24, 20:28] = np.nan
    write_xarray_zarr(
        tmp_path / "a.zarr", values, order=order, zarr_format=zarr_format, fill_value=np.nan,
        is_south_up=order[0] == "y",
    )  # fmt: skip
    path = write_raster(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(
        sample(open_product(tmp_path / "a.zarr"), CORNERS), sample(open_product(path), CORNERS)
    )


def test_scale_offset_and_nodata_of_a_store_or_the_experiment(tmp_path: Path) -> None:
    values = np.arange(3 * 64 * 64, dtype=np.int16).reshape(3, 64, 64) % 90 + 1
    values[1, :, 4], values[:, 5], values[0, 6] = -9, 0, 0
    told = {"scale_factor": 0.5, "add_offset": 1.0, "_FillValue": -9}
    store = write_xarray_zarr(tmp_path / "a.zarr", values, zarr_format=3, attributes=told)
    corners = footprints([0], [0], 8)
    # A column of nodata, and a row as of chunks that were never written.
    is_valid = np.ones((8, 8), np.bool_)
    is_valid[:, 4] = is_valid[5] = False
    inside = values[:, :8, :8][:, is_valid].mean(axis=1)
    (found,) = sample(open_product(store), corners)
    np.testing.assert_allclose(found[:-1], 0.5 * inside + 1, rtol=1e-6)
    assert found[-1] == pytest.approx(15 / 64)
    (found,) = sample(open_product(store, scale=0.1, offset=-2.0), corners)
    np.testing.assert_allclose(found[:-1], 0.1 * inside - 2, rtol=1e-5)


def test_alphaearths_layout_is_known_by_the_names_of_bands(tmp_path: Path) -> None:
    vectors = unit_vectors(150, 110)
    vectors[:, 20:24, 20:28] = np.nan
    names = tuple(f"A{number:02d}" for number in range(64))
    write_xarray_zarr(
        tmp_path / "aef.zarr", quantise(vectors), zarr_format=3, names=names,
        attributes={"_FillValue": -128}, chunks=(1, 64, 64),
    )  # fmt: skip
    product = open_product(tmp_path / "aef.zarr")
    assert product.layout.name == "AlphaEarth"
    path = write_alphaearth(tmp_path / "tif", vectors)
    np.testing.assert_array_equal(sample(product, CORNERS), sample(open_product(path), CORNERS))


def test_only_the_chunks_below_a_footprint_are_read(tmp_path: Path) -> None:
    values = unit_vectors(256, 256, 8)
    store = write_xarray_zarr(tmp_path / "a.zarr", values, chunks=(8, 64, 64))
    product = open_product(store)
    for row in range(4):
        for col in range(4):
            if (row, col) not in ((1, 2), (1, 3)):
                (store / "features" / f"0.{row}.{col}").write_bytes(b"damaged")
    (found,) = sample(product, footprints([70], [185], 20))
    np.testing.assert_allclose(found[:-1], values[:, 70:90, 185:205].mean(axis=(1, 2)), atol=1e-6)
    with pytest.raises(UsageError, match=r"x.toml: .*'a.zarr/features': cannot be read"):
        sample(product, footprints([60], [185], 20))


def test_the_revision_is_of_chunks_their_places_and_the_year(tmp_path: Path) -> None:
    vectors = {year: 20 * unit_vectors(64, 64, 128, year) for year in (2023, 2024)}
    store = write_tessera_zarr(tmp_path / "a.zarr", vectors, chunk=8)
    revision = open_product(store, year=2024).revision()
    assert open_product(store, year=2023).revision() != revision
    (tmp_path / "moved").mkdir()
    moved = store.rename(tmp_path / "moved" / "b.zarr")
    assert open_product(moved, year=2024).revision() == revision
    one, other = (moved / "utm17/embeddings/c/1/0" / f"0/{number}" for number in (0, 1))
    one.rename(tmp_path / "kept")
    other.rename(one)
    (tmp_path / "kept").rename(other)
    assert open_product(moved, year=2024).revision() != revision


def test_the_year_of_dates_or_of_the_name_is_taken(tmp_path: Path) -> None:
    store = write_xarray_zarr(tmp_path / "emb_2019.zarr", unit_vectors(64, 64, 4))
    assert open_product(store).facts["years"] == [2019]
    group = zarr.open_group(store)
    values = group["features"][:]

    def replace(*days: int) -> None:
        for name, data in (("features", [values] * len(days)), ("time", days)):
            array = group.create_array(name, data=np.array(data), overwrite=True)
            array.attrs["_ARRAY_DIMENSIONS"] = ["time", "band", "y", "x"][: array.ndim]

    replace(19_000)
    group["time"].attrs["units"] = "days since 1970-01-01 00:00:00"
    assert open_product(store).facts["years"] == [2022]
    replace(19_000, 19_100)
    with pytest.raises(UsageError, match="has 2 times without years; write one for each year"):
        open_product(store)
    group["time"].attrs["units"] = "days since 1970-01-01"
    with pytest.raises(UsageError, match="has 2 times of which several are in one year"):
        open_product(store)


def test_a_store_passes_the_contract_of_products(tmp_path: Path) -> None:
    store = write_tessera_zarr(tmp_path / "a.zarr", {2024: tessera_vectors()})
    product = open_product(store)
    for check in PLACED_CHECKS:
        check(product)


def _no_crs(group: Any) -> None:
    group["spatial_ref"].attrs.clear()


def _two_arrays(group: Any) -> None:
    array = group.create_array("more", data=group["features"][:])
    array.attrs["_ARRAY_DIMENSIONS"] = ["band", "y", "x"]


def _no_names(group: Any) -> None:
    group["features"].attrs.pop("_ARRAY_DIMENSIONS")


def _uneven(group: Any) -> None:
    group["x"][3] += 4.0


def _no_place(group: Any) -> None:
    del group["x"]


def _attributes(**given: Any) -> Callable[[Any], None]:
    return lambda group: group["features"].attrs.update(given)


MOVED = [PIXEL_M, 0, WEST + 3, 0, -PIXEL_M, NORTH]
BAD = [
    (_no_crs, r"'a.zarr' has no coordinate reference system; write 'proj:code'"),
    (_two_arrays, r"has 2 arrays that may be the embeddings \(features .*, more .*call one"),
    (_no_names, r"has no array with named dimensions .*band \(band: 4\), features \(no names"),
    (_uneven, "has coordinates 'x' that are not evenly spaced"),
    (_no_place, "has no place on the ground; write 'spatial:transform'"),
    (_attributes(**{"spatial:transform": MOVED}), "'x' and 'y' that contradict its transform"),
    (_attributes(**{"spatial:transform": [1, "b"]}), "a transform that is not six numbers"),
    (_attributes(**{"spatial:registration": "node"}), "'spatial:registration' other than 'pixel'"),
    (_attributes(**{"proj:code": "EPSG:999999"}), "that cannot be understood: 'EPSG:999999'"),
    (_attributes(**{"proj:wkt2": "/etc/passwd"}), "that cannot be understood: '/etc/passwd'"),
    (_attributes(scale_factor="much"), "'scale_factor' = 'much', which is no number"),
    (_attributes(**{"geoemb:quantization": {"method": "per_pixel_scale"}}), "'scales' is missing"),
    (_attributes(**{"geoemb:quantization": {"method": "log"}}), "quantised by 'log', .*'scale'"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_what_is_unclear_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[Any], None], words: str
) -> None:
    store = write_xarray_zarr(tmp_path / "a.zarr", unit_vectors(32, 32, 4))
    change(zarr.open_group(store))
    with pytest.raises(UsageError, match=words) as caught:
        open_product(store)
    assert str(caught.value).startswith("x.toml: ")


def test_other_stores_that_cannot_be_used_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = unit_vectors(32, 32, 4)
    # A pickle behind a codec of texts: zarr takes the first one for the type of the array.
    pickled = write_xarray_zarr(tmp_path / "pickled.zarr", values)
    place = pickled / "band" / ".zarray"
    told = {"dtype": "|O", "fill_value": "", "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}
    place.write_text(json.dumps(json.loads(place.read_text()) | told))
    with pytest.raises(UsageError, match="'band' with the encoding pickle, which is not read"):
        open_product(pickled)
    scaled = write_tessera_zarr(tmp_path / "scaled.zarr", {2024: tessera_vectors()})
    with pytest.raises(UsageError, match="has a factor for each pixel; leave out 'scale'"):
        open_product(scaled, scale=0.1)
    large = zarr.open_group(write_xarray_zarr(tmp_path / "large.zarr", values))
    large.create_array(
        "embeddings", shape=(4, 20_000, 20_000), chunks=(4, 20_000, 20_000), dtype=np.float32
    ).attrs["_ARRAY_DIMENSIONS"] = ["band", "y", "x"]
    with pytest.raises(UsageError, match=r"'embeddings' with chunks of 6.0 GiB; rewrite it"):
        open_product(tmp_path / "large.zarr")
    damaged = write_xarray_zarr(tmp_path / "damaged.zarr", values)
    (damaged / "features" / ".zarray").write_text("{")
    with pytest.raises(UsageError, match=r"'damaged.zarr' cannot be read as Zarr"):
        open_product(damaged)
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(UsageError, match=r"'empty.zarr' holds no Zarr"):
        open_product(tmp_path / "empty.zarr")
    write_raster(tmp_path / "mixed" / "a.tif", values)
    write_xarray_zarr(tmp_path / "mixed" / "a.zarr", values)
    with pytest.raises(UsageError, match=r"several kinds \(.tif, .zarr\)"):
        open_product(tmp_path / "mixed")
    for address in ("s3://bucket/a.zarr", "https://example.org/a.zarr/utm17"):
        with pytest.raises(UsageError, match="Zarr is read from a folder of this machine alone"):
            open_product(address)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(UsageError, match=r"run `pip install 'backbone-benchmark\[zarr\]'`"):
        open_product(tmp_path / "scaled.zarr")
