"""Arrow schemas of the five tables, with their checks and readers.

Letters of shapes in the whole package: B batch, C bands, H W pixels, D embedding dimension,
K classes, N patches, S scenes.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.errors import CellError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("train", "val", "test")

CANDIDATES = pa.schema(
    [
        pa.field("patch_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("scene", pa.string()),
        pa.field("region", pa.string()),
        pa.field("row", pa.int32()),
        pa.field("col", pa.int32()),
        pa.field("lon", pa.float64()),
        pa.field("lat", pa.float64()),
        pa.field("purity", pa.float32()),
    ]
)
"""Metadata of a patch, known before its pixels are read; ``row`` and ``col`` are the px of the
window's upper left corner, ``lon`` and ``lat`` the degrees (EPSG:4326) of its centre."""

CONFUSION_KEY = ("dataset", "backbone", "method", "train_set", "seed", "split")

_KEY_FIELDS = [
    pa.field(name, pa.int64() if name == "seed" else pa.string(), nullable=False)
    for name in CONFUSION_KEY
]

CONFUSION = pa.schema(
    [*_KEY_FIELDS, pa.field("counts", pa.list_(pa.list_(pa.int64())), nullable=False)]
)
"""``counts`` (K, K): rows true, columns predicted."""

CALIBRATION = pa.schema(
    [
        *_KEY_FIELDS,
        pa.field("bin", pa.int32(), nullable=False),
        pa.field("num_patches", pa.int64(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("accuracy", pa.float64(), nullable=False),
        pa.field("ci_low", pa.float64(), nullable=False),
        pa.field("ci_high", pa.float64(), nullable=False),
    ]
)
"""One row per filled bin of the largest score: its mean, and the share of its patches that are
right, with the interval."""

SCORES = pa.schema(
    [
        *_KEY_FIELDS,
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("ci_low", pa.float64()),
        pa.field("ci_high", pa.float64()),
        pa.field("num_patches", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
    ]
)

TRIALS = pa.schema(
    [
        pa.field("trial", pa.int32(), nullable=False),
        pa.field("params", pa.string(), nullable=False),
        pa.field("val_score", pa.float64()),
        pa.field("num_epochs", pa.int32()),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
    ]
)
"""One row per Optuna trial: ``params`` is JSON, ``val_score`` the balanced accuracy on val,
``state`` complete, pruned or failed."""


CURVES = pa.schema(
    [
        pa.field("trial", pa.int32(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("train_loss", pa.float64(), nullable=False),
        pa.field("val_score", pa.float64(), nullable=False),
        pa.field("val_loss", pa.float64()),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("train_seconds", pa.float64()),
    ]
)
"""One row per epoch of a fine-tuning, counted from one. ``train_loss``: mean over the epoch's
patches (weighted and smoothed). At the end of the epoch: ``val_score``, balanced accuracy, and
``val_loss``, plain cross-entropy, on val; ``learning_rate`` of the classification layer.
``seconds``: duration of the epoch; ``train_seconds``: without the evaluation on val."""


def patches_schema(num_bands: int, patch_size: int) -> pa.Schema:
    """Return the schema of ``patches``: CANDIDATES plus ``image``.

    An image is the bytes of a uint8 array (C, H, W); the field's metadata holds the shape.
    Parquet has no 8-bit numbers: in a list each pixel would take four bytes and ten times as long
    to write and read.
    """
    shape = (num_bands, patch_size, patch_size)
    image = pa.field(
        "image",
        pa.binary(math.prod(shape)),
        nullable=False,
        metadata={"shape": json.dumps(shape), "dtype": "uint8"},
    )
    return CANDIDATES.append(image)


def predictions_schema(num_classes: int) -> pa.Schema:
    """Return the schema of ``predictions``: no labels, ``y_score`` float32 (K,)."""
    return pa.schema(
        [
            pa.field("patch_id", pa.string(), nullable=False),
            pa.field("y_pred", pa.int32(), nullable=False),
            pa.field("y_score", pa.list_(pa.float32(), num_classes), nullable=False),
        ]
    )


def check_table(table: pa.Table, schema: pa.Schema, *, what: str) -> pa.Table:
    """Return ``table`` with the schema's columns in order, cast to its types.

    Raises:
        ValueError: a column is missing, of another type or has forbidden nulls, or ``patch_id``
            is not unique; the message starts with ``what``.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{what}: missing column {', '.join(missing)}")
    try:
        checked = table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise ValueError(f"{what}: {error}") from None
    for field in schema:
        if not field.nullable and checked[field.name].null_count:
            raise ValueError(f"{what}: column '{field.name}' contains nulls")
    if "patch_id" in schema.names:
        unique = pc.count_distinct(checked["patch_id"]).as_py()
        if unique != checked.num_rows:
            raise ValueError(f"{what}: {checked.num_rows - unique} patch_id are duplicates")
    return checked


def find_rows(ids: NDArray[Any], wanted: NDArray[Any], *, what: str) -> NDArray[np.intp]:
    """Return the places of the wanted identities (N,) among the sorted ones.

    Raises:
        CellError: one is not among them; the message starts with ``what``.
    """
    at = np.searchsorted(ids, wanted)
    is_there = at < len(ids)
    is_there[is_there] = ids[at[is_there]] == wanted[is_there]
    if not is_there.all():
        raise CellError(
            f"{what} lacks {(~is_there).sum()} of {len(wanted)} patches, first "
            f"'{wanted[~is_there][0]}': delete it and run again"
        )
    return at


def images_column(pixels: NDArray[np.uint8]) -> pa.Array:
    """Return uint8 pixels (N, C, H, W) as a column, without a copy if they are contiguous."""
    n, c, h, w = pixels.shape
    buffer = pa.py_buffer(np.ascontiguousarray(pixels).reshape(-1))
    return pa.Array.from_buffers(pa.binary(c * h * w), n, [None, buffer])


def images_array(column: pa.ChunkedArray, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image column as one array, uint8 (N, C, H, W).

    A single chunk is not copied; the array is read-only.

    Args:
        column: of the table ``patches``.
        shape: (C, H, W) of an image.

    Raises:
        ValueError: the images have another size.
    """
    width = math.prod(shape)
    if column.type.byte_width != width:
        raise ValueError(f"images of {column.type.byte_width} bytes do not have shape {shape}")
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8)[
            chunk.offset * width : (chunk.offset + len(chunk)) * width
        ].reshape(-1, *shape)
        for chunk in column.chunks
        if len(chunk)
    ]
    if not chunks:
        return np.empty((0, *shape), np.uint8)
    images = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    images.flags.writeable = False
    return images


def embeddings_column(embeddings: NDArray[np.float32]) -> pa.Array:
    """Return embeddings (N, D) as a fixed-size list of float32."""
    _, d = embeddings.shape
    flat = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, d)


def vectors_array(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return a fixed-size list column as one array (N, D), without a Python loop."""
    width = column.type.list_size
    flat = np.concatenate(
        [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in column.chunks]
        or [np.empty(0, np.float32)]
    )
    return flat.reshape(len(column), width)
