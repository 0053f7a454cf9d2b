"""Progress of running stages: the command line shows it, the library only logs it.

Stages may run in parallel and report from several threads; receivers count with ``StageCounts``.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol

logger = logging.getLogger("benchmark")

LINE_EVERY_S = 5.0
RATE_AFTER_S = 1.0
"""Shortest time of a rate: parallel tasks report in bursts."""


class StageProgress(Protocol):
    """The counters of one stage."""

    def start(self, cell: str) -> None:
        """Report that a cell has started."""

    def advance(self, count: int) -> None:
        """Report ``count`` more completed items (patches, trials)."""

    def done(self, cell: str) -> None:
        """Report that a cell is complete."""

    def failed(self, cell: str, reason: str) -> None:
        """Report that a cell has failed."""

    def close(self) -> None:
        """Report that the stage has ended."""


class Progress(Protocol):
    """Receives the progress of every stage."""

    def stage(
        self, name: str, *, num_cells: int, num_items: int | None, unit: str
    ) -> StageProgress:
        """Start a stage of ``num_cells`` cells and, if known, ``num_items`` items of a unit."""
        ...

    def message(self, text: str) -> None:
        """Report one line: a decision, a warning or something skipped."""


class Snapshot(NamedTuple):
    """The counters of a stage at one moment."""

    num_cells: int
    running: tuple[str, ...]
    """Cells that are running, in the order of their start."""
    num_done: int
    num_failed: int
    num_items: int
    """Completed items."""
    num_items_wanted: int | None
    """Total number of items; None: unknown."""
    seconds: float
    """Seconds since the stage started."""
    num_since: int = 0
    """Items completed after the first report of items, which may be of an earlier run."""
    since_s: float = 0.0
    """Seconds since that report."""

    @property
    def num_queued(self) -> int:
        """Cells that have not started."""
        return max(0, self.num_cells - len(self.running) - self.num_done - self.num_failed)

    @property
    def num_items_queued(self) -> int:
        """Items left; 0 if their total is unknown."""
        return max(0, (self.num_items_wanted or 0) - self.num_items)

    @property
    def items_per_s(self) -> float:
        """Items per second since the first report, so that the start of processes is left out."""
        return self.num_since / self.since_s if self.has_rate else self.items_per_s_of_all

    @property
    def has_rate(self) -> bool:
        """Whether items were reported for long enough to tell a rate."""
        return bool(self.num_since) and self.since_s > 0 and self.since_s >= RATE_AFTER_S

    @property
    def items_per_s_of_all(self) -> float:
        """Items per second since the stage started."""
        return self.num_items / self.seconds if self.seconds else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the last item at that rate; None if unknown."""
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
        self._first: tuple[int, float] | None = None
        """The items of the first report, and its time."""
        self._lock = threading.Lock()

    def start(self, cell: str) -> Snapshot:
        """Count a cell that starts."""
        with self._lock:
            self._running[cell] = self._clock()
            return self._snapshot()

    def advance(self, count: int) -> Snapshot:
        """Count completed items."""
        with self._lock:
            self._num_items += count
            if count and self._first is None:
                self._first = count, self._clock()
            return self._snapshot()

    def end(self, cell: str, *, failed: bool) -> tuple[Snapshot, float | None]:
        """Count a cell that ended; return also its seconds, None if its start was not counted."""
        with self._lock:
            began = self._running.pop(cell, None)
            self._num_done += not failed
            self._num_failed += failed
            return self._snapshot(), None if began is None else self._clock() - began

    def snapshot(self) -> Snapshot:
        """Return the current counters."""
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> Snapshot:
        now = self._clock()
        num_first, first_at = self._first or (0, now)
        return Snapshot(
            num_cells=self._num_cells,
            running=tuple(self._running),
            num_done=self._num_done,
            num_failed=self._num_failed,
            num_items=self._num_items,
            num_items_wanted=self._num_items_wanted,
            seconds=now - self._began,
            num_since=self._num_items - num_first if self._first else 0,
            since_s=now - first_at,
        )


def describe(now: Snapshot, unit: str, *, ended: bool = False) -> str:
    """Return the counters of a stage as a line: cells, items, rate, and time left or taken."""
    of = f"/{now.num_items_wanted}" if now.num_items_wanted else ""
    rate = now.items_per_s_of_all if ended else now.items_per_s
    text = f"{now}, {now.num_items}{of} {unit}, {rate:.1f} {unit}/s"
    if ended:
        return f"{text}, {now.seconds:.1f} s"
    return text if now.left_s is None else f"{text}, {now.left_s:.0f} s left"


class Pace:
    """Limits lines to one every ``every_s`` seconds; may be asked from any thread."""

    def __init__(self, every_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._last = clock()
        self._lock = threading.Lock()

    def is_due(self) -> bool:
        """Return whether a line is due; True obliges the caller to write it."""
        with self._lock:
            now = self._clock()
            if now - self._last < self._every_s:
                return False
            self._last = now
            return True


class StageEvent(NamedTuple):
    """A change of a stage that is shown."""

    kind: str
    """``stage_started``, ``cell_started``, ``progress``, ``cell_done``, ``cell_failed`` or
    ``stage_ended``."""
    text: str
    now: Snapshot
    cell: str | None = None
    seconds: float | None = None
    """Duration of a cell that ended; None if its start was not counted."""


class CountedStage(ABC):
    """Counts a stage and passes each change to ``_show``; items at most every five seconds."""

    def __init__(self, name: str, counts: StageCounts, unit: str) -> None:
        self._name, self._counts, self._unit = name, counts, unit
        self._pace = Pace(LINE_EVERY_S)

    @abstractmethod
    def _show(self, event: StageEvent) -> None: ...

    def start(self, cell: str) -> None:
        """Count a cell that starts."""
        self._show(StageEvent("cell_started", f"{cell} started", self._counts.start(cell), cell))

    def advance(self, count: int) -> None:
        """Count completed items."""
        now = self._counts.advance(count)
        if now.has_rate and self._pace.is_due():
            self._show(StageEvent("progress", describe(now, self._unit), now))

    def done(self, cell: str) -> None:
        """Count a complete cell."""
        now, seconds = self._counts.end(cell, failed=False)
        self._show(StageEvent("cell_done", f"{cell} done", now, cell, seconds))

    def failed(self, cell: str, reason: str) -> None:
        """Count a failed cell."""
        now, seconds = self._counts.end(cell, failed=True)
        self._show(StageEvent("cell_failed", f"{cell} failed: {reason}", now, cell, seconds))

    def close(self) -> None:
        """End the stage."""
        now = self._counts.snapshot()
        self._show(StageEvent("stage_ended", describe(now, self._unit, ended=True), now))


class LoggedStage(CountedStage):
    """Counts a stage and logs each cell that ends."""

    def advance(self, count: int) -> None:
        """Log completed items."""
        logger.debug("%s: %d more", self._name, count)

    def _show(self, event: StageEvent) -> None:
        text, now = event.text, event.now
        if event.kind == "cell_done":
            text = f"{text} ({now.num_done + now.num_failed}/{now.num_cells})"
        elif event.kind == "stage_ended":
            text = f"{now.seconds:.1f} s"
        levels = {"cell_started": logging.DEBUG, "cell_failed": logging.ERROR}
        logger.log(levels.get(event.kind, logging.INFO), "%s: %s", self._name, text)


class LoggedProgress:
    """Progress of a library call, written to the ``benchmark`` logger."""

    def stage(
        self, name: str, *, num_cells: int, num_items: int | None, unit: str
    ) -> StageProgress:
        """Log the start of a stage."""
        logger.info("%s: %d cells, %s %s", name, num_cells, num_items, unit)
        return LoggedStage(name, StageCounts(num_cells, num_items), unit)

    def message(self, text: str) -> None:
        """Log the line."""
        logger.info("%s", text)


_listener: ContextVar[Progress] = ContextVar("listener")


@contextmanager
def heard_by(progress: Progress) -> Iterator[None]:
    """Let ``progress`` receive what ``say`` says in this thread."""
    token = _listener.set(progress)
    try:
        yield
    finally:
        _listener.reset(token)


def say(text: str) -> None:
    """Report one line from where no ``Progress`` is handed down, such as the opening of data."""
    _listener.get(LoggedProgress()).message(text)
