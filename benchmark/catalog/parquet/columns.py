"""The columns of images, labels and splits of a Parquet shard, and the labels of its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.folder.assignment import read_name
from benchmark.catalog.folder.splits import read_split
from benchmark.errors import UsageError, one_line
from benchmark.fields import shown

if TYPE_CHECKING:
    import pyarrow as pa

LABEL, SPLIT = "label", "split"
FEATURES = b"huggingface"
"""Metadata of a schema that the library ``datasets`` writes: the features, as JSON."""


class Columns(NamedTuple):
    """The columns that are read."""

    image: str
    """Holds encoded images, or structs with such ``bytes``."""
    label: str
    names: tuple[str, ...] | None
    """The names of the labels 0, 1, ...; None: the labels are names themselves."""
    has_splits: bool
    """Whether there is a column ``split`` of texts or class labels."""


class Opened(NamedTuple):
    """What a shard says of its rows."""

    columns: Columns
    labels: list[str]
    splits: list[str]
    """train, val or test; empty without such a column, or if it is not wanted."""


def open_shard(path: Path, where: str, advice: str, *, wants_splits: bool) -> Opened:
    """Return the columns of a shard, and the class and split of each row; reads no images.

    Args:
        path: the Parquet file.
        where: start of each message, the shard included.
        advice: how to get a whole shard.
        wants_splits: whether the column of splits is read.

    Raises:
        UsageError: it is damaged, has not one column of images and one of labels, or a row has no
            label.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = find_columns(file.schema_arrow, where)
            wanted = [columns.label, *[SPLIT] * (wants_splits and columns.has_splits)]
            table = file.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(
            f"{where}: is damaged or no Parquet file: {one_line(error)}; remove it, and {advice}"
        ) from None
    classes = _class_labels(table.schema)
    found = {name: _names_of(table[name], classes.get(name), name, where) for name in wanted}
    splits = found.get(SPLIT, []) if SPLIT in wanted[1:] else []
    split_of = {word: read_split(word, f"{where}, column '{SPLIT}'") for word in {*splits}}
    return Opened(columns, found[columns.label], [split_of[word] for word in splits])


def _names_of(
    values: pa.ChunkedArray, names: tuple[str, ...] | None, column: str, where: str
) -> list[str]:
    """Return the name of each row's value.

    Raises:
        UsageError: a row has none, or no valid one.
    """
    import pyarrow as pa

    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise UsageError(
            f"{where}: {values.null_count} of {len(values)} rows have no {column}, e.g. row {row}; "
            "write the file without them"
        )
    encoded = values.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    place = f"{where}, column '{column}'"
    found = [_name_of(value, names, place) for value in encoded.dictionary.to_pylist()]
    return [found[index] for index in encoded.indices.to_pylist()]


def find_columns(schema: pa.Schema, where: str) -> Columns:
    """Return the column of images and the column of labels.

    The labels are the column ``label``, else the only one of the type ``ClassLabel``.

    Raises:
        UsageError: there are none or several, or they hold something else.
    """
    images = [field.name for field in schema if _holds_bytes(field.type)]
    has = f"its columns are {shown(list(schema.names), 300)}"
    if not images:
        raise UsageError(
            f"{where}: no column holds encoded images (bytes, or a struct with bytes); {has}"
        )
    if len(images) > 1:
        raise UsageError(
            f"{where}: the columns {shown(images, 300)} hold images; write the data set with one "
            "of them"
        )
    classes = _class_labels(schema)
    choices = [name for name in classes if name != SPLIT] or list(classes)
    if LABEL in schema.names:
        label = LABEL
    elif len(choices) == 1:
        (label,) = choices
    else:
        which = f"; {shown(list(classes), 300)} are class labels" if classes else ""
        raise UsageError(
            f"{where}: there is no column '{LABEL}'; {has}{which}; rename the one that holds the "
            f"classes to '{LABEL}'"
        )
    _check_label(schema.field(label).type, f"{where}: the column '{label}'")
    has_splits = label != SPLIT and SPLIT in schema.names and _holds_words(schema, classes)
    return Columns(images[0], label, classes.get(label), has_splits)


def _holds_words(schema: pa.Schema, classes: Mapping[str, tuple[str, ...]]) -> bool:
    import pyarrow as pa

    kind = schema.field(SPLIT).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return SPLIT in classes or pa.types.is_string(value) or pa.types.is_large_string(value)


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _check_label(kind: pa.DataType, what: str) -> None:
    import pyarrow as pa

    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(value) or pa.types.is_string(value) or pa.types.is_large_string(value):
        return
    many = "several labels per image are not supported; " if pa.types.is_nested(kind) else ""
    raise UsageError(
        f"{what} holds {kind}; {many}a label is one whole number or one name per image"
    )


def _class_labels(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes of each column of the type ``ClassLabel``."""
    # Metadata that cannot be read tells nothing.
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        features: Mapping[str, Any] = json.loads((schema.metadata or {})[FEATURES])["info"][
            "features"
        ]
        return {
            name: tuple(item["names"])
            for name, item in features.items()
            if item.get("_type") == "ClassLabel" and name in schema.names
        }
    return {}


def _name_of(value: int | str, names: tuple[str, ...] | None, place: str) -> str:
    """Return the name of the class of a label."""
    if names is None or isinstance(value, str):
        return read_name(str(value), "label", place)
    if not 0 <= value < len(names):
        raise UsageError(
            f"{place}: the label {value} is none of 0 to {len(names) - 1}, which have names "
            "(images without a label?); write the file without such rows"
        )
    return read_name(names[value], "label", place)
