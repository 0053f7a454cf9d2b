"""The pixel grid of a scene: where its windows lie on the ground, and resampling onto it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.corners import to_degrees

if TYPE_CHECKING:
    import numpy as np
    import rasterio
    from numpy.typing import ArrayLike, NDArray

Window = tuple[tuple[int, int], tuple[int, int]]
"""First and last row, first and last column of a part of a raster, the last ones excluded."""

EDGE_POINTS = 8
"""Points of an outline per side: sides of a raster are curved in degrees."""
SNAPPED = 0.01
"""Relative difference from a whole factor below which resampling uses the whole factor: the scale
of a projection differs from 1 by less."""
ALMOST_PX = 0.01
"""Distance in px below which two grids are the same."""


@dataclass(frozen=True)
class Grid:
    """Pixels on the ground.

    Coordinates of pixels are (row, column), from the upper left corner of the raster.
    """

    crs: str
    """Coordinate reference system, WKT."""
    transform: tuple[float, float, float, float, float, float]
    """(a, b, c, d, e, f): x = a column + b row + c, y = d column + e row + f."""
    height: int
    width: int

    def degrees(self, rows: NDArray[Any], cols: NDArray[Any]) -> NDArray[np.float64]:
        """Return longitude and latitude (EPSG:4326) of points, (..., 2); inf if there is none."""
        return to_degrees(self.transform, self.crs, rows, cols)

    def outlines(
        self,
        top: ArrayLike,
        left: ArrayLike,
        height: float,
        width: float,
        *,
        points: int = EDGE_POINTS,
    ) -> NDArray[np.float64]:
        """Return points around windows in degrees, (N, 4 * ``points``, 2).

        They begin at the upper left corner, and go down first.
        """
        import numpy as np

        steps = np.arange(points) / points
        rows = np.concatenate([steps, np.ones(points), 1 - steps, np.zeros(points)])
        cols = np.concatenate([np.zeros(points), steps, np.ones(points), 1 - steps])
        return self.degrees(
            np.add.outer(np.asarray(top, np.float64), rows * height),
            np.add.outer(np.asarray(left, np.float64), cols * width),
        )

    def outline(self) -> NDArray[np.float64]:
        """Return points around the whole grid in degrees, (M, 2)."""
        (points,) = self.outlines([0], [0], self.height, self.width, points=4 * EDGE_POINTS)
        return points  # type: ignore[no-any-return]

    def gsd_m(self) -> tuple[float, float]:
        """Return the height and width in m of the pixel at the centre."""
        import numpy as np

        row, col = self.height / 2, self.width / 2
        rows, cols = np.array([row, row + 1, row]), np.array([col, col, col + 1])
        points = self.degrees(rows, cols)
        metres = (points[1:] - points[0]) * metres_per_degree(points[0, 1])
        down, right = np.hypot(metres[:, 0], metres[:, 1]).tolist()
        return down, right

    def resampled(self, gsd_m: float) -> Grid:
        """Return the grid of the same CRS, corner and extent with square pixels of this size."""
        down, right = (_snapped(gsd_m / size) for size in self.gsd_m())
        a, b, c, d, e, f = self.transform
        return Grid(
            self.crs,
            (a * right, b * down, c, d * right, e * down, f),
            int(self.height / down + 1e-6),
            int(self.width / right + 1e-6),
        )

    def scale_from(self, other: Grid) -> Scale | None:
        """Return the size of pixels in those of the grid that this one is resampled from."""
        if self == other:
            return None
        a, b, _, d, e, _ = self.transform
        a_other, b_other, _, d_other, e_other, _ = other.transform
        return Scale(
            math.hypot(b, e) / math.hypot(b_other, e_other),
            math.hypot(a, d) / math.hypot(a_other, d_other),
        )

    def equals(self, other: Grid) -> bool:
        """Return whether both have the same pixels, to a hundredth of a pixel."""
        import numpy as np
        from rasterio.crs import CRS

        if (self.height, self.width) != (other.height, other.width):
            return False
        if CRS.from_wkt(self.crs) != CRS.from_wkt(other.crs):
            return False
        a, b, _, d, e, _ = self.transform
        corners = np.array([[0, 0, 1], [self.width, 0, 1], [0, self.height, 1]], np.float64)
        differ = np.subtract(self.transform, other.transform).reshape(2, 3) @ corners.T
        return bool(np.abs(np.linalg.solve([[a, b], [d, e]], differ)).max() < ALMOST_PX)

    def describe(self) -> str:
        """Return size, CRS, corner and pixel size for a message."""
        from rasterio.crs import CRS

        a, _, c, _, e, f = self.transform
        crs = CRS.from_wkt(self.crs).to_string()
        return (
            f"{self.height} x {self.width} px of {abs(e):.6g} x {abs(a):.6g} from "
            f"({c:.10g}, {f:.10g}) in {crs if len(crs) < 30 else crs[:29] + '…'}"
        )


def grid_of(file: rasterio.DatasetReader) -> Grid:
    """Return the grid of an open raster, which has a CRS."""
    a, b, c, d, e, f = tuple(file.transform)[:6]
    return Grid(file.crs.to_wkt(), (a, b, c, d, e, f), file.height, file.width)


def metres_per_degree(latitude: float) -> NDArray[np.float64]:
    """Return m per degree of longitude and of latitude on WGS 84.

    The series of the arc lengths of the ellipsoid, right to 0.01 m.
    """
    import numpy as np

    phi = np.radians(latitude)
    return np.array(
        [
            111412.84 * np.cos(phi) - 93.5 * np.cos(3 * phi) + 0.118 * np.cos(5 * phi),
            111132.92 - 559.82 * np.cos(2 * phi) + 1.175 * np.cos(4 * phi),
        ]
    )


def _snapped(factor: float) -> float:
    """Return a factor as a whole number, or 1 through one, if it is almost that."""
    whole = max(1, round(factor)) if factor >= 1 - SNAPPED else 1 / max(1, round(1 / factor))
    return whole if abs(factor / whole - 1) < SNAPPED else factor


@contextmanager
def on_grid(file: rasterio.DatasetReader, grid: Grid, *, nodata: float | None) -> Iterator[Any]:
    """Yield an open label raster resampled onto a grid; the raster itself if that is its own.

    Where pixels become larger, they take the most frequent value, else the nearest one. A last band
    is then added, which is 0 where there are no labels.

    Args:
        file: the raster, of one band.
        grid: with the pixels wanted.
        nodata: value that means no data; None: there is none.
    """
    from rasterio.enums import Resampling
    from rasterio.transform import Affine
    from rasterio.vrt import WarpedVRT

    own = grid_of(file)
    if own.equals(grid):
        yield file
        return
    shrinks = own.gsd_m()[0] < grid.gsd_m()[0] * (1 - SNAPPED)
    with WarpedVRT(
        file,
        crs=grid.crs,
        transform=Affine(*grid.transform),
        height=grid.height,
        width=grid.width,
        resampling=Resampling.mode if shrinks else Resampling.nearest,
        add_alpha=True,
        src_nodata=nodata,
    ) as resampled:
        yield resampled


class Scale(NamedTuple):
    """Size of the pixels wanted, in pixels of an image with the same corner."""

    down: float
    right: float

    def source_window(self, window: Window, height: int, width: int) -> Window:
        """Return the part of the image, of this size, that a window is made of."""
        (top, bottom), (left, last) = window
        return (
            _widened(top * self.down, bottom * self.down, self.down, height),
            _widened(left * self.right, last * self.right, self.right, width),
        )

    def resample(
        self, pixels: NDArray[Any], source: Window, window: Window
    ) -> NDArray[np.floating[Any]]:
        """Return pixels (C, H, W) of a part of the image as those of a window, (C, h, w).

        Pixels that become larger are averaged, others interpolated (bilinear); NaN is left out.
        """
        import numpy as np
        from rasterio.enums import Resampling
        from rasterio.transform import Affine
        from rasterio.warp import reproject

        (top, bottom), (left, last) = window
        found = np.full((len(pixels), bottom - top, last - left), np.nan, pixels.dtype)
        reproject(
            pixels,
            found,
            # Both are in pixels of the image; equal systems are not transformed.
            src_crs="EPSG:3857",
            dst_crs="EPSG:3857",
            src_transform=Affine.translation(source[1][0], source[0][0]),
            dst_transform=Affine(self.right, 0, left * self.right, 0, self.down, top * self.down),
            src_nodata=np.nan,
            dst_nodata=np.nan,
            UNIFIED_SRC_NODATA="NO",  # Each band by itself.
            resampling=Resampling.average if self.down > 1 else Resampling.bilinear,
        )
        return found


def _widened(first: float, last: float, scale: float, side: int) -> tuple[int, int]:
    margin = 2 * max(1.0, scale)
    return max(0, math.floor(first - margin)), min(side, math.ceil(last + margin))
