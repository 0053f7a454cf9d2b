"""Stream train: Ray Data reads part files in a new order in every epoch.

For splits larger than memory. Besides the order of the parts, a window of patches is shuffled;
every patch occurs exactly once per epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from benchmark.cluster.streaming import Items, ReadRows, read_items
from benchmark.tables import PatchTable, count_rows, images_array
from benchmark.training.feeds import WHOLE, Batch, Shard

WINDOW_BYTES = 256 * 2**20
"""Size of the patches that one worker shuffles together."""


class StreamFeed:
    """One worker's part files of train, read again in every epoch."""

    def __init__(
        self,
        patches: PatchTable,
        shape: tuple[int, int, int],
        splits: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        shard: Shard = WHOLE,
        window: int | None = None,
    ) -> None:
        """Stream the rows of ``splits``.

        Args:
            patches: the table.
            shape: (C, H, W) of a patch.
            splits: to read.
            batch_size: patches of one step, over all workers.
            seed: of the orders.
            shard: of this worker.
            window: patches that are shuffled together; None takes ``WINDOW_BYTES`` of them.
        """
        self._patches = patches
        self._shape = shape
        self._splits = tuple(splits)
        self._seed = seed
        self._shard = shard
        self._rows = count_rows(patches, splits)
        self._share = max(1, batch_size // shard.world)
        self._window = window or max(2, WINDOW_BYTES // int(np.prod(shape)))
        self._num_steps = max(
            -(-sum(self._rows[name] for name in names) // self._share) for names in self._assign(0)
        )

    @property
    def num_steps(self) -> int:
        """Batches of an epoch: as many as the worker with the most patches needs."""
        return self._num_steps

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield this worker's batches of an epoch; those before ``first_step`` are skipped."""
        assigned = self._assign(epoch)
        totals = [sum(self._rows[name] for name in names) for names in assigned]
        batches = self._read(assigned[self._shard.rank], epoch)
        for step in range(self._num_steps):
            begin = step * self._share
            sizes = [min(max(0, total - begin), self._share) for total in totals]
            table = next(batches) if sizes[self._shard.rank] else None
            if step < first_step:
                continue
            before = sum(sizes[: self._shard.rank])
            yield self._batch(table, before, sum(sizes))

    def _assign(self, epoch: int) -> list[list[str]]:
        """Assign the parts to the workers, each to the one with the fewest patches so far.

        A worker has the same parts in every epoch, so that all know the number of steps; the order
        in which it reads them changes.
        """
        assigned: list[list[str]] = [[] for _ in range(self._shard.world)]
        sums = [0] * self._shard.world
        for name in sorted(self._rows, key=lambda item: (-self._rows[item], item)):
            rank = sums.index(min(sums))
            assigned[rank].append(name)
            sums[rank] += self._rows[name]
        for rank, names in enumerate(assigned):
            order = np.random.default_rng([self._seed, epoch, rank]).permutation(len(names))
            assigned[rank] = [names[i] for i in order]
        return assigned

    def _read(self, names: Sequence[str], epoch: int) -> Iterator[pa.Table]:
        if not names:
            return
        source = Items(
            "train",
            names,
            ReadRows(self._patches, self._splits),
            item_bytes=max(self._rows.values()) * int(np.prod(self._shape)),
        )
        dataset = read_items(source, num_items=len(names), keeps_order=True)
        yield from dataset.iter_batches(
            batch_size=self._share,
            batch_format="pyarrow",
            local_shuffle_buffer_size=self._window,
            local_shuffle_seed=(self._seed * 1_000_003 + epoch * 1009 + self._shard.rank) % 2**31,
        )

    def _batch(self, table: pa.Table | None, before: int, num_global: int) -> Batch:
        if table is None:
            return Batch(
                np.empty(0, np.str_),
                torch.empty((0, *self._shape), dtype=torch.uint8),
                torch.empty(0, dtype=torch.int64),
                torch.empty(0, dtype=torch.int64),
                num_global,
            )
        count = table.num_rows
        pixels = images_array(table["image"], self._shape)
        return Batch(
            table["patch_id"].to_numpy().astype(np.str_),
            torch.from_numpy(np.array(pixels)),
            torch.from_numpy(table["label"].to_numpy().astype(np.int64)),
            torch.arange(before, before + count),
            num_global,
        )
