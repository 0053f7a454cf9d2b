"""The pixel grid of a scene: where its windows lie on the ground, and resampling onto it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import rasterio
    from numpy.typing import ArrayLike, NDArray

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
        import numpy as np
        from rasterio.warp import transform as warp

        a, b, c, d, e, f = self.transform
        x, y = a * cols + b * rows + c, d * cols + e * rows + f
        if not x.size:
            return np.empty((*x.shape, 2))
        lon, lat = warp(self.crs, "EPSG:4326", x.ravel().tolist(), y.ravel().tolist())[:2]
        points: NDArray[np.float64] = np.stack([lon, lat], axis=-1).reshape(*x.shape, 2)
        return points

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
def on_grid(
    file: rasterio.DatasetReader, grid: Grid, *, is_label: bool, nodata: float | None
) -> Iterator[Any]:
    """Yield an open raster resampled onto a grid; the raster itself if the grid is its own.

    Images are averaged where pixels become larger, else interpolated (bilinear). Labels take the
    most frequent value, else the nearest one; their last band is then 0 where there is none.

    Args:
        file: the raster.
        grid: with the pixels wanted.
        is_label: whether it holds labels.
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
    if is_label:
        how = Resampling.mode if shrinks else Resampling.nearest
    else:
        how = Resampling.average if shrinks else Resampling.bilinear
    given = {} if nodata is None or is_label else {"nodata": nodata}
    with WarpedVRT(
        file,
        crs=grid.crs,
        transform=Affine(*grid.transform),
        height=grid.height,
        width=grid.width,
        resampling=how,
        add_alpha=is_label,
        src_nodata=nodata,
        **given,
    ) as resampled:
        yield resampled
