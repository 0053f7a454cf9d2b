"""Join the rows of a GeoParquet product with patches by place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.catalog.products.matching import Matched, name_patches
from benchmark.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEGREES = "OGC:CRS84"
"""The system of a GeoParquet column that names none."""
WHOLE = 2**40
"""Weight of a polygon that covers the whole patch: shares are whole numbers, whose sums do not
depend on their order."""
LEAST = 2**20
"""Weight, a millionth of the patch, below which shapes only touch."""
INSIDE, TOUCHES = 2, 1
"""Weights of a polygon that holds a centre, and of one whose edge it lies on."""
JOINS = {
    "centre": "place: the polygon that holds the centre of the patch",
    "area": "place: mean of the polygons that overlap the patch, weighted by area",
}


class Geometry(NamedTuple):
    """The column of shapes of a GeoParquet file."""

    column: str
    crs: str
    """Coordinate reference system, as pyproj reads it."""


def find_geometry(file: IO[bytes]) -> Geometry | None:
    """Return the column of shapes that a Parquet file declares; None: it declares none.

    Raises:
        ValueError: the declaration cannot be read, or shapes are not well-known binary.
    """
    with pq.ParquetFile(file) as table:
        text = (table.schema_arrow.metadata or {}).get(b"geo")
    if text is None:
        return None
    try:
        told = json.loads(text)
        name = str(told["primary_column"])
        column = told["columns"][name]
        encoding, crs = column["encoding"], column.get("crs", DEGREES)
    except (KeyError, TypeError, ValueError):
        raise ValueError("its GeoParquet metadata cannot be read") from None
    if encoding != "WKB":
        raise ValueError(f"its shapes are encoded as {encoding}; write them as WKB")
    if crs is None:
        raise ValueError("its shapes have no coordinate reference system; write one")
    return Geometry(name, crs if isinstance(crs, str) else json.dumps(crs))


class WantedPlaces:
    """The places of patches, as rows are joined with them. It pickles."""

    def __init__(
        self, patch_ids: list[str], corners: NDArray[np.float64], crs: str, join: str
    ) -> None:
        """Take the places of patches.

        Args:
            patch_ids: their identities.
            corners: in degrees, (N, M, 2); NaN: unknown; M = 1: points.
            crs: of the rows.
            join: a key of ``JOINS``.
        """
        import shapely  # type: ignore[import-untyped]
        from pyproj import Transformer

        self.patch_ids = pa.array(patch_ids, pa.string())
        self._join = join
        self._known = np.flatnonzero(np.isfinite(corners).all(axis=(1, 2)))
        to_rows = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        places = corners[self._known]
        if join == "centre":
            places = places.mean(axis=1, keepdims=True)
        x, y = to_rows.transform(places[..., 0], places[..., 1])
        points = np.stack([x, y], axis=-1)
        is_there = np.isfinite(points).all(axis=(1, 2))
        self._known, points = self._known[is_there], points[is_there]
        self._shapes = (
            shapely.points(points[:, 0]) if join == "centre" else shapely.polygons(points)
        )

    def find(self, batches: Iterable[pa.Array]) -> NDArray[np.int64]:
        """Return the matches with rows, (M, 3): weight, and numbers of patch and row.

        Args:
            batches: shapes as well-known binary, in the order of the rows.

        Raises:
            ValueError: a shape cannot be read.
        """
        import shapely

        tree = shapely.STRtree(self._shapes)
        found, start = [np.empty((0, 3), np.int64)], 0
        for batch in batches:
            content = batch.to_numpy(zero_copy_only=False)
            shapes = shapely.from_wkb(content, on_invalid="ignore")
            if (is_bad := shapely.is_missing(shapes) & batch.is_valid().to_numpy(False)).any():
                raise ValueError(
                    f"the shape of row {start + int(is_bad.argmax()):,} is no well-known binary"
                )
            rows, at = tree.query(shapes, predicate="intersects")
            weights = self._weigh(shapes[rows], self._shapes[at])
            is_met = weights > 0
            columns = [weights[is_met], self._known[at[is_met]], rows[is_met] + start]
            found.append(np.stack(columns, axis=1).astype(np.int64))
            start += len(batch)
        return np.concatenate(found)

    def _weigh(self, shapes: NDArray[Any], mine: NDArray[Any]) -> NDArray[np.int64]:
        import shapely

        if self._join == "centre":
            is_area = shapely.get_dimensions(shapes) == 2
            inside = np.where(shapely.contains_properly(shapes, mine), INSIDE, TOUCHES)
            return np.where(is_area, inside, 0)
        shares = shapely.area(shapely.intersection(shapely.make_valid(shapes), mine))
        weights: NDArray[np.int64] = np.round(WHOLE * shares / shapely.area(mine)).astype(np.int64)
        return np.where(weights < LEAST, 0, weights)

    def choose(
        self,
        found: NDArray[np.int64],
        where: str,
        example: Callable[[], str | None],
        *,
        drops_missing: bool = False,
    ) -> Matched:
        """Return the rows of each patch, with their weights.

        Args:
            found: matches of all pieces, (M, 4): those of ``find``, and the number of the piece.
            where: start of each message.
            example: not used: shapes are no words.
            drops_missing: whether a patch may have no row.

        Raises:
            UsageError: a patch has no row, or several polygons hold its centre.
        """
        del example
        count, rule = len(self.patch_ids), JOINS[self._join]
        # By patch, the largest weight first, then by piece and row.
        found = found[np.lexsort((found[:, 2], found[:, 3], -found[:, 0], found[:, 1]))]
        if not len(found):
            raise UsageError(
                f"{where}: none of its polygons lies on a patch; name a product of the same places"
            )
        if self._join == "centre":
            inside = np.bincount(found[found[:, 0] == INSIDE, 1], minlength=count)
            if (inside > 1).any():
                raise UsageError(
                    f"{where}: the centres of {(inside > 1).sum():,} patches are in several "
                    f"polygons ({name_patches(self.patch_ids, inside > 1)}); keep those of one "
                    'year, or set join = "area"'
                )
            # On an edge, the first of the polygons that touch.
            found = found[np.unique(found[:, 1], return_index=True)[1]]
        is_there = np.bincount(found[:, 1], minlength=count) > 0
        if not is_there.all() and not drops_missing:
            raise UsageError(
                f"{where}: {(~is_there).sum():,} of {count:,} patches have no row by {rule} "
                f"({name_patches(self.patch_ids, ~is_there)}); add rows, or set missing = "
                '"drop" to compare all rows without these patches'
            )
        weights = found[:, 0] / WHOLE if self._join == "area" else np.ones(len(found))
        return Matched(rule, found[:, 1], found[:, 3], found[:, 2], weights)
