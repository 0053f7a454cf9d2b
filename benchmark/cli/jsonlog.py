"""Progress and logs as JSON: each line of stderr is one object, for programs that read logs.

Every object has the same keys: ``time`` (ISO 8601, UTC), ``level``, ``event``, ``stage`` and
``cell`` (null if the line belongs to none or to several), ``message`` (the plain text) and
``numbers``.
"""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

from benchmark.progress import (
    CountedStage,
    Snapshot,
    StageCounts,
    StageEvent,
    StageProgress,
    describe,
)

OPENING = '{"time": "'
"""Start of every line; such lines from elsewhere (a followed job) are passed on unchanged."""


class JsonLog:
    """Writes objects to a stream, one a line; lines of different threads are not mixed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(
        self,
        event: str,
        message: str,
        *,
        level: str = "info",
        stage: str | None = None,
        cell: str | None = None,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Write one object."""
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": level,
            "event": event,
            "stage": stage,
            "cell": cell,
            "message": message,
            "numbers": dict(numbers or {}),
        }
        self.pass_on(json.dumps(record))

    def pass_on(self, line: str) -> None:
        """Write a line that is already an object."""
        with self._lock:
            self._stream.write(f"{line}\n")
            self._stream.flush()


class JsonStream(io.TextIOBase):
    """Replaces stderr and turns each line that libraries print into an object."""

    def __init__(self, log: JsonLog, stream: TextIO) -> None:
        self._log = log
        self._stream = stream
        self._rest = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write the lines that this text completes, and keep the rest for the next call."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._tell(line)
        return len(text)

    def end(self) -> None:
        """Write the last line, which has no newline."""
        with self._lock:
            line, self._rest = self._rest, ""
        self._tell(line)

    def fileno(self) -> int:
        """Return the descriptor of the underlying stream, for child processes."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    def _tell(self, line: str) -> None:
        if line.startswith(OPENING):
            self._log.pass_on(line)
        elif line.strip():
            self._log.write("output", line.rstrip("\r"))


class JsonHandler(logging.Handler):
    """Writes log records, with their tracebacks."""

    def __init__(self, log: JsonLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self._log.write("log", self.format(record), level=record.levelname.lower())
        except Exception:
            self.handleError(record)


@contextmanager
def logging_to(log: JsonLog) -> Iterator[None]:
    """Write warnings of all loggers, and records of the ``benchmark`` logger from INFO on."""
    handler, ours = JsonHandler(log), logging.getLogger("benchmark")
    level = ours.level
    logging.getLogger().addHandler(handler)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        ours.setLevel(level)
        logging.getLogger().removeHandler(handler)


class JsonProgress:
    """Writes each event of a stage as one object; counts of items at most every five seconds."""

    def __init__(self, log: JsonLog, *, stages: Collection[str] = ()) -> None:
        """Write to ``log``; a message that starts with ``STAGE:`` belongs to that stage."""
        self._log = log
        self._stages = stages

    def stage(
        self, name: str, *, num_cells: int, num_items: int | None, unit: str
    ) -> StageProgress:
        """Return the lines of a stage."""
        return _JsonStage(self._log, name, StageCounts(num_cells, num_items), unit)

    def message(self, text: str) -> None:
        """Write the line."""
        first = text.partition(": ")[0]
        self._log.write("message", text, stage=first if first in self._stages else None)


class _JsonStage(CountedStage):
    def __init__(self, log: JsonLog, name: str, counts: StageCounts, unit: str) -> None:
        super().__init__(name, counts, unit)
        self._log = log
        now = counts.snapshot()
        self._show(StageEvent("stage_started", describe(now, unit), now))

    def _show(self, event: StageEvent) -> None:
        cell, now = event.cell, event.now
        if cell is None and len(now.running) == 1:
            # Only the running cell can advance.
            (cell,) = now.running
        numbers = _numbers(now)
        if event.seconds is not None:
            numbers["cell_seconds"] = round(event.seconds, 3)
        self._log.write(
            event.kind,
            f"{self._name}: {event.text}",
            level="error" if event.kind == "cell_failed" else "info",
            stage=self._name,
            cell=cell,
            numbers=numbers,
        )


def _numbers(now: Snapshot) -> dict[str, float]:
    numbers: dict[str, float] = {
        "num_cells": now.num_cells,
        "num_queued": now.num_queued,
        "num_running": len(now.running),
        "num_done": now.num_done,
        "num_failed": now.num_failed,
        "num_items": now.num_items,
        "items_per_s": round(now.items_per_s, 3),
        "seconds": round(now.seconds, 3),
    }
    if now.num_items_wanted is not None:
        numbers["num_items_wanted"] = now.num_items_wanted
    if now.left_s is not None:
        numbers["left_s"] = round(now.left_s, 1)
    return numbers
