"""Make ``docs/STORE.md`` from the code: ``.venv/bin/python -m tests.store_document`` (a second).

The columns, their types and their meanings are those of the schemas; a test compares the document
with what this makes, and the files of stores with what is described here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from benchmark.experiment import file, usage
from benchmark.stages.evaluate.schemas import COMPARISON, DROPS, PROPERTIES, RANKING, TRANSFER
from benchmark.store import heartbeat, inventory, names
from benchmark.store.migrations import MIGRATIONS
from benchmark.tables import (
    CALIBRATION,
    CANDIDATES,
    CONFUSION,
    CURVES,
    DESCRIPTION,
    SCORES,
    TRIALS,
    UNIT,
    embeddings_schema,
    patches_schema,
    predictions_schema,
)

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "STORE.md"
NUMBER = "000000"


class Table(NamedTuple):
    """A table of the store."""

    name: str
    rows: str
    """What one row is, as a sentence."""
    schema: pa.Schema
    letter: str = ""
    """For the length of its vectors."""


TABLES = {
    table.name: table
    for table in (
        Table("patches", "One row per patch.", patches_schema(3, 32)),
        Table(
            "candidates",
            "One row per window of which `patches` are chosen.",
            CANDIDATES.append(UNIT),
        ),
        Table(
            "embeddings",
            "One row per patch, without nulls. With `[protocol] flips` each flip has a folder of "
            "its own, `DATASET-BACKBONE-flipped-left-right-FINGERPRINT`, with the patches of val "
            "and test; those of train are in `...-flipped-left-right-train-...`.",
            embeddings_schema(8),
            "D",
        ),
        Table(
            "predictions",
            "One row per patch of val and test. It holds no labels: join `patches` by `patch_id`.",
            predictions_schema(4),
            "K",
        ),
        Table("trials", "One row per trial of the search.", TRIALS),
        Table("curve", "One row per epoch of each trial.", CURVES),
        Table("scores", "One row per cell, split and metric (and class).", SCORES),
        Table("confusion", "One row per cell and split.", CONFUSION),
        Table("calibration", "One row per cell, split and bin that holds a patch.", CALIBRATION),
        Table("ranking", "One row per backbone and method, all seeds together.", RANKING),
        Table("comparison", "One row per backbone that is fine-tuned and frozen.", COMPARISON),
        Table(
            "transfer",
            "One row per region of test, train set of regions, backbone and method (PROTOCOLS.md).",
            TRANSFER,
        ),
        Table("drops", "One row per backbone and method, all regions together.", DROPS),
        Table("properties", "One row per embedding and property (LAYERS.md).", PROPERTIES),
    )
}


class Item(NamedTuple):
    """A kind of file in an artefact's folder."""

    pattern: str
    """Its name; N stands for a number of six digits."""
    meaning: str
    table: str = ""
    """The name of the table in it."""


class Kind(NamedTuple):
    """The artefacts of one stage."""

    stage: str
    folder: str
    items: tuple[Item, ...]


PLAN = Item(names.PLAN, "what the first run decided and later runs keep: parts, batch size, ...")
TRIALS_ITEM = Item(names.beside("trials"), "the search", "trials")
KINDS = (
    Kind(
        "patches",
        "DATASET-FINGERPRINT",
        (
            Item("part-N.parquet", "the patches", "patches"),
            Item(names.beside("candidates-N"), "the windows to choose from", "candidates"),
            PLAN,
        ),
    ),
    Kind(
        "embed",
        "DATASET-BACKBONE-FINGERPRINT",
        (
            Item("part-N.parquet", "the embeddings", "embeddings"),
            Item(names.FITTED, "state of a backbone that was fitted on train, if it is one"),
            PLAN,
        ),
    ),
    Kind(
        "tune",
        "DATASET-BACKBONE-HEAD-SEED-FINGERPRINT",
        (
            Item("part-N.parquet", "the predictions", "predictions"),
            TRIALS_ITEM,
            Item(names.HEAD, "the fitted head, for `bm.load_head(folder)`"),
        ),
    ),
    Kind(
        "finetune",
        "DATASET-BACKBONE-finetune-SEED-FINGERPRINT",
        (
            Item("part-N.parquet", "the predictions", "predictions"),
            TRIALS_ITEM,
            Item(names.beside("curve"), "the training of each trial", "curve"),
            Item(names.WEIGHTS, "the best weights"),
            PLAN,
        ),
    ),
    Kind(
        "evaluate",
        "EXPERIMENT-FINGERPRINT",
        (
            Item(names.SCORES_FILE, "the scores", "scores"),
            *(
                Item(names.beside(name), meaning, name)
                for name, meaning in (
                    ("confusion", "counts of classes"),
                    ("calibration", "how far scores can be taken for probabilities"),
                    ("ranking", "methods, best first, with tests"),
                    ("comparison", "fine-tuned against frozen"),
                    ("properties", "what each embedding is like"),
                    ("transfer", "scores and drops by region, of `[protocol.transfer]`"),
                    ("drops", "mean drops out of region, of the same"),
                )
            ),
            Item(names.SCORES_CSV, "the scores as text"),
        ),
    ),
    Kind(
        "report",
        "EXPERIMENT-FINGERPRINT",
        (
            Item("index.html", "the page"),
            Item("figure-N-TITLE.svg", "its plots"),
            Item("figure-N-TITLE.webp", "its pictures of patches, and plots of very many points"),
            Item("figure-N-TITLE.png", "its figures, in pages of older versions"),
        ),
    ),
)

OTHER_FOLDERS = {
    f"{file.FOLDER}/NAME-DIGEST.toml": (
        "every experiment that ran here, with all its settings and absolute paths: "
        "`benchmark run` takes it from any folder"
    ),
    f"{file.FOLDER}/NAME-DIGEST.json": (
        "what its runs were computed with, the last one last: versions, code, machine, digests of "
        "data and weights"
    ),
    f"{inventory.ARRAYS}/NAME-DIGEST/": "arrays that an experiment got from memory",
    f"{usage.FOLDER}/NAME.json": "how long each stage took, and how busy the cluster was",
    "tensorboard/NAME/CELL/": "trials and training of a cell as events, with `[tracking]`",
    f"{heartbeat.FOLDER}/": "which run computes which cell; gone when no run is left",
}

MANIFEST = {
    "stage, name, fingerprint": "its identity: the folder's name",
    "inputs": "what the fingerprint was made of",
    "files, bytes, xxh3": "name, size and checksum of every other file",
    "provenance": "versions of the packages, machine and time",
    "schemas": "version of each kind of table in it; a kind that is not named has version 1",
    "seconds, energy, peak_memory_bytes, peak_device_bytes": "what it took: device-seconds, "
    "joules or why they are not known, and the memory of the largest process and of its GPU",
    "incidents, notes": "what was lost and repeated, what to know",
}

EXAMPLES = """\
`FOLDER` is a folder of `evaluate`: `benchmark run` prints it with the scores. An experiment has
another one whenever its cells or settings change, so read one of them, not `runs/evaluate`.
`PATCHES` is the folder of its patches: `benchmark status` prints all folders.

With pandas (or `pyarrow.dataset`), which skip names that begin with an underscore:

```python
import pandas as pd

scores = pd.read_parquet("runs/evaluate/FOLDER")
best = scores.query("metric == 'balanced_accuracy' and split == 'test'").nlargest(1, "value")
predictions = pd.read_parquet("runs/" + best["artefact"].item())
confusion = pd.read_parquet("runs/evaluate/FOLDER/_tables/confusion.parquet")
print(best["method"].item(), len(predictions), list(confusion["classes"][0]))
```

With polars, by a pattern: it reads a bare folder only if all files there are Parquet, unless
`use_pyarrow=True` is set.

```python
import polars as pl

scores = pl.read_parquet("runs/evaluate/FOLDER/*.parquet")
test = scores.filter(pl.col("metric") == "balanced_accuracy", pl.col("split") == "test")
cell = test.sort("value").row(-1, named=True)
predictions = pl.scan_parquet(f"runs/{cell['artefact']}/*.parquet")
print(cell["method"], predictions.group_by("y_pred").len().collect())
```

With DuckDB; the last line counts how often each class is taken for another:

```python
import duckdb

scores = duckdb.read_parquet("runs/evaluate/FOLDER/*.parquet").order("value desc")
(folder,) = scores.filter("metric = 'macro_f1' and split = 'test'").select("artefact").fetchall()[0]
predictions = duckdb.read_parquet(f"runs/{folder}/*.parquet")
patches = duckdb.read_parquet("runs/patches/PATCHES/*.parquet").select("patch_id, label")
print(predictions.join(patches, "patch_id").aggregate("label, y_pred, count(*)"))
```

The pixels of patches, as arrays (C, H, W):

```python
import json, glob
import numpy as np, pyarrow.parquet as pq

table = pq.read_table(glob.glob("runs/patches/PATCHES/part-*.parquet")[0])
shape = json.loads(table.schema.field("image").metadata[b"shape"])
pixels = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8).reshape(-1, *shape)
print(pixels.shape)
```
"""


def render() -> str:
    """Return the document."""
    return "\n".join([*_introduction(), *_artefacts(), *_tables(), ""])


def matching(stage: str, name: str) -> Item | None:
    """Return the kind of a file in an artefact of a stage, or None if it is not described."""
    kind = next(kind for kind in KINDS if kind.stage == stage)
    for item in (*kind.items, Item(names.MANIFEST, "")):
        pattern = re.escape(item.pattern).replace("N\\-TITLE", ".+").replace("N\\.", r"\d+\.")
        if re.fullmatch(pattern, name):
            return item
    return None


def _introduction() -> Iterator[str]:
    yield "# The store: what lies where"
    yield ""
    yield (
        "Made from the code by `python -m tests.store_document`: edit `benchmark/tables.py`, "
        "`benchmark/stages/evaluate/schemas.py`\nor that script, not this page."
    )
    yield ""
    yield "A store is a folder, or a prefix of a bucket, that holds artefacts:"
    yield ""
    yield "```"
    yield "STORE/STAGE/NAME-FINGERPRINT/"
    yield "    part-N.parquet       the folder's table, in parts"
    yield "    _tables/*.parquet    other tables"
    yield f"    {names.PLAN}, ...      documents and models"
    yield f"    {names.MANIFEST}       written last: the artefact is complete when it exists"
    yield "```"
    yield ""
    yield "The fingerprint covers everything that changes the result. Whatever is not the folder's"
    yield "own table begins with an underscore, so that readers of Parquet folders skip it."
    yield ""
    yield "## Read it"
    yield ""
    yield EXAMPLES
    yield "The files also say what each column means, in their schema:"
    yield '`pq.read_schema(path).field("value").metadata`.'
    yield ""


def _artefacts() -> Iterator[str]:
    yield "## Artefacts"
    for kind in KINDS:
        yield ""
        yield f"### `{kind.stage}/{kind.folder}/`"
        yield ""
        yield "| file | holds | table |"
        yield "|---|---|---|"
        for item in kind.items:
            link = f"[{item.table}](#{item.table})" if item.table else ""
            yield f"| `{item.pattern}` | {item.meaning} | {link} |"
    yield ""
    yield f"Each has a `{names.MANIFEST}`, or a `{names.FAILURE}` with a reason if it failed last:"
    yield ""
    yield "| key | holds |"
    yield "|---|---|"
    yield from (f"| {key} | {meaning} |" for key, meaning in MANIFEST.items())
    yield "| others | of the stage, e.g. `classes` and `class_counts` of `patches` |"
    yield ""
    yield "Beside the artefacts lie:"
    yield ""
    yield from (f"- `{place}`: {meaning}." for place, meaning in OTHER_FOLDERS.items())
    yield ""
    yield "What of it nothing uses, `benchmark du` tells and `benchmark clean` deletes: UPKEEP.md."
    yield ""
    yield "Stores of version 0.1 have the same files without underscores and without `_tables`."
    yield "They are read as they are: nothing in them is computed again or renamed. What such a"
    yield "version only began gets today's names when it is completed."
    yield ""
    yield "Tables of an older version become today's when this package reads them; no file is"
    yield "rewritten, and other readers get the file's columns. A newer version is refused."
    yield ""


def _tables() -> Iterator[str]:
    yield "## Tables"
    yield ""
    yield (
        "Letters: K classes, D length of an embedding, C H W bands and pixels. Columns are never "
        "null unless it says so."
    )
    for table in TABLES.values():
        yield ""
        yield f"### {table.name}"
        yield ""
        yield table.rows
        for version, migrate in enumerate(MIGRATIONS.get(table.name, ()), start=2):
            yield f"New in version {version}: {migrate.__doc__}"
        yield ""
        yield "| column | type | null | meaning |"
        yield "|---|---|---|---|"
        for field in table.schema:
            meaning = field.metadata[DESCRIPTION.encode()].decode()
            null = "yes" if field.nullable else ""
            yield f"| `{field.name}` | {name_type(field.type, table.letter)} | {null} | {meaning} |"


def name_type(kind: pa.DataType, letter: str) -> str:
    """Return the name of a column's type, e.g. ``K x float32``."""
    if pa.types.is_fixed_size_list(kind):
        return f"{letter} x {name_type(kind.value_type, letter)}"
    if pa.types.is_list(kind):
        return f"list of {name_type(kind.value_type, letter)}"
    if pa.types.is_fixed_size_binary(kind):
        return "bytes"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")
