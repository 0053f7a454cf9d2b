"""The calls of embedding actors: the parts that each computes, and how many run at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.data import ActorPoolStrategy

from benchmark.cluster.pools import Pool
from benchmark.cluster.streaming import READ_AHEAD_BYTES

JOINED_ROWS, JOINED_BYTES = 1024, 64 * 2**20
"""Patches, or their bytes, from which a GPU embeds parts in one call: a call costs some ten
milliseconds beside its patches."""
CALLS_OF_GPU = 3
"""Calls of one actor at once: one unpacks, one computes, and one hands over its embeddings."""
BLOCKS_OF_ACTOR = CALLS_OF_GPU + 1
"""Those of its calls, and one being read."""

Parts = tuple[tuple[str, int], ...]
"""File name and number of patches of each part that is embedded in one call."""


def read_ahead_bytes(num_actors: int, block_bytes: int) -> int:
    """Return the bytes that may wait in the object store: enough for all actors of a pool."""
    return max(READ_AHEAD_BYTES, BLOCKS_OF_ACTOR * num_actors * block_bytes)


@dataclass(frozen=True)
class Task:
    """Parts that are embedded together by one backbone.

    All are computed, and those that a store lacks are written: batches do not depend on how far
    an earlier run came.
    """

    job: int
    """Number of the job."""
    parts: Parts
    """File name and number of patches of each part."""
    missing: tuple[str, ...]
    """Names of the parts to write."""
    splits: tuple[str, ...] | None = None
    """The splits whose patches are read; None: all."""

    @property
    def name(self) -> str:
        """The name of the first part."""
        return self.parts[0][0]

    @property
    def num_rows(self) -> int:
        """The number of patches."""
        return sum(rows for _, rows in self.parts)


def rows_of_call(patch_bytes: int) -> int:
    """Return how many patches of that size are enough for a call of a GPU."""
    return min(JOINED_ROWS, math.ceil(JOINED_BYTES / patch_bytes))


def join_parts(parts: Sequence[Mapping[str, Any]], patch_bytes: int) -> list[Parts]:
    """Join neighbouring parts until they are enough for a call of a GPU.

    Args:
        parts: of the manifest of ``patches``, in order; none is empty.
        patch_bytes: of one patch.
    """
    enough = rows_of_call(patch_bytes)
    joined: list[list[tuple[str, int]]] = []
    num_rows = enough
    for part in parts:
        if num_rows >= enough:
            joined.append([])
            num_rows = 0
        joined[-1].append((part["name"], part["num_rows"]))
        num_rows += part["num_rows"]
    return [tuple(group) for group in joined]


def group_parts(parts: Sequence[Mapping[str, Any]], patch_bytes: int | None) -> list[Parts]:
    """Return the parts of each call: joined for a GPU, else (``patch_bytes`` is None) one."""
    if patch_bytes is not None:
        return join_parts(parts, patch_bytes)
    return [((part["name"], part["num_rows"]),) for part in parts]


def actor_strategy(pool: Pool, num_tasks: int) -> ActorPoolStrategy:
    """Return how Ray Data calls the actors: those on GPUs get several calls at once."""
    size = min(pool.num_actors, num_tasks)
    if not pool.num_gpus:
        return ActorPoolStrategy(size=size)
    return ActorPoolStrategy(
        size=size,
        max_concurrent_calls_per_actor=CALLS_OF_GPU,
        max_tasks_in_flight_per_actor=BLOCKS_OF_ACTOR,
        enable_true_multi_threading=True,
    )
