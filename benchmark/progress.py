"""What stages tell while they run; the command line shows it, the library only logs it."""

from __future__ import annotations

import logging
import time
from typing import Protocol

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


class LoggedStage:
    """Counts a stage and logs each cell that ends."""

    def __init__(self, name: str, num_cells: int) -> None:
        self._name = name
        self._num_cells = num_cells
        self._num_ended = 0
        self._began = time.monotonic()

    def start(self, cell: str) -> None:
        """A cell has begun."""
        logger.debug("%s: %s started", self._name, cell)

    def advance(self, count: int) -> None:
        """So many more items are done."""
        logger.debug("%s: %d more", self._name, count)

    def done(self, cell: str) -> None:
        """A cell is complete."""
        self._num_ended += 1
        logger.info("%s: %s done (%d/%d)", self._name, cell, self._num_ended, self._num_cells)

    def failed(self, cell: str, reason: str) -> None:
        """A cell has failed."""
        self._num_ended += 1
        logger.error("%s: %s failed: %s", self._name, cell, reason)

    def close(self) -> None:
        """The stage is over."""
        logger.info("%s: %.1f s", self._name, time.monotonic() - self._began)


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
