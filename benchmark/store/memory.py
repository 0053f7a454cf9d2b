"""Facts on files that cost time to find, remembered between runs in the user's cache."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from benchmark.store.cache import cache_folder


@dataclass(frozen=True)
class Memory:
    """A table of JSON values; a damaged or locked one costs time, never the result."""

    connection: sqlite3.Connection
    table: str
    version: int

    def recall(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values that are known, by their key."""
        found = {}
        with suppress(sqlite3.Error, ValueError):
            for key in keys:
                row = self.connection.execute(
                    f"SELECT facts FROM {self.table} WHERE key = ? AND version = ?",
                    (key, self.version),
                ).fetchone()
                if row:
                    found[key] = json.loads(row[0])
        return found

    def remember(self, fresh: Mapping[str, Any]) -> None:
        """Write values by their key."""
        rows = [(key, self.version, json.dumps(value)) for key, value in fresh.items()]
        with suppress(sqlite3.Error), self.connection:
            self.connection.executemany(
                f"INSERT OR REPLACE INTO {self.table} VALUES (?, ?, ?)", rows
            )


@contextmanager
def open_memory(name: str, version: int) -> Iterator[Memory]:
    """Open what is remembered under a name.

    Args:
        name: of the file in the cache and of its table.
        version: of the values; those of others are not recalled.
    """
    try:
        connection = sqlite3.connect(cache_folder() / f"{name}.sqlite", timeout=30)
        _create_table(connection, name)
    except (OSError, sqlite3.Error):
        # The cache cannot be written (a read-only home).
        connection = sqlite3.connect(":memory:")
        _create_table(connection, name)
    with closing(connection):
        yield Memory(connection, name, version)


def _create_table(connection: sqlite3.Connection, name: str) -> None:
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {name}"
        " (key TEXT, version INTEGER, facts TEXT, PRIMARY KEY (key, version))"
    )
