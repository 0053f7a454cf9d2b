"""Find the embeddings in a Zarr store: their dimensions, years, and factors of pixels.

TESSERA's store has a group for each UTM zone, with ``embeddings`` (time, band, y, x) of int8,
``scales`` (time, y, x) of float32 and years as ``time`` (geotessera/zarr.py); its root names the
factors (``geoemb:quantization``, github.com/geo-embeddings/embeddings-zarr-convention).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark.catalog.products.headers import Axes, Header, Layer, check_grid
from benchmark.catalog.products.layouts import PER_PIXEL
from benchmark.catalog.products.zarr_arrays import ZarrArray, arrays_of
from benchmark.catalog.products.zarr_places import find_crs, find_transform
from benchmark.catalog.products.zarr_stores import check_array, find_nodes
from benchmark.catalog.rasters.files import FileError
from benchmark.catalog.rasters.grids import Grid
from benchmark.catalog.roots.root import Root

NAMES = ("embeddings", "embedding")
"""Of the array with the vectors, where a store has several arrays of bands."""
ROWS = ("y", "yc", "lat", "latitude", "northing")
COLUMNS = ("x", "xc", "lon", "longitude", "easting")
TIMES = ("time", "year")
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}

_SINCE = re.compile(r"(second|minute|hour|day)s? since (\d{4}-\d{2}-\d{2})\b.*", re.DOTALL)


def read_layers(root: Root, store: str) -> list[Header]:
    """Return the headers of the embeddings in a store: one for each time of each array.

    Raises:
        FileError: it is damaged, or its arrays, their place or their years are not clear.
        UsageError: the package ``zarr`` is not installed.
    """
    found = list(arrays_of(store, find_nodes(root, store)))
    usable = [item for item in found if _axes(item) is not None]
    named = [item for item in usable if item.name in NAMES]
    if not usable:
        held = ", ".join(item.words for item in found[:5]) or "no array"
        raise FileError(
            "has no array with named dimensions of rows, columns and bands (and perhaps times); "
            f"it holds {held}"
        )
    if len(usable) > 1 and not named:
        held = ", ".join(item.words for item in usable[:5])
        raise FileError(
            f"has {len(usable)} arrays that may be the embeddings ({held}); call one 'embeddings', "
            "or name the folder of a store that holds one"
        )
    headers = [header for item in named or usable for header in _headers(item)]
    sizes = {tuple(f"{abs(header.grid.transform[at]):.6g}" for at in (0, 4)) for header in headers}
    if len(sizes) > 1:
        raise FileError(
            "has embeddings with pixels of several sizes, e.g. a pyramid; name the folder of one "
            "of its groups"
        )
    return headers


def _axes(array: ZarrArray) -> Axes | None:
    """Return the places of the dimensions; None: they are not those of embeddings."""
    names, given = array.dimensions, array.attribute("spatial:dimensions")
    rows: Sequence[str] = ROWS
    cols: Sequence[str] = COLUMNS
    if isinstance(given, list) and len(given) == 2:
        rows, cols = (str(given[0]),), (str(given[1]),)
    row, col, time = (_only(names, wanted) for wanted in (rows, cols, TIMES))
    rest = [at for at in range(len(names)) if at not in (row, col, time)]
    if row is None or col is None or len(rest) != 1:
        return None
    return Axes(row, col, rest[0], time)


def _only(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Return the place of the only name that is wanted, or None."""
    found = [at for at, name in enumerate(names) if name in wanted or name.lower() in wanted]
    return found[0] if len(found) == 1 else None


def _headers(array: ZarrArray) -> Iterator[Header]:
    """Yield the header of each time of an array."""
    own, names, axes = array.own, array.dimensions, _axes(array)
    if axes is None or axes.band is None:
        return
    check_array(own, array.path)
    if own.dtype.kind not in "iuf":
        raise FileError(f"holds {own.dtype}; store one real pixel type")
    if 0 in own.shape:
        raise FileError("has no pixels")
    height, width, count = (own.shape[at] for at in (axes.row, axes.col, axes.band))
    transform = find_transform(array, names[axes.row], names[axes.col])
    grid = Grid(find_crs(array), transform, height, width)
    check_grid(grid)
    scales, scale_axes = _scales(array, axes)
    bands = array.coordinates(names[axes.band])
    factor, offset = array.number("scale_factor"), array.number("add_offset")
    for time, year in enumerate(_years(array, axes)):
        yield Header(
            path=f"{array.store}/{array.path}".rstrip("/"),
            grid=grid,
            num_bands=count,
            dtype=str(own.dtype),
            names=tuple(map(str, bands)) if bands is not None and _is_text(bands) else None,
            nodata=_nodata(array),
            scales=(1.0 if factor is None else factor,),
            offsets=(0.0 if offset is None else offset,),
            block=(own.chunks[axes.row], own.chunks[axes.col]),
            has_mask=False,
            layer=Layer(
                store=array.store,
                array=array.path,
                axes=axes,
                scales=scales,
                scale_axes=scale_axes,
                time=time,
                year=year,
                fill=None if own.fill_value is None else float(own.fill_value),
                method=_method(array),
            ),
        )


def _is_text(values: Any) -> bool:
    return values.dtype.kind in "UTO"


def _quantisation(array: ZarrArray) -> Mapping[str, Any]:
    """Return what the array, its group or the store says of its quantisation."""
    name = "geoemb:quantization"
    found = array.attribute(name) or array.nodes[""].attrs.get(name)
    return found if isinstance(found, Mapping) else {}


def _method(array: ZarrArray) -> str | None:
    told = _quantisation(array).get("method")
    return told if isinstance(told, str) else None


def _scales(array: ZarrArray, axes: Axes) -> tuple[str | None, Axes | None]:
    """Return the path of the array with a factor for each pixel, and its dimensions.

    Raises:
        FileError: it is missing, or of another shape.
    """
    told = _quantisation(array).get("scale")
    name = (told.get("array_name") if isinstance(told, Mapping) else None) or "scales"
    found = array.beside(name)
    if _method(array) != PER_PIXEL and (found is None or array.own.dtype.kind == "f"):
        return None, None
    names = array.dimensions
    wanted = {key: side for key, side in array.sides.items() if key != names[axes.band or 0]}
    if found is None or found.sides != wanted or found.own.dtype.kind != "f":
        what = f"is {found.words} of {found.own.dtype}" if found is not None else "is missing"
        raise FileError(
            f"has a factor for each pixel, but its array {name!r} {what}; write it as float "
            f"numbers of {', '.join(wanted)}"
        )
    check_array(found.own, found.path)
    own = found.dimensions
    time = own.index(names[axes.time]) if axes.time is not None else None
    return found.path, Axes(own.index(names[axes.row]), own.index(names[axes.col]), None, time)


def _nodata(array: ZarrArray) -> float | None:
    """Return the value that means no data; None: there is none, or it is NaN."""
    own = array.own
    told = map(array.number, ("_FillValue", "missing_value", "nodata"))
    found = next((value for value in told if value is not None), None)
    # In version 2, the fill value of an array is what xarray masks.
    if found is None and own.metadata.zarr_format == 2 and own.fill_value is not None:
        found = float(own.fill_value)
    return None if found is None or math.isnan(found) else found


def _years(array: ZarrArray, axes: Axes) -> list[int | None]:
    """Return the year of each time; None: it is not told.

    Raises:
        FileError: several times have no year, or the same.
    """
    if axes.time is None:
        return [None]
    name = array.dimensions[axes.time]
    count = array.sides[name]
    found = _told_years(array, name)
    if count > 1 and (found is None or len(set(found)) < count):
        what = "without years" if found is None else "of which several are in one year"
        raise FileError(
            f"has {count} times {what}; write one for each year, with years or dates as array "
            f"'{name}'"
        )
    return list(found) if found else [None]


def _told_years(array: ZarrArray, name: str) -> list[int] | None:
    import numpy as np

    values, told = array.coordinates(name), array.beside(name)
    if values is None or told is None:
        return None
    units = told.own.attrs.get("units")
    since = _SINCE.fullmatch(units) if isinstance(units, str) else None
    if since and values.dtype.kind in "iuf":
        steps = np.round(values.astype(np.float64) * SECONDS[since[1]])
        values = np.datetime64(since[2], "s") + steps.astype("timedelta64[s]")
    if values.dtype.kind == "M":
        return [int(year) for year in values.astype("datetime64[Y]").astype(int) + 1970]
    is_year = values.dtype.kind in "iu" and ((values >= 1900) & (values < 2100)).all()
    return [int(year) for year in values] if is_year else None
