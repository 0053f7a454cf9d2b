"""Arrow schemas of the five tables, with their checks and readers.

Letters of shapes in the whole package: B batch, C bands, H W pixels, D embedding dimension,
K classes, N patches, S scenes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.errors import CellError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("train", "val", "test")

DESCRIPTION = "description"
"""The key of a column's meaning in its field's metadata, which Parquet files keep."""


class PatchTable(Protocol):
    """The table ``patches``, or a choice of its rows with other splits."""

    def files(self, prefix: str = "") -> list[str]:
        """Return the sorted names of its files."""
        ...

    def read_table(
        self,
        *,
        columns: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return rows sorted by ``patch_id``: columns, files and splits to read, or all."""
        ...


def count_rows(patches: PatchTable, splits: Sequence[str]) -> dict[str, int]:
    """Return the number of rows of these splits in each part file that has any."""
    found = {}
    for name in patches.files("part-"):
        table = patches.read_table(names=[name], columns=["patch_id"], splits=splits)
        if table.num_rows:
            found[name] = table.num_rows
    return found


def column(
    name: str, kind: pa.DataType, meaning: str, *, nullable: bool = False, **metadata: str
) -> pa.Field:
    """Return a field that says in its metadata what the column means, with its unit."""
    return pa.field(name, kind, nullable=nullable, metadata={DESCRIPTION: meaning, **metadata})


PATCH_ID = column("patch_id", pa.string(), "identity of the patch, unique in the data set")

CANDIDATES = pa.schema(
    [
        PATCH_ID,
        column("split", pa.string(), "train, val or test"),
        column("label", pa.int32(), "number of the class, from 0, in the manifest's `classes`"),
        column(
            "scene",
            pa.string(),
            "raster that the patch was cut from: the cluster of intervals and leakage checks",
            nullable=True,
        ),
        column("region", pa.string(), "region of the scene, e.g. a state", nullable=True),
        column("row", pa.int32(), "px of the upper edge of the window in its scene", nullable=True),
        column("col", pa.int32(), "px of the left edge of the window in its scene", nullable=True),
        column("lon", pa.float64(), "degrees (EPSG:4326) of the window's centre", nullable=True),
        column("lat", pa.float64(), "degrees (EPSG:4326) of the window's centre", nullable=True),
        column(
            "purity", pa.float32(), "share of the px that have the label, 0 to 1", nullable=True
        ),
    ]
)
"""Metadata of a patch, known before its pixels are read."""

UNIT = column("unit", pa.string(), "piece of the data set that was searched at once", nullable=True)
"""The additional column of candidates in the store."""

_KEY_FIELDS = [
    column("dataset", pa.string(), "name of the data set"),
    column("backbone", pa.string(), "name of the backbone"),
    column("method", pa.string(), "name of the head, `finetune` or `finetune-MODE`"),
    column("train_set", pa.string(), "rows that the cell was trained on, e.g. `all`"),
    column("seed", pa.int64(), "seed of the cell"),
    column("split", pa.string(), "split that was scored: val or test"),
]

CONFUSION_KEY = tuple(field.name for field in _KEY_FIELDS)

CONFUSION = pa.schema(
    [
        *_KEY_FIELDS,
        column(
            "counts",
            pa.list_(pa.list_(pa.int64())),
            "patches (K, K): rows are true classes, columns predicted ones",
        ),
        column("classes", pa.list_(pa.string()), "names of the K classes, in the order of counts"),
    ]
)

CALIBRATION = pa.schema(
    [
        *_KEY_FIELDS,
        column("bin", pa.int32(), "number of the bin of the largest score of a patch, from 0"),
        column("num_patches", pa.int64(), "patches in the bin"),
        column("confidence", pa.float64(), "mean of their largest scores, 0 to 1"),
        column("accuracy", pa.float64(), "share of them that are right, 0 to 1"),
        column("ci_low", pa.float64(), "lower end of the interval of accuracy"),
        column("ci_high", pa.float64(), "upper end of the interval of accuracy"),
    ]
)
"""One row per filled bin of the largest score."""

SCORES = pa.schema(
    [
        *_KEY_FIELDS,
        column(
            "metric", pa.string(), "name of the metric; `metric/class` where one class is scored"
        ),
        column("value", pa.float64(), "the score; null if undefined, e.g. no patch", nullable=True),
        column("ci_low", pa.float64(), "lower end of the interval of value", nullable=True),
        column("ci_high", pa.float64(), "upper end of the interval of value", nullable=True),
        column("num_patches", pa.int64(), "patches of the split"),
        column("fingerprint", pa.string(), "fingerprint of this artefact of `evaluate`"),
        column(
            "artefact",
            pa.string(),
            "folder of the cell's predictions, relative to the store; of the scores for all folds",
        ),
    ]
)

TRIALS = pa.schema(
    [
        column("trial", pa.int32(), "number of the Optuna trial, from 0"),
        column("params", pa.string(), "its configuration, as JSON"),
        column(
            "val_score", pa.float64(), "best balanced accuracy on val; null: failed", nullable=True
        ),
        column(
            "num_epochs",
            pa.int32(),
            "epochs up to the best score; 0: not iterative; null: failed",
            nullable=True,
        ),
        column("seconds", pa.float64(), "duration, in device-seconds"),
        column("state", pa.string(), "complete, pruned or failed"),
    ]
)
"""One row per Optuna trial."""

CURVES = pa.schema(
    [
        column("trial", pa.int32(), "number of the trial in `trials`"),
        column("epoch", pa.int32(), "number of the epoch, from 1"),
        column("train_loss", pa.float64(), "mean over the epoch's patches, weighted and smoothed"),
        column("val_score", pa.float64(), "balanced accuracy on val at the end of the epoch"),
        column("val_loss", pa.float64(), "plain cross-entropy on val at its end", nullable=True),
        column("learning_rate", pa.float64(), "of the classification layer, at its end"),
        column("seconds", pa.float64(), "duration of the epoch, in s"),
        column("train_seconds", pa.float64(), "the same without evaluation on val", nullable=True),
    ]
)
"""One row per epoch of a fine-tuning."""


def patches_schema(num_bands: int, patch_size: int) -> pa.Schema:
    """Return the schema of ``patches``: CANDIDATES plus ``image``.

    An image is the bytes of a uint8 array (C, H, W); the field's metadata holds the shape.
    Parquet has no 8-bit numbers: in a list each pixel would take four bytes and ten times as long
    to write and read.
    """
    shape = (num_bands, patch_size, patch_size)
    image = column(
        "image",
        pa.binary(math.prod(shape)),
        "bytes of the pixels, uint8 (C, H, W); the shape is in the field's metadata",
        shape=json.dumps(shape),
        dtype="uint8",
    )
    return CANDIDATES.append(image)


def embeddings_schema(dim: int) -> pa.Schema:
    """Return the schema of ``embeddings``: ``embedding`` float32 (D,).

    There are no nulls, but the columns allow them: Arrow joins no parts that differ in this, and
    those of version 0.1 do.
    """
    vector = column(
        "embedding", pa.list_(pa.float32(), dim), "output of the backbone (D,)", nullable=True
    )
    return pa.schema([PATCH_ID.with_nullable(True), vector])


def predictions_schema(num_classes: int) -> pa.Schema:
    """Return the schema of ``predictions``: no labels, ``y_score`` float32 (K,)."""
    return pa.schema(
        [
            PATCH_ID,
            column("y_pred", pa.int32(), "number of the predicted class, from 0"),
            column(
                "y_score", pa.list_(pa.float32(), num_classes), "score of each class (K,), sum 1"
            ),
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
    at, is_there = _locate(ids, wanted)
    check_found(wanted, is_there, what=what)
    return at


def find_common(
    ids: NDArray[Any], others: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where sorted identities contain some of the others (M,), and which of those."""
    at, is_there = _locate(ids, others)
    return at[is_there], np.flatnonzero(is_there)


def _locate(ids: NDArray[Any], others: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the places of identities among the sorted ones, and whether each is there."""
    at = np.searchsorted(ids, others)
    is_there = at < len(ids)
    is_there[is_there] = ids[at[is_there]] == others[is_there]
    return at, is_there


def check_found(wanted: NDArray[Any], is_there: NDArray[np.bool_], *, what: str) -> None:
    """Check that every wanted identity (N,) was found.

    Raises:
        CellError: one was not; the message starts with ``what``.
    """
    if not is_there.all():
        raise CellError(
            f"{what} lacks {(~is_there).sum()} of {len(wanted)} patches, first "
            f"'{wanted[~is_there][0]}': delete it and run again"
        )


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
