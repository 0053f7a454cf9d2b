"""Count the patches of each part once, although batches, parts and later runs report them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PartKey = tuple[int, str]
"""The number of a job, and the name of a part."""


@dataclass
class Tally:
    """The progress of one backbone in the current pipeline."""

    wanted: set[str]
    checksums: dict[str, list[str]] = field(default_factory=dict)
    """By part: one for each output of the job."""
    num_patches: int = 0
    first: float = 0.0
    last: float = 0.0


class PartCounts:
    """The patches of each part that the progress shows; may be called from any thread."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        """Pass on to ``advance`` how many patches are new."""
        self._advance = advance
        self._counts: dict[PartKey, int] = {}
        self._lock = threading.Lock()

    def reach(self, counts: Mapping[PartKey, int]) -> None:
        """Show that parts have reached these counts; a lower count is ignored.

        A part begins anew if its process dies, and is counted whole when it is written.
        """
        with self._lock:
            more = 0
            for key, count in counts.items():
                before = self._counts.get(key, 0)
                self._counts[key] = max(before, count)
                more += self._counts[key] - before
        if more:
            self._advance(more)

    def reach_items(self, counts: Mapping[str, int]) -> None:
        """Show the counts of items as ``item_of`` names them."""
        named = ((item.partition("/"), count) for item, count in counts.items())
        self.reach({(int(number), part): count for (number, _, part), count in named})


def item_of(number: int, part: str) -> str:
    """Return the name of a part of a job."""
    return f"{number}/{part}"
