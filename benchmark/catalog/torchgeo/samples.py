"""Data sets of torchgeo in HDF5 files, which torchgeo reads: So2Sat and others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.catalog.folder.assignment import complete_splits
from benchmark.catalog.folder.images import crop_and_resize, scale_bands
from benchmark.catalog.folder.listed import (
    ListedSource,
    Unusable,
    digest_rows,
    read_images,
    tabulate,
)
from benchmark.catalog.folder.splits import Row, check_classes
from benchmark.catalog.torchgeo.listing import ADVICE, list_of
from benchmark.catalog.torchgeo.ranges import band_ranges, choose_bands, ranges_note, spread
from benchmark.catalog.torchgeo.sets import FORMS, Named, band_names, hdf5_file
from benchmark.config import DatasetConfig
from benchmark.drawing import Group
from benchmark.errors import UsageError, one_line
from benchmark.specs import Images

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class SampleSource(ListedSource):
    """Samples of HDF5 files, one patch each; a ``patch_id`` is ``SPLIT/NUMBER``."""

    named: Named
    bands: tuple[str, ...]
    kept: tuple[int, ...] | None
    """Places of the bands in a sample; None: all."""
    ranges: tuple[tuple[float, float], ...] | None
    """Pixel values of each kept band that become 0 and 255; None: samples are uint8."""
    patch_size: int

    def read(self, candidates: pa.Table) -> Images:
        """Return the samples of the candidates, uint8 (N, C, P, P), in the order of the rows.

        One that cannot be read becomes a Problem.
        """
        shape = (len(self.bands), self.patch_size, self.patch_size)
        return read_images(candidates["patch_id"].to_pylist(), shape, self._read_one)

    def _read_one(self, name: str) -> NDArray[np.uint8]:
        try:
            pixels = _read_sample(self.named, name, self.kept)
            if len(pixels) != len(self.bands):
                raise ValueError(f"it has {len(pixels)} bands, not {len(self.bands)}")
            if (pixels.dtype.name == "uint8") != (self.ranges is None):
                raise ValueError(f"it holds {pixels.dtype.name}, unlike the first sample of train")
        except Exception as error:  # torchgeo and h5py raise what they like
            raise Unusable(f"{self.named.root}: {name}", one_line(error)) from None
        scaled = pixels if self.ranges is None else scale_bands(pixels, self.ranges)
        return crop_and_resize(scaled, self.patch_size)


def open_samples(named: Named, config: DatasetConfig) -> SampleSource:
    """Open a data set in HDF5 files: the labels are read, the pixels later.

    Raises:
        UsageError: it is absent, h5py is not installed, or a setting does not fit its samples.
    """
    from benchmark.store.digest import digest_files

    label_of = FORMS[named.name].labels
    assert label_of is not None
    split_of: dict[str, str] = {}
    class_of: dict[str, str] = {}
    file_of: dict[str, Path] = {}
    classes: Sequence[str] = ()
    for theirs, split in named.splits().items():
        dataset = named.open(theirs)
        classes = dataset.classes
        with named.explained():
            labels = label_of(dataset)
        for index, label in enumerate(labels):
            name = f"{theirs}/{index:07d}"
            split_of[name], class_of[name] = split, classes[label]
            file_of[name] = Path(hdf5_file(dataset))
    listed = list_of(split_of, class_of, classes, named)
    groups = [Group((name,), frozenset([label])) for name, label in listed.class_of.items()]
    chosen, notes = complete_splits(listed.split_of, listed.class_of, groups, config, named.where)
    notes += check_classes(chosen, listed.class_of, where=named.where, advice=ADVICE)
    bands, kept = _choose_bands(named, next(iter(chosen)), config)
    ranges = _choose_ranges(
        named, [name for name, split in chosen.items() if split == "train"], kept, config
    )
    if ranges is not None and config.value_range is None:
        notes.append(ranges_note(bands, ranges))
    rows = {name: Row(split, None, None, 0) for name, split in chosen.items()}
    digests = digest_files({*file_of.values()})
    digest = digest_rows(
        rows,
        listed.class_of,
        {name: digests[path] for name, path in file_of.items()},
        classes=listed.classes,
        more=[bands, ranges],
    )
    return SampleSource(
        named=named,
        classes=listed.classes,
        candidates=tabulate(rows, listed.class_of, listed.classes),
        notes=(*listed.notes, *notes),
        content_digest=digest,
        bands=bands,
        kept=kept,
        ranges=ranges,
        patch_size=config.patch_size,
    )


def _choose_bands(
    named: Named, first: str, config: DatasetConfig
) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Return the names of the bands that are kept, and their places in a sample."""
    names = band_names(named.name) or ()
    with named.explained():
        count = len(_read_sample(named, first, None))
    if count != len(names):
        raise UsageError(
            f"{named.where}: its samples have {count} bands, but torchgeo names {len(names)}; "
            "check its files"
        )
    kept = choose_bands(config.bands, names, named.where)
    return (names if kept is None else tuple(names[place] for place in kept)), kept


def _choose_ranges(
    named: Named, train: Sequence[str], kept: tuple[int, ...] | None, config: DatasetConfig
) -> tuple[tuple[float, float], ...] | None:
    """Return the range of each band: the user's, or that of train; None: samples are uint8."""
    with named.explained():
        first = _read_sample(named, train[0], kept)
        if first.dtype.name == "uint8":
            return None
        if config.value_range is not None:
            return (config.value_range,) * len(first)
        return band_ranges(_samples(named, spread(train), kept))


def _samples(
    named: Named, names: Iterable[str], kept: tuple[int, ...] | None
) -> Iterable[NDArray[Any]]:
    for name in names:
        yield _read_sample(named, name, kept)


@lru_cache(maxsize=8)
def _opened(named: Named, split: str) -> Any:
    """Return torchgeo's data set of one split, opened once in each process."""
    return named.open(split)


def _read_sample(named: Named, name: str, kept: tuple[int, ...] | None) -> NDArray[Any]:
    """Return the kept bands of a sample (C, H, W) in its own type."""
    split, _, number = name.partition("/")
    pixels: NDArray[Any] = _opened(named, split)[int(number)]["image"].numpy()
    if pixels.ndim != 3:
        raise ValueError(f"its image has the shape {pixels.shape}, not (C, H, W)")
    return pixels if kept is None else pixels[list(kept)]
