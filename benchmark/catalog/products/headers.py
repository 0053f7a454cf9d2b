"""What the headers of a product's rasters say, and which of them lie below a patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.rasters.files import FileError
from benchmark.catalog.rasters.grids import Grid, Window, grid_of

if TYPE_CHECKING:
    import numpy as np
    import rasterio
    from numpy.typing import NDArray

EVERYWHERE = (-720.0, -90.0, 720.0, 90.0)
"""Bounds in degrees of a raster that holds a pole or touches the 180th meridian."""
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Transform of a raster that has none."""
MOST_BANDS = 8192
"""Most bands of a raster: the pixels of one with more take seconds to read, one block by one."""
ALMOST = 1e-6
"""Shares of footprints below which a difference is that of rounding."""


class Axes(NamedTuple):
    """Places of the dimensions of an array; None: it has no such dimension."""

    row: int
    col: int
    band: int | None
    time: int | None

    def read(self, array: Any, window: Window, time: int) -> NDArray[Any]:
        """Return a window at a time as (C, h, w), or (h, w) of an array without bands."""
        import numpy as np

        (top, bottom), (left, right) = window
        index: list[Any] = [slice(None)] * array.ndim
        index[self.row], index[self.col] = slice(top, bottom), slice(left, right)
        if self.time is not None:
            index[self.time] = time
        kept = [axis for axis in range(array.ndim) if axis != self.time]
        order = [axis for axis in (self.band, self.row, self.col) if axis is not None]
        block = np.asarray(array[tuple(index)])
        return block.transpose([kept.index(axis) for axis in order])


class Layer(NamedTuple):
    """One time of an array of a Zarr store, which is read like a raster of its own."""

    store: str
    """Path below the root."""
    array: str
    """Path below the store; empty: the store is the array."""
    axes: Axes
    scales: str | None
    """Path of the array with a factor for each pixel, below the store; None: there is none."""
    scale_axes: Axes | None
    time: int
    """Number on the axis of times; 0 where there is none."""
    year: int | None
    """What the axis of times tells; None: nothing."""
    fill: float | None
    """Value of the pixels that were never written; in all bands it means no data."""
    method: str | None
    """How values were quantised, if the store tells (``geoemb:quantization``)."""


class Header(NamedTuple):
    """What a raster says of itself."""

    path: str
    grid: Grid
    num_bands: int
    dtype: str
    names: tuple[str, ...] | None
    """Of the bands; None: they are not named."""
    nodata: float | None
    """Value that means no data, the same in all bands."""
    scales: tuple[float, ...]
    """Factor of each band; one value if they are equal."""
    offsets: tuple[float, ...]
    block: tuple[int, int]
    """Height and width in px of the blocks that are read at once."""
    has_mask: bool
    """Whether a mask inside the file tells where there is data."""
    layer: Layer | None = None
    """Of a Zarr store; None: it is a file."""

    @property
    def is_scaled(self) -> bool:
        """Whether each pixel has a factor of its own."""
        return self.layer is not None and self.layer.scales is not None

    def columns_and_rows(self, lon: NDArray[Any], lat: NDArray[Any]) -> NDArray[np.float64]:
        """Return points in degrees (EPSG:4326) as (column, row) of the raster, (..., 2)."""
        return self.pixels_of("EPSG:4326", lon, lat)

    def pixels_of(self, crs: str, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        """Return points of a CRS as (column, row) of the raster, (..., 2); inf if there is none."""
        import numpy as np
        from rasterio.warp import transform as warp

        if crs != self.grid.crs and x.size:
            found = warp(crs, self.grid.crs, x.ravel().tolist(), y.ravel().tolist())[:2]
            x, y = (np.array(values).reshape(x.shape) for values in found)
        a, b, c, d, e, f = self.grid.transform
        det = a * e - b * d
        right, down = x - c, y - f
        with np.errstate(invalid="ignore"):  # Points without a place in the CRS are infinite.
            return np.stack([(e * right - b * down) / det, (a * down - d * right) / det], axis=-1)


def read_header(file: rasterio.DatasetReader, path: str) -> Header:
    """Return the header of an open raster.

    Raises:
        FileError: it has no place on the ground, or its pixels are no real numbers.
    """
    import numpy as np
    from rasterio.enums import MaskFlags

    if file.crs is None:
        raise FileError("has no coordinate reference system; write one (gdal_edit.py -a_srs)")
    if file.count > MOST_BANDS:
        raise FileError(
            f"has {file.count:,} bands; rasters of embeddings have at most {MOST_BANDS:,}: bring "
            "longer vectors as a table"
        )
    kinds = set(file.dtypes)
    if len(kinds) > 1 or np.dtype(min(kinds)).kind not in "iuf":
        raise FileError(f"holds {', '.join(sorted(kinds))}; store one real pixel type")
    nodata = {None if it is None or np.isnan(it) else float(it) for it in file.nodatavals}
    if len(nodata) > 1:
        raise FileError("has several nodata values; write one for all bands")
    names = tuple(text or "" for text in file.descriptions)
    grid = grid_of(file)
    check_grid(grid)
    return Header(
        path=path,
        grid=grid,
        num_bands=file.count,
        dtype=file.dtypes[0],
        names=names if all(names) else None,
        nodata=nodata.pop(),
        scales=_shortened(file.scales),
        offsets=_shortened(file.offsets),
        block=file.block_shapes[0],
        has_mask=file.mask_flag_enums[0] == [MaskFlags.per_dataset],
    )


def check_grid(grid: Grid) -> None:
    """Check that pixels have a place on the ground.

    Raises:
        FileError: they have none.
    """
    a, b, _, d, e, _ = grid.transform
    area = a * e - b * d
    if grid.transform == IDENTITY or not area or not all(map(math.isfinite, grid.transform)):
        raise FileError("has no place on the ground (write its transform)")
    try:
        grid.outline()
    except Exception:  # The errors of GDAL itself have no public class.
        raise FileError(
            "has a coordinate reference system without a place on the earth; write another"
        ) from None


def _shortened(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(values[:1] if len(set(values)) == 1 else values)


class Overlaps(NamedTuple):
    """Pairs of a footprint and a raster that lies below it, (M,)."""

    patches: NDArray[np.int64]
    files: NDArray[np.int64]
    shares: NDArray[np.float64]
    """Share of the footprint that the raster covers, about, to a millionth."""


def find_overlaps(headers: Sequence[Header], outlines: NDArray[np.float64]) -> Overlaps:
    """Return which rasters lie below which footprints.

    Args:
        headers: of the rasters.
        outlines: corners of the footprints in degrees, (N, M, 2); M = 1: points.
    """
    import numpy as np
    import shapely  # type: ignore[import-untyped]

    tree = shapely.STRtree(
        shapely.box(*np.concatenate([outlines.min(axis=1), outlines.max(axis=1)], axis=1).T)
    )
    found = [np.empty((0, 3))]
    for number, header in enumerate(headers):
        patches = np.sort(tree.query(shapely.box(*_bounds(header.grid))))
        pixels = header.columns_and_rows(outlines[patches, :, 0], outlines[patches, :, 1])
        shares = _shares(header.grid, pixels)
        is_below = shares >= ALMOST
        numbers = np.full(is_below.sum(), number)
        found.append(np.stack([patches[is_below], numbers, shares[is_below]], axis=1))
    pairs = np.concatenate(found)
    return Overlaps(
        pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64), np.round(pairs[:, 2], 6)
    )


def _bounds(grid: Grid) -> tuple[float, ...]:
    """Return west, south, east and north of a raster in degrees, with a margin."""
    import numpy as np

    points = grid.outline()
    low, high = points.min(axis=0), points.max(axis=0)
    if not np.isfinite(points).all() or high[0] - low[0] > 180:
        return EVERYWHERE
    # Sides are curved in degrees.
    margin = 0.05 * (high - low) + 1e-6
    return (*(low - margin).tolist(), *(high + margin).tolist())


def _shares(grid: Grid, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of each footprint's bounds (n, M, 2) in px that is inside the raster."""
    import numpy as np

    size = np.array([grid.width, grid.height])
    if not len(pixels):
        return np.empty(0)
    is_known: NDArray[np.bool_] = np.asarray(np.isfinite(pixels).all(axis=(1, 2)))
    pixels = np.where(is_known[:, None, None], pixels, -1.0)
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    # A point is a square of almost no size.
    inside = np.minimum(high + 1e-3, size) - np.maximum(low, 0)
    shares: NDArray[np.float64] = (np.maximum(inside, 0) / (high + 1e-3 - low)).prod(axis=1)
    return np.where(is_known, shares, 0.0)
