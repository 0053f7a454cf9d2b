"""Where an array of a Zarr store lies on the ground.

Two layouts are known, and may be mixed: attributes of the conventions ``proj:`` and ``spatial:``
(github.com/zarr-conventions), and coordinates with an array ``spatial_ref`` (CF, as xarray and
rioxarray write it).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from benchmark.catalog.products.zarr_arrays import ZarrArray
from benchmark.catalog.rasters.files import FileError
from benchmark.fields import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

Transform = tuple[float, float, float, float, float, float]

MAPPINGS = ("spatial_ref", "crs")
"""Names of the array whose attributes hold the place, where ``grid_mapping`` names none."""
USUAL = {"spatial:registration": "pixel", "spatial:transform_type": "affine"}
"""What the convention's settings must be, where they are given."""
ALMOST_PX = 0.1
"""Most by which coordinates may differ from even ones, in px: float32 is that inexact."""

_CODE = re.compile(r"([A-Za-z_0-9]+):(\d+)")


def find_crs(array: ZarrArray) -> str:
    """Return the coordinate reference system as WKT.

    Raises:
        FileError: there is none, or it cannot be understood.
    """
    import pyproj
    from rasterio.crs import CRS

    told = next(_told_crs(array), None)
    if told is None:
        raise FileError(
            "has no coordinate reference system; write 'proj:code' to the attributes of its group, "
            "or 'crs_wkt' to those of an array 'spatial_ref'"
        )
    try:
        if isinstance(told, Mapping):
            found = pyproj.CRS.from_json_dict(dict(told))
        elif code := _CODE.fullmatch(told):
            found = pyproj.CRS.from_authority(code[1].upper(), code[2])
        else:
            # No other text: GDAL and PROJ would take the name of a file, or a URL.
            found = pyproj.CRS.from_wkt(told)
        return str(CRS.from_wkt(found.to_wkt()).to_wkt())
    except Exception:  # The errors of PROJ and of GDAL have no common class.
        raise FileError(
            f"has a coordinate reference system that cannot be understood: {shown(told, 100)}"
        ) from None


def find_transform(array: ZarrArray, row: str, col: str) -> Transform:
    """Return (a, b, c, d, e, f): x = a column + b row + c, y = d column + e row + f.

    Coordinates are those of the centres of pixels.

    Args:
        array: the array.
        row: name of the dimension of its rows.
        col: name of the dimension of its columns.

    Raises:
        FileError: there is none, or attributes and coordinates contradict each other.
    """
    given = _given(array)
    y, x = array.coordinates(row), array.coordinates(col)
    if x is None or y is None or (given and min(len(x), len(y)) == 1):
        if given is None:
            raise FileError(
                "has no place on the ground; write 'spatial:transform' to the attributes of its "
                f"group, or its coordinates as arrays '{row}' and '{col}'"
            )
        return given
    (left, right), (top, down) = _even(x, col), _even(y, row)
    found = (right, 0.0, left - right / 2, 0.0, down, top - down / 2)
    if given is not None and not _are_equal(found, given, len(x), len(y)):
        raise FileError(
            f"has coordinates '{col}' and '{row}' that contradict its transform; correct or remove "
            "one of them"
        )
    return found


def _told_crs(array: ZarrArray) -> Iterator[Any]:
    """Yield what may be the coordinate reference system, the surest first."""
    mapping = _mapping(array)
    gdal = array.attribute("_CRS")
    of_gdal = gdal if isinstance(gdal, Mapping) else {}
    for found in (
        *map(array.attribute, ("proj:code", "proj:wkt2", "proj:projjson")),
        *map(mapping.get, ("crs_wkt", "spatial_ref")),
        *map(of_gdal.get, ("wkt", "projjson")),
        array.attribute("crs"),
    ):
        if isinstance(found, str | Mapping) and found:
            yield found


def _mapping(array: ZarrArray) -> Mapping[str, Any]:
    """Return the attributes of the array that holds the place, or none."""
    found = map(array.beside, (array.attribute("grid_mapping"), *MAPPINGS))
    return next((dict(item.own.attrs) for item in found if item is not None), {})


def _given(array: ZarrArray) -> Transform | None:
    """Return the transform in the attributes; None: there is none."""
    for name, usual in USUAL.items():
        if array.attribute(name) not in (None, usual):
            raise FileError(f"has '{name}' other than '{usual}', which is not read")
    given, text = array.attribute("spatial:transform"), _mapping(array).get("GeoTransform")
    try:
        if given is not None:
            a, b, c, d, e, f = map(float, given)
        elif text is not None:
            c, a, b, f, d, e = map(float, str(text).split())
        else:
            return None
    except (TypeError, ValueError):
        raise FileError("has a transform that is not six numbers") from None
    return a, b, c, d, e, f


def _are_equal(one: Transform, other: Transform, width: int, height: int) -> bool:
    """Return whether two transforms have the same corners, to a part of a pixel of the first."""
    import numpy as np

    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1]], np.float64)
    differ = np.abs(np.subtract(one, other).reshape(2, 3) @ corners.T)
    return bool((differ <= ALMOST_PX * np.abs([[one[0]], [one[4]]])).all())


def _even(values: NDArray[Any], name: str) -> tuple[float, float]:
    """Return the first of even coordinates and their step.

    Raises:
        FileError: they are not even.
    """
    import numpy as np

    if values.dtype.kind not in "iuf" or len(values) < 2:
        raise FileError(f"has too few numbers as coordinates '{name}'; write 'spatial:transform'")
    values = values.astype(np.float64)
    first, step = float(values[0]), float((values[-1] - values[0]) / (len(values) - 1))
    even = first + step * np.arange(len(values))
    if not step or not (np.abs(values - even) <= ALMOST_PX * abs(step)).all():
        raise FileError(f"has coordinates '{name}' that are not evenly spaced; resample it")
    return first, step
