"""Progress on the terminal: live bars, or plain lines if stderr is not a terminal."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

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

from benchmark.progress import CountedStage, StageCounts, StageEvent, StageProgress


class _Rate(ProgressColumn):
    """Items per second, e.g. ``48 patches/s``."""

    def render(self, task: Task) -> Text:
        unit = task.fields.get("unit", "")
        if not task.speed:
            return Text("")
        return Text(f"{task.speed:.{0 if task.speed >= 10 else 1}f} {unit}/s")


class LiveProgress:
    """Bars on a terminal; each may be driven by its own thread."""

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
        return _LiveStage(self._bars, task, name, counts, unit)

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(escape(text), highlight=False)


class _LiveStage(CountedStage):
    def __init__(self, bars: Progress, task: TaskID, *stage: Any) -> None:
        super().__init__(*stage)
        self._bars, self._task = bars, task
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        self._counts.advance(count)
        self._bars.advance(self._task, count)

    def failed(self, cell: str, reason: str) -> None:
        super().failed(cell, reason)
        self._bars.console.print(
            f"[red]{self._name}: {escape(cell)} failed:[/red] {escape(reason)}", highlight=False
        )

    def _show(self, event: StageEvent) -> None:
        with self._lock:
            # Counts read before the lock could overwrite later ones.
            now = self._counts.snapshot()
            self._bars.update(self._task, counts=str(now))
            if event.kind == "stage_ended":
                self._bars.update(self._task, total=now.num_items_wanted or now.num_items)
                self._bars.stop_task(self._task)


class PlainProgress:
    """One line every few seconds, for logs; lines of different threads are not mixed."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def stage(
        self, name: str, *, num_cells: int, num_items: int | None, unit: str
    ) -> StageProgress:
        """Return the lines of a stage."""
        return _PlainStage(self, name, StageCounts(num_cells, num_items), unit)

    def message(self, text: str) -> None:
        """Print the line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _PlainStage(CountedStage):
    def __init__(self, progress: PlainProgress, *stage: Any) -> None:
        super().__init__(*stage)
        self._progress = progress

    def _show(self, event: StageEvent) -> None:
        if event.kind not in ("cell_started", "cell_done"):
            self._progress.message(f"{self._name}: {event.text}")


def open_progress(console: Console) -> AbstractContextManager[LiveProgress | PlainProgress]:
    """Return bars on a terminal and plain lines elsewhere."""
    return LiveProgress(console) if console.is_terminal else nullcontext(PlainProgress(console))
