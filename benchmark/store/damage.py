"""Tell damaged files from failures of the store, and say what to do in one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from benchmark.errors import CellError, first_line
from benchmark.store.files import Files
from benchmark.store.filesystems import join
from benchmark.store.retries import is_transient

T = TypeVar("T")

LONGEST_CAUSE = 200


def describe_damage(store: Files, path: str, cause: object) -> CellError:
    """Return the error for a damaged file of an artefact.

    Args:
        store: contains the artefact.
        path: of the file, below the store's root.
        cause: an exception or a text; its first line is shown.
    """
    text = re.sub(r"^Could not open Parquet input source '.*?': ", "", str(cause))
    return CellError(
        f"{join(store.uri, path)} is damaged ({first_line(text, limit=LONGEST_CAUSE)}): "
        f"delete {join(store.uri, path.rpartition('/')[0])} and run again"
    )


def compare_sizes(wanted: Mapping[str, object], found: Mapping[str, int]) -> dict[str, str]:
    """Return what is wrong with files, by name, from their sizes in bytes."""
    return {
        name: f"has {found[name]} bytes instead of {size}" if name in found else "is missing"
        for name, size in wanted.items()
        if found.get(name) != size
    }


def decode_parquet(store: Files, path: str, decode: Callable[[str, pafs.FileSystem], T]) -> T:
    """Return the result of ``decode`` for a Parquet file's path and file system, with retries.

    Raises:
        FileNotFoundError: the file does not exist.
        CellError: the file is damaged, or the store cannot be read.
        pa.ArrowException: the file is intact, but not as expected: it has no such column.
    """

    def attempt() -> T | Exception:
        try:
            return decode(store.place(path), store.fs)
        except (OSError, pa.ArrowException, UnicodeError) as error:
            # Arrow raises the same types for damage and for failures of the store: only a
            # second look at the content tells them apart.
            is_of_store = getattr(error, "errno", None) is not None or is_transient(error)
            if is_of_store or isinstance(error, FileNotFoundError):
                raise
            _check_intact(store, path)
            if isinstance(error, OSError):
                raise
            return error

    found: Any = store.attempt(path, "read", attempt)
    if isinstance(found, Exception):
        raise found
    return found  # type: ignore[no-any-return]


def _check_intact(store: Files, path: str) -> None:
    """Decode a whole Parquet file.

    Raises:
        CellError: the file is damaged, or the store cannot be read.
    """
    content = store.read(path)
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        table.validate(full=True)
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise describe_damage(store, path, error) from None
