"""The entry of a data set of torchgeo: ``torchgeo:NAME``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmark.catalog.torchgeo.sets import FORMS, PREFIX, check_name, open_root
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.specs import Dataset, Source

if TYPE_CHECKING:
    from pathlib import Path

    from benchmark.progress import Progress


def resolve_set(name: str, *, where: str = "") -> Dataset:
    """Return the entry of ``torchgeo:NAME``; imports torchgeo.

    Raises:
        UsageError: torchgeo has no such data set of images with one label each.
    """
    given = name.removeprefix(PREFIX)
    check_name(given, where)
    return Dataset(
        name=name,
        description=f"{given} of torchgeo, with its own splits and bands",
        open=partial(open_set, given),
        settings=frozenset(),
        digested=frozenset({"val_fraction", "test_fraction", "bands", "value_range"}),
        prepare=partial(prepare_set, given),
    )


def open_set(name: str, config: DatasetConfig) -> Source:
    """Open a data set of torchgeo.

    Args:
        name: of its class, e.g. ``EuroSAT``.
        config: gives the root, the bands that are kept, the range, the fractions and the seed.

    Raises:
        UsageError: it is not in the root or incomplete, a package is missing, or a setting does
            not fit its images.
    """
    from benchmark.catalog.torchgeo.files import open_files
    from benchmark.catalog.torchgeo.samples import open_samples

    named = open_root(name, config.root)
    value_range = config.value_range
    if value_range is not None and not value_range[0] < value_range[1]:
        raise UsageError(
            f"{named.where}: value_range = {list(value_range)} is not a range; write [low, high] "
            "with low < high"
        )
    return open_files(named, config) if FORMS[name].files else open_samples(named, config)


def prepare_set(name: str, root: Path, *, progress: Progress | None = None) -> Path:
    """Download a data set through torchgeo, which compares checksums; returns the root.

    Raises:
        UsageError: torchgeo does not download it, or the download fails.
    """
    from benchmark.catalog.torchgeo.downloading import download

    return download(open_root(name, str(root)), progress)
