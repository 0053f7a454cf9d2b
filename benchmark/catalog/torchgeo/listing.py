"""The images of a data set of torchgeo, with the splits and classes that torchgeo gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from benchmark.catalog.torchgeo.sets import Named
from benchmark.errors import UsageError

ADVICE = ("prepare the whole data set", "prepare the whole data set")
"""What to do about a missing class or split."""


class Listed(NamedTuple):
    """Split and class of each image, sorted by its identity."""

    split_of: dict[str, str]
    class_of: dict[str, str]
    classes: tuple[str, ...]
    """Those that have images, in torchgeo's order: it gives the labels."""
    notes: list[str]


def list_of(
    split_of: Mapping[str, str], class_of: Mapping[str, str], classes: Iterable[str], named: Named
) -> Listed:
    """Return images by their identities.

    Raises:
        UsageError: there are none.
    """
    if not split_of:
        raise UsageError(f"{named.where}: holds no images; {named.how_to_prepare()}")
    present = {*class_of.values()}
    absent = [name for name in classes if name not in present]
    names = sorted(split_of)
    return Listed(
        {name: split_of[name] for name in names},
        {name: class_of[name] for name in names},
        tuple(name for name in classes if name in present),
        [f"Classes without images: {', '.join(absent)}."] if absent else [],
    )
