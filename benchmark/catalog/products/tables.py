"""An embedding product in the form of tables: one file, or the files of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.catalog.products.columns import Columns, find_columns, may_have_ids
from benchmark.catalog.products.formats import FORMATS, Format, Parquet
from benchmark.catalog.products.joining import Geometry, find_geometry
from benchmark.catalog.products.locating import Files, Located, explained, name_first, suffix_of
from benchmark.catalog.roots.root import Root
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.store.digest import digest_files, fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.options import BackboneOptions

BATCH_BYTES = 2**24
"""Size of the vectors that are read at once, as float32."""
ID_ROWS = 2**16
"""Identifiers that are read at once."""
NUM_AT_ONCE = 16
"""Files whose columns are read at once."""


class Piece(NamedTuple):
    """A part of a file that one task reads."""

    path: str
    group: int
    """Number of the row group; 0 where the format has none."""


@dataclass(frozen=True, kw_only=True)
class TableProduct(Files):
    """Tables with equal columns (``specs.Product``)."""

    columns: Columns
    dim: int
    crs: str = ""
    """Coordinate reference system of its shapes, where rows are joined by place."""

    @property
    def join(self) -> str | None:
        """How rows are joined by place, a key of ``joining.JOINS``; None: by identifiers."""
        return self.columns.join

    @property
    def words(self) -> str:
        """Description for users."""
        return self.columns.words

    @property
    def facts(self) -> Mapping[str, Any]:
        """Files and columns, as JSON."""
        vectors = self.columns.vectors
        return {
            "address": self.address,
            "num_files": len(self.files),
            "id_column": self.columns.id,
            "vector_columns": [vectors[0], vectors[-1]] if len(vectors) > 1 else [vectors[0]],
        }

    def revision(self) -> str:
        """Return a digest of the content of the files, of any name, and of the columns read.

        Raises:
            UsageError: a file is gone, or the server fails.
        """
        return self._revision

    @cached_property
    def _revision(self) -> str:
        with self._explained(self.address):
            if self.root.is_remote:
                digests = self.root.identify(self.files)
            else:
                places = [Path(self.root.where(path)) for path in self.files]
                digests = {str(key): it for key, it in digest_files(places, is_whole=True).items()}
        # Absent if unused: fingerprints from before this setting remain valid.
        more = ["drops_missing"] * self.drops_missing + [self.join, self.crs] * bool(self.join)
        return fingerprint([sorted(digests.values()), self.columns.id, self.columns.vectors, *more])

    def pieces(self) -> Sequence[Piece]:
        """Return the row groups of all files (see ``specs.Product``)."""
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            counts = list(pool.map(self._count_groups, self.files))
        return [
            Piece(path, group)
            for path, count in zip(self.files, counts, strict=True)
            for group in range(count)
        ]

    def _count_groups(self, path: str) -> int:
        types, count = describe(self.root, path, self.where)
        absent = [name for name in (self.columns.id, *self.columns.vectors) if name not in types]
        if absent:
            raise UsageError(
                f"{self.where}: '{path}' lacks the columns {shown(absent, 100)} of "
                f"'{self.files[0]}'; name one file, or a folder of files with equal columns"
            )
        if self.join and _geometry_of(self.root, path, self.where) != (self.columns.id, self.crs):
            raise UsageError(
                f"{self.where}: '{path}' differs from '{self.files[0]}' in the coordinate "
                "reference system of its shapes; name files of one"
            )
        return count

    def identifiers(self, piece: Piece) -> Iterator[pa.Array]:
        """Yield the identifiers of a piece as texts, or its shapes (see ``specs.Product``)."""
        for batch in self._batches(piece, {self.columns.id: True}, ID_ROWS):
            yield batch.column(0).cast(pa.binary() if self.join else pa.string())

    def vectors(self, piece: Piece, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of some rows of a piece (see ``specs.Product``)."""
        names = {self.columns.id: True, **dict.fromkeys(self.columns.vectors, False)}
        end = 0
        for batch in self._batches(piece, names, max(1, BATCH_BYTES // (4 * self.dim))):
            start, end = end, end + batch.num_rows
            first, last = np.searchsorted(rows, (start, end))
            if first < last:
                yield self._matrix(batch.take(pa.array(rows[first:last] - start)), piece)

    def _batches(
        self, piece: Piece, columns: Mapping[str, bool], num_rows: int
    ) -> Iterator[pa.RecordBatch]:
        table = _format_of(piece.path)
        with self._explained(piece.path), self.root.open_bytes(piece.path) as file:
            for batch in table.batches(file, piece.group, columns, num_rows):
                yield batch.select(list(columns))

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        with explained(path, self.where):
            yield

    def _matrix(self, batch: pa.RecordBatch, piece: Piece) -> NDArray[np.float32]:
        """Return the vectors of a batch, (n, D).

        Raises:
            UsageError: one is empty, of another length or not finite; the message names it.
        """
        if self.columns.is_list:
            column = batch.column(self.columns.vectors[0])
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
            wrong: NDArray[Any] = np.asarray(lengths != self.dim)
            if wrong.any():
                raise self._fault(
                    batch,
                    wrong,
                    piece,
                    f"have another length, first {lengths[wrong][0]}; that of the first row of "
                    f"'{self.files[0]}' is {self.dim}",
                )
            matrix = _floats(column.flatten()).reshape(-1, self.dim)
        else:
            matrix = np.stack([_floats(batch.column(it)) for it in self.columns.vectors], axis=1)
        wrong = np.asarray(~np.isfinite(matrix).all(axis=1))
        if wrong.any():
            raise self._fault(batch, wrong, piece, "have values that are empty, NaN or infinite")
        return matrix

    def _fault(
        self, batch: pa.RecordBatch, wrong: NDArray[Any], piece: Piece, what: str
    ) -> UsageError:
        names = batch.column(self.columns.id).filter(pa.array(wrong)).to_pylist()
        if self.join:
            import shapely  # type: ignore[import-untyped]

            names = shapely.to_wkt(shapely.centroid(shapely.from_wkb(names))).tolist()
        return UsageError(
            f"{self.where}: '{piece.path}': vectors {what} ({name_first(names)}); correct the file"
        )


def _floats(column: pa.Array) -> NDArray[np.float32]:
    """Return numbers as float32; those that are null are NaN."""
    found: NDArray[np.float32] = column.cast(pa.float32(), safe=False).to_numpy(
        zero_copy_only=False
    )
    return found


def open_tables(found: Located, *, options: BackboneOptions | None, where: str) -> TableProduct:
    """Open the product in some files, of which the first is looked at.

    Raises:
        UsageError: a file is damaged, or its columns are not clear.
    """
    address, root, files, _ = found
    types, _ = describe(root, files[0], where)
    join, crs = options.join if options else None, ""
    geometry = None
    if options is None or options.id_column is None:
        geometry = _geometry_of(root, files[0], where)
    if join and geometry is None:
        raise UsageError(
            f"{where}: 'join' = '{join}': '{files[0]}' is no GeoParquet file with shapes, or "
            "'id_column' is set; rows are joined by place or by identifiers"
        )
    if geometry and not join and not may_have_ids(types):
        join = "centre"
    if geometry and join:
        crs = geometry.crs
    columns = find_columns(
        types,
        shapes=geometry.column if geometry and join else None,
        join=join,
        id_column=options.id_column if options else None,
        vector_columns=options.vector_columns if options else None,
        where=f"{where}: '{files[0]}'",
    )
    dim = len(columns.vectors)
    if columns.is_list:
        dim = _first_length(root, files[0], columns, where)
    return TableProduct(
        address=address,
        root=root,
        files=files,
        columns=columns,
        dim=dim,
        crs=crs,
        drops_missing=options is not None and options.missing == "drop",
        where=where,
    )


def _format_of(path: str) -> Format:
    return FORMATS[suffix_of(path)]


def describe(root: Root, path: str, where: str) -> tuple[Mapping[str, pa.DataType], int]:
    """Return the types of a file's columns by name, and the number of its row groups.

    Raises:
        UsageError: it is missing or damaged.
    """
    table = _format_of(path)
    with explained(path, where), root.open_bytes(path) as file:
        return table.describe(file)


def _geometry_of(root: Root, path: str, where: str) -> Geometry | None:
    """Return the column of shapes of a Parquet file; None: it has none, or is no such file.

    Raises:
        UsageError: it is damaged, or its shapes cannot be used.
    """
    if not isinstance(_format_of(path), Parquet):
        return None
    with explained(path, where), root.open_bytes(path) as file:
        return find_geometry(file)


def _first_length(root: Root, path: str, columns: Columns, where: str) -> int:
    """Return the length of the first vector that is not null."""
    table, (name,) = _format_of(path), columns.vectors
    with explained(path, where), root.open_bytes(path) as file:
        for group in range(table.describe(file)[1]):
            file.seek(0)
            for batch in table.batches(file, group, {name: False}, 1024):
                for length in pc.list_value_length(batch.column(0)).drop_null().to_pylist():
                    if length:
                        return int(length)
    raise UsageError(f"{where}: '{path}' has no rows with a vector; name another file")
