"""Statistics of 8-bit values, exact, from their histograms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (1, 25, 50, 75, 99)


def count_values(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how often each value occurs in each band of images (N, C, H, W), as (C, 256)."""
    return np.stack([np.bincount(band.ravel(), minlength=256) for band in images.swapaxes(0, 1)])


def summarise(counts: NDArray[np.int64]) -> dict[str, float]:
    """Return mean, std, min, max, percentiles and the shares of 0 and 255 of one band.

    The percentiles are values that occur (``inverted_cdf`` of ``np.percentile``); std is that of
    the population.

    Args:
        counts: (256,) of a band with at least one value.
    """
    total = int(counts.sum())
    values = np.arange(256)
    mean = float(counts @ values) / total
    variance = float(counts @ (values - mean) ** 2) / total
    present = np.flatnonzero(counts)
    reached = np.cumsum(counts)
    found = {
        "mean": mean,
        "std": variance**0.5,
        "min": int(present[0]),
        "max": int(present[-1]),
    }
    # In integers: a share of a large count is not exact in floating point.
    for percent in PERCENTILES:
        found[f"p{percent}"] = int(np.searchsorted(100 * reached, percent * total))
    return {**found, "share_0": counts[0] / total, "share_255": counts[255] / total}
