"""Content digests of files (cached) and of plain values (fingerprints)."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from benchmark.store.cache import cache_folder

WHOLE_BYTES = 4 * 2**20
"""Files up to this size are hashed whole; of larger files, the size and three samples are."""
_SAMPLE_BYTES = 2**20
_LOCK = threading.Lock()
_known: dict[tuple[bytes | int, ...], str] = {}
"""The digests of weights in this process, for users whose cache cannot be written."""


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


def digest_files(paths: Iterable[Path], *, is_whole: bool = False) -> Mapping[Path, str]:
    """Return the hex digest of each file's content.

    A file of up to 4 MiB is hashed whole. For a larger file (a scene), only the size and one MiB
    at its start, middle and end are hashed: a data set of 100 GB is identified in seconds.
    Digests are cached in the user's cache folder while path, size, inode and the times of the last
    modification and change stay the same. Users cannot set the last one.

    Args:
        paths: of the files.
        is_whole: hash larger files whole, too, by XXH3 (128 bits).

    Raises:
        OSError: a file cannot be read.
    """
    found: dict[Path, str] = {}
    fresh: list[tuple[bytes | int | str, ...]] = []
    with _LOCK, closing(_open_cache()) as cache:
        for path in paths:
            stat = path.stat()
            key = (
                # Bytes: a path need not be UTF-8.
                os.fsencode(os.path.realpath(path)),
                int(is_whole and stat.st_size > WHOLE_BYTES),
                stat.st_size,
                stat.st_ino,
                stat.st_mtime_ns,
                stat.st_ctime_ns,
            )
            digest = _known.get(key) or _recall(cache, key)
            if digest is None:
                digest = _digest_whole(path) if key[1] else _digest_content(path, stat.st_size)
                fresh.append((*key, digest))
            if is_whole:
                _known[key] = digest
            found[path] = digest
        if fresh:
            # Another process may lock the cache, or the disk be full: the digests are right anyway.
            with suppress(sqlite3.Error), cache:
                cache.executemany(
                    "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?, ?, ?, ?)", fresh
                )
    return found


class Former(NamedTuple):
    """The identity that earlier versions gave to weights, from samples of their files."""

    revision: str
    changed_s: float
    """When a file was changed last (s since the epoch): results from before may be those of
    another content."""


@dataclass(frozen=True)
class FileRevision:
    """The identity of weights: a digest of their files, hashed whole.

    Attributes:
        find: returns the files.
        arguments: of ``find``.
        has_names: whether the names of the files count, too.
    """

    find: Callable[..., Sequence[Path]]
    arguments: tuple[Any, ...] = ()
    has_names: bool = False

    def __call__(self) -> str:
        """Return the digest.

        Raises:
            OSError: a file cannot be read.
        """
        return self._combine(digest_files(self.find(*self.arguments), is_whole=True))

    def former(self) -> Former:
        """Return the identity that earlier versions gave."""
        digests = digest_files(self.find(*self.arguments))
        changed_s = max(path.stat().st_ctime for path in digests)
        return Former(self._combine(digests), changed_s)

    def _combine(self, digests: Mapping[Path, str]) -> str:
        if self.has_names:
            return fingerprint([[path.name, digest] for path, digest in digests.items()])
        (digest,) = digests.values()
        return digest


def _recall(cache: sqlite3.Connection, key: tuple[bytes | int, ...]) -> str | None:
    try:
        row = cache.execute(
            "SELECT digest FROM contents WHERE path = ? AND is_whole = ? AND size = ?"
            " AND inode = ? AND mtime_ns = ? AND ctime_ns = ?",
            key,
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


def _digest_whole(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


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
    # Earlier versions keep a table ``digests`` here, which knows only size and modification time.
    cache.execute(
        "CREATE TABLE IF NOT EXISTS contents"
        " (path BLOB, is_whole INTEGER, size INTEGER, inode INTEGER, mtime_ns INTEGER,"
        " ctime_ns INTEGER, digest TEXT, PRIMARY KEY (path, is_whole))"
    )
