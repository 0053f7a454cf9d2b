"""Files of strangers: JSON, measured before it is used, and the failures of libraries on them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmark.errors import BenchmarkError, UsageError, one_line, tidy
from benchmark.fields import MAX_DEPTH, shown

MAX_JSON_BYTES = 2**24
"""Longest file or header; the names of 22,000 classes take 2 MB."""

AGAIN = "fetch the checkpoint again or use another one"
"""What to do about a checkpoint that no setting repairs."""


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Return a JSON object that is flat and whose numbers are finite.

    Args:
        data: the text.
        where: names the file; prefix of error messages.

    Raises:
        UsageError: the text is long, deeply nested or no JSON object, or a number is not finite.
    """
    if len(data) > MAX_JSON_BYTES:
        raise UsageError(f"{where} is longer than {MAX_JSON_BYTES:,} bytes; {AGAIN}")
    try:
        content = json.loads(data)
    except RecursionError:
        raise UsageError(f"{where} is nested more than {MAX_DEPTH} deep; {AGAIN}") from None
    except ValueError as error:
        raise UsageError(f"{where} is not valid JSON: {one_line(error)}; {AGAIN}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{where} is not a JSON object; {AGAIN}")
    for fault in _faults(content):
        raise UsageError(f"{where} {fault}; {AGAIN}")
    return content


def field(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """Return an object within an object; an absent one and null are empty.

    Raises:
        UsageError: the value is not an object.
    """
    value = config.get(key)
    if not isinstance(value, Mapping | None):
        raise UsageError(f"{where} has {key} = {shown(value)}; give a JSON object")
    return value or {}


def _faults(content: dict[str, Any]) -> Iterator[str]:
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), content)]
    while waiting:
        place, value = waiting.pop()
        if len(place) >= MAX_DEPTH:
            yield f"is nested more than {MAX_DEPTH} deep in '{_path(place)}'"
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, (dict, list)):
                waiting.append(((*place, key), item))
            elif isinstance(item, float) and not math.isfinite(item):
                yield f"has {_path((*place, key))} = {item}, which is no finite number"


def _path(place: tuple[Any, ...]) -> str:
    return tidy(".".join(str(key)[:100] for key in place), 200)


@contextmanager
def explained(prefix: str, advice: str = AGAIN) -> Iterator[None]:
    """Raise any failure of a library as one line.

    Args:
        prefix: says what failed, and on which file.
        advice: says what to do.

    Raises:
        UsageError: the library failed for another reason than a lack of memory.
    """
    try:
        yield
    except (BenchmarkError, MemoryError):
        raise
    except Exception as error:
        # A light import of this module leaves torch out.
        if isinstance(error, getattr(sys.modules.get("torch"), "OutOfMemoryError", ())):
            raise
        text = tidy(f"{type(error).__name__}: {error}", 300).removesuffix(":")
        raise UsageError(f"{prefix}: {text}; {advice}") from None
