"""Encoded images in rows of a Parquet file."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile

from benchmark.catalog.folder.decoding import WEBP, ImageError

BATCH = 64
"""Rows that are in memory at once."""
BUFFER_BYTES = 2**20
"""Bytes of a file that are read ahead, instead of all of a row group."""
_SUFFIXES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), ".tif"),
}
"""Suffix of an image by its first bytes."""


def iterate_rows(path: Path, column: str, rows: Sequence[int]) -> Iterator[bytes | None]:
    """Yield the encoded images of some rows, sorted, in order; None: a row holds none.

    Only the row groups of these rows are read.

    Raises:
        pyarrow.ArrowException, OSError: the file is damaged.
        IndexError: it has fewer rows.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, buffer_size=BUFFER_BYTES) as file:
        if rows and rows[-1] >= file.metadata.num_rows:
            raise IndexError(f"it has {file.metadata.num_rows} rows, and row {rows[-1]} is wanted")
        first = 0
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            wanted = _between(rows, first, end)
            if wanted:
                batches = file.iter_batches(BATCH, row_groups=[group], columns=[column])
                for batch in islice(batches, (wanted[-1] - first) // BATCH + 1):
                    for row in _between(wanted, first, first + len(batch)):
                        value = batch.column(0)[row - first].as_py()
                        yield value["bytes"] if isinstance(value, dict) else value
                    first += len(batch)
            first = end


def _between(rows: Sequence[int], first: int, end: int) -> Sequence[int]:
    return rows[bisect_left(rows, first) : bisect_left(rows, end)]


def digest_rows(path: Path, column: str, num_rows: int) -> list[str | None]:
    """Return the digest of each encoded image; None where there is none."""
    return [
        blake2b(data, digest_size=16).hexdigest() if data else None
        for data in iterate_rows(path, column, range(num_rows))
    ]


@contextmanager
def as_file(data: bytes | None) -> Iterator[Path]:
    """Yield a temporary file with an encoded image, whose suffix says how it is decoded.

    Raises:
        ImageError: there is none, or it is not PNG, JPEG, TIFF or WebP.
    """
    if not data:
        raise ImageError("holds no bytes; write the images into the Parquet files")
    suffix = next((text for start, text in _SUFFIXES.items() if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        suffix = WEBP
    if suffix is None:
        raise ImageError(f"is not PNG, JPEG, TIFF or WebP: it begins with {data[:12]!r}")
    with NamedTemporaryFile(prefix="benchmark-", suffix=suffix) as file:
        file.write(data)
        file.flush()
        yield Path(file.name)
