"""Which cells of the simulation of ``perf.coverage`` hold what docs/STATISTICS.md claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LOW, HIGH = 0.93, 0.98
"""Coverage that every interval must have."""
LEAST_IN_ONE_SCENE = 0.88
"""The same of a rare class that stands in one scene of strongly correlated patches."""
MOST_SIZE, MOST_OF_TABLE = 0.06, 0.055
"""Share of verdicts on equal methods, and of tables of equal methods with a verdict."""
DOUBT = 0.001
"""A share is beyond a limit for sure if it comes by chance less often than this."""


class Cell(NamedTuple):
    """How often something happened in a number of test sets of one design."""

    design: str
    share: float
    repeats: int
    limit: float
    """Least coverage, or largest share of wrong verdicts."""
    is_unavoidable: bool = False
    """Whether no interval covers in 93 to 98 % of cases."""

    @property
    def is_surely_below(self) -> bool:
        """Whether a true share at the limit would seldom be seen so low."""
        hits = round(self.share * self.repeats)
        return bool(stats.binom.cdf(hits, self.repeats, self.limit) < DOUBT)

    def is_surely_above(self, limit: float) -> bool:
        """Whether a true share at this limit would seldom be seen so high."""
        hits = round(self.share * self.repeats)
        return bool(stats.binom.sf(hits - 1, self.repeats, limit) < DOUBT)


def leaves_no_choice(chances: NDArray[np.float64]) -> bool:
    """Return whether no interval can cover in 93 to 98 % of cases, because estimates are few.

    An interval whose ends rise with the estimate misses the truth at the lowest estimates and at
    the highest ones. If no two such tails together have a chance of 2 to 7 %, its coverage is below
    93 % or above 98 %, whatever its ends are. A score of 1 everywhere is an extreme case.

    Args:
        chances: (M,) of the possible estimates, in their order.
    """
    lower = np.concatenate([[0.0], np.cumsum(chances)])
    upper = np.concatenate([[0.0], np.cumsum(chances[::-1])])
    for tail in lower[lower <= 1.0 - LOW]:
        place = int(np.searchsorted(upper, 1.0 - HIGH - tail - 1e-12))
        if place < len(upper) and upper[place] + tail <= 1.0 - LOW + 1e-12:
            return False
    return True


def print_coverage(cells: dict[str, list[Cell]]) -> bool:
    """Print for each interval how many cells hold, and the worst ones; return whether all do."""
    print("\n## Cells of 93 to 98 % (in brackets: beyond what chance explains)\n")
    print(
        "| interval | cells | below | within | above | of these unavoidable | lowest "
        "| highest, if avoidable |\n|---|" + "---:|" * 5 + "---|---|"
    )
    holds = True
    for name, found in cells.items():
        below = [cell for cell in found if cell.share < cell.limit]
        above = [cell for cell in found if cell.share > HIGH]
        sure = sum(cell.is_surely_below for cell in below)
        too_wide = sum(cell.is_surely_above(HIGH) for cell in above)
        free = [cell for cell in found if not cell.is_unavoidable]
        row = [
            name,
            f"{len(found)}",
            f"{len(below)} ({sure})",
            f"{len(found) - len(below) - len(above)}",
            f"{len(above)} ({too_wide})",
            f"{sum(cell.is_unavoidable for cell in above)}",
            _text(min(found, key=_share)),
            _text(max(free, key=_share)) if free else "",
        ]
        print(f"| {' | '.join(row)} |")
        holds = holds and not sure
    return holds


def print_size(name: str, cells: Sequence[Cell]) -> bool:
    """Print how often a verdict on equal methods is wrong at worst; return whether it holds."""
    if not cells:
        return True
    sure = sum(cell.is_surely_above(cell.limit) for cell in cells)
    above = sum(cell.share > cell.limit for cell in cells)
    worst = max(cells, key=_share)
    print(
        f"{name}: {above} of {len(cells)} cells above {worst.limit:g}, {sure} surely; "
        f"worst {_text(worst)}"
    )
    return not sure


def _share(cell: Cell) -> float:
    return cell.share


def _text(cell: Cell) -> str:
    return f"{cell.share:.3f} ({cell.design})"
