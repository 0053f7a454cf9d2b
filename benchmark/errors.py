"""Errors shown to users: each is one line and carries the exit code of the command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchmarkError(Exception):
    """A failure while the benchmark ran (exit code 1)."""

    exit_code = 1


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
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    if otherwise is not None:
        return f" {otherwise}"
    return f" Known: {', '.join(names)}." if names else ""


def one_line(error: BaseException, *, limit: int = 400) -> str:
    """Return an exception as one line of text, without a traceback.

    Ray wraps a worker's exception and puts its traceback into the message; only the cause tells
    the user what to do.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return one_line(cause, limit=limit)
    lines = _lines(error)
    text = lines[-1] if lines else type(error).__name__
    if not isinstance(error, BenchmarkError) and not text.startswith(type(error).__name__):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def first_line(text: object, *, limit: int = 300) -> str:
    """Return the first line of a message, or the name of its type if it is empty."""
    lines = _lines(text)
    return lines[0][:limit] if lines else type(text).__name__


def _lines(text: object) -> list[str]:
    return [line.strip() for line in str(text).splitlines() if line.strip()]
