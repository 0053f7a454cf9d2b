"""What stages tell while they run; the command line shows it, the library only logs it.

Stages may run side by side, and a stage may tell from several threads: whoever receives it counts
with ``StageCounts``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

logger = logging.getLogger("benchmark")


class StageProgress(Protocol):
    """The counters of one stage."""

    def start(self, cell: str) -> None:
        """A cell has begun."""

    def advance(self, count: int) -> None:
        """So many more items (patches, trials) are done."""

    def done(self, cell: str) -> None:
        """A cell is complete."""

    def failed(self, cell: str, reason: str) -> None:
        """A cell has failed."""

    def close(self) -> None:
        """The stage is over."""


class Progress(Protocol):
    """Receives the progress of every stage."""

    def stage(
        self, name: str, *, num_cells: int, num_items: int | None, unit: str
    ) -> StageProgress:
        """Begin a stage of so many cells and, where known, so many items of a unit."""
        ...

    def message(self, text: str) -> None:
        """Say one line: what was decided, noticed or skipped."""


class Snapshot(NamedTuple):
    """The counters of a stage at one moment."""

    num_cells: int
    running: tuple[str, ...]
    """The cells at work, in the order in which they began."""
    num_done: int
    num_failed: int
    num_items: int
    """That are done."""
    num_items_wanted: int | None
    """None: not known."""
    seconds: float
    """Since the stage began."""

    @property
    def num_queued(self) -> int:
        """Cells that have not begun."""
        return max(0, self.num_cells - len(self.running) - self.num_done - self.num_failed)

    @property
    def num_items_queued(self) -> int:
        """Items that are not done, as far as it is known how many there are."""
        return max(0, (self.num_items_wanted or 0) - self.num_items)

    @property
    def items_per_s(self) -> float:
        """Items a second since the stage began."""
        return self.num_items / self.seconds if self.seconds else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the last item at that rate; None where that cannot be told."""
        rate = self.items_per_s
        return self.num_items_queued / rate if self.num_items_wanted and rate else None

    def __str__(self) -> str:
        text = f"{self.num_done}/{self.num_cells} cells, {len(self.running)} running"
        return text + (f", {self.num_failed} failed" if self.num_failed else "")


class StageCounts:
    """Counts the cells and items of a stage; may be called from any thread."""

    def __init__(
        self,
        num_cells: int,
        num_items: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_cells, self._num_items_wanted = num_cells, num_items
        self._clock, self._began = clock, clock()
        self._running: dict[str, float] = {}
        self._num_done = self._num_failed = self._num_items = 0
        self._lock = threading.Lock()

    def start(self, cell: str) -> Snapshot:
        """Count a cell that has begun."""
        with self._lock:
            self._running[cell] = self._clock()
            return self._snapshot()

    def advance(self, count: int) -> Snapshot:
        """Count items that are done."""
        with self._lock:
            self._num_items += count
            return self._snapshot()

    def end(self, cell: str, *, failed: bool) -> tuple[Snapshot, float | None]:
        """Count a cell that ended; returns its seconds, too, where it had begun."""
        with self._lock:
            began = self._running.pop(cell, None)
            self._num_done += not failed
            self._num_failed += failed
            return self._snapshot(), None if began is None else self._clock() - began

    def snapshot(self) -> Snapshot:
        """Return the counters as they are now."""
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            num_cells=self._num_cells,
            running=tuple(self._running),
            num_done=self._num_done,
            num_failed=self._num_failed,
            num_items=self._num_items,
            num_items_wanted=self._num_items_wanted,
            seconds=self._clock() - self._began,
        )


def describe(now: Snapshot, unit: str, *, ended: bool = False) -> str:
    """Return the counters of a stage as a line: cells, items, rate, and what is left or it took."""
    of = f"/{now.num_items_wanted}" if now.num_items_wanted else ""
    text = f"{now}, {now.num_items}{of} {unit}, {now.items_per_s:.1f} {unit}/s"
    if ended:
        return f"{text}, {now.seconds:.1f} s"
    return text if now.left_s is None else f"{text}, {now.left_s:.0f} s left"


class Pace:
    """Says at most every so many seconds that a line is due; may be asked from any thread."""

    def __init__(self, every_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._last = clock()
        self._lock = threading.Lock()

    def is_due(self) -> bool:
        """Return whether it is time for a line, which whoever asked then writes."""
        with self._lock:
            now = self._clock()
            if now - self._last < self._every_s:
                return False
            self._last = now
            return True


class LoggedStage:
    """Counts a stage and logs each cell that ends."""

    def __init__(self, name: str, num_cells: int) -> None:
        self._name = name
        self._counts = StageCounts(num_cells)

    def start(self, cell: str) -> None:
        """A cell has begun."""
        self._counts.start(cell)
        logger.debug("%s: %s started", self._name, cell)

    def advance(self, count: int) -> None:
        """So many more items are done."""
        logger.debug("%s: %d more", self._name, count)

    def done(self, cell: str) -> None:
        """A cell is complete."""
        now, _ = self._counts.end(cell, failed=False)
        num_ended = now.num_done + now.num_failed
        logger.info("%s: %s done (%d/%d)", self._name, cell, num_ended, now.num_cells)

    def failed(self, cell: str, reason: str) -> None:
        """A cell has failed."""
        self._counts.end(cell, failed=True)
        logger.error("%s: %s failed: %s", self._name, cell, reason)

    def close(self) -> None:
        """The stage is over."""
        logger.info("%s: %.1f s", self._name, self._counts.snapshot().seconds)


class LoggedProgress:
    """The progress of a library call: the ``benchmark`` logger."""

    def stage(
        self, name: str, *, num_cells: int, num_items: int | None, unit: str
    ) -> StageProgress:
        """Begin a stage."""
        logger.info("%s: %d cells, %s %s", name, num_cells, num_items, unit)
        return LoggedStage(name, num_cells)

    def message(self, text: str) -> None:
        """Log the line."""
        logger.info("%s", text)
