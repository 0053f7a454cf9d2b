"""The ranking of the page: its rows, the scale of its bars, and the filters over it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class RankingRow:
    """One backbone and method, summarised over its seeds.

    Attributes:
        rank: 1 is best.
        value: mean of the headline metric over the seeds.
        ci_low: lower end of the interval on other scenes of the kind; None or NaN: unknown.
        ci_high: its upper end.
        seed_std: standard deviation over seeds; None where there is one seed.
        seed_values: the value of each seed.
        seconds: device-seconds of one seed, the mean over seeds: all trials and the refit, and
            embeddings where the method needs them; None: unknown.
        verdict: against the leader, in words.
        is_tie: whether no test tells the row from the leader.
        family: of the backbone's architecture; empty: it has none.
        source: of the backbone, e.g. ``timm``; empty: it has none.
        num_parameters: of the backbone; None: it has none.
        dim: length of its embedding; None: unknown.
        patches_per_s: at which it embeds, all actors; None: unknown, or the method does not embed.
    """

    rank: int
    backbone: str
    method: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    seed_std: float | None = None
    num_seeds: int = 1
    is_floor: bool = False
    num_trials: int | None = None
    num_failed: int = 0
    seconds: float | None = None
    seed_values: tuple[float, ...] = ()
    verdict: str = ""
    is_tie: bool = False
    family: str = ""
    source: str = ""
    num_parameters: int | None = None
    dim: int | None = None
    patches_per_s: float | None = None


class Filter(NamedTuple):
    """A choice of rows by the attribute ``data-KEY`` of each."""

    key: str
    label: str
    options: tuple[str, ...]


class Scale(NamedTuple):
    """The scores between which bars are drawn."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Return where a score lies, in percent of the scale."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 1)


def find_scale(rows: Sequence[RankingRow]) -> Scale:
    """Return a scale that holds all scores and intervals, its ends multiples of 0.05."""
    found = [item for row in rows for item in (row.value, row.ci_low, row.ci_high)]
    known = [item for item in found if item is not None and not math.isnan(item)]
    low = math.floor(20 * min(known, default=0.0)) / 20
    high = math.ceil(20 * max(known, default=1.0)) / 20
    return Scale(low, max(high, low + 0.05))


def find_filters(rows: Sequence[RankingRow]) -> tuple[Filter, ...]:
    """Return the filters that leave some rows out."""
    found = [
        Filter(key, label, tuple(sorted({value for row in rows if (value := getattr(row, key))})))
        for key, label in (
            ("backbone", "Backbone"),
            ("family", "Family"),
            ("source", "Source"),
            ("method", "Method"),
        )
    ]
    kinds = {"floor" if row.is_floor else "no floor" for row in rows}
    found.append(Filter("floor", "Floor", tuple(sorted(kinds))))
    return tuple(item for item in found if len(item.options) > 1)
