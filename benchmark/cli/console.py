"""Progress on the terminal: live bars, or plain lines where stderr is no terminal."""

from __future__ import annotations

import threading

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

from benchmark.progress import Pace, Snapshot, StageCounts, StageProgress, describe

LINE_EVERY_S = 5.0


class _Rate(ProgressColumn):
    """Items per second, e.g. ``48 patches/s``."""

    def render(self, task: Task) -> Text:
        unit = task.fields.get("unit", "")
        if not task.speed:
            return Text("")
        return Text(f"{task.speed:.{0 if task.speed >= 10 else 1}f} {unit}/s")


class LiveProgress:
    """Bars on a terminal; a thread of its own may drive each."""

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
        counts = StageCounts(num_cells, num_items)
        text = str(counts.snapshot())
        task = self._bars.add_task(name, total=num_items, counts=text, unit=unit)
        return _LiveStage(self._bars, task, counts, name)

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(escape(text), highlight=False)


class _LiveStage:
    def __init__(self, bars: Progress, task: TaskID, counts: StageCounts, name: str) -> None:
        self._bars, self._task, self._counts, self._name = bars, task, counts, name
        # What is counted last must be shown last.
        self._lock = threading.Lock()

    def start(self, cell: str) -> None:
        with self._lock:
            self._show(self._counts.start(cell))

    def advance(self, count: int) -> None:
        with self._lock:
            self._counts.advance(count)
            self._bars.advance(self._task, count)

    def done(self, cell: str) -> None:
        with self._lock:
            self._show(self._counts.end(cell, failed=False)[0])

    def failed(self, cell: str, reason: str) -> None:
        with self._lock:
            self._show(self._counts.end(cell, failed=True)[0])
        self._bars.console.print(
            f"[red]{self._name}: {escape(cell)} failed:[/red] {escape(reason)}", highlight=False
        )

    def close(self) -> None:
        with self._lock:
            now = self._counts.snapshot()
            total = now.num_items_wanted or now.num_items
            self._bars.update(self._task, total=total, counts=str(now))
            self._bars.stop_task(self._task)

    def _show(self, now: Snapshot) -> None:
        self._bars.update(self._task, counts=str(now))


class PlainProgress:
    """One line every few seconds, for logs, whole lines from whichever thread."""

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
        return _PlainStage(self._console, name, StageCounts(num_cells, num_items), unit)

    def message(self, text: str) -> None:
        """Print the line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _PlainStage:
    def __init__(self, console: Console, name: str, counts: StageCounts, unit: str) -> None:
        self._console, self._name, self._counts, self._unit = console, name, counts, unit
        self._pace = Pace(LINE_EVERY_S)

    def start(self, cell: str) -> None:
        self._counts.start(cell)

    def advance(self, count: int) -> None:
        now = self._counts.advance(count)
        if self._pace.is_due():
            self._print(self._line(now))

    def done(self, cell: str) -> None:
        self._counts.end(cell, failed=False)

    def failed(self, cell: str, reason: str) -> None:
        self._counts.end(cell, failed=True)
        self._print(f"{self._name}: {cell} failed: {reason}")

    def close(self) -> None:
        self._print(self._line(self._counts.snapshot(), ended=True))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, now: Snapshot, *, ended: bool = False) -> str:
        return f"{self._name}: {describe(now, self._unit, ended=ended)}"


def open_progress(console: Console) -> LiveProgress | PlainProgress:
    """Return bars on a terminal and plain lines elsewhere."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)
