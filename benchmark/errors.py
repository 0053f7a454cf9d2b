"""Errors shown to users: each is one line and carries the exit code of the command."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

MAX_MESSAGE = 2000
"""Characters of a message; a longer one loses its middle."""
MAX_COMPARED = 100
"""Characters of a name that is compared with the known ones; the comparison is quadratic."""
MAX_LISTED = 20
"""Known names that a message lists."""

PACKAGE = str(Path(__file__).resolve().parent) + os.sep
LIBRARY = str(Path(os.__file__).resolve().parent) + os.sep
"""Folder of Python's standard library."""
INSTALLED = ("site-packages", "dist-packages")
"""Names of the folders of installed packages."""

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
        # Ray Data appends lines to a task's error, which arrives here when it is unpickled.
        first, *more = _lines(message) or [""]
        kept = [line for line in more if not line.startswith(RAYS_HINTS)]
        super().__init__(tidy("\n".join([first, *kept])))


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


def blame(error: BaseException, *, limit: int = 400) -> str:
    """Return an error of a user's own code as one line with its file and line.

    The place is the last one in the traceback outside this package, the standard library and
    installed packages, e.g. ``mypackage/nets.py, line 12: ValueError: ...``. Errors of this
    package, and errors that never were in own code, are returned as by ``one_line``.
    """
    if isinstance(error, BenchmarkError):
        return str(error)
    frames: list[tuple[str, int | None]] = []
    step = error.__traceback__
    while step is not None:
        frames.append((step.tb_frame.f_code.co_filename, step.tb_lineno))
        step = step.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno))
    own = [(name, line) for name, line in frames if is_own_file(name)]
    if not own:
        return one_line(error, limit=limit)
    name, line = own[-1]
    message = error.msg if isinstance(error, SyntaxError) else tidy(error)
    reason = f"{type(error).__name__}: {message}".removesuffix(": ")
    return tidy(f"{_below_path(name)}, line {line}: {reason}", limit)


def is_own_file(name: str) -> bool:
    """Return whether a file of code belongs neither to this package nor to an installed one."""
    if name.startswith(("<frozen", "<string>")):
        return False
    parts = Path(name).parts
    return not (name.startswith((PACKAGE, LIBRARY)) or any(part in parts for part in INSTALLED))


def _below_path(name: str) -> str:
    """Return the path of a module's file below the folder from which it is imported."""
    folders = [f"{folder}{os.sep}" for folder in sys.path if folder]
    inside = [folder for folder in folders if name.startswith(folder)]
    return name.removeprefix(max(inside, key=len, default=""))
