"""Write small Zarr stores of embeddings in TESSERA's layout and as xarray and rioxarray do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from rasterio.crs import CRS as RasterioCRS

from tests.product_rasters import CRS, NORTH, PIXEL_M, WEST

QUANTISATION = {
    "method": "per_pixel_scale",
    "original_dtype": "float32",
    "quantized_dtype": "int8",
    "scale": {"type": "array", "array_name": "scales", "nodata": "+inf"},
}


def quantise_pixels(vectors: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Return int8 (D, H, W) and the factor of each pixel (H, W); NaN becomes infinity."""
    scales = np.abs(vectors).max(axis=0) / 127
    values = np.nan_to_num(np.round(vectors / np.where(scales > 0, scales, 1)))
    return values.astype(np.int8), np.where(np.isnan(scales), np.inf, scales).astype(np.float32)


def centres(first: float, step: float, count: int) -> np.ndarray[Any, Any]:
    """Return the coordinates of the centres of pixels."""
    return np.asarray(first + step * (np.arange(count) + 0.5))


def write_tessera_zarr(
    path: Path,
    years: Mapping[int, np.ndarray[Any, Any]],
    *,
    zone: int = 17,
    west: float = WEST,
    north: float = NORTH,
    pixel_m: float = PIXEL_M,
    chunk: int = 32,
) -> Path:
    """Write vectors (128, H, W) of some years as the group of a UTM zone; NaN: no data.

    As geotessera's ``zarr.py`` does: shards of chunks, a pyramid for display beside the zones, and
    attributes of ``geoemb:`` at the root, of ``proj:`` and ``spatial:`` at the zone.
    """
    root = zarr.open_group(path, mode="a", zarr_format=3)
    root.attrs.update({"geoemb:type": "pixel", "geoemb:quantization": QUANTISATION})
    count, height, width = next(iter(years.values())).shape
    group = root.create_group(f"utm{zone:02d}")
    embeddings = group.create_array(
        "embeddings", shape=(len(years), count, height, width), dtype=np.int8, fill_value=0,
        chunks=(1, count, chunk, chunk), shards=(1, count, 4 * chunk, 4 * chunk),
        dimension_names=["time", "band", "y", "x"],
    )  # fmt: skip
    scales = group.create_array(
        "scales", shape=(len(years), height, width), dtype=np.float32, fill_value=np.inf,
        chunks=(1, chunk, chunk), shards=(1, 4 * chunk, 4 * chunk),
        dimension_names=["time", "y", "x"],
    )  # fmt: skip
    for number, vectors in enumerate(years.values()):
        embeddings[number], scales[number] = quantise_pixels(vectors)
    for name, values in {
        "x": centres(west, pixel_m, width),
        "y": centres(north, -pixel_m, height),
        "time": np.array(list(years), np.int32),
        "band": np.arange(count, dtype=np.int32),
    }.items():
        group.create_array(name, data=values, dimension_names=[name])
    group.attrs.update({
        "proj:code": f"EPSG:326{zone:02d}",
        "spatial:dimensions": ["y", "x"],
        "spatial:transform_type": "affine",
        "spatial:registration": "pixel",
        "spatial:transform": [pixel_m, 0.0, west, 0.0, -pixel_m, north],
    })  # fmt: skip
    pyramid = root.require_group("global_rgb").require_group(f"{zone}")
    pyramid.create_array(
        "rgb", shape=(8, 8, 4), dtype=np.uint8, dimension_names=["lat", "lon", "band"]
    )
    zarr.consolidate_metadata(path)
    return path


def write_xarray_zarr(
    path: Path,
    values: np.ndarray[Any, Any],
    *,
    order: Sequence[str] = ("band", "y", "x"),
    zarr_format: Any = 2,
    is_south_up: bool = False,
    names: tuple[str, ...] = (),
    attributes: Mapping[str, Any] | None = None,
    mapping: Mapping[str, Any] | None = None,
    **given: Any,
) -> Path:
    """Write (D, H, W) with coordinates and a ``spatial_ref``, as ``to_zarr`` of xarray does.

    Args:
        path: of the store.
        values: of the pixels, from the north down.
        order: of the dimensions in the store.
        zarr_format: 2 or 3.
        is_south_up: whether the first row is that of the south.
        names: of the bands, as a coordinate of texts.
        attributes: of the array.
        mapping: attributes of ``spatial_ref``, in place of the CRS.
        given: of ``create_array``.
    """
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    count, height, width = values.shape
    y = centres(NORTH, -PIXEL_M, height)
    if is_south_up:
        values, y = values[:, ::-1], y[::-1]

    def write(name: str, data: Any, dimensions: Sequence[str], **settings: Any) -> Any:
        if zarr_format == 3:
            return group.create_array(name, data=data, dimension_names=dimensions, **settings)
        array = group.create_array(name, data=data, **settings)
        array.attrs["_ARRAY_DIMENSIONS"] = list(dimensions)
        return array

    axes = [("band", "y", "x").index(name) for name in order]
    array = write("features", np.ascontiguousarray(values.transpose(axes)), order, **given)
    array.attrs.update({"grid_mapping": "spatial_ref", **(attributes or {})})
    write("y", y, ["y"])
    write("x", centres(WEST, PIXEL_M, width), ["x"])
    write("band", np.array(names) if names else np.arange(1, count + 1), ["band"])
    place = write("spatial_ref", np.array(0), [])
    place.attrs.update({"crs_wkt": RasterioCRS.from_string(CRS).to_wkt()} | dict(mapping or {}))
    return path
