"""Range of each band of a data set from train: pixels that are not uint8 are scaled by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SAMPLED = 256
"""Images of train that are read for the ranges, evenly spread."""
MAX_VALUES = 4096
"""Values of an image and band that are taken, evenly spread."""
PERCENTILES = (1.0, 99.0)

T = TypeVar("T")


def spread(items: Sequence[T]) -> Sequence[T]:
    """Return at most ``MAX_SAMPLED`` items, evenly spread."""
    return items[:: max(1, -(-len(items) // MAX_SAMPLED))]


def band_ranges(images: Iterable[NDArray[Any]]) -> tuple[tuple[float, float], ...]:
    """Return the 1st and 99th percentile of each band of images (C, H, W); NaN is left out.

    A band of one value gets a range of 1. Without images there are no ranges.
    """
    import numpy as np

    taken = []
    for image in images:
        flat = image.reshape(len(image), -1)
        taken.append(flat[:, :: max(1, flat.shape[1] // MAX_VALUES)].astype(np.float64))
    if not taken:
        return ()
    values = np.concatenate(taken, axis=1)
    values[~np.isfinite(values)] = np.nan
    found = []
    for band in values:
        known = band[~np.isnan(band)]
        low, high = np.percentile(known, PERCENTILES).tolist() if known.size else (0.0, 1.0)
        found.append((low, high if high > low else low + 1.0))
    return tuple(found)


def ranges_note(bands: Sequence[str], ranges: Sequence[tuple[float, float]]) -> str:
    """Return the note on pixels that were scaled by the ranges of train."""
    told = ", ".join(
        f"{band} {low:.5g} to {high:.5g}" for band, (low, high) in zip(bands, ranges, strict=True)
    )
    return (
        "Pixels are not uint8: each band is scaled from its 1st to 99th percentile on train (up to "
        f"{MAX_SAMPLED} images) to 0...255: {told}. Set [dataset] value_range for one range of all "
        "bands, e.g. [0, 10000] for backbones trained on Sentinel-2 reflectance."
    )


def choose_bands(
    wanted: Sequence[str] | None, names: Sequence[str], where: str
) -> tuple[int, ...] | None:
    """Return the places of the bands that the user wants; None: all.

    Raises:
        UsageError: a band is not there, or is named twice.
    """
    if wanted is None:
        return None
    for band in wanted:
        if band not in names:
            raise UsageError(f"{where}: there is no band '{band}'.{did_you_mean(band, names)}")
    if len(set(wanted)) != len(wanted) or not wanted:
        raise UsageError(f"{where}: bands = {list(wanted)} names a band twice, or none")
    return tuple(names.index(band) for band in wanted)
