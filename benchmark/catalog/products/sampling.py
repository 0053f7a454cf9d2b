"""Take the vectors of footprints from rasters: windows alone are read.

The pixels of a footprint are those of the raster that covers most of it, whose centres are in the
footprint. Where this raster ends or has no data, the pixel of the next raster at the same place is
taken. So every pixel counts once, however many rasters overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.corners import window_corners
from benchmark.catalog.products import pixels
from benchmark.catalog.products.headers import Header, find_overlaps
from benchmark.catalog.products.layouts import UNIT_TOLERANCE, Layout
from benchmark.catalog.products.pixels import Raster, Rule, open_file
from benchmark.catalog.roots.root import Root, Unreadable
from benchmark.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TASK_PATCHES = 256
"""Footprints of one task, to the end of the block of the last one."""
REMOTE_PATCHES = 4096
"""The same on a server: blocks at the edge of a task are fetched by its neighbours, too
(``python -m perf.footprints``)."""
MOST_PATCHES = 8192
"""Most footprints of one task, whatever their blocks."""


class Request(NamedTuple):
    """Footprints whose vectors one task takes."""

    patches: NDArray[np.int64]
    """Numbers of the footprints, (n,)."""
    corners: NDArray[np.float64]
    """In degrees, (n, M, 2); M = 1: points."""
    files: Sequence[tuple[int, ...]]
    """Numbers of the rasters below each footprint, the one that covers most of it first."""

    def choose(self, is_chosen: NDArray[np.bool_]) -> Request:
        """Return the same with some of the footprints, (n,)."""
        files = [numbers for numbers, keep in zip(self.files, is_chosen, strict=True) if keep]
        return Request(self.patches[is_chosen], self.corners[is_chosen], files)


@dataclass(frozen=True, kw_only=True)
class RasterSampler:
    """Rasters whose headers are known (``products.Sampler``). It pickles."""

    root: Root
    headers: Sequence[Header]
    years: Sequence[int | None]
    """Of each raster; None: unknown."""
    layout: Layout
    rule: Rule
    where: str
    """Start of each message."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.headers[0].num_bands * self.rule.num_statistics

    def requests(self, corners: NDArray[np.float64]) -> list[Request]:
        """Return the tasks that sample footprints; those that no raster touches are left out.

        Args:
            corners: of the footprints in degrees, (N, M, 2); M = 1: points.

        Raises:
            UsageError: no raster touches a footprint, or rasters of two years do.
        """
        import numpy as np

        pairs = find_overlaps(self.headers, corners)
        if len(corners) and not len(pairs.patches):
            raise UsageError(
                f"{self.where}: its {len(self.headers):,} rasters touch none of the "
                f"{len(corners):,} patches: the first is {self.headers[0].grid.describe()}, the "
                f"first patch at {corners[0, 0, 0]:.5g}, {corners[0, 0, 1]:.5g} degrees; name "
                "rasters of the same places"
            )
        # The raster that covers most comes first; of equal ones, the first by path.
        order = np.lexsort((pairs.files, -pairs.shares, pairs.patches))
        files: dict[int, tuple[int, ...]] = {
            patch: tuple(number for _, number in group)
            for patch, group in groupby(
                zip(pairs.patches[order].tolist(), pairs.files[order].tolist(), strict=True),
                key=lambda pair: pair[0],
            )
        }
        self._check_years(files)
        return list(self._tasks(files, corners))

    def middles(self) -> NDArray[np.float64]:
        """Return footprints of some pixels in the middle of each raster (see ``Sampler``)."""
        import numpy as np

        found = [
            window_corners(
                header.grid.transform,
                header.grid.crs,
                [header.grid.height / 2 - 1],
                [header.grid.width / 2 - 1],
                2,
            )
            for header in self.headers
        ]
        return np.concatenate(found)

    def _check_years(self, files: Mapping[int, tuple[int, ...]]) -> None:
        found: dict[int, set[int | None]] = {}
        for patch, numbers in files.items():
            years = {self.years[number] for number in numbers}
            if len(years) > 1:
                found[patch] = years
        if not found:
            return
        years = set().union(*found.values())
        names = ", ".join(map(str, sorted(year for year in years if year is not None)))
        names += " and of none that its name tells" * (None in years)
        raise UsageError(
            f"{self.where}: {len(found):,} patches lie on rasters of several years ({names}); set "
            "'year' to one"
        )

    def _tasks(
        self, files: Mapping[int, tuple[int, ...]], corners: NDArray[np.float64]
    ) -> Iterator[Request]:
        """Yield footprints of the same blocks together, so that each block is read once."""
        import numpy as np

        blocks: dict[int, tuple[Any, ...]] = {}
        patches = np.array(list(files), np.int64)
        best = np.array([numbers[0] for numbers in files.values()], np.int64)
        for number in np.unique(best):
            header, mine = self.headers[number], patches[best == number]
            lon, lat = corners[mine].mean(axis=1).T
            col, row = header.columns_and_rows(lon, lat).T
            height, width = header.block
            for patch, *place in zip(
                mine.tolist(), (row // height).tolist(), (col // width).tolist(), strict=True
            ):
                blocks[patch] = (files[patch], *place)
        chosen: list[int] = []
        usual = REMOTE_PATCHES if self.root.is_remote else TASK_PATCHES
        for _, group in groupby(sorted(files, key=lambda it: (blocks[it], it)), blocks.__getitem__):
            for patch in group:
                chosen.append(patch)
                if len(chosen) == MOST_PATCHES:
                    yield _request(chosen, files, corners)
                    chosen = []
            if len(chosen) >= usual:
                yield _request(chosen, files, corners)
                chosen = []
        if chosen:
            yield _request(chosen, files, corners)

    def sample(self, request: Request) -> NDArray[np.float32]:
        """Return vectors with the share of pixels without data behind each, (n, D + 1).

        The vector of a footprint without a valid pixel is NaN.

        Raises:
            UsageError: a file is damaged, or its values cannot be used.
            CellError: the server fails.
        """
        import numpy as np

        found = np.full((len(request.patches), self.dim + 1), np.nan, np.float32)
        for numbers, group in groupby(range(len(request.files)), request.files.__getitem__):
            rows = list(group)
            try:
                self.root.retried(partial(self._sample, numbers, request, rows, found))
            except Unreadable as error:
                path, reason = error.problem
                raise UsageError(f"{self.where}: '{path}': {reason}") from None
        return found

    def _sample(
        self,
        numbers: Sequence[int],
        request: Request,
        rows: Sequence[int],
        found: NDArray[np.float32],
    ) -> None:
        """Fill the rows of footprints on the same rasters."""
        with ExitStack() as stack:
            opened = [
                Raster(stack.enter_context(open_file(self.root, header)), header, self)
                for header in (self.headers[number] for number in numbers)
            ]
            for row in rows:
                found[row] = self._vector(opened, request.corners[row])

    def _vector(
        self, rasters: Sequence[Raster], corners: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Return the vector of one footprint, and the share without data."""
        import numpy as np

        count = self.headers[0].num_bands
        sums, squares = np.zeros(count), np.zeros(count)
        num_valid = num_pixels = 0
        lengths = 0.0
        for cols, rows in _pixels(rasters[0].header, corners, self.rule.sample, count):
            values, is_valid = self._take(rasters, cols, rows)
            valid = values[is_valid]
            sums += valid.sum(axis=0, dtype=np.float64)
            if self.rule.num_statistics > 1:
                squares += np.square(valid, dtype=np.float64).sum(axis=0)
            if self.layout.is_unit:
                lengths += float(np.sqrt(np.square(valid, dtype=np.float64).sum(axis=1)).sum())
            num_valid, num_pixels = num_valid + len(valid), num_pixels + len(cols)
        if not num_valid:
            return np.full(self.dim + 1, np.nan, np.float32)
        if self.layout.is_unit and abs(lengths / num_valid - 1) > UNIT_TOLERANCE:
            raise UsageError(
                f"{self.where}: '{rasters[0].header.path}': its vectors have length "
                f"{lengths / num_valid:.3g} after {self.layout.name}'s de-quantisation, which "
                "gives 1; the file was changed, or is of another product: set 'scale'"
            )
        mean = sums / num_valid
        share = 1 - num_valid / num_pixels
        if self.rule.num_statistics == 1:
            return np.array([*mean, share], np.float32)
        deviation = np.sqrt(np.maximum(squares / num_valid - mean**2, 0))
        return np.array([*mean, *deviation, share], np.float32)

    def _take(
        self, rasters: Sequence[Raster], cols: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the values (n, C) of pixels of the first raster, and which of them are valid."""
        import numpy as np

        values = np.zeros((len(cols), self.headers[0].num_bands), np.float32)
        is_valid = np.zeros(len(cols), np.bool_)
        grid = rasters[0].header.grid
        a, b, c, d, e, f = grid.transform
        for raster in rasters:
            open_at = np.flatnonzero(~is_valid)
            if not len(open_at):
                break
            own = np.stack([cols[open_at], rows[open_at]], axis=1)
            if raster is not rasters[0]:
                right, down = (own + 0.5).T
                own = np.floor(
                    raster.header.pixels_of(
                        grid.crs, a * right + b * down + c, d * right + e * down + f
                    )
                )
            is_inside = raster.holds(own)
            at = open_at[is_inside]
            if len(at):
                values[at], is_valid[at] = raster.read(own[is_inside].astype(np.int64))
        return values, is_valid


def _request(
    chosen: Sequence[int], files: Mapping[int, tuple[int, ...]], corners: NDArray[np.float64]
) -> Request:
    import numpy as np

    patches = np.array(chosen, np.int64)
    return Request(patches, corners[patches], [files[patch] for patch in chosen])


def _pixels(
    header: Header, corners: NDArray[np.float64], sample: str, num_bands: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield columns and rows of the pixels of a footprint, strip by strip.

    They may lie beyond the raster. Where no centre of a pixel is in the footprint, or the centre is
    asked for, it is the pixel that holds the centre.
    """
    import numpy as np
    import shapely  # type: ignore[import-untyped]

    outline = header.columns_and_rows(corners[:, 0], corners[:, 1])
    num_found = 0
    if sample != "centre" and len(corners) > 2:
        shape = shapely.polygons(outline)
        shapely.prepare(shape)
        low, high = np.floor(outline.min(axis=0)), np.ceil(outline.max(axis=0))
        cols = np.arange(low[0], high[0])
        height = max(1, int(pixels.STRIP_VALUES // (num_bands * len(cols))))
        for top in range(int(low[1]), int(high[1]), height):
            rows = np.arange(top, min(top + height, high[1]))
            x, y = (axis.ravel() for axis in np.meshgrid(cols, rows))
            inside = shapely.contains_xy(shape, x + 0.5, y + 0.5)
            if inside.any():
                num_found += int(inside.sum())
                yield x[inside].astype(np.int64), y[inside].astype(np.int64)
    if not num_found:
        col, row = np.floor(outline.mean(axis=0)).astype(np.int64)
        yield np.array([col]), np.array([row])
