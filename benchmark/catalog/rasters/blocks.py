"""Blocks of ground that are drawn for train, val and test, whatever the CRS of the scenes.

Rows of blocks are bands of latitude of ``side_m``; a row is cut into blocks at longitudes, at
equal distances of ``side_m`` along its middle. So all scenes share one set of blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from benchmark.catalog.folder.assignment import draw
from benchmark.catalog.rasters.grids import metres_per_degree
from benchmark.config import DatasetConfig
from benchmark.drawing import Group
from benchmark.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import shapely  # type: ignore[import-untyped]
    from numpy.typing import NDArray

MAX_BLOCKS = 20_000
"""All blocks are in the memory of every worker."""
WHOLE = 0.5
"""Share of a block that scenes cover, from which it counts as a whole one in the draw."""
LEAST_M = (111_319.0, 110_574.0)
"""Metres per degree of longitude at the equator, and the least per degree of latitude."""

Cell = tuple[int, int]


class Placed(NamedTuple):
    """Splits of windows, empty if a window is left out, and the names of their blocks."""

    splits: list[str]
    names: list[str]


@dataclass(frozen=True)
class Blocks:
    """The blocks below the scenes, with their splits."""

    side_m: float
    buffer_m: float
    split_of: Mapping[Cell, str]

    def place(self, outlines: NDArray[np.float64]) -> Placed:
        """Return the split and the block of windows.

        A window's bounds in degrees, widened by the buffer, must touch no block of another split;
        so windows of different splits are further apart than the buffer, and never touch.

        Args:
            outlines: points around the windows in degrees, (N, M, 2).
        """
        import numpy as np

        low, high = outlines.min(axis=1), outlines.max(axis=1)
        largest = np.minimum(np.abs([low[:, 1], high[:, 1]]).max(axis=0), 89.9)
        buffer_lat = self.buffer_m / LEAST_M[1]
        # The buffer itself may reach nearer to the pole, where a degree is shorter.
        shortest = LEAST_M[0] * np.cos(np.radians(np.minimum(largest + buffer_lat, 89.9)))
        margin = np.stack([self.buffer_m / shortest, np.full(len(low), buffer_lat)], axis=1)
        splits, names = [], []
        for middle, lowest, highest in zip(
            ((low + high) / 2).tolist(),
            (low - margin).tolist(),
            (high + margin).tolist(),
            strict=True,
        ):
            cell = self.cell(*middle)
            found = {self.split_of.get(other) for other in self.cells(*lowest, *highest)} - {None}
            is_inside = lowest[0] > -180 and highest[0] < 180
            split = self.split_of.get(cell)
            splits.append(split if split and is_inside and found == {split} else "")
            names.append(f"{cell[0]}.{cell[1]}")
        return Placed(splits, names)

    def cell(self, lon: float, lat: float) -> Cell:
        """Return the row and column of the block at a place."""
        row = int((lat + 90) // self._rows_deg)
        return row, int((lon + 180) // self._cols_deg(row))

    def cells(self, west: float, south: float, east: float, north: float) -> Iterator[Cell]:
        """Yield the blocks that bounds in degrees touch."""
        for row in range(self.cell(west, south)[0], self.cell(west, north)[0] + 1):
            width = self._cols_deg(row)
            for col in range(int((west + 180) // width), int((east + 180) // width) + 1):
                yield row, col

    def bounds(self, cell: Cell) -> tuple[float, float, float, float]:
        """Return west, south, east and north of a block in degrees."""
        row, col = cell
        height, width = self._rows_deg, self._cols_deg(row)
        south, west = row * height - 90, col * width - 180
        return west, south, west + width, south + height

    @property
    def _rows_deg(self) -> float:
        return self.side_m / LEAST_M[1]

    def _cols_deg(self, row: int) -> float:
        middle = min(max((row + 0.5) * self._rows_deg - 90, -89.0), 89.0)
        return min(360.0, self.side_m / float(metres_per_degree(middle)[0]))


def draw_blocks(
    outlines: Sequence[shapely.Polygon], config: DatasetConfig, *, where: str
) -> Blocks:
    """Draw the split of each block that the scenes cover, with the fractions and the seed.

    Args:
        outlines: of the scenes, in degrees.
        config: gives ``rasters.block_m``, ``rasters.buffer_m``, the fractions and the seed.
        where: start of each message.

    Raises:
        UsageError: there are too many blocks, or too few for three splits.
    """
    import shapely

    assert config.rasters is not None
    side_m = config.rasters.block_m
    assert side_m is not None
    empty = Blocks(side_m, config.rasters.buffer_m, {})
    covered: dict[Cell, float] = defaultdict(float)
    for outline in outlines:
        shapely.prepare(outline)
        for cell in empty.cells(*outline.bounds):
            block = shapely.box(*empty.bounds(cell))
            if outline.intersects(block):
                covered[cell] += outline.intersection(block).area / block.area
            if len(covered) > MAX_BLOCKS:
                raise UsageError(
                    f"{where} block_m = {side_m:g}: gives more than {MAX_BLOCKS:,} blocks; set a "
                    "larger block_m"
                )
    is_whole = {cell: share >= WHOLE for cell, share in sorted(covered.items())}
    if (count := sum(is_whole.values())) < 3:
        raise UsageError(
            f"{where} block_m = {side_m:g}: the scenes cover {count} whole blocks, but train, val "
            "and test need three; set a smaller block_m"
        )
    # Blocks at the edges are drawn by themselves: they hold few patches.
    groups = [
        Group((f"{row}.{col}",), frozenset({"whole" if is_whole[row, col] else "edge"}))
        for row, col in is_whole
    ]
    drawn = draw(groups, config, where)
    split_of = {(row, col): drawn[f"{row}.{col}"] for row, col in is_whole}
    return Blocks(side_m, config.rasters.buffer_m, split_of)
