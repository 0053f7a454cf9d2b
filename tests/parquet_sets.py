"""Small data sets in the layout of the Hugging Face hub: Parquet shards, features and a card.

Names of files, schemas and metadata are those that ``datasets.Dataset.push_to_hub`` writes.

python -m tests.parquet_sets DIR    writes one
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("River", "Forest", "Pasture")
"""Not in the order of their names: a label is an index into this."""
PER_SPLIT = {"train": 12, "validation": 6, "test": 6}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CARD = """---
license: mit
dataset_info:
  features:
  - name: image
    dtype: image
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: validation
    path: data/validation-*
  - split: test
    path: data/test-*
---
# A data set
"""


def pixels_of(number: int, side: int = 32) -> NDArray[np.uint8]:
    """Return pixels (H, W, 3) that differ for each number."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (side, side, 3), np.uint8)


def encode(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """Return an encoded image."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def schema_of(columns: Mapping[str, pa.DataType], classes: Sequence[str] | None) -> pa.Schema:
    """Return a schema with the features that the library ``datasets`` writes."""
    features = {
        name: {"_type": "Image"} if kind == IMAGE else {"dtype": str(kind), "_type": "Value"}
        for name, kind in columns.items()
    }
    if classes is not None and "label" in features:
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata)


def write_shard(
    path: Path,
    rows: Mapping[str, Sequence[Any]],
    *,
    label: pa.DataType | None = None,
    classes: Sequence[str] | None = CLASSES,
    group: int = 4,
) -> None:
    """Write one shard; columns besides ``label`` and numbers hold images."""
    kinds = {
        name: IMAGE if isinstance(values[0], (dict, type(None))) else pa.array(values).type
        for name, values in rows.items()
    }
    if "label" in kinds:
        kinds["label"] = label or (pa.int64() if classes else kinds["label"])
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(rows), schema=schema_of(kinds, classes))
    pq.write_table(table, path, row_group_size=group)


def rows_of(start: int, count: int) -> dict[str, list[Any]]:
    """Return ``count`` images and labels, numbered from ``start``."""
    numbers = range(start, start + count)
    return {
        "image": [
            {"bytes": encode(pixels_of(number)), "path": f"{number}.png"} for number in numbers
        ],
        "label": [number % len(CLASSES) for number in numbers],
    }


def write_set(root: Path, *, card: bool = True, per_split: Mapping[str, int] = PER_SPLIT) -> None:
    """Write two shards of train, and one of each other split."""
    start = 0
    for split, count in per_split.items():
        num_shards = 2 if split == "train" else 1
        for shard in range(num_shards):
            name = f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"
            write_shard(root / "data" / name, rows_of(start, count // num_shards))
            start += count // num_shards
    if card:
        (root / "README.md").write_text(CARD)


if __name__ == "__main__":
    write_set(Path(sys.argv[1]))
