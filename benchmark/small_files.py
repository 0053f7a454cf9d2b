"""Read a small TOML file of the user's as a section, or say what is wrong with it in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from benchmark.errors import UsageError
from benchmark.fields import MAX_FILE_BYTES, decode_experiment, parse_toml, shown
from benchmark.regular import read_regular
from benchmark.section import Section

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

S = TypeVar("S", bound=Section)


def read_section(kind: type[S], path: str, *, where: str) -> S:
    """Return the content of a TOML file of at most 1 MiB.

    Args:
        kind: of the content.
        path: of the file.
        where: start of messages, e.g. ``x.toml [report]: reference``.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    place = f"{where} {shown(path)}"
    try:
        data = read_regular(Path(path), most_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise UsageError(f"{place}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{place}: cannot be read: {error}") from None
    content = parse_toml(decode_experiment(data, place), where=place)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{place}: {_describe(error.errors(include_url=False)[0])}") from None


def _describe(problem: ErrorDetails) -> str:
    """Return a problem of a file; rows and items are counted from 1."""
    place = ".".join(str(part + 1 if isinstance(part, int) else part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"the setting '{place}' is missing"
    if problem["type"] == "extra_forbidden":
        return f"unknown setting '{place}'"
    # Of a whole row or file, the message says what is wrong.
    if isinstance(problem["input"], dict):
        return f"'{place}': {message}" if place else message
    return f"'{place}' = {shown(problem['input'], 100)}: {message}"
