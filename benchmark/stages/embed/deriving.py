"""Make embeddings from stored ones: one Ray task for each backbone fits on train, then writes.

The task reads the parts of the parents one after another, as often as there are fitted steps, and
holds one part of each parent at a time. Parts that an earlier run wrote stay; what it fitted is in
the artefact.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmark.catalog.derived.applying import derive
from benchmark.catalog.derived.fitting import check_train, fit_recipe, missing_keys
from benchmark.catalog.derived.resolve import check_widths
from benchmark.catalog.options import options_where
from benchmark.derived import Derivation
from benchmark.energy import describe, joules_of, processor_meter
from benchmark.errors import CellError, UsageError, one_line
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.networks.fitted import read_facts, read_fitted, write_fitted
from benchmark.peaks import peak_memory_bytes, reset_peak
from benchmark.specs import Backbone, Fitted
from benchmark.stages.embed.learning import free_cpus
from benchmark.store import provenance
from benchmark.store.artefacts import Artefact
from benchmark.store.names import FITTED
from benchmark.tables import embeddings_column, embeddings_schema, vectors_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("benchmark")

BLOCK_BYTES = 16 * 2**20
"""Size of the rows of one parent that are worked on at once, as float32."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One backbone to make, and where its rows come from and go to."""

    derived: Derivation
    parents: tuple[Artefact, ...]
    dims: tuple[int, ...]
    """Lengths of the parents' embeddings."""
    dim: int
    """Length of an embedding."""
    patches: Artefact
    artefact: Artefact
    parts: tuple[str, ...]
    """Names of the files of patches that hold rows."""
    seed: int

    @cached_property
    def is_train(self) -> dict[str, NDArray[np.bool_]]:
        """Whether each patch of a part belongs to train, in the order of identities."""
        found = {}
        for name in self.parts:
            table = self.patches.read_table(names=[name], columns=["patch_id", "split"])
            found[name] = table["split"].to_numpy() == "train"
        return found

    def read(self, part: str) -> tuple[pa.ChunkedArray, list[NDArray[np.float32]]]:
        """Return the identities of a part, and the embeddings (N, D) of each parent.

        Raises:
            CellError: a table is damaged, or holds other patches.
        """
        ids, vectors = None, []
        for parent, dim in zip(self.parents, self.dims, strict=True):
            table = parent.read_table(names=[part], columns=["patch_id", "embedding"])
            if ids is None:
                ids = table["patch_id"].combine_chunks()
            is_same = len(ids) == len(self.is_train[part]) and ids.equals(
                table["patch_id"].combine_chunks()
            )
            if not is_same or table["embedding"].type.list_size != dim:
                raise parent.damage_of(part, "its patches or dimensions are not those of the rest")
            vectors.append(vectors_array(table["embedding"]))
            if not np.isfinite(vectors[-1]).all():
                # They would become codes that look sound.
                raise CellError(f"{parent.file_uri(part)}: embeddings are NaN or infinite")
        if ids is None:
            raise ValueError("a recipe needs a parent")
        return ids, vectors

    def train_blocks(self) -> Iterator[Sequence[NDArray[np.float32]]]:
        """Yield the embeddings of train, in blocks (n, D) of each parent."""
        for part in self.parts:
            if self.is_train[part].any():
                _, vectors = self.read(part)
                yield from self.blocks([rows[self.is_train[part]] for rows in vectors])

    def blocks(
        self, vectors: Sequence[NDArray[np.float32]]
    ) -> Iterator[Sequence[NDArray[np.float32]]]:
        """Yield blocks of rows of each parent."""
        size = max(1, BLOCK_BYTES // (4 * max(self.dims)))
        for start in range(0, len(vectors[0]), size):
            yield [rows[start : start + size] for rows in vectors]


def check_components(context: Context, backbone: Backbone) -> None:
    """Refuse more principal components than the train patches span, once these are known.

    Raises:
        UsageError: names the setting, and the most that can be set.
    """
    if backbone.derived is None or not context.patches.is_complete:
        return
    for step, size in backbone.derived.steps:
        if step == "pca":
            try:
                check_train(size, context.num_train)
            except UsageError as error:
                raise UsageError(f"{_where(context, backbone)}: {error}") from None


def compute(context: Context, pending: Sequence[tuple[Backbone, Cell]]) -> None:
    """Make and write the embeddings of these backbones.

    A parent without embeddings, or a store that fails, is recorded, not raised.

    Raises:
        UsageError: a recipe does not fit its parents or train.
    """
    total = sum(part["num_rows"] for part in context.patches.manifest()["parts"])
    progress = context.progress.stage(
        "embed", num_cells=len(pending), num_items=total * len(pending), unit="patches"
    )
    try:
        for backbone, cell in pending:
            artefacts = [context.embeddings(item) for item in context.parents_of(backbone)]
            absent = next((item for item in artefacts if not item.is_complete), None)
            if absent is not None:
                context.block(cell.artefact, absent)
                progress.failed(backbone.name, context.failures[cell.artefact.path])
                continue
            progress.start(backbone.name)
            try:
                _make(context, backbone, cell.artefact, artefacts)
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
                progress.advance(total)
                progress.done(backbone.name)
    finally:
        progress.close()


def _where(context: Context, backbone: Backbone) -> str:
    return options_where(backbone.name, context.experiment.path)


def _make(
    context: Context, backbone: Backbone, artefact: Artefact, parents: Sequence[Artefact]
) -> None:
    import ray

    if backbone.derived is None:
        raise ValueError(f"backbone '{backbone.name}' is not made from others")
    began = time.perf_counter()
    manifests = [item.manifest() for item in parents]
    dims = tuple(int(item["dim"]) for item in manifests)
    recipe = Recipe(
        derived=backbone.derived,
        parents=tuple(parents),
        dims=dims,
        dim=check_widths(backbone.derived, sum(dims), where=_where(context, backbone)),
        patches=context.patches,
        artefact=artefact,
        parts=tuple(
            part["name"] for part in context.patches.manifest()["parts"] if part["num_rows"]
        ),
        seed=context.experiment.seeds[0],
    )
    task = ray.remote(num_cpus=free_cpus(context), max_retries=1)(make_and_write)
    made = ray.get(task.remote(recipe))
    if made["refused"]:
        raise UsageError(f"{_where(context, backbone)}: {made['refused']}")
    artefact.commit(
        {
            "inputs": context.embeddings_inputs(backbone),
            "backbone": backbone.model,
            **_manifest(recipe, made, manifests, time.perf_counter() - began),
        },
        needs=(FITTED,),
        checksums=made["checksums"],
    )


def _manifest(
    recipe: Recipe, made: dict[str, Any], parents: Sequence[dict[str, Any]], wall_s: float
) -> dict[str, Any]:
    num_patches, own_s = made["num_patches"], made["seconds"]
    num_bytes = recipe.derived.num_bytes(recipe.dim)
    # Embeddings cost what their parents cost, as if these were computed for them alone.
    parents_s = sum(item["seconds"]["device"] for item in parents)
    joules = made["joules"] + sum(map(joules_of, parents))
    return {
        "num_patches": num_patches,
        "dim": recipe.dim,
        "derived": {
            "from": [item["fingerprint"] for item in parents],
            "parents": list(recipe.derived.parents),
            "recipe": recipe.derived.words,
            "dtype": recipe.derived.dtype,
            "bytes_per_patch": num_bytes,
            **made["facts"],
        },
        "peak_memory_bytes": made["peak_memory_bytes"],
        "energy": describe(joules, on_gpu=parents[0]["device"]["device"] == "cuda"),
        "storage_bytes": num_bytes * num_patches,
        "device": {
            key: parents[0]["device"][key]
            for key in ("device", "model")
            if key in parents[0]["device"]
        },
        "seconds": {
            "device": round(parents_s + own_s, 3),
            "own": round(own_s, 3),
            "setup": 0.0,
            "this_run": round(wall_s, 3),
            "patches_per_s": round(num_patches / wall_s, 1),
        },
        "plan": {},
        "provenance": provenance.record(),
    }


def make_and_write(recipe: Recipe) -> dict[str, Any]:
    """Fit a recipe, write the parts that are missing, and return what was made (a Ray task).

    Returns: ``refused`` (the user's mistake, or empty), and for the manifest ``facts``,
    ``num_patches``, ``seconds``, ``joules``, ``peak_memory_bytes`` and the ``checksums`` of parts.

    Raises:
        CellError: a table is damaged, or the store cannot be written.
    """
    reset_peak()
    meter = processor_meter()
    began, begun_j = time.perf_counter(), meter.read()
    try:
        state, facts = _fit(recipe)
        checksums = _write(recipe, state)
    except UsageError as error:
        return {"refused": str(error)}
    return {
        "refused": "",
        "facts": facts,
        "num_patches": sum(map(len, recipe.is_train.values())),
        "checksums": checksums,
        "seconds": time.perf_counter() - began,
        "joules": meter.read() - begun_j,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _fit(recipe: Recipe) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Return what was fitted, now or in an earlier run."""
    import torch

    artefact = recipe.artefact
    if not artefact.has(FITTED):
        num_train = sum(int(item.sum()) for item in recipe.is_train.values())
        learned = fit_recipe(
            recipe.derived,
            recipe.dims,
            recipe.train_blocks,
            num_train=num_train,
            seed=recipe.seed,
        )
        tensors = {key: torch.from_numpy(np.array(item)) for key, item in learned.state.items()}
        write_fitted(artefact, Fitted(tensors, learned.facts))
    state = {key: item.numpy() for key, item in read_fitted(artefact).items()}
    if lacking := missing_keys(recipe.derived, state):
        raise artefact.damage_of(FITTED, f"it lacks '{lacking[0]}'")
    return state, read_facts(artefact)


def _write(recipe: Recipe, state: dict[str, NDArray[np.float64]]) -> dict[str, str]:
    """Write the parts that are missing, and return their checksums."""
    artefact, derived = recipe.artefact, recipe.derived
    done = set(artefact.files("part-"))
    checksums: dict[str, str] = {}
    first, is_varied = None, bool(done)
    for part in recipe.parts:
        if part in done:
            continue
        ids, vectors = recipe.read(part)
        rows = np.concatenate([derive(derived, state, block) for block in recipe.blocks(vectors)])
        if not np.isfinite(rows).all():
            raise UsageError(
                f"some embeddings are too large for {derived.words} (float16 holds values up to "
                "65,504); choose another 'dtype', or remove it"
            )
        first = rows[:1] if first is None else first
        is_varied = is_varied or bool((rows != first).any())
        table = pa.table([ids, embeddings_column(rows)], schema=embeddings_schema(recipe.dim))
        checksums[part] = artefact.write_table(part, table)
    num_patches = sum(map(len, recipe.is_train.values()))
    if not is_varied and num_patches > 1:
        raise UsageError(
            f"all {num_patches:,} embeddings are the same after {derived.words}; keep more of them"
        )
    return checksums
