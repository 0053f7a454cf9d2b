"""Find the columns of identifiers and vectors in a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import pyarrow as pa
import pyarrow.types as pt

from benchmark.errors import UsageError, did_you_mean
from benchmark.fields import shown

ID_NAMES = (
    *("patch_id", "id", "identifier", "patch", "image_id", "sample_id", "filename", "file_name"),
    *("file", "path", "name"),
)
"""Names of columns of identifiers, in lower case."""
_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)")


class Columns(NamedTuple):
    """The columns that are read."""

    id: str
    vectors: tuple[str, ...]
    """One column of lists, or columns of numbers in order."""
    is_list: bool
    join: str | None = None
    """How rows are joined by place, where ``id`` is the column of shapes; None: by identifiers."""

    @property
    def words(self) -> str:
        """Description for users."""
        by = f"'{self.id}'" if self.join is None else f"place ('{self.id}', {self.join})"
        if self.is_list:
            return f"column '{self.vectors[0]}', by {by}"
        first, last = self.vectors[0], self.vectors[-1]
        return f"columns '{first}' to '{last}' ({len(self.vectors):,}), by {by}"


def find_columns(
    schema: Mapping[str, pa.DataType],
    *,
    id_column: str | None,
    vector_columns: Sequence[str] | None,
    where: str,
    shapes: str | None = None,
    join: str | None = None,
) -> Columns:
    """Return the columns that the user named, or those that are clear.

    Args:
        schema: types by name, in the order of the table.
        id_column: name of the identifiers; None: find it.
        vector_columns: names or patterns of the vectors; None: find them.
        where: start of each message.
        shapes: name of the shapes by which rows are joined; None: they are by identifiers.
        join: how they are joined.

    Raises:
        UsageError: a column is missing or of a wrong type, or none or several would do.
    """
    found = shapes or (id_column if id_column is not None else _find_id(schema, where))
    if found not in schema:
        raise UsageError(
            f"{where}: 'id_column': there is no column {shown(found, 100)}."
            f"{did_you_mean(found, schema)}"
        )
    if not shapes and not (is_text(schema[found]) or pt.is_integer(schema[found])):
        raise UsageError(
            f"{where}: the column of identifiers {shown(found, 100)} holds {schema[found]}; "
            "identifiers are texts or integers: set 'id_column' to such a column"
        )
    rest = {name: kind for name, kind in schema.items() if name != found}
    if vector_columns is None:
        names = _find_vectors(rest, where)
    else:
        names = _matching(rest, vector_columns, where)
    lists = [name for name in names if is_vector(schema[name])]
    if lists and len(names) > 1:
        raise UsageError(
            f"{where}: the columns of lists {shown(lists, 200)} are among several vector columns; "
            "set 'vector_columns' to one column of lists, or to columns of numbers"
        )
    return Columns(found, names, bool(lists), join if shapes else None)


def may_have_ids(schema: Mapping[str, pa.DataType]) -> bool:
    """Return whether a column may hold identifiers."""
    return any(name.lower() in ID_NAMES or is_text(kind) for name, kind in schema.items())


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column holds texts."""
    if pt.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a column holds numbers."""
    return bool(pt.is_integer(kind) or pt.is_floating(kind))


def is_vector(kind: pa.DataType) -> bool:
    """Return whether a column holds lists of numbers."""
    is_list = pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)
    return bool(is_list) and is_number(kind.value_type)


def _find_id(schema: Mapping[str, pa.DataType], where: str) -> str:
    usual = [name for name in schema if name.lower() in ID_NAMES]
    texts = [name for name, kind in schema.items() if is_text(kind)]
    for found in ([name for name in usual if name.lower() == ID_NAMES[0]], usual, texts):
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"{where}: the columns {shown(found, 200)} may hold the identifiers; set "
                "'id_column' to one"
            )
    raise UsageError(
        f"{where}: no column of identifiers among {shown(list(schema), 200)}; set 'id_column'"
    )


def _find_vectors(schema: Mapping[str, pa.DataType], where: str) -> tuple[str, ...]:
    """Return the only column of lists, or the only columns that are numbered without a gap."""
    lists = tuple(name for name, kind in schema.items() if is_vector(kind))
    if len(lists) == 1:
        return lists
    if lists:
        raise UsageError(
            f"{where}: the columns {shown(list(lists), 200)} may hold the vectors; set "
            "'vector_columns' to one"
        )
    series: dict[str, dict[int, str]] = {}
    for name, kind in schema.items():
        if is_number(kind) and (match := _NUMBERED.fullmatch(name)):
            series.setdefault(match["stem"], {})[int(match["number"])] = name
    whole = [
        item for item in series.values() if len(item) > 1 and max(item) - min(item) < len(item)
    ]
    if len(whole) != 1:
        what = "several series of" if whole else "no column of lists, and no"
        raise UsageError(
            f"{where}: {what} numbered columns of numbers among {shown(list(schema), 200)}; set "
            "'vector_columns', e.g. [\"emb_*\"]"
        )
    names = tuple(name for _, name in sorted(whole[0].items()))
    stem = _stem_of(names[0])
    # One text among its numbers makes a column of CSV a column of texts.
    others = [name for name in schema if _stem_of(name) == stem and name not in names]
    if others:
        raise UsageError(
            f"{where}: {shown(others, 200)} {'holds' if len(others) == 1 else 'hold'} "
            f"{schema[others[0]]}, beside the numbers of {shown(names[0], 100)} to "
            f"{shown(names[-1], 100)}; correct the file, or set 'vector_columns'"
        )
    return names


def _stem_of(name: str) -> str | None:
    """Return the part of a numbered name before its number."""
    match = _NUMBERED.fullmatch(name)
    return None if match is None else match["stem"]


def _matching(
    schema: Mapping[str, pa.DataType], patterns: Sequence[str], where: str
) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for pattern in patterns:
        names = [name for name in schema if name == pattern]
        names = names or [name for name in schema if fnmatchcase(name, pattern)]
        if not names:
            raise UsageError(
                f"{where}: 'vector_columns': no column is {shown(pattern, 100)}."
                f"{did_you_mean(pattern, schema)}"
            )
        found |= dict.fromkeys(names)
    for name in found:
        if not (is_number(schema[name]) or is_vector(schema[name])):
            raise UsageError(
                f"{where}: 'vector_columns': the column {shown(name, 100)} holds {schema[name]}; "
                "name columns of numbers, or one of lists of numbers"
            )
    return tuple(found)
