"""Errors shown to users: each is one line and carries the exit code of the command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_MESSAGE = 2000
"""Characters of a message; a longer one loses its middle."""
MAX_COMPARED = 100
"""Characters of a name that is compared with the known ones; the comparison is quadratic."""
MAX_LISTED = 20
"""Known names that a message lists."""

RAYS_HINTS = ("Failed to ", "This looks like an AWS", "To change retry attempts")
"""Starts of the lines that Ray Data appends to a task's error, after its reason."""


def tidy(text: object, limit: int = MAX_MESSAGE) -> str:
    """Return text as one printable line of at most ``limit`` characters.

    Control characters, escape sequences and lone surrogates are shown as escapes.
    """
    line = _cut(" ".join(_lines(text)), limit)
    if line.isprintable():
        return line
    return _cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), limit)


def _cut(line: str, limit: int) -> str:
    """Return a line without its middle if it is too long: its ends say where, and what to do."""
    if len(line) <= limit:
        return line
    begin = 2 * limit // 3
    return f"{line[:begin]} … {line[begin + 3 - limit :]}"


class BenchmarkError(Exception):
    """A failure while the benchmark ran (exit code 1); its message is made tidy."""

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(tidy(message))


class UsageError(BenchmarkError):
    """Wrong user input: says what was given, where, and what to do (exit code 2)."""

    exit_code = 2


class Interrupted(BenchmarkError):
    """Ctrl-C or SIGTERM ended the command (exit code 130)."""

    exit_code = 130


class CellError(BenchmarkError):
    """One cell failed; the other cells go on (exit code 1 at the end)."""


def did_you_mean(given: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known name, or the known names.

    Args:
        given: the unknown name.
        known: the known names.
        otherwise: replaces the list of known names if it is too long to be read.
    """
    names = sorted(known)
    short = given[:MAX_COMPARED]
    near = difflib.get_close_matches(short, (name[:MAX_COMPARED] for name in names), n=1)
    if near:
        return f" Did you mean '{near[0]}'?"
    if otherwise is not None:
        return f" {otherwise}"
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f" Known: {', '.join(names[:MAX_LISTED])}{more}." if names else ""


def one_line(error: BaseException, *, limit: int = 400) -> str:
    """Return an exception as one line of text, without a traceback.

    Ray wraps a worker's exception and puts its traceback into the message; only the cause tells
    the user what to do.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return one_line(cause, limit=limit)
    lines = [line for line in _lines(error) if not line.startswith(RAYS_HINTS)]
    text = tidy(lines[-1]) if lines else type(error).__name__
    if not isinstance(error, BenchmarkError) and not text.startswith(type(error).__name__):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def first_line(text: object, *, limit: int = 300) -> str:
    """Return the first line of a message, or the name of its type if it is empty."""
    lines = _lines(text)
    return tidy(lines[0])[:limit] if lines else type(text).__name__


def _lines(text: object) -> list[str]:
    return [line.strip() for line in str(text).splitlines() if line.strip()]
