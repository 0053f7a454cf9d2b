"""Corners of windows of rasters and of images, in degrees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def window_corners(
    transform: Any, crs: Any, top: ArrayLike, left: ArrayLike, size: float
) -> NDArray[Any]:
    """Return the corners of square windows in degrees (EPSG:4326), float64 (N, 4, 2).

    Each corner is longitude and latitude; their order is upper left, lower left, lower right, upper
    right of the raster. Each one is reprojected; edges are straight in degrees. A window across the
    antimeridian goes on beyond 180 degrees.

    Args:
        transform: of the raster: from (column, row) to coordinates of its ``crs``.
        crs: of the raster.
        top: (N,) row of the upper edges, in px.
        left: (N,) column of the left edges, in px.
        size: side of the windows, in px.
    """
    import numpy as np

    rows = np.add.outer(np.asarray(top, np.float64), [0.0, size, size, 0.0])
    cols = np.add.outer(np.asarray(left, np.float64), [0.0, 0.0, size, size])
    found = to_degrees(tuple(transform)[:6], crs, rows, cols)
    with np.errstate(invalid="ignore"):  # Corners that cannot be reprojected are infinite.
        is_split = np.ptp(found[..., 0], axis=1) > 180
    found[is_split, :, 0] %= 360
    return found


def to_degrees(
    transform: Sequence[float], crs: Any, rows: NDArray[Any], cols: NDArray[Any]
) -> NDArray[Any]:
    """Return longitude and latitude (EPSG:4326) of points of a raster, (..., 2); inf if none.

    Args:
        transform: (a, b, c, d, e, f): x = a column + b row + c, y = d column + e row + f.
        crs: of the raster.
        rows: (...) in px from the upper edge.
        cols: (...) in px from the left edge.
    """
    import numpy as np
    from rasterio.warp import transform as warp

    a, b, c, d, e, f = transform
    x, y = c + a * cols + b * rows, f + d * cols + e * rows
    if not x.size:
        return np.empty((*x.shape, 2))
    lon, lat = warp(crs, "EPSG:4326", x.ravel().tolist(), y.ravel().tolist())[:2]
    return np.stack([lon, lat], axis=-1).reshape(*x.shape, 2)


def centre_corners(path: Path) -> NDArray[Any]:
    """Return the corners (4, 2) of the centred square of a GeoTIFF, which becomes its patch.

    NaN: the file tells no coordinate reference system, or cannot be read. Files beside it, such as
    world files, are not read.
    """
    import numpy as np
    import rasterio
    from rasterio.errors import CRSError, RasterioError

    try:
        with (
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
            rasterio.open(path, driver="GTiff") as image,
        ):
            side = min(image.height, image.width)
            top, left = (image.height - side) // 2, (image.width - side) // 2
            if image.crs is not None and not image.transform.is_identity:
                corners = window_corners(image.transform, image.crs, [top], [left], side)
                return corners.reshape(4, 2)
    except (RasterioError, CRSError, OSError):
        pass
    return np.full((4, 2), np.nan)
