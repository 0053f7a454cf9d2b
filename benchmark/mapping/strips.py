"""Cut a scene into strips for several actors, and send the patches of a strip as one block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from benchmark.mapping.axes import Grid
from benchmark.mapping.sliding import PatchRow

STRIP_PATCHES = 256
"""Patches of a strip, in whole rows: enough work beside what a task costs, little to keep."""
STRIPS_PER_ACTOR = 4
"""At least, where a scene has as many rows: the last strips end at about the same time."""


class Strip(NamedTuple):
    """Rows of patches that one actor takes."""

    begin: int
    end: int
    """The number of the first row, and of the one after the last."""


def cut_strips(grid: Grid, num_actors: int) -> list[Strip]:
    """Cut the rows of a grid into strips, from top to bottom."""
    count = len(grid.rows)
    most = max(1, count // (STRIPS_PER_ACTOR * num_actors))
    step = min(most, -(-STRIP_PATCHES // len(grid.columns)))
    return [Strip(begin, min(begin + step, count)) for begin in range(0, count, step)]


def pack_rows(rows: Iterable[PatchRow]) -> dict[str, list[bytes]]:
    """Return columns of one row: probabilities, which patches have data, and which pixels do."""
    found = list(rows)
    shows = np.concatenate([row.has_data for row in found])
    return {
        "scores": [np.stack([row.scores for row in found]).tobytes()],
        "known": [np.stack([row.known for row in found]).tobytes()],
        # Most scenes have data everywhere.
        "has_data": [b"" if shows.all() else np.packbits(shows, axis=1).tobytes()],
    }


def unpack_rows(block: dict[str, bytes], grid: Grid, strip: Strip) -> Iterator[PatchRow]:
    """Yield the rows of a strip from what ``pack_rows`` has packed."""
    num_rows, num_columns = strip.end - strip.begin, len(grid.columns)
    scores = np.frombuffer(block["scores"], np.float32).reshape(num_rows, num_columns, -1)
    known = np.frombuffer(block["known"], bool).reshape(num_rows, num_columns)
    width = grid.shape[1]
    bits = np.frombuffer(block["has_data"], np.uint8).reshape(-1, -(-width // 8))
    first = grid.lines(strip.begin)[0]
    for number, row in enumerate(range(strip.begin, strip.end)):
        top, bottom = grid.lines(row)
        if len(bits):
            mine = np.unpackbits(bits[top - first : bottom - first], axis=1, count=width)
            has_data = mine.astype(bool)
        else:
            has_data = np.ones((bottom - top, width), bool)
        yield PatchRow(scores[number], known[number], has_data)


def empty_block() -> dict[str, list[bytes]]:
    """Return the columns of ``pack_rows`` for what is no strip."""
    return {"scores": [b""], "known": [b""], "has_data": [b""]}
