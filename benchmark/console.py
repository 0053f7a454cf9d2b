"""Progress on the terminal: live bars, or plain lines where stderr is no terminal."""

from __future__ import annotations

import threading
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from benchmark.progress import StageProgress

LINE_EVERY_S = 5.0


class _Rate(ProgressColumn):
    """Items per second, e.g. ``48 patches/s``."""

    def render(self, task: Task) -> Text:
        unit = task.fields.get("unit", "")
        if not task.speed:
            return Text("")
        return Text(f"{task.speed:.{0 if task.speed >= 10 else 1}f} {unit}/s")


class Counts:
    """How many cells of a stage are running, done and failed."""

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self.running: set[str] = set()
        self.num_done = 0
        self.num_failed = 0

    def __str__(self) -> str:
        text = f"{self.num_done}/{self.num_cells} cells, {len(self.running)} running"
        return text + (f", {self.num_failed} failed" if self.num_failed else "")

    def end(self, cell: str, *, failed: bool) -> None:
        """Count a cell that ended."""
        self.running.discard(cell)
        self.num_done += not failed
        self.num_failed += failed


class LiveProgress:
    """Bars on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("[bold]{task.description:<8}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[counts]}"),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=False,
        )

    def __enter__(self) -> LiveProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(
        self, name: str, *, num_cells: int, num_items: int | None, unit: str
    ) -> StageProgress:
        """Add a bar."""
        counts = Counts(num_cells)
        task = self._bars.add_task(name, total=num_items, counts=str(counts), unit=unit)
        return _LiveStage(self._bars, task, counts, name)

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(escape(text), highlight=False)


class _LiveStage:
    def __init__(self, bars: Progress, task: TaskID, counts: Counts, name: str) -> None:
        self._bars, self._task, self._counts, self._name = bars, task, counts, name

    def start(self, cell: str) -> None:
        self._counts.running.add(cell)
        self._bars.update(self._task, counts=str(self._counts))

    def advance(self, count: int) -> None:
        self._bars.advance(self._task, count)

    def done(self, cell: str) -> None:
        self._counts.end(cell, failed=False)
        self._bars.update(self._task, counts=str(self._counts))

    def failed(self, cell: str, reason: str) -> None:
        self._counts.end(cell, failed=True)
        self._bars.update(self._task, counts=str(self._counts))
        self._bars.console.print(
            f"[red]{self._name}: {escape(cell)} failed:[/red] {escape(reason)}", highlight=False
        )

    def close(self) -> None:
        task = next(item for item in self._bars.tasks if item.id == self._task)
        self._bars.update(self._task, total=task.total or task.completed, counts=str(self._counts))
        self._bars.stop_task(self._task)


class PlainProgress:
    """One line every few seconds, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stage(
        self, name: str, *, num_cells: int, num_items: int | None, unit: str
    ) -> StageProgress:
        """Begin the lines of a stage."""
        return _PlainStage(self._console, name, Counts(num_cells), num_items, unit)

    def message(self, text: str) -> None:
        """Print the line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _PlainStage:
    def __init__(
        self, console: Console, name: str, counts: Counts, num_items: int | None, unit: str
    ) -> None:
        self._console, self._name, self._counts = console, name, counts
        self._num_items, self._unit = num_items, unit
        self._items = 0
        self._began = self._printed = time.monotonic()
        self._lock = threading.Lock()

    def start(self, cell: str) -> None:
        self._counts.running.add(cell)

    def advance(self, count: int) -> None:
        with self._lock:
            self._items += count
            if time.monotonic() - self._printed >= LINE_EVERY_S:
                self._line()

    def done(self, cell: str) -> None:
        self._counts.end(cell, failed=False)

    def failed(self, cell: str, reason: str) -> None:
        self._counts.end(cell, failed=True)
        self._console.print(
            f"{self._name}: {cell} failed: {reason}", markup=False, highlight=False, soft_wrap=True
        )

    def close(self) -> None:
        self._line(ended=True)

    def _line(self, *, ended: bool = False) -> None:
        self._printed = time.monotonic()
        seconds = self._printed - self._began
        rate = self._items / seconds if seconds else 0.0
        of = f"/{self._num_items}" if self._num_items else ""
        text = f"{self._name}: {self._counts}, {self._items}{of} {self._unit}"
        text += f", {rate:.1f} {self._unit}/s"
        if ended:
            text += f", {seconds:.1f} s"
        elif self._num_items and rate:
            text += f", {max(0.0, (self._num_items - self._items) / rate):.0f} s left"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def open_progress(console: Console) -> LiveProgress | PlainProgress:
    """Return bars on a terminal and plain lines elsewhere."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)
