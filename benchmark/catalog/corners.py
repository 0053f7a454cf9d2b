"""Corners of windows of rasters and of images, in degrees."""

from __future__ import annotations

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
    from rasterio.warp import transform as warp

    rows = np.add.outer(np.asarray(top, np.float64), [0.0, size, size, 0.0])
    cols = np.add.outer(np.asarray(left, np.float64), [0.0, 0.0, size, size])
    x = transform.c + transform.a * cols + transform.b * rows
    y = transform.f + transform.d * cols + transform.e * rows
    if not x.size:
        return np.empty((0, 4, 2))
    lon, lat = warp(crs, "EPSG:4326", x.ravel().tolist(), y.ravel().tolist())
    found = np.stack([lon, lat], axis=-1).reshape(*x.shape, 2)
    with np.errstate(invalid="ignore"):  # Corners that cannot be reprojected are infinite.
        is_split = np.ptp(found[..., 0], axis=1) > 180
    found[is_split, :, 0] %= 360
    return found


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
