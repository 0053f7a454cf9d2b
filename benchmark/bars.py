"""Progress that people see: live bars on a terminal and in a notebook, or plain lines."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from html import escape as escape_html
from importlib import import_module
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

from benchmark.progress import CountedStage, LoggedProgress, StageCounts, StageEvent, StageProgress
from benchmark.progress import Progress as Receiver

NOTEBOOK_EVERY_S = 0.5
"""Interval at which a notebook shows the bars anew."""
NOTEBOOK_WIDTH = 110
"""Characters of a line in a notebook."""


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


class NotebookProgress(LiveProgress):
    """Bars in the output of a notebook's cell.

    Rich itself needs ipywidgets there, which many notebooks lack. Here one display of IPython is
    replaced, by a thread, so that the time goes on while a stage starts.
    """

    def __init__(self) -> None:
        self._lines = io.StringIO()
        super().__init__(
            Console(
                file=self._lines,
                width=NOTEBOOK_WIDTH,
                color_system=None,
                force_jupyter=False,
                force_terminal=False,
            )
        )
        self._began = time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="bars", daemon=True)

    def __enter__(self) -> NotebookProgress:
        # The bars need no ipywidgets; Ray and tqdm advise to install it.
        logging.getLogger("ray.widgets").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", "IProgress not found")
        display: Any = import_module("IPython.display").display
        self._display = display(self._content(), raw=True, display_id=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._display.update(self._content(), raw=True)

    def _refresh(self) -> None:
        while not self._is_over.wait(NOTEBOOK_EVERY_S):
            self._display.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        """Return the lines and the bars, as text and as HTML."""
        with self._console.capture() as bars:
            self._console.print(self._bars.get_renderable())
        text = (self._lines.getvalue() + bars.get()).rstrip()
        if not text and not self._is_over.is_set():
            text = f"starting, {time.monotonic() - self._began:.0f} s"
        style = "white-space: pre; line-height: 1.2"
        return {"text/plain": text, "text/html": f'<pre style="{style}">{escape_html(text)}</pre>'}


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


def is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook (Jupyter, Colab, an editor)."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def progress_of(given: Receiver | bool | None) -> AbstractContextManager[Receiver]:
    """Return what receives the progress of a call from Python.

    Args:
        given: True shows bars in a notebook or on a terminal, and logs elsewhere; False or None
            logs; an object is used as it is.
    """
    if given is True:
        if is_notebook():
            return NotebookProgress()
        return LiveProgress(Console(stderr=True)) if sys.stderr.isatty() else _logged()
    return nullcontext(given) if given else _logged()


def _logged() -> AbstractContextManager[Receiver]:
    return nullcontext(LoggedProgress())
