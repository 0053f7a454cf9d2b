"""SQL over the tables of runs: DuckDB in memory, without access to files or the network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmark.comparing.runs import FinishedRun
from benchmark.comparing.views import views_of
from benchmark.errors import UsageError, tidy

if TYPE_CHECKING:
    import duckdb

MOST_CHARACTERS = 100_000
"""Of a query."""
MOST_MESSAGE = 500
"""Characters of an error of SQL."""
SETTINGS = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
    # Nothing is written, not even what does not fit into memory.
    "temp_directory": "",
    "memory_limit": "4GB",
    "lock_configuration": True,
}
BATCH = 1_000
"""Rows that are fetched at once."""

_BY_NAME = re.compile(r"\bquery(_table)?\s*\(", re.IGNORECASE)
"""Functions that can name a table by an expression."""


class Answer:
    """The rows of a query, fetched by need, and the names of their columns."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self.columns = _distinct([str(item[0]) for item in cursor.description])

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows; raise UsageError where one cannot be computed."""
        while True:
            with _one_line():
                batch = self._cursor.fetchmany(BATCH)
            if not batch:
                return
            yield from batch

    def to_frame(self) -> Any:
        """Return all rows as a pandas frame."""
        with _one_line():
            return self._cursor.df()


@contextmanager
def ask(sql: str, runs: Sequence[FinishedRun]) -> Iterator[Answer]:
    """Run one reading statement over the tables of runs (docs/RESULTS.md lists them).

    Raises:
        UsageError: DuckDB is missing, or the statement is wrong, or would write.
        CellError: a file of a store is missing or damaged.
    """
    duck = _import()
    with _one_line():
        statement = _check(duck, sql)
        connection = duck.connect(":memory:", config=SETTINGS)
    try:
        wants_all = bool(_BY_NAME.search(sql))
        for name, view in views_of(runs).items():
            # A view that is not mentioned costs nothing but its name.
            is_needed = wants_all or re.search(rf"\b{name}\b", sql, re.IGNORECASE)
            connection.register(name, view() if is_needed else _nothing())
        with _one_line():
            cursor = connection.execute(statement)
        yield Answer(cursor)
    finally:
        connection.close()


def _nothing() -> Any:
    import pyarrow as pa

    return pa.table({"unread": pa.nulls(0, pa.bool_())})


def _import() -> Any:
    try:
        import duckdb
    except ImportError:
        raise UsageError(
            "query: it needs DuckDB, which is not installed; run "
            "`pip install 'backbone-benchmark[query]'`"
        ) from None
    return duckdb


def _check(duck: Any, sql: str) -> Any:
    """Return the only statement of a query, which reads.

    Raises:
        UsageError: there is none, there are several, or it would write.
    """
    if len(sql) > MOST_CHARACTERS:
        raise UsageError(f"query: it has {len(sql):,} characters; use at most {MOST_CHARACTERS:,}")
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise UsageError("query: contains characters that are not valid UTF-8") from None
    statements = duck.extract_statements(sql)
    if len(statements) != 1:
        raise UsageError(
            f'query: holds {len(statements)} statements; give one, e.g. "SELECT * FROM ranking"'
        )
    kind = statements[0].type
    if kind != duck.StatementType.SELECT:
        raise UsageError(
            f"query: {kind.name} is refused, because stores are only read; use SELECT, WITH or "
            "DESCRIBE"
        )
    return statements[0]


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn an error of SQL into one of bounded length."""
    import duckdb
    import pyarrow as pa

    try:
        yield
    except (duckdb.Error, pa.ArrowException, RuntimeError) as error:
        # The lines after an empty one point at a place in the text.
        text = str(error).partition("\n\n")[0]
        raise UsageError(f"query: {tidy(text, MOST_MESSAGE)}") from None


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names of columns, a repeated one with a number."""
    found: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in found:
            candidate, number = f"{name}_{number}", number + 1
        found.append(candidate)
    return found
