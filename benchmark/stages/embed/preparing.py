"""Run image processors where patches are read, so that no GPU waits for work of a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from benchmark.cluster.pools import Pool
from benchmark.cluster.streaming import TASK_CPUS
from benchmark.flipping import flip_images
from benchmark.specs import Backbone
from benchmark.stages.embed.calls import BLOCKS_OF_ACTOR
from benchmark.stages.embed.starting import Job

CHUNK = 32
"""Patches that are prepared at once."""
STORE_SHARE = 0.5
"""Share of the object store that may hold prepared patches, which are float32 and enlarged."""


@dataclass(frozen=True)
class Preparation:
    """What a task that reads patches does for a backbone with an image processor."""

    backbone: Backbone
    bands: tuple[str, ...]
    """Of the data set."""
    shape: tuple[int, int, int]
    """(C, H, W) of a patch."""
    flip: str | None = None

    @classmethod
    def of(cls, job: Job) -> Preparation:
        """Return that of a job."""
        flip = None if job.flipped is None else job.flipped.flip
        return cls(job.backbone, tuple(job.bands), job.shape, flip)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's input, float32 (N, C, S, S), of patches uint8 (N, C, H, W).

        It has the bits that the device path gives, in batches of any size: a processor prepares
        each image by itself.

        Raises:
            UsageError: transformers cannot use the processor.
        """
        import torch

        from benchmark.networks.embedder import Preprocessing

        preprocess = Preprocessing(self.backbone, self.bands)
        ready: NDArray[np.float32] | None = None
        for start in range(0, len(pixels), CHUNK):
            few = pixels[start : start + CHUNK]
            few = few if self.flip is None else flip_images(few, self.flip)
            x = preprocess(torch.from_numpy(np.array(few))).numpy()
            if ready is None:
                ready = np.empty((len(pixels), *x.shape[1:]), np.float32)
            ready[start : start + len(x)] = x
        return np.empty((0, 0, 0, 0), np.float32) if ready is None else ready

    def bytes_per_patch(self) -> int:
        """Return the bytes of the input of one patch, found by preparing one."""
        return self(np.zeros((1, *self.shape), np.uint8)).nbytes


class Readers(NamedTuple):
    """The tasks that read patches beside a pool of actors."""

    num_cpus: float
    """Booked by each where it also prepares patches."""
    why_not: str
    """Why they are too few to prepare patches in place of the actors; empty: they are enough."""


def plan_readers(pool: Pool, num_cpus: float) -> Readers:
    """Return the tasks that fit beside a pool on that many CPUs.

    They prepare patches if as many as there are actors run at once: fewer would prepare fewer
    patches per second than the actors themselves.
    """
    spare = num_cpus - pool.num_actors * pool.num_cpus
    # Preparing takes a whole CPU. Where actors leave one in all, tasks share it.
    each = 1.0 if spare >= pool.num_actors + 1 else TASK_CPUS
    most = max(1, int(spare / each))
    if most >= pool.num_actors:
        return Readers(each, "")
    return Readers(TASK_CPUS, f"{most} tasks at once read for {pool.num_actors} actors")


def why_too_large(block_bytes: int, num_actors: int) -> str:
    """Return why prepared blocks of that size do not fit into the object store; empty: they do."""
    store_bytes = ray.cluster_resources().get("object_store_memory", 0.0)  # type: ignore[no-untyped-call]
    needed = BLOCKS_OF_ACTOR * num_actors * block_bytes
    if needed <= STORE_SHARE * store_bytes:
        return ""
    return (
        f"prepared patches would take {needed / 1e9:.2g} of the {store_bytes / 1e9:.2g} GB of "
        "Ray's object store"
    )
