"""Versions of the tables in a store; older ones become today's when they are read.

The manifest of an artefact holds the version of each kind of table in it, under ``schemas``. A kind
that it does not name has version 1: manifests of before have no versions. No file is rewritten.

To change a table, append a function to ``MIGRATIONS`` that makes the new form from the last one.
A table that is written part by part also needs a new code version of its stage
(``experiment/context.py``): parts of two versions must not become one artefact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from benchmark.store.names import SCORES_FILE, TABLES, current_name

Migration = Callable[[pa.Table], pa.Table]
"""Makes a table of one version from one of the version before."""

SCHEMAS = "schemas"
"""The key of a manifest with the versions of its tables, by kind."""

_OF_PARTS = {
    "patches": "patches",
    "embed": "embeddings",
    "tune": "predictions",
    "finetune": "predictions",
}
"""The kind of the table in parts, by stage."""
_BESIDE = re.compile(re.escape(TABLES) + r"([a-z]+)(-\d+)?\.parquet")


def _fill(table: pa.Table, name: str, value: str) -> pa.Table:
    """Append a column of one value, unless it is there: version 1 has had several forms."""
    if name in table.column_names:
        return table
    return table.append_column(name, pa.repeat(value, table.num_rows))


def name_train_set(ranking: pa.Table) -> pa.Table:
    """It names the train set, which was all of train before."""
    return _fill(ranking, "train_set", "all")


def name_both_sides(comparison: pa.Table) -> pa.Table:
    """It names train set and fine-tuning, of which there was one each before."""
    return _fill(name_train_set(comparison), "method", "finetune")


MIGRATIONS: Mapping[str, Sequence[Migration]] = {
    "ranking": (name_train_set,),
    "comparison": (name_both_sides,),
}
"""What makes version 2 of a kind, version 3, and so on."""

VERSIONS: Mapping[str, int] = {
    kind: 1 + len(MIGRATIONS.get(kind, ()))
    for kind in (
        *("patches", "candidates", "embeddings", "predictions", "trials", "curve", "scores"),
        *("confusion", "calibration", "ranking", "comparison", "transfer", "drops", "properties"),
    )
}
"""Today's version of each kind of table."""


def kind_of(stage: str, file: str) -> str | None:
    """Return the kind of the table in a file, under its name of any version; None: no table."""
    name = current_name(file)
    if name == SCORES_FILE:
        return "scores"
    if name.startswith("part-") and name.endswith(".parquet"):
        return _OF_PARTS.get(stage)
    beside = _BESIDE.fullmatch(name)
    return beside[1] if beside and beside[1] in VERSIONS else None


def versions_of(stage: str, files: Iterable[str]) -> dict[str, Any]:
    """Return the entry of a manifest with today's version of each table; empty without tables."""
    kinds = {kind for file in files if (kind := kind_of(stage, file))}
    return {SCHEMAS: {kind: VERSIONS[kind] for kind in sorted(kinds)}} if kinds else {}


def find_problem(manifest: Mapping[str, Any]) -> str:
    """Return why this program cannot read the tables of an artefact, or an empty string."""
    found = manifest.get(SCHEMAS, {})
    if not isinstance(found, dict) or not all(
        isinstance(version, int) and version >= 1 for version in found.values()
    ):
        return f"its manifest's '{SCHEMAS}' holds no versions; delete this folder and run again"
    for kind, version in found.items():
        if version > VERSIONS.get(kind, version):
            return (
                f"its table '{kind}' has schema version {version}, and this program reads "
                f"{VERSIONS[kind]}; install the version of backbone-benchmark that wrote it"
            )
    return ""


def migration_of(kind: str, manifest: Mapping[str, Any]) -> Migration | None:
    """Return what makes today's form of a table; None: it has that form."""
    steps = MIGRATIONS.get(kind, ())[manifest.get(SCHEMAS, {}).get(kind, 1) - 1 :]

    def migrate(table: pa.Table) -> pa.Table:
        for step in steps:
            table = step(table)
        return table

    return migrate if steps else None
