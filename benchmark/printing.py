"""What the commands print: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.stages.base import TextTable


@contextmanager
def open_stderr_progress() -> Iterator[Any]:
    """Open the progress of a command, on stderr.

    Meanwhile what libraries print goes there, too: Ray tells on stdout that a machine was lost.
    """
    from rich.console import Console

    from benchmark.console import open_progress

    with redirect_stdout(sys.stderr), open_progress(Console(stderr=True)) as progress:
        yield progress


def print_tables(tables: Sequence[TextTable]) -> None:
    """Print tables of results, numbers to the right."""
    from rich.table import Table
    from rich.text import Text

    for item in tables:
        table = Table(
            title=Text(item.title),
            title_justify="left",
            box=None,
            header_style="bold",
            pad_edge=False,
        )
        for index, column in enumerate(item.columns):
            numeric = index > 0 and all(_is_number(row[index]) for row in item.rows)
            table.add_column(Text(column), justify="right" if numeric else "left")
        for row in item.rows:
            table.add_row(*(Text(value) for value in row))
        console = open_stdout()
        console.print(table)
        for note in item.notes:
            console.print(Text(note))
        console.print()


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace("-", "").strip().isdigit() or text == "-"


def open_stdout() -> Any:
    """Return a console that folds no lines of a pipe."""
    from rich.console import Console

    # A pipe has no width: lines must not be folded there.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 500, soft_wrap=False)


def say(text: str) -> None:
    """Print one line of results."""
    sys.stdout.write(text + "\n")


def print_json(content: Any) -> None:
    """Print the one document of ``--json``."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def note(text: str) -> None:
    """Print one line of progress."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def complain(text: str, code: int) -> int:
    """Say in one line what went wrong, and return the exit code."""
    sys.stderr.write(f"benchmark: {' '.join(text.splitlines())}\n")
    return code
