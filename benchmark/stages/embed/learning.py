"""Fit the backbones that learn from train before they embed, in one Ray task each."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from benchmark.energy import processor_meter
from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.networks.fitted import write_fitted
from benchmark.peaks import peak_memory_bytes, reset_peak
from benchmark.specs import Backbone, Fitted
from benchmark.store.artefacts import Artefact
from benchmark.store.names import FITTED
from benchmark.tables import count_rows, images_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("benchmark")

BATCH_BYTES = 16 * 2**20
"""Size of the patches prepared at once, as float32."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One backbone, the patches it learns from, and the artefact of its state and embeddings."""

    backbone: Backbone
    artefact: Artefact
    patches: Artefact
    bands: tuple[str, ...]
    shape: tuple[int, int, int]
    """(C, H, W) of a patch."""
    num_threads: int

    @classmethod
    def of(cls, manifest: dict[str, Any], **more: Any) -> Self:
        """Take bands and shape from the manifest of ``patches``; ``more`` are the other fields."""
        bands, size = tuple(manifest["bands"]), manifest["patch_size"]
        return cls(bands=bands, shape=(len(bands), size, size), **more)


class StoredTrain:
    """The patches of train in a store, as input of a backbone (``specs.TrainPatches``)."""

    def __init__(
        self,
        backbone: Backbone,
        patches: Artefact,
        bands: Sequence[str],
        shape: tuple[int, int, int],
    ) -> None:
        """Read the table ``patches``, whose images have ``shape`` (C, H, W)."""
        from benchmark.networks.embedder import Preprocessing

        self._patches = patches
        self._shape = shape
        self._preprocess = Preprocessing(backbone, bands)
        self._counts = count_rows(patches, ("train",))
        _, height, width = shape
        size = backbone.image_size
        self.shape = (self._preprocess.num_bands, size or height, size or width)
        self.num_patches = sum(self._counts.values())

    def batches(self, first: int = 0) -> Iterator[NDArray[np.float32]]:
        """Yield batches (n, C, H, W), part by part, from patch ``first`` on."""
        import torch

        size = max(1, BATCH_BYTES // (4 * int(np.prod(self.shape))))
        for name, count in self._counts.items():
            if first >= count:
                first -= count
                continue
            table = self._patches.read_table(names=[name], columns=["image"], splits=("train",))
            images = images_array(table["image"], self._shape)
            for start in range(first, count, size):
                with torch.inference_mode():
                    x = self._preprocess(torch.from_numpy(np.array(images[start : start + size])))
                yield x.numpy()
            first = 0


def learn(context: Context, pending: Sequence[tuple[Backbone, Cell]]) -> dict[str, str]:
    """Fit the backbones that need it and have no state yet.

    Returns: the reasons of failures, by backbone.
    """
    import ray

    failures = {}
    for backbone, cell in pending:
        if backbone.fit is None or cell.artefact.has(FITTED):
            continue
        num_cpus = free_cpus(context)
        lesson = Lesson.of(
            context.patches.manifest(),
            backbone=backbone,
            artefact=cell.artefact,
            patches=context.patches,
            num_threads=max(1, num_cpus),
        )
        task = ray.remote(num_cpus=num_cpus, max_retries=1)(fit_and_write)
        try:
            facts = ray.get(task.remote(lesson))
        except UsageError:
            raise
        except Exception as error:  # Ray raises what the worker raised, of any type
            failures[backbone.name] = f"fitting on train failed: {one_line(error)}"
            logger.warning("embed: %s: %s", backbone.name, failures[backbone.name])
        else:
            context.progress.message(
                f"embed: {backbone.name} was fitted on {facts['num_patches']} patches of train "
                f"({facts['seconds']:.0f} s)"
            )
    return failures


def free_cpus(context: Context) -> int:
    """Return the CPUs to book: all of the largest node, or at most one if others hold some."""
    resources = context.resources("embed")
    free = context.cluster.wait_for_cpus(resources.num_cpus)
    if free >= resources.num_cpus:
        return int(resources.node_cpus or resources.num_cpus)
    return 1 if free >= 1 else 0


def fit_and_write(lesson: Lesson) -> dict[str, Any]:
    """Fit one backbone, write its state, and return its facts (a Ray task).

    Raises:
        BenchmarkError: the fit fails on these patches, or the store cannot be written.
    """
    import torch

    fit = lesson.backbone.fit
    if fit is None:
        raise ValueError(f"backbone '{lesson.backbone.name}' has no fit")
    torch.set_num_threads(lesson.num_threads)
    reset_peak()
    meter = processor_meter()
    began, begun_j = time.perf_counter(), meter.read()
    train = StoredTrain(lesson.backbone, lesson.patches, lesson.bands, lesson.shape)
    fitted = fit(train)
    for name, tensor in fitted.state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BenchmarkError(f"the fitted tensor '{name}' is not finite")
    facts = {
        **fitted.facts,
        "seconds": round(time.perf_counter() - began, 3),
        "num_threads": lesson.num_threads,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    if not math.isnan(joules := meter.read() - begun_j):
        facts["joules"] = round(joules, 3)
    write_fitted(lesson.artefact, Fitted(fitted.state, facts))
    return facts
