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


AGAIN = "benchmark run computes it again"
"""What the message of a damaged file says; a run goes through its stages again then."""
MISSING = "it is missing"


class DamageError(CellError):
    """A file of the store is missing or has another content than was written."""

    found: str = ""
    """What is wrong with it."""


def handle_damage(store: Files, path: str, cause: object) -> DamageError:
    """Return the error for a damaged file of an artefact; in a run, also delete the file.

    Args:
        store: contains the artefact.
        path: of the file, below the store's root.
        cause: an exception or a text; its first line is shown.
    """
    text = re.sub(r"^Could not open Parquet input source '.*?': ", "", str(cause))
    found = first_line(text, limit=LONGEST_CAUSE)
    what, advice = f"is damaged ({found})", "delete this file and run again"
    if found == MISSING:
        what, advice = "is missing", AGAIN if store.discards_damage else "run again"
    elif store.discards_damage:
        try:
            store.delete(path)
            advice = f"it was removed, and {AGAIN}"
        except CellError as error:
            advice = f"it cannot be removed ({first_line(error, limit=LONGEST_CAUSE)})"
    damage = DamageError(f"{join(store.uri, path)} {what}: {advice}")
    damage.found = found
    return damage


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
        CellError: the file is damaged (``DamageError``), or the store cannot be read.
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
            check_parquet(store, path, store.read(path))
            if isinstance(error, OSError):
                raise
            return error

    found: Any = store.attempt(path, "read", attempt)
    if isinstance(found, Exception):
        raise found
    return found  # type: ignore[no-any-return]


def check_parquet(store: Files, path: str, content: bytes) -> None:
    """Decode the content of a whole Parquet file.

    Raises:
        DamageError: the file is damaged.
    """
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        table.validate(full=True)
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise handle_damage(store, path, error) from None
