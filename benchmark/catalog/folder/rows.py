"""Read a table about images (CSV or Parquet) as rows of text, with bounded memory."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.errors import UsageError, did_you_mean, one_line
from benchmark.fields import shown
from benchmark.regular import read_regular

MAX_TABLE_BYTES = 256 * 2**20
"""About 2.5 million rows of text."""
MAX_LINE_BYTES = 2**16
MAX_CELL = 4096
"""Characters of a cell; the longest path of Linux."""
MAX_PARQUET_ROWS = 10_000_000
NEAR = 0.75
"""Similarity above which an unknown column is taken for a misspelt one."""

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class TableRow(NamedTuple):
    """One row of a table; ``cells`` are stripped, and empty where the table has no value."""

    place: str
    """For messages: the table and the number of the row."""
    number: int
    """The line of a CSV (the first is 1, with the names), or the row of a Parquet file."""
    cells: dict[str, str]
    """By the name of the column in lower case; known columns only."""


class ImageTable(NamedTuple):
    """A table whose header was checked; its rows are read as they are taken."""

    columns: tuple[str, ...]
    """The known columns."""
    ignored: tuple[str, ...]
    """The other columns; one without a name is an empty text."""
    rows: Iterator[TableRow]
    unit: str
    """Word for the number of a row in messages: ``line`` or ``row``."""


def open_table(
    path: Path, *, needed: Sequence[str], optional: Sequence[str], where: str
) -> ImageTable:
    """Open a CSV (comma, semicolon or tab; UTF-8, with or without BOM) or a Parquet file.

    Args:
        path: the table; Parquet if it begins as such a file.
        needed: columns that it must have.
        optional: further known columns.
        where: start of each message.

    Raises:
        UsageError: the file is missing, too large, not UTF-8 or malformed, or a column is missing,
            misspelt or doubled. Rows raise it while they are read.
    """
    try:
        data = read_regular(path, most_bytes=MAX_TABLE_BYTES)
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{where}: cannot be read: {error}") from None
    return parse_table(data, needed=needed, optional=optional, where=where)


def parse_table(
    data: bytes, *, needed: Sequence[str], optional: Sequence[str], where: str
) -> ImageTable:
    """Open the content of a table as ``open_table`` does."""
    known = (*needed, *optional)
    if data.startswith(b"PAR1"):
        return _open_parquet(data, needed, known, where)
    lines = _lines(data, where)
    header = next(lines, "")
    delimiter = max(",;\t", key=lambda mark: len({*_names(header, mark)} & {*known}))
    reader = csv.reader(_joined(header, lines), delimiter=delimiter)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as error:
        raise UsageError(f"{where} line 1: is no CSV: {error}") from None
    ignored = _check_columns(names, needed, known, where)
    rows = _csv_rows(reader, names, known, where)
    return ImageTable(tuple(name for name in names if name in known), ignored, rows, "line")


def _names(header: str, delimiter: str) -> list[str]:
    return [name.strip().strip('"').lower() for name in header.split(delimiter)]


def _joined(header: str, lines: Iterator[str]) -> Iterator[str]:
    if header:
        yield header
    yield from lines


def _lines(data: bytes, where: str) -> Iterator[str]:
    """Yield the lines of a text; a line without an end costs no more than the limit."""
    if data.startswith(_UTF16):
        raise UsageError(f"{where}: cannot be read as UTF-8 CSV: it is UTF-16; save it as UTF-8")
    file = io.BytesIO(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise UsageError(
                f"{where} line {number}: has more than {MAX_LINE_BYTES:,} bytes; write one image "
                "per line"
            )
        if b"\0" in line:
            raise UsageError(f"{where} line {number}: contains a NUL byte; save it as a UTF-8 CSV")
        try:
            # Spreadsheets put a byte order mark before the first column's name.
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{where}: cannot be read as UTF-8 CSV: byte {line[error.start]:#04x} in line "
                f"{number}; save it as UTF-8"
            ) from None


def _csv_rows(
    reader: Iterable[list[str]], names: Sequence[str], known: Sequence[str], where: str
) -> Iterator[TableRow]:
    rows = iter(reader)
    number = 1
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise UsageError(f"{where} line {reader.line_num}: is no CSV: {error}") from None  # type: ignore[attr-defined]
        if cells is None:
            return
        number = reader.line_num  # type: ignore[attr-defined]
        place = f"{where} line {number}"
        # Spreadsheets end rows with empty cells, and tables with empty rows.
        if not any(cell.strip() for cell in cells):
            continue
        if any(cell.strip() for cell in cells[len(names) :]):
            raise UsageError(
                f"{place}: more cells than the {len(names)} columns; quote cells that contain the "
                "delimiter"
            )
        padded = [*cells, *[""] * (len(names) - len(cells))]
        pairs = zip(names, padded, strict=False)
        yield _checked({name: cell.strip() for name, cell in pairs if name in known}, number, place)


def _checked(cells: dict[str, str], number: int, place: str) -> TableRow:
    for name, cell in cells.items():
        if len(cell) > MAX_CELL:
            raise UsageError(
                f"{place}: '{name}' has {len(cell):,} characters; at most {MAX_CELL:,} are read "
                "(is a quote not closed?)"
            )
    return TableRow(place, number, cells)


def _open_parquet(
    data: bytes, needed: Sequence[str], known: Sequence[str], where: str
) -> ImageTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{where}: is a damaged Parquet file: {one_line(error)}") from None
    if file.metadata.num_rows > MAX_PARQUET_ROWS:
        raise UsageError(
            f"{where}: has {file.metadata.num_rows:,} rows; at most {MAX_PARQUET_ROWS:,} are read"
        )
    original = {name.strip().lower(): name for name in file.schema_arrow.names}
    names = [name.strip().lower() for name in file.schema_arrow.names]
    ignored = _check_columns(names, needed, known, where)
    columns = tuple(name for name in names if name in known)

    def rows() -> Iterator[TableRow]:
        number = 0
        try:
            for batch in file.iter_batches(columns=[original[name] for name in columns]):
                texts = [_texts(batch.column(original[name])) for name in columns]
                for values in zip(*texts, strict=True):
                    number += 1
                    cells = dict(zip(columns, values, strict=True))
                    yield _checked(cells, number, f"{where} row {number}")
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{where}: cannot be read as Parquet: {one_line(error)}") from None

    return ImageTable(columns, ignored, rows(), "row")


def _texts(column: object) -> list[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.cast(column, pa.string()).to_pylist()
    return ["" if text is None else text.strip() for text in texts]


def _check_columns(
    names: Sequence[str], needed: Sequence[str], known: Sequence[str], where: str
) -> tuple[str, ...]:
    """Return the names of the columns that are not known.

    Raises:
        UsageError: a known column is doubled, a needed one is missing, or one looks misspelt.
    """
    others = tuple(name for name in names if name not in known)
    for name in known:
        if names.count(name) > 1:
            raise UsageError(f"{where}: the column '{name}' appears twice; remove one")
    absent = [name for name in known if name not in names]
    for name in others:
        # A misspelt 'split' that is ignored would give a random split.
        if difflib.get_close_matches(name[:100], absent, n=1, cutoff=NEAR):
            raise UsageError(
                f"{where}: unknown column {shown(name, 100)}.{did_you_mean(name, absent)}"
            )
    for name in needed:
        if name not in names:
            has = f"it has {shown(list(names), 200)}" if any(names) else "it is empty"
            raise UsageError(f"{where}: the column '{name}' is missing from the first line; {has}")
    return others
