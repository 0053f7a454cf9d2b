"""The tables of runs as Arrow tables and datasets, whose files are read when they are queried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from benchmark.comparing.runs import FinishedRun
from benchmark.errors import CellError
from benchmark.store.artefacts import Artefact
from benchmark.store.names import SCORES_FILE, beside, current_name
from benchmark.tables import CANDIDATES, CURVES, PATCH_ID, TRIALS

if TYPE_CHECKING:
    from collections.abc import Iterator

BESIDE = ("ranking", "comparison", "confusion", "calibration", "transfer", "drops")
"""Tables that lie beside the scores."""

RUN = [pa.field("experiment", pa.string()), pa.field("run", pa.string())]
CELL = [
    *RUN,
    *(pa.field(name, pa.string()) for name in ("backbone", "method", "train_set")),
    pa.field("seed", pa.int64()),
]
"""Columns that say which cell a row is of."""
PATCHES = [pa.field("patches_fingerprint", pa.string())]

PREDICTIONS = pa.schema(
    [
        PATCH_ID,
        pa.field("y_pred", pa.int32()),
        # Of any number of classes: several experiments may be in one view.
        pa.field("y_score", pa.list_(pa.float32())),
    ]
)

View = Callable[[], Any]
"""Returns an Arrow table, or a dataset whose files are read by need."""


def views_of(runs: Sequence[FinishedRun]) -> dict[str, View]:
    """Return the views of some runs, by name; a view opens no file before it is called."""
    views: dict[str, View] = {
        "runs": partial(_runs, runs),
        "classes": partial(_classes, runs),
        "scores": partial(_beside, runs, "scores"),
        "patches": partial(_patches, runs),
        "predictions": partial(_of_cells, runs, PREDICTIONS, lambda item: item.tables("part-")),
    }
    for name in BESIDE:
        if any(_lists(run, name) for run in runs):
            views[name] = partial(_beside, runs, name)
    for name, schema in (("trials", TRIALS), ("curve", CURVES)):
        views[name] = partial(_of_cells, runs, schema, partial(_files_of, beside(name)))
    return views


def _files_of(wanted: str, artefact: Artefact) -> list[str]:
    """Return the file of a table beside others, under its name of any version."""
    return [name for name in artefact.files() if current_name(name) == wanted]


def _lists(run: FinishedRun, name: str) -> bool:
    return run.artefact.has(beside(name))


def _runs(runs: Sequence[FinishedRun]) -> pa.Table:
    rows = []
    for run in runs:
        inputs = {} if run.patches is None else run.patches.manifest().get("inputs") or {}
        rows.append(
            {
                "experiment": run.name,
                "run": run.artefact.fingerprint,
                "store": run.store.uri,
                "dataset": inputs.get("dataset"),
                "dataset_digest": inputs.get("digest"),
                "patches_fingerprint": run.patches_fingerprint,
                "confidence": run.confidence,
                "version": run.version,
                "code": run.code,
                "written": run.written,
            }
        )
    return pa.Table.from_pylist(rows)


def _classes(runs: Sequence[FinishedRun]) -> pa.Table:
    schema = pa.schema([*PATCHES, ("label", pa.int32()), ("class_name", pa.string())])
    rows = [
        {"patches_fingerprint": fingerprint, "label": label, "class_name": name}
        for fingerprint, patches in _distinct_patches(runs).items()
        for label, name in enumerate(patches.manifest()["classes"])
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _beside(runs: Sequence[FinishedRun], name: str) -> pa.Table:
    tables = []
    for run in runs:
        if name == "scores":
            table = run.artefact.read_table(names=[SCORES_FILE])
        elif _lists(run, name):
            table = run.artefact.read_table(names=[beside(name)])
        else:
            continue
        for field, value in zip(RUN, (run.name, run.artefact.fingerprint), strict=True):
            table = table.add_column(
                0, field, pa.repeat(pa.scalar(value, field.type), table.num_rows)
            )
        tables.append(table)
    # Tables of older versions lack columns, which are null then.
    return pa.concat_tables(tables, promote_options="permissive")


def _patches(runs: Sequence[FinishedRun]) -> ds.Dataset:
    """Return the patches without their pixels; those that several runs share once."""
    parts = [
        (patches, name, {"patches_fingerprint": fingerprint})
        for fingerprint, patches in _distinct_patches(runs).items()
        for name in patches.tables("part-")
    ]
    return _dataset(runs, parts, pa.schema([*CANDIDATES, *PATCHES]))


def _distinct_patches(runs: Sequence[FinishedRun]) -> dict[str, Artefact]:
    return {run.patches_fingerprint: run.need_patches() for run in runs}


def _of_cells(
    runs: Sequence[FinishedRun], schema: pa.Schema, find: Callable[[Artefact], list[str]]
) -> ds.Dataset:
    parts = [(artefact, name, cell) for cell, artefact in _cells(runs) for name in find(artefact)]
    return _dataset(runs, parts, pa.schema([*schema, *CELL]))


def _cells(runs: Sequence[FinishedRun]) -> Iterator[tuple[dict[str, Any], Artefact]]:
    """Yield the cells that the scores are of, with their artefacts.

    Raises:
        CellError: one is not in the store any more.
    """
    names = [field.name for field in CELL[len(RUN) :]]
    for run in runs:
        table = run.scores.select([*names, "artefact"]).group_by([*names, "artefact"]).aggregate([])
        for row in table.sort_by([(name, "ascending") for name in names]).to_pylist():
            folder = row.pop("artefact")
            if folder == run.artefact.folder:
                # The folds of a cell together: each has predictions of its own.
                continue
            artefact = run.cell_artefact(folder)
            if not artefact.is_complete:
                raise CellError(
                    f"{artefact.uri}: the predictions are not complete; run the experiment again"
                )
            yield {"experiment": run.name, "run": run.artefact.fingerprint, **row}, artefact


def _dataset(
    runs: Sequence[FinishedRun],
    parts: Sequence[tuple[Artefact, str, dict[str, Any]]],
    schema: pa.Schema,
) -> ds.Dataset:
    """Return a dataset of files, each with constants as further columns."""
    form = ds.ParquetFileFormat()
    fs = runs[0].store.fs
    fragments = []
    for artefact, name, constants in parts:
        condition = pc.scalar(True)
        for key, value in constants.items():
            condition &= pc.field(key) == pa.scalar(value, schema.field(key).type)
        fragments.append(
            form.make_fragment(artefact.file(name), fs, partition_expression=condition)
        )
    # What is null in older tables is allowed to be.
    open_schema = pa.schema([field.with_nullable(True) for field in schema])
    return ds.FileSystemDataset(fragments, open_schema, form, fs)
