"""Output of the commands: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from benchmark.errors import tidy
from benchmark.progress import heard_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmark.cli.jsonlog import JsonLog
    from benchmark.experiment.cells import TextTable

LOG_FORMAT_OPTION = "--log-format"
LOG_FORMAT_VARIABLE = "BENCHMARK_LOG_FORMAT"


class LogFormat(StrEnum):
    """Format of stderr: plain lines, or one JSON object per line."""

    text = "text"
    json = "json"


_json_log: JsonLog | None = None
"""The log, if the format of stderr is JSON."""


def find_log_format(arguments: Sequence[str]) -> LogFormat:
    """Return the format that the command line or the environment asks for.

    It is read before parsing, so that errors of the parser have this format, too. The parser
    refuses unknown formats.
    """
    found = os.environ.get(LOG_FORMAT_VARIABLE, "")
    for name, following in itertools.pairwise([*arguments, ""]):
        if name == LOG_FORMAT_OPTION:
            found = following
        elif name.startswith(f"{LOG_FORMAT_OPTION}="):
            found = name.partition("=")[2]
    return LogFormat(found) if found in set(LogFormat) else LogFormat.text


@contextmanager
def format_stderr(log_format: LogFormat) -> Iterator[None]:
    """Write JSON to stderr if asked for: our lines, log records and output of libraries."""
    global _json_log
    if log_format is LogFormat.text:
        yield
        return
    from benchmark.cli.jsonlog import JsonLog, JsonStream, logging_to

    _json_log = JsonLog(sys.stderr)
    stream = JsonStream(_json_log, sys.stderr)
    try:
        with logging_to(_json_log), redirect_stderr(stream):
            yield
    finally:
        stream.end()
        _json_log = None


@contextmanager
def open_stderr_progress() -> Iterator[Any]:
    """Open the progress of a command, on stderr.

    Meanwhile stdout goes there, too: Ray prints to stdout that a machine was lost.
    """
    with (
        redirect_stdout(sys.stderr),
        _open_progress() as progress,
        _show_warnings(progress),
        heard_by(progress),
    ):
        yield progress


class _WarningHandler(logging.Handler):
    """Shows warnings of the ``benchmark`` loggers on the terminal."""

    def __init__(self, progress: Any) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.message(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def _show_warnings(progress: Any) -> Iterator[None]:
    if _json_log is not None:
        # The JSON log has its own handler, for all loggers.
        yield
        return
    handler, ours = _WarningHandler(progress), logging.getLogger("benchmark")
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)


def _open_progress() -> Any:
    if _json_log is not None:
        from benchmark.cli.jsonlog import JsonProgress
        from benchmark.stages import STAGES

        return nullcontext(JsonProgress(_json_log, stages=STAGES.names()))
    from benchmark.bars import open_progress

    return open_progress(open_stderr())


def open_stderr() -> Any:
    """Return a console on stderr; None if its format is JSON."""
    if _json_log is not None:
        return None
    from rich.console import Console

    return Console(stderr=True)


def print_tables(tables: Sequence[TextTable]) -> None:
    """Print tables of results, numbers right-aligned."""
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
    """Return a console that does not fold lines written to a pipe, which has no width."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 500, soft_wrap=False)


def say(text: str) -> None:
    """Print one line of results."""
    sys.stdout.write(text + "\n")


def print_json(content: Any) -> None:
    """Print the document of ``--json``."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def say_heading(paths: Sequence[str], number: int) -> None:
    """Print which of several experiments the next lines are of; nothing if there is one."""
    if len(paths) > 1:
        say(f"\n{paths[number]}" if number else paths[number])


def print_documents(documents: Sequence[Any]) -> None:
    """Print the document of one experiment, or a list of those of several."""
    print_json(documents[0] if len(documents) == 1 else list(documents))


def note(
    text: str, *, stage: str | None = None, numbers: Mapping[str, float] | None = None
) -> None:
    """Print one line of progress; only the JSON format shows ``stage`` and ``numbers``."""
    if _json_log is not None:
        _json_log.write("message", text.strip(), stage=stage, numbers=numbers)
        return
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def complain(text: str, code: int) -> int:
    """Print an error as one line, and return the exit code."""
    line = tidy(text)
    if _json_log is not None:
        _json_log.write("error", line, level="error", numbers={"exit_code": code})
    else:
        sys.stderr.write(f"benchmark: {line}\n")
    return code
