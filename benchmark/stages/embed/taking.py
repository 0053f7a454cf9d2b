"""What a product's vectors are taken with: Ray tasks that answer with bytes, or a reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.cluster.streaming import Items, read_items, status_rows
from benchmark.errors import UsageError
from benchmark.experiment.context import Context


class Taken(NamedTuple):
    """The vectors of some patches."""

    vectors: NDArray[np.float32]
    """(n, D); NaN: the product lacks the patch."""
    empty_shares: NDArray[np.float32] | None = None
    """Share of each footprint's pixels that hold no data, (n,); None: there are no pixels."""


class Taker(Protocol):
    """Takes the vectors of patches from a product."""

    @property
    def rule(self) -> str:
        """How the patches are found in the product, for users."""
        ...

    def take(self, patches: NDArray[np.int64]) -> Taken:
        """Return the vectors of patches, given their numbers (n,).

        Raises:
            UsageError: the product is damaged, or a vector is not finite.
        """
        ...


class Tasks:
    """Runs the tasks of a product, and counts their seconds."""

    def __init__(self, context: Context) -> None:
        """Run on the cluster of ``context``."""
        self._context = context
        self.busy_s = 0.0

    def run(
        self, read: Callable[[Any], pa.Table], items: Sequence[tuple[int, Any]]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the number and result of each item, in any order.

        Raises:
            UsageError: a task found a mistake of the user.
        """
        if not items:
            return
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
            self.busy_s += row["seconds"]
            yield row["number"], row["content"]


def answer(number: int, work: Callable[[], NDArray[Any]]) -> pa.Table:
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
