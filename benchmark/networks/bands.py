"""Selection of the bands of a data set that are the input of a backbone."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.errors import UsageError
from benchmark.specs import Backbone


def band_indices(backbone: Backbone, bands: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of the backbone's bands in the data set.

    Raises:
        UsageError: the data set lacks a band.
    """
    if backbone.bands is None:
        return tuple(range(len(bands)))
    missing = [band for band in backbone.bands if band not in bands]
    if missing:
        raise UsageError(
            f"backbone '{backbone.name}' needs the bands {', '.join(backbone.bands)}; the data "
            f"set has {', '.join(bands)}. Name its bands with [dataset] bands = [...], or leave "
            "the backbone out"
        )
    return tuple(bands.index(band) for band in backbone.bands)


def input_indices(backbone: Backbone, bands: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of ``band_indices`` in the order in which the network takes them."""
    found = band_indices(backbone, bands)
    return (*found[2::-1], *found[3:]) if backbone.flips_bands else found
