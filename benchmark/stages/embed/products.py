"""Take embeddings that were computed elsewhere: Ray tasks read them, row group by row group.

The first pass reads identifiers alone and finds the row of each patch. The second reads vectors of
the row groups that hold such rows, and keeps these rows alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.catalog.products.matching import Matched, Wanted
from benchmark.cluster.streaming import Items, read_items, status_rows
from benchmark.errors import UsageError, one_line
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.products import Product
from benchmark.progress import StageProgress
from benchmark.specs import Backbone
from benchmark.store import provenance
from benchmark.tables import embeddings_column, embeddings_schema

logger = logging.getLogger("benchmark")

PASS_BYTES = 512 * 2**20
"""Vectors that the driver holds at once; for more, the row groups are read in several passes."""


class Request(NamedTuple):
    """The rows of a piece whose vectors are wanted."""

    piece: Any
    rows: NDArray[np.int64]
    """Sorted."""
    places: NDArray[np.int64]
    """Where their vectors belong among those of the pass."""


class FindRows:
    """Compares the identifiers of a piece with those of patches (a Ray Data read task)."""

    def __init__(self, product: Product, wanted: Wanted) -> None:
        self._product = product
        self._wanted = wanted

    def __call__(self, item: tuple[int, Any]) -> pa.Table:
        """Return one row: the matches, int64 (M, 4), as bytes."""
        number, piece = item
        return _answer(number, partial(self._find, number, piece))

    def _find(self, number: int, piece: Any) -> NDArray[np.int64]:
        found = self._wanted.find(self._product.identifiers(piece))
        return np.column_stack([found, np.full(len(found), number)])


class TakeRows:
    """Reads the vectors of some rows of a piece (a Ray Data read task)."""

    def __init__(self, product: Product) -> None:
        self._product = product

    def __call__(self, item: tuple[int, Request]) -> pa.Table:
        """Return one row: the vectors, float32 (n, D), as bytes."""
        number, request = item
        return _answer(number, partial(self._take, request))

    def _take(self, request: Request) -> NDArray[np.float32]:
        none = np.empty((0, self._product.dim), np.float32)
        return np.concatenate([none, *self._product.vectors(request.piece, request.rows)])


def _answer(number: int, work: Callable[[], NDArray[Any]]) -> pa.Table:
    """Return one row with the number of an item, and its result or the user's mistake."""
    reason, content = "", b""
    began = time.perf_counter()
    try:
        content = np.ascontiguousarray(work()).tobytes()
    except UsageError as error:
        reason = str(error)
    seconds = time.perf_counter() - began
    return pa.table(
        {"number": [number], "reason": [reason], "content": [content], "seconds": [seconds]}
    )


def compute(context: Context, pending: Sequence[tuple[Backbone, Cell]]) -> None:
    """Write the embeddings of these products.

    A server or store that fails is recorded, not raised.

    Raises:
        UsageError: a product is damaged, or does not hold one finite vector for each patch.
    """
    parts = {
        part["name"]: part["num_rows"]
        for part in context.patches.manifest()["parts"]
        if part["num_rows"]
    }
    total = sum(parts.values()) * len(pending)
    progress = context.progress.stage(
        "embed", num_cells=len(pending), num_items=total, unit="patches"
    )
    try:
        ids = {name: _patch_ids(context, name) for name in parts}
        for backbone, cell in pending:
            progress.start(backbone.name)
            try:
                Reading(context, backbone, cell, ids, progress).run()
            except UsageError as error:
                # Shown and kept, although the run ends.
                context.fail(cell.artefact, str(error))
                raise
            except Exception as error:  # Ray raises what a worker raised, of any type
                reason = one_line(error)
                logger.warning("embed: %s: %s", backbone.name, reason)
                context.fail(cell.artefact, reason)
                progress.failed(backbone.name, reason)
            else:
                progress.done(backbone.name)
    finally:
        progress.close()


def _patch_ids(context: Context, name: str) -> list[str]:
    table = context.patches.read_table(names=[name], columns=["patch_id"])
    found: list[str] = table["patch_id"].to_pylist()
    return found


class Reading:
    """One product that becomes an artefact."""

    def __init__(
        self,
        context: Context,
        backbone: Backbone,
        cell: Cell,
        ids: Mapping[str, list[str]],
        progress: StageProgress,
    ) -> None:
        """Read the vectors of ``ids``: the identities of the patches of each part."""
        if backbone.product is None:
            raise ValueError(f"backbone '{backbone.name}' is no product")
        self._context = context
        self._backbone = backbone
        self._product: Product = backbone.product
        self._artefact = cell.artefact
        self._ids = ids
        self._progress = progress
        self._busy_s = 0.0

    def run(self) -> None:
        """Write the parts that are missing, and the manifest.

        Raises:
            UsageError: the product is damaged, or does not hold one finite vector for each patch.
            CellError: the store cannot be written.
        """
        began = time.perf_counter()
        pieces = self._product.pieces()
        matched = self._match(pieces)
        self._context.progress.message(
            f"embed: {self._backbone.name}: rows of the product match patches by {matched.rule}"
        )
        checksums: dict[str, str] = {}
        done = set(self._artefact.files("part-"))
        first, is_varied = None, bool(done)
        for group in self._passes(done):
            vectors = self._take(pieces, matched, np.concatenate([rows for _, rows in group]))
            first = vectors[:1] if first is None else first
            is_varied = is_varied or bool((vectors != first).any())
            checksums |= self._write(group, vectors)
        total = len(matched.rows)
        if not is_varied and total > 1:
            raise UsageError(
                f"{self._where}: all {total:,} vectors are the same; correct the product, or set "
                "'vector_columns'"
            )
        manifest = self._manifest(matched, time.perf_counter() - began)
        self._artefact.commit(manifest, checksums=checksums)

    @property
    def _where(self) -> str:
        return f"{self._context.experiment.path}: backbone '{self._backbone.name}'"

    def _match(self, pieces: Sequence[Any]) -> Matched:
        wanted = Wanted([name for names in self._ids.values() for name in names])
        found = [np.empty((0, 4), np.int64)]
        for _, content in self._rows(FindRows(self._product, wanted), list(enumerate(pieces))):
            found.append(np.frombuffer(content, np.int64).reshape(-1, 4))
        return wanted.choose(np.concatenate(found), self._where, partial(self._example, pieces))

    def _example(self, pieces: Sequence[Any]) -> str | None:
        ids = (batch[0].as_py() for piece in pieces for batch in self._product.identifiers(piece))
        return next(ids, None)

    def _passes(self, done: set[str]) -> Iterator[list[tuple[str, NDArray[np.int64]]]]:
        """Yield names of missing parts and the numbers of their patches, together as one pass."""
        numbered: list[tuple[str, NDArray[np.int64]]] = []
        end = 0
        for name, ids in self._ids.items():
            start, end = end, end + len(ids)
            if name in done:
                self._progress.advance(len(ids))
            else:
                numbered.append((name, np.arange(start, end)))
        row_bytes = 4 * self._product.dim
        sizes = np.cumsum([len(rows) * row_bytes for _, rows in numbered])
        for _, items in groupby(
            zip(numbered, sizes, strict=True), key=lambda item: (item[1] - 1) // PASS_BYTES
        ):
            yield [part for part, _ in items]

    def _take(
        self, pieces: Sequence[Any], matched: Matched, patches: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the vectors of patches, (n, D)."""
        where, rows = matched.pieces[patches], matched.rows[patches]
        requests = []
        for number in np.unique(where):
            places = np.flatnonzero(where == number)
            places = places[np.argsort(rows[places])]
            requests.append(Request(pieces[number], rows[places], places))
        vectors = np.empty((len(patches), self._product.dim), np.float32)
        for number, content in self._rows(TakeRows(self._product), list(enumerate(requests))):
            found = np.frombuffer(content, np.float32).reshape(-1, self._product.dim)
            if len(found) != len(requests[number].rows):
                raise UsageError(
                    f"{self._where}: its files changed while they were read; run again"
                )
            vectors[requests[number].places] = found
            self._progress.advance(len(found))
        return vectors

    def _rows(
        self, read: Callable[[Any], pa.Table], items: Sequence[tuple[int, Any]]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the number and result of each item, in any order.

        Raises:
            UsageError: a task found a mistake of the user.
        """
        whole = self._context.cluster.connect()
        now = self._context.ledger.budget("embed", whole)
        dataset = read_items(
            Items("product", items, read),
            num_items=len(items),
            most_cpus=None if now.covers(whole) else now.num_cpus,
        )
        for row in status_rows(dataset):
            if row["reason"]:
                raise UsageError(row["reason"])
            self._busy_s += row["seconds"]
            yield row["number"], row["content"]

    def _write(
        self, group: Sequence[tuple[str, NDArray[np.int64]]], vectors: NDArray[np.float32]
    ) -> dict[str, str]:
        """Write the parts of a pass and return their checksums."""
        schema = embeddings_schema(self._product.dim)
        found, end = {}, 0
        for name, rows in group:
            start, end = end, end + len(rows)
            ids = pa.array(self._ids[name], pa.string())
            table = pa.table([ids, embeddings_column(vectors[start:end])], schema=schema)
            found[name] = self._artefact.write_table(name, table)
        return found

    def _manifest(self, matched: Matched, wall_s: float) -> dict[str, Any]:
        num_patches, dim = len(matched.rows), self._product.dim
        return {
            "inputs": self._context.embeddings_inputs(self._backbone),
            "backbone": self._backbone.model,
            "num_patches": num_patches,
            "dim": dim,
            "product": {**self._product.facts, "matched_by": matched.rule},
            "peak_memory_bytes": provenance.peak_memory_bytes(),
            "storage_bytes": 4 * num_patches * dim,
            "device": {"device": "none"},
            "seconds": {
                "device": round(self._busy_s, 3),
                "setup": 0.0,
                "this_run": round(wall_s, 3),
                "patches_per_s": round(num_patches / wall_s, 1),
            },
            "plan": {},
            "provenance": provenance.record(),
        }
