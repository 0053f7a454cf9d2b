"""Content digests of files (cached by size and time) and of plain values (fingerprints)."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from benchmark.store.cache import cache_folder

WHOLE_BYTES = 4 * 2**20
"""Files up to this size are hashed whole; of larger files, the size and three samples are."""
_SAMPLE_BYTES = 2**20
_LOCK = threading.Lock()


def fingerprint(content: Any) -> str:
    """Return 16 hex digits that identify a JSON-like value.

    Tuples equal lists, the order of keys does not matter, and floats are hashed by their shortest
    decimal form.

    Raises:
        TypeError: the value is not JSON.
        ValueError: a float is not finite.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def digest_file(path: Path) -> str:
    """Return the hex digest of one file's content (see ``digest_files``)."""
    return digest_files([path])[path]


def digest_files(paths: Iterable[Path]) -> Mapping[Path, str]:
    """Return the hex digest of each file's content.

    A file of up to 4 MiB is hashed whole. For a larger file (a scene), only the size and one MiB
    at its start, middle and end are hashed: a data set of 100 GB is identified in seconds.
    Digests are cached in the user's cache folder, by path, size and modification time.

    Raises:
        OSError: a file cannot be read.
    """
    found: dict[Path, str] = {}
    fresh: list[tuple[bytes, int, int, str]] = []
    with _LOCK, closing(_open_cache()) as cache:
        for path in paths:
            stat = path.stat()
            # Bytes: a path need not be UTF-8.
            key = os.fsencode(os.path.realpath(path))
            digest = _recall(cache, key, stat)
            if digest is None:
                digest = _digest_content(path, stat.st_size)
                fresh.append((key, stat.st_size, stat.st_mtime_ns, digest))
            found[path] = digest
        if fresh:
            # Another process may lock the cache, or the disk be full: the digests are right anyway.
            with suppress(sqlite3.Error), cache:
                cache.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", fresh)
    return found


def _recall(cache: sqlite3.Connection, key: bytes, stat: os.stat_result) -> str | None:
    try:
        row = cache.execute(
            "SELECT digest FROM digests WHERE path = ? AND size = ? AND mtime_ns = ?",
            (key, stat.st_size, stat.st_mtime_ns),
        ).fetchone()
    except sqlite3.Error:
        # A damaged or locked cache costs time, never the result.
        return None
    return None if row is None else str(row[0])


def _digest_content(path: Path, size: int) -> str:
    state = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            state.update(file.read())
        else:
            for offset in (0, (size - _SAMPLE_BYTES) // 2, size - _SAMPLE_BYTES):
                file.seek(offset)
                state.update(file.read(_SAMPLE_BYTES))
    return state.hexdigest()


def _open_cache() -> sqlite3.Connection:
    try:
        cache = sqlite3.connect(cache_folder() / "digests.sqlite", timeout=30)
        _create_table(cache)
    except (OSError, sqlite3.Error):
        # A cache that cannot be written (a read-only home) costs time, never the result.
        cache = sqlite3.connect(":memory:")
        _create_table(cache)
    return cache


def _create_table(cache: sqlite3.Connection) -> None:
    cache.execute(
        "CREATE TABLE IF NOT EXISTS digests"
        " (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest TEXT)"
    )
