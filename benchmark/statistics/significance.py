"""Tests of paired differences, and their correction over a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mcnemar(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the exact two-sided p-value of two methods on the same patches (McNemar 1947).

    Args:
        one: (N,) whether the first method is right.
        other: (N,) whether the second is.
    """
    from statsmodels.stats.contingency_tables import mcnemar as test

    table = [
        [int((one & other).sum()), int((one & ~other).sum())],
        [int((~one & other).sum()), int((~one & ~other).sum())],
    ]
    return float(test(table, exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of tests in a table (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return []
    return [float(value) for value in multipletests(p_values, method="holm")[1]]
