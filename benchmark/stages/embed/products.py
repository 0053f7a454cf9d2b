"""Take embeddings that were computed elsewhere, and write them as an ordinary artefact.

Tables are read by identifiers (``rows``), rasters at the footprints of patches (``places``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.catalog.products.joining import WantedPlaces
from benchmark.catalog.products.locating import name_first
from benchmark.catalog.products.matching import Wanted
from benchmark.errors import UsageError, one_line
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.peaks import peak_memory_bytes
from benchmark.products import PlacedProduct, Product
from benchmark.progress import StageProgress
from benchmark.specs import Backbone
from benchmark.stages.embed.places import PlaceTaker, find_corners
from benchmark.stages.embed.rows import RowTaker
from benchmark.stages.embed.taking import Taken, Taker, Tasks
from benchmark.store import provenance
from benchmark.tables import column, embeddings_column, embeddings_schema

logger = logging.getLogger("benchmark")

PASS_BYTES = 512 * 2**20
"""Vectors that the driver holds at once; for more, the row groups are read in several passes."""


EMPTY_SHARE = column(
    "empty_share", pa.float32(), "share of the footprint's px without data, 0 to 1", nullable=True
)
"""The additional column of the embeddings of rasters."""


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
        self._product: Product | PlacedProduct = backbone.product
        self._artefact = cell.artefact
        self._ids = ids
        self._progress = progress
        self._tasks = Tasks(context)
        self._has_shares = isinstance(backbone.product, PlacedProduct)

    def run(self) -> None:
        """Write the parts that are missing, and the manifest.

        Raises:
            UsageError: the product is damaged, or lacks a finite vector of a patch.
            CellError: a scene cannot be read, or the store cannot be written.
        """
        began = time.perf_counter()
        done = set(self._artefact.files("part-"))
        taker = self._open()
        self._context.progress.message(
            f"embed: {self._backbone.name}: rows of the product match patches by {taker.rule}"
            if not self._has_shares
            else f"embed: {self._backbone.name}: sampled by {taker.rule}"
        )
        checksums: dict[str, str] = {}
        lacking: list[str] = []
        first, is_varied = None, bool(done)
        for group in self._passes(done):
            taken = taker.take(np.concatenate([rows for _, rows in group]))
            vectors = taken.vectors[~np.isnan(taken.vectors).any(axis=1)]
            first = vectors[:1] if first is None or not len(first) else first
            is_varied = is_varied or bool(len(vectors) and (vectors != first).any())
            checksums |= self._write(group, taken, lacking)
        total = sum(map(len, self._ids.values()))
        if lacking and not self._product.drops_missing:
            raise UsageError(
                f"{self._where}: {len(lacking):,} of {total:,} patches have no pixel with data in "
                f'the product ({name_first(lacking)}); add rasters, or set missing = "drop" to '
                "compare all rows without these patches"
            )
        facts = self._examine()
        if not facts["num_patches"]:
            raise UsageError(f"{self._where}: holds no vector of any patch; correct the product")
        if not is_varied and facts["num_patches"] > 1:
            raise UsageError(
                f"{self._where}: all {facts['num_patches']:,} vectors are the same; correct the "
                "product, or set 'vector_columns'"
            )
        manifest = self._manifest(taker, facts, time.perf_counter() - began)
        self._artefact.commit(manifest, checksums=checksums)

    @property
    def _where(self) -> str:
        return f"{self._context.experiment.path}: backbone '{self._backbone.name}'"

    def _open(self) -> Taker:
        """Find the patches in the product.

        Raises:
            UsageError: the product is damaged, or does not fit the patches.
            CellError: a scene cannot be read.
        """
        product, where = self._product, self._where
        if isinstance(product, PlacedProduct):
            return PlaceTaker(product, self._corners(product.needs_outlines), self._tasks, where)
        ids = [name for names in self._ids.values() for name in names]
        if product.join is None:
            return RowTaker(product, Wanted(ids), self._tasks, where)
        corners = self._corners(product.join == "area")
        wanted = WantedPlaces(ids, corners, product.crs, product.join)
        return RowTaker(product, wanted, self._tasks, where)

    def _corners(self, needs_outlines: bool) -> NDArray[np.float64]:
        return find_corners(
            self._context, self._ids, needs_outlines=needs_outlines, where=self._where
        )

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

    def _write(
        self, group: Sequence[tuple[str, NDArray[np.int64]]], taken: Taken, lacking: list[str]
    ) -> dict[str, str]:
        """Write the parts of a pass and return their checksums.

        Patches without a vector are appended to ``lacking``; their part is written without them,
        or not at all if they end the run.
        """
        schema = embeddings_schema(self._product.dim)
        if self._has_shares:
            schema = schema.append(EMPTY_SHARE)
        is_there = np.array(~np.isnan(taken.vectors).any(axis=1))
        found, end = {}, 0
        for name, rows in group:
            start, end = end, end + len(rows)
            here = np.flatnonzero(is_there[start:end])
            ids = pa.array(self._ids[name], pa.string())
            absent = np.flatnonzero(~is_there[start:end])
            lacking += ids.take(pa.array(absent)).to_pylist()
            if len(absent) and not self._product.drops_missing:
                continue
            columns = [ids.take(pa.array(here)), embeddings_column(taken.vectors[start:end][here])]
            if taken.empty_shares is not None:
                columns.append(pa.array(taken.empty_shares[start:end][here]))
            found[name] = self._artefact.write_table(name, pa.table(columns, schema=schema))
            self._progress.advance(len(rows))
        return found

    def _examine(self) -> dict[str, Any]:
        """Return what the written parts hold, whichever run wrote them: counts and first names."""
        names = ["patch_id", *([EMPTY_SHARE.name] if self._has_shares else [])]
        table = self._artefact.read_table(columns=names, names=list(self._ids))
        there = set(table["patch_id"].to_pylist())
        lacking = [name for names in self._ids.values() for name in names if name not in there]
        found: dict[str, Any] = {"num_patches": table.num_rows, "num_missing": len(lacking)}
        if lacking:
            found["missing"] = name_first(lacking)
        if self._has_shares:
            shares = table[EMPTY_SHARE.name].to_numpy()
            found["empty_share"] = round(float(shares.mean()), 6) if len(shares) else 1.0
            found["num_partial"] = int((shares > 0).sum())
        return found

    def _manifest(self, taker: Taker, facts: Mapping[str, Any], wall_s: float) -> dict[str, Any]:
        num_patches, dim = facts["num_patches"], self._product.dim
        told = {key: value for key, value in facts.items() if key != "num_patches"}
        return {
            "inputs": self._context.embeddings_inputs(self._backbone),
            "backbone": self._backbone.model,
            "num_patches": num_patches,
            "dim": dim,
            "product": {**self._product.facts, "matched_by": taker.rule, **told},
            "peak_memory_bytes": peak_memory_bytes(),
            "storage_bytes": 4 * num_patches * dim,
            "device": {"device": "none"},
            "seconds": {
                "device": round(self._tasks.busy_s, 3),
                "setup": 0.0,
                "this_run": round(wall_s, 3),
                "patches_per_s": round(num_patches / wall_s, 1),
            },
            "plan": {},
            "provenance": provenance.record(),
        }
