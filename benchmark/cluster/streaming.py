"""Build Ray Data pipelines: many small read tasks in, one status row per item out.

Each item of work is one read task and one block, so that batches never depend on the number of
workers, and a finished item can be committed and skipped by the next run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from benchmark.environment import PROGRESS_TIMEOUT, read_seconds
from benchmark.errors import CellError
from benchmark.tables import PatchTable

if TYPE_CHECKING:
    import ray.data
    from ray import ObjectRef

READ_AHEAD_BYTES = 512 * 2**20
"""Bound on blocks that wait in the object store, so that memory does not grow with the data; large
pools of actors have a larger one."""

TASK_CPUS = 0.25
"""Booked by a read or write task: they wait for disks, and must fit beside the actors."""


class Items(Datasource):
    """A Ray Data source in which every item is read by one task into one block."""

    def __init__(
        self,
        name: str,
        items: Sequence[Any],
        read: Callable[[Any], pa.Table],
        *,
        item_bytes: int = 1024,
    ) -> None:
        """Read ``items`` with ``read``, which is shipped to workers by name.

        Args:
            name: shown in Ray's own messages.
            items: picklable descriptions of work, in the order in which to start it.
            read: turns one item into one block.
            item_bytes: estimate of a block's size.
        """
        super().__init__()
        self._name = name
        self._items = list(items)
        self._read = read
        self._item_bytes = int(item_bytes)

    def get_name(self) -> str:
        """Return the name for Ray's messages."""
        return self._name

    def estimate_inmemory_data_size(self) -> int:
        """Return an estimate of the bytes of all blocks."""
        return self._item_bytes * len(self._items)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[ReadTask]:
        """Return one task for each item, whatever parallelism Ray asks for.

        A task holds its item and a reference to ``read``, which may hold a whole data set's index.
        """
        import ray

        del parallelism, data_context
        reader = ray.put(self._read)
        return [
            ReadTask(
                partial(_read_block, reader, item),
                BlockMetadata(
                    num_rows=None,
                    size_bytes=self._item_bytes,
                    exec_stats=None,
                    input_files=None,
                ),
                schema=None,
                per_task_row_limit=per_task_row_limit,
            )
            for item in self._items
        ]


class ReadRows:
    """Reads the rows of some splits of one part of ``patches`` into one block; needs no torch."""

    def __init__(self, patches: PatchTable, splits: tuple[str, ...]) -> None:
        """Read from ``patches``."""
        self._patches = patches
        self._splits = splits

    def __call__(self, name: str) -> pa.Table:
        """Return identities, labels and images of a part."""
        return self._patches.read_table(
            names=[name], columns=["patch_id", "label", "image"], splits=self._splits
        )


@lru_cache(maxsize=1)
def _fetch(reader: ObjectRef[Any]) -> Callable[[Any], pa.Table]:
    """Return the function behind a reference, fetched once per process."""
    import ray

    read: Callable[[Any], pa.Table] = ray.get(reader)
    return read


def _read_block(reader: ObjectRef[Any], item: Any) -> list[pa.Table]:
    return [_fetch(reader)(item)]


def read_items(
    source: Items,
    *,
    num_items: int,
    num_cpus: float = TASK_CPUS,
    keeps_order: bool = False,
    most_cpus: float | None = None,
    read_ahead_bytes: int = READ_AHEAD_BYTES,
) -> ray.data.Dataset:
    """Return a dataset over ``source`` with settings that prevent hanging.

    The dataset copies the settings, so they are made before it.

    Args:
        source: the items.
        num_items: how many there are.
        num_cpus: booked by a read task.
        keeps_order: whether blocks come in the order of the items.
        most_cpus: limit for the whole pipeline; None: all that are free.
        read_ahead_bytes: limit for blocks that wait in the object store.
    """
    import ray.data
    from ray.data import ExecutionResources

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = read_seconds(PROGRESS_TIMEOUT)
    context.execution_options.resource_limits = ExecutionResources(
        cpu=most_cpus, object_store_memory=read_ahead_bytes
    )
    context.execution_options.preserve_order = keeps_order
    dataset: ray.data.Dataset = ray.data.read_datasource(
        source, override_num_blocks=num_items, num_cpus=num_cpus
    )
    return dataset


def status_rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Run the pipeline and yield its rows as they come.

    Raises:
        CellError: no progress for ``BENCHMARK_PROGRESS_TIMEOUT_S``.
    """
    from ray.data.exceptions import ExecutionTimeoutError

    tables: Iterable[Any] = dataset.iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=0
    )
    try:
        for table in tables:
            yield from table.to_pylist()
    except ExecutionTimeoutError:
        raise CellError(
            f"no progress for {read_seconds(PROGRESS_TIMEOUT):g} s: no machine has a free CPU to "
            "read or write, or a task hangs"
        ) from None
