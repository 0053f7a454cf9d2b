"""The columns of images and labels of a Parquet shard, and the labels of its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.folder.assignment import read_name
from benchmark.errors import UsageError, one_line
from benchmark.fields import shown

if TYPE_CHECKING:
    import pyarrow as pa

LABEL = "label"
FEATURES = b"huggingface"
"""Metadata of a schema that the library ``datasets`` writes: the features, as JSON."""


class Columns(NamedTuple):
    """The two columns that are read."""

    image: str
    """Holds encoded images, or structs with such ``bytes``."""
    label: str
    names: tuple[str, ...] | None
    """The names of the labels 0, 1, ...; None: the labels are names themselves."""


def open_shard(path: Path, where: str, advice: str) -> tuple[Columns, list[str]]:
    """Return the columns of a shard, and the class of each row; reads no images.

    Args:
        path: the Parquet file.
        where: start of each message, the shard included.
        advice: how to get a whole shard.

    Raises:
        UsageError: it is damaged, has not one column of images and one of labels, or a row has no
            label.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = find_columns(file.schema_arrow, where)
            labels = file.read(columns=[columns.label])[columns.label]
    except (pa.ArrowException, OSError) as error:
        raise UsageError(
            f"{where}: is damaged or no Parquet file: {one_line(error)}; remove it, and {advice}"
        ) from None
    if labels.null_count:
        row = labels.is_null().index(True).as_py()
        raise UsageError(
            f"{where}: {labels.null_count} of {len(labels)} rows have no label, e.g. row {row}; "
            "write the file without them"
        )
    encoded = labels.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    place = f"{where}, column '{columns.label}'"
    names = [_name_of(value, columns.names, place) for value in encoded.dictionary.to_pylist()]
    return columns, [names[index] for index in encoded.indices.to_pylist()]


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
    if LABEL in schema.names:
        label = LABEL
    elif len(classes) == 1:
        (label,) = classes
    else:
        which = f"; {shown(list(classes), 300)} are class labels" if classes else ""
        raise UsageError(
            f"{where}: there is no column '{LABEL}'; {has}{which}; rename the one that holds the "
            f"classes to '{LABEL}'"
        )
    _check_label(schema.field(label).type, f"{where}: the column '{label}'")
    return Columns(images[0], label, classes.get(label))


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
