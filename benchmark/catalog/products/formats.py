"""Read tables of Parquet, CSV and NPZ in batches of rows, whatever the size of the file."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from benchmark.tables import embeddings_column

BUFFER_BYTES = 2**16
"""Read at once of a column of Parquet."""
BLOCK_BYTES = 2**24
"""Read at once of a CSV file; a line is shorter."""


class Format(Protocol):
    """How the tables of one kind of file are read."""

    def describe(self, file: IO[bytes]) -> tuple[Mapping[str, pa.DataType], int]:
        """Return the types of the columns by name, and the number of groups of rows.

        Raises:
            ValueError: two columns have the same name, or the file is damaged.
            OSError: the file cannot be read.
        """
        ...

    def batches(
        self, file: IO[bytes], group: int, columns: Mapping[str, bool], num_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a group in order.

        Args:
            file: of the table.
            group: number of the group of rows.
            columns: names, and whether each holds the identifiers.
            num_rows: largest number of rows of a batch, where the format allows to choose it.

        Raises:
            ValueError: the file is damaged.
            OSError: the file cannot be read.
        """
        ...


class Parquet:
    """Parquet and GeoParquet, by row group."""

    def describe(self, file: IO[bytes]) -> tuple[Mapping[str, pa.DataType], int]:
        """Return the columns, and the number of row groups (see ``Format``)."""
        with pq.ParquetFile(file) as table:
            return _types(table.schema_arrow), table.num_row_groups

    def batches(
        self, file: IO[bytes], group: int, columns: Mapping[str, bool], num_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a row group (see ``Format``)."""
        # On a disk a row group may be larger than memory; of a server, few requests count.
        is_remote = not isinstance(getattr(file, "raw", None), io.FileIO)
        with pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=is_remote) as table:
            yield from table.iter_batches(num_rows, row_groups=[group], columns=[*columns])


class Csv:
    """CSV with a header, as one group of rows."""

    def describe(self, file: IO[bytes]) -> tuple[Mapping[str, pa.DataType], int]:
        """Return the columns with the types of the first rows (see ``Format``)."""
        with pacsv.open_csv(file, pacsv.ReadOptions(block_size=BLOCK_BYTES)) as reader:
            return _types(reader.schema), 1

    def batches(
        self, file: IO[bytes], group: int, columns: Mapping[str, bool], num_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the file; identifiers keep their leading zeros (see ``Format``)."""
        del group, num_rows
        types = {name: pa.string() if is_id else pa.float32() for name, is_id in columns.items()}
        with pacsv.open_csv(
            file,
            pacsv.ReadOptions(block_size=BLOCK_BYTES),
            convert_options=pacsv.ConvertOptions(
                column_types=types, include_columns=[*columns], strings_can_be_null=False
            ),
        ) as reader:
            yield from reader


class Npz:
    """Arrays of NumPy of equal length, as one group of rows; no pickled objects."""

    def describe(self, file: IO[bytes]) -> tuple[Mapping[str, pa.DataType], int]:
        """Return the arrays of one dimension, and those of two as lists (see ``Format``)."""
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            headers = {name.removesuffix(".npy"): _open(archive, name) for name in names}
        lengths = {name: item.shape[0] for name, item in headers.items() if item.shape}
        types = {name: item.kind for name, item in headers.items() if item.kind is not None}
        if len({lengths[name] for name in types}) > 1:
            found = ", ".join(f"'{name}' {lengths[name]:,}" for name in types)
            raise ValueError(f"its arrays have different lengths ({found})")
        return types, 1

    def batches(
        self, file: IO[bytes], group: int, columns: Mapping[str, bool], num_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the arrays, decompressed batch by batch (see ``Format``)."""
        del group
        with zipfile.ZipFile(file) as archive:
            arrays = [_open(archive, f"{name}.npy") for name in columns]
            for start in range(0, arrays[0].shape[0], num_rows):
                count = min(num_rows, arrays[0].shape[0] - start)
                yield pa.record_batch([item.read(count) for item in arrays], names=[*columns])


FORMATS: Mapping[str, Format] = {
    ".parquet": Parquet(),
    ".geoparquet": Parquet(),
    ".csv": Csv(),
    ".npz": Npz(),
}
"""By suffix, in lower case."""


def _types(schema: pa.Schema) -> Mapping[str, pa.DataType]:
    ((name, count), *_) = Counter(schema.names).most_common(1) or [("", 0)]
    if count > 1:
        raise ValueError(f"{count} columns are named '{name}'")
    return dict(zip(schema.names, schema.types, strict=True))


class _Array(NamedTuple):
    """An array of an NPZ file, from its header on."""

    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def kind(self) -> pa.DataType | None:
        """Its type as a column; None: it is no column of texts, numbers or vectors."""
        if self.dtype.kind == "U" and len(self.shape) == 1:
            return pa.string()
        if self.dtype.kind not in "iuf" or self.dtype.itemsize > 8:
            return None
        number = pa.from_numpy_dtype(self.dtype.newbyteorder("="))
        if len(self.shape) == 1:
            return number
        return pa.list_(number, self.shape[1]) if len(self.shape) == 2 and self.shape[1] else None

    def read(self, count: int) -> pa.Array:
        """Return the next rows."""
        shape = (count, *self.shape[1:])
        num_bytes = int(np.prod(shape)) * self.dtype.itemsize
        data = self.stream.read(num_bytes)
        if len(data) < num_bytes:
            raise ValueError("an array ends early")
        values = np.frombuffer(data, self.dtype).reshape(shape)
        if len(shape) == 2:
            return embeddings_column(values.astype(np.float32))
        return pa.array(values.astype(self.dtype.newbyteorder("=")))


def _open(archive: zipfile.ZipFile, name: str) -> _Array:
    """Return an array of an archive, whose values are not read yet."""
    stream = archive.open(name)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0
    shape, is_fortran, dtype = (read if version == (1, 0) else _read_header_2)(stream)
    if is_fortran and len(shape) > 1:
        raise ValueError(f"its array '{name}' is in Fortran order; save it in C order")
    return _Array(stream, shape, dtype)


def _read_header_2(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = np.lib.format.read_array_header_2_0(stream)
    return found
