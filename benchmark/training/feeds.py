"""Input of a training: batches of train, and the rows of val and test.

Every patch of train occurs exactly once per epoch, and each worker gets a shard of every batch. In
memory, the patches of a batch do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from benchmark.tables import PatchTable, count_rows, images_array

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Samples(NamedTuple):
    """Patches in memory, sorted by ``patch_id``."""

    ids: NDArray[np.str_]
    pixels: torch.Tensor
    """uint8 (N, C, H, W)."""
    labels: torch.Tensor
    """int64 (N,); empty if labels are withheld."""


class Batch(NamedTuple):
    """One worker's share of one step."""

    ids: NDArray[np.str_]
    pixels: torch.Tensor
    """uint8 (B, C, H, W)."""
    labels: torch.Tensor
    """int64 (B,)."""
    positions: torch.Tensor
    """int64 (B,): places of these patches in the batch of all workers."""
    num_global: int
    """Patches of the batch of all workers."""


class Shard(NamedTuple):
    """Rank of this worker, and number of workers."""

    rank: int = 0
    world: int = 1


WHOLE = Shard()


class Feed(Protocol):
    """Source of the batches of train, epoch by epoch."""

    @property
    def num_steps(self) -> int:
        """Batches of an epoch, the same for every worker."""
        ...

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield this worker's batches of an epoch (from 0), from ``first_step`` on."""
        ...


class MemoryFeed:
    """Train in memory, or on the device; a new order in every epoch."""

    def __init__(
        self, samples: Samples, *, batch_size: int, seed: int, shard: Shard = WHOLE
    ) -> None:
        """Feed ``samples`` in batches of ``batch_size`` patches over all workers."""
        self._samples = samples
        self._batch_size = batch_size
        self._seed = seed
        self._shard = shard

    @property
    def num_steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._samples.ids) // self._batch_size)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield this worker's batches of an epoch, from ``first_step`` on."""
        ids, pixels, labels = self._samples
        order = np.random.default_rng([self._seed, epoch]).permutation(len(ids))
        for step in range(first_step, self.num_steps):
            rows = order[step * self._batch_size : (step + 1) * self._batch_size]
            positions = np.arange(self._shard.rank, len(rows), self._shard.world)
            mine = rows[positions]
            at = torch.from_numpy(mine).to(pixels.device)
            yield Batch(ids[mine], pixels[at], labels[at], torch.from_numpy(positions), len(rows))


def read_samples(
    patches: PatchTable,
    shape: tuple[int, int, int],
    splits: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    with_labels: bool = True,
) -> Samples:
    """Read the patches of some splits into memory.

    Args:
        patches: the table ``patches``.
        shape: (C, H, W) of a patch.
        splits: which rows.
        names: of part files; None reads all.
        with_labels: False withholds the labels: predictions must not see them.
    """
    columns = ["patch_id", "label", "image"] if with_labels else ["patch_id", "image"]
    ids: list[NDArray[np.str_]] = []
    pixels: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    for name in patches.files("part-") if names is None else names:
        table = patches.read_table(names=[name], columns=columns, splits=splits)
        if not table.num_rows:
            continue
        ids.append(table["patch_id"].to_numpy().astype(np.str_))
        pixels.append(images_array(table["image"], shape))
        if with_labels:
            labels.append(table["label"].to_numpy().astype(np.int64))
    all_ids = np.concatenate([*ids, np.empty(0, np.str_)])
    images = np.concatenate([*pixels, np.empty((0, *shape), np.uint8)])
    del pixels
    all_labels = np.concatenate([*labels, np.empty(0, np.int64)])
    if not (all_ids[:-1] <= all_ids[1:]).all():
        order = np.argsort(all_ids)
        all_ids, images = all_ids[order], images[order]
        all_labels = all_labels[order] if len(all_labels) else all_labels
    return Samples(all_ids, torch.from_numpy(images), torch.from_numpy(all_labels))


class SplitReader:
    """One worker's rows of val or test, part by part.

    Parts that fit into memory are kept after the first pass; others are read in every pass.
    """

    def __init__(
        self,
        patches: PatchTable,
        shape: tuple[int, int, int],
        split: str,
        *,
        shard: Shard = WHOLE,
        with_labels: bool,
        keep_bytes: int = 0,
    ) -> None:
        """Read ``split`` of ``patches``, whose images have ``shape`` (C, H, W).

        Args:
            patches: the table.
            shape: (C, H, W).
            split: val or test.
            shard: of this worker, in part files.
            with_labels: False withholds the labels.
            keep_bytes: memory for parts kept between passes.
        """
        self._patches = patches
        self._shape = shape
        self._split = split
        self._with_labels = with_labels
        self._keep_bytes = keep_bytes
        self._names = list(count_rows(patches, (split,)))[shard.rank :: shard.world]
        self._kept: dict[str, Samples] = {}

    def __iter__(self) -> Iterator[Samples]:
        for name in self._names:
            samples = self._kept.get(name)
            if samples is None:
                samples = read_samples(
                    self._patches,
                    self._shape,
                    (self._split,),
                    names=[name],
                    with_labels=self._with_labels,
                )
                if samples.pixels.numel() <= self._keep_bytes:
                    self._keep_bytes -= samples.pixels.numel()
                    self._kept[name] = samples
            yield samples
