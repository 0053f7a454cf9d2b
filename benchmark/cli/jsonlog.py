"""Progress and logs as JSON: each line of stderr is one object, for programs that read logs.

Every object has the same keys: ``time`` (ISO 8601, UTC), ``level``, ``event``, ``stage`` and
``cell`` (null where the line is of none, or of several), ``message`` (what the plain line would
say), and ``numbers``.
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

from benchmark.progress import Pace, Snapshot, StageCounts, StageProgress, describe

LINE_EVERY_S = 5.0

OPENING = '{"time": "'
"""How every line begins; one that comes from elsewhere (a followed job) is passed on as it is."""


class JsonLog:
    """Writes objects to a stream, whole lines from whichever thread."""

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
        """Write a line that is an object already."""
        with self._lock:
            self._stream.write(f"{line}\n")
            self._stream.flush()


class JsonStream(io.TextIOBase):
    """Stands for stderr: what libraries print there becomes objects, line by line."""

    def __init__(self, log: JsonLog, stream: TextIO) -> None:
        self._log = log
        self._stream = stream
        self._rest = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write the lines that end in this text, and keep the rest for the next."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._tell(line)
        return len(text)

    def end(self) -> None:
        """Write what has no end of line."""
        with self._lock:
            line, self._rest = self._rest, ""
        self._tell(line)

    def fileno(self) -> int:
        """Return the descriptor of the stream behind it, for processes that are started."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return that it can be written."""
        return True

    def _tell(self, line: str) -> None:
        if line.startswith(OPENING):
            self._log.pass_on(line)
        elif line.strip():
            self._log.write("output", line.rstrip("\r"))


class JsonHandler(logging.Handler):
    """Writes what loggers say, a traceback with it."""

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
    """Write what all loggers warn of, and what that of ``benchmark`` tells."""
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
    """Each thing that a stage tells as one object; those of items at most every five seconds."""

    def __init__(self, log: JsonLog, *, stages: Collection[str] = ()) -> None:
        """Write to ``log``; a message that begins with one of ``stages`` and a colon is its."""
        self._log = log
        self._stages = stages

    def __enter__(self) -> JsonProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stage(
        self, name: str, *, num_cells: int, num_items: int | None, unit: str
    ) -> StageProgress:
        """Begin the lines of a stage."""
        return _JsonStage(self._log, name, StageCounts(num_cells, num_items), unit)

    def message(self, text: str) -> None:
        """Write the line."""
        first = text.partition(": ")[0]
        self._log.write("message", text, stage=first if first in self._stages else None)


class _JsonStage:
    def __init__(self, log: JsonLog, name: str, counts: StageCounts, unit: str) -> None:
        self._log, self._name, self._counts, self._unit = log, name, counts, unit
        self._pace = Pace(LINE_EVERY_S)
        self._tell("stage_started", counts.snapshot())

    def start(self, cell: str) -> None:
        self._tell("cell_started", self._counts.start(cell), cell=cell, message="started")

    def advance(self, count: int) -> None:
        now = self._counts.advance(count)
        if self._pace.is_due():
            self._tell("progress", now)

    def done(self, cell: str) -> None:
        self._end("cell_done", cell, "done", failed=False)

    def failed(self, cell: str, reason: str) -> None:
        self._end("cell_failed", cell, f"failed: {reason}", failed=True)

    def close(self) -> None:
        now = self._counts.snapshot()
        self._tell("stage_ended", now, message=describe(now, self._unit, ended=True))

    def _end(self, event: str, cell: str, message: str, *, failed: bool) -> None:
        now, seconds = self._counts.end(cell, failed=failed)
        more = {} if seconds is None else {"cell_seconds": round(seconds, 3)}
        level = "error" if failed else "info"
        self._tell(event, now, cell=cell, message=message, level=level, more=more)

    def _tell(
        self,
        event: str,
        now: Snapshot,
        *,
        cell: str | None = None,
        message: str = "",
        level: str = "info",
        more: Mapping[str, float] | None = None,
    ) -> None:
        what = f"{cell} {message}" if cell else message or describe(now, self._unit)
        if cell is None and len(now.running) == 1:
            # What advances can only be the one that runs.
            (cell,) = now.running
        self._log.write(
            event,
            f"{self._name}: {what}",
            level=level,
            stage=self._name,
            cell=cell,
            numbers=_numbers(now) | dict(more or {}),
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
