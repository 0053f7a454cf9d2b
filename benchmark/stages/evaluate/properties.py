"""What each embedding is like, from its stored table: rank, dimension, norms, neighbours.

Parts are read one by one, and of all patches only those drawn are kept: memory does not grow with
the number of patches. Rows that earlier scores of the experiment hold are taken from there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError, one_line
from benchmark.experiment.context import Context
from benchmark.stages.evaluate.schemas import PROPERTIES
from benchmark.statistics import embeddings as properties
from benchmark.store.artefacts import Artefact
from benchmark.store.names import beside
from benchmark.tables import find_rows, vectors_array

VERSION = 1
"""Increase by hand when a change of the code changes the values."""
MAX_ROWS = 4000
"""Patches that are drawn: distances between all would grow with the square of their number."""
SEED = 0
NUM_NEIGHBOURS = 10

FILE = beside("properties")


class Rows(NamedTuple):
    """The patches of an embedding, sorted by ``patch_id``."""

    ids: NDArray[Any]
    splits: NDArray[Any]
    labels: NDArray[np.int32]
    drawn: NDArray[np.intp]
    """Places of those drawn from all, ascending."""
    queries: NDArray[np.intp]
    """Places of those drawn from test, ascending."""


def describe_embeddings(context: Context) -> tuple[pa.Table, list[str]]:
    """Return the table ``properties``, and a note on each embedding that cannot be read."""
    known = _known(context)
    rows: list[dict[str, Any]] = []
    notes = []
    for backbone in context.backbones:
        artefact = context.embeddings(backbone)
        if not artefact.is_complete:
            continue
        try:
            found = known.get(artefact.folder) or list(_describe(context, artefact))
        except BenchmarkError as error:
            notes.append(f"{backbone.name}: no properties of its embeddings: {one_line(error)}")
            continue
        own = {"backbone": backbone.name, "artefact": artefact.folder, "version": VERSION}
        rows += [{**row, **own} for row in found]
    return pa.Table.from_pylist(rows, schema=PROPERTIES), notes


def _known(context: Context) -> dict[str, list[dict[str, Any]]]:
    """Return the rows that earlier scores of the experiment hold, by the folder described."""
    found: dict[str, list[dict[str, Any]]] = {}
    for fingerprint, name in context.store.names("evaluate").items():
        scores = context.store.artefact("evaluate", name, fingerprint)
        if name != context.experiment.name or not scores.is_complete:
            continue
        try:
            if FILE not in scores.manifest()["files"]:
                continue
            rows = scores.read_table(names=[FILE]).to_pylist()
        except BenchmarkError:
            # Damaged, or deleted meanwhile: computed again.
            continue
        folders: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["version"] == VERSION:
                folders.setdefault(row["artefact"], []).append(row)
        found |= folders
    return found


def _describe(context: Context, artefact: Artefact) -> Iterator[dict[str, Any]]:
    """Yield one row for each property of an embedding."""
    if not artefact.tables("part-"):
        return
    rows = _choose(context, artefact)
    sample: list[NDArray[np.float32]] = []
    queries: list[NDArray[np.float32]] = []
    query_labels: list[NDArray[np.int32]] = []
    norms, digests = [], []
    dim = 0
    for at, vectors in _parts(artefact, rows):
        dim = vectors.shape[1]
        norms.append(np.linalg.norm(vectors.astype(np.float64), axis=1))
        digests.append(properties.row_digests(vectors))
        sample.append(vectors[np.isin(at, rows.drawn)])
        is_query = np.isin(at, rows.queries)
        queries.append(properties.unit_rows(vectors[is_query]))
        query_labels.append(rows.labels[at[is_query]])
    num_patches, num_drawn = len(rows.ids), len(rows.drawn)
    drawn = np.concatenate(sample)
    yield _row("dimension", float(dim), num_patches)
    yield _row("effective_rank", properties.effective_rank(drawn), num_drawn)
    distances = properties.neighbour_distances(
        properties.distinct_rows(drawn), properties.MLE_NEIGHBOURS[1]
    )
    yield _row("dimension_twonn", properties.dimension_twonn(distances), num_drawn)
    yield _row("dimension_mle", properties.dimension_mle(distances), num_drawn)
    share = properties.duplicate_share(np.concatenate(digests))
    yield _row("duplicate_share", share, num_patches)
    lengths = np.concatenate(norms)
    yield _row("norm_mean", float(lengths.mean()), num_patches)
    yield _row("norm_spread", properties.norm_spread(lengths), num_patches)
    asked, labels = np.concatenate(queries), np.concatenate(query_labels)
    nearest = properties.nearest_of_none(len(asked))
    for at, vectors in _parts(artefact, rows) if len(asked) else ():
        is_train = rows.splits[at] == "train"
        units = properties.unit_rows(vectors[is_train])
        nearest = properties.add_nearest(
            nearest, asked, units, rows.labels[at[is_train]], NUM_NEIGHBOURS
        )
    classes = context.patches.manifest()["classes"]
    precisions = properties.neighbour_precisions(nearest, labels, len(classes))
    is_known = ~np.isnan(precisions)
    mean = float(precisions[is_known].mean()) if is_known.any() else math.nan
    yield _row("neighbour_precision", mean, len(asked))
    for k, name in enumerate(classes):
        count = int((labels == k).sum())
        yield _row(f"neighbour_precision/{name}", float(precisions[k]), count)


def _row(name: str, value: float, num_patches: int) -> dict[str, Any]:
    return {
        "property": name,
        "value": None if math.isnan(value) else value,
        "num_patches": num_patches,
    }


def _choose(context: Context, artefact: Artefact) -> Rows:
    """Draw from the patches of an embedding, which may lack some of all patches."""
    ids = artefact.read_table(columns=["patch_id"])["patch_id"].to_numpy(zero_copy_only=False)
    table = context.patches.read_table(columns=["patch_id", "split", "label"])
    every, splits, labels = (
        table[name].to_numpy(zero_copy_only=False) for name in ("patch_id", "split", "label")
    )
    places = find_rows(every, ids, what=context.patches.uri)
    rng = np.random.default_rng(SEED)
    test = np.flatnonzero(splits[places] == "test")
    drawn, queries = (
        np.sort(rng.permutation(found)[:MAX_ROWS]) for found in (np.arange(len(ids)), test)
    )
    return Rows(ids, splits[places], labels[places], drawn, queries)


def _parts(
    artefact: Artefact, rows: Rows
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Yield the places in ``rows`` (N,) and the vectors (N, D) of one part after the other."""
    for name in artefact.tables("part-"):
        table = artefact.read_table(names=[name])
        ids = table["patch_id"].to_numpy(zero_copy_only=False)
        yield find_rows(rows.ids, ids, what=artefact.uri), vectors_array(table["embedding"])
