"""Check the arguments of the Python interface: a wrong one is a ``UsageError`` of one line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from benchmark.errors import UsageError
from benchmark.fields import check_file_path, shown


def refuse(where: str, value: object, advice: str) -> UsageError:
    """Return the error for a wrong argument, e.g. ``bm.run: store = 7: give a path``.

    Args:
        where: the function and the argument.
        value: the argument.
        advice: what to give instead.
    """
    return UsageError(f"bm.{where} = {shown(value, 100)}: {advice}")


def check_type(where: str, value: Any, kinds: type | tuple[type, ...], advice: str) -> None:
    """Raise UsageError unless the value is of one of the types; a bool is no number."""
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    is_stray_bool = isinstance(value, bool) and bool not in allowed
    if not isinstance(value, allowed) or is_stray_bool:
        raise refuse(where, value, advice)


def path_text(where: str, value: Any, advice: str = "give a path") -> str:
    """Return a path, given as text or as a path object, as text.

    Raises:
        UsageError: it is neither, or no file system can hold it.
    """
    check_type(where, value, (str, os.PathLike), advice)
    text = os.fspath(value)
    if not isinstance(text, str):
        raise refuse(where, value, advice)
    try:
        return check_file_path(text)
    except ValueError as error:
        raise refuse(where, value, f"it {error}") from None


def path_texts(where: str, given: Any) -> list[str]:
    """Return a path, or the paths of a list, as texts.

    Raises:
        UsageError: it is something else, or an empty list.
    """
    advice = "give a path, or a list of paths"
    paths = [given] if isinstance(given, (str, os.PathLike)) else given
    check_type(where, paths, Sequence, advice)
    if not paths:
        raise refuse(where, given, advice)
    return [path_text(where, item, advice) for item in paths]


def check_bands(where: str, given: Any) -> None:
    """Raise UsageError unless this is a list of numbers and names of bands."""
    advice = "give a list of numbers or names"
    check_type(where, given, (tuple, list), advice)
    for band in given:
        check_type(where, band, (str, Integral), advice)


def check_range(where: str, given: Any) -> tuple[float, float] | None:
    """Return two increasing numbers, or None if none are given.

    Raises:
        UsageError: it is something else.
    """
    if given is None:
        return None
    advice = "give (low, high) with low < high"
    check_type(where, given, (tuple, list), advice)
    for value in given:
        check_type(where, value, Real, advice)
    if len(given) != 2 or not given[0] < given[1]:
        raise refuse(where, given, advice)
    return float(given[0]), float(given[1])
