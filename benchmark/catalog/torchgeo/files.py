"""Data sets of torchgeo whose images are files: torchgeo lists them, this package reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.catalog.folder.assignment import alike_notes, complete_splits, join_scenes
from benchmark.catalog.folder.contents import look_at, why_unreadable
from benchmark.catalog.folder.decoding import ImageError
from benchmark.catalog.folder.facts import Facts
from benchmark.catalog.folder.formats import open_reader
from benchmark.catalog.folder.images import PatchReader
from benchmark.catalog.folder.listed import digest_rows, tabulate
from benchmark.catalog.folder.source import FolderSource
from benchmark.catalog.folder.splits import Row, check_classes, duplicate_notes, group_duplicates
from benchmark.catalog.torchgeo.listing import ADVICE, Listed, list_of
from benchmark.catalog.torchgeo.ranges import band_ranges, choose_bands, ranges_note, spread
from benchmark.catalog.torchgeo.sets import FORMS, Named, band_names
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def open_files(named: Named, config: DatasetConfig) -> FolderSource:
    """Open a data set of image files; a ``patch_id`` is the path below their common folder.

    Raises:
        UsageError: it is absent or incomplete, or a setting does not fit its images.
    """
    root, listed = _list_files(named)
    looked_at = look_at(root, listed.class_of, config, named.where)
    class_of = {image: listed.class_of[image] for image in looked_at.images}
    split_of = {image: listed.split_of[image] for image in looked_at.images}
    groups = group_duplicates(looked_at.pixels_of, class_of)
    joined = join_scenes(groups, looked_at.alike_of, class_of)
    split_of, notes = complete_splits(split_of, class_of, joined, config, named.where)
    notes += check_classes(split_of, class_of, where=named.where, advice=ADVICE)
    notes += duplicate_notes(groups, split_of, class_of)
    notes += alike_notes(looked_at.alike_of, split_of, class_of)
    rows = {image: Row(split, None, None, 0) for image, split in split_of.items()}
    unreadable = "" if looked_at.facts else why_unreadable(root, rows)
    whole = _settings_of_all_bands(named.name, looked_at.facts, config)
    opened = open_reader(looked_at.facts, unreadable, whole, where=named.where)
    notes += opened.notes
    reader = opened.reader
    kept = choose_bands(config.bands, reader.bands, named.where)
    if kept is not None:
        reader = replace(reader, kept=kept, bands=tuple(reader.bands[place] for place in kept))
    if reader.value_range is not None and config.value_range is None:
        train = [root / image for image, split in split_of.items() if split == "train"]
        ranges = band_ranges(_pixels(spread(train), reader))
        reader = replace(reader, ranges=ranges)
        notes.append(ranges_note(reader.bands, ranges))
    more = [opened.marks, reader.bands, reader.value_range, reader.ranges]
    digest = digest_rows(rows, class_of, looked_at.digest_of, classes=listed.classes, more=more)
    return FolderSource(
        root=root,
        classes=listed.classes,
        candidates=tabulate(rows, class_of, listed.classes),
        reader=reader,
        notes=(*listed.notes, *looked_at.notes, *notes),
        content_digest=digest,
    )


def _list_files(named: Named) -> tuple[Path, Listed]:
    """Return the common folder of all images, and the images by their paths below it."""
    list_files = FORMS[named.name].files
    assert list_files is not None
    split_of: dict[str, str] = {}
    class_of: dict[str, str] = {}
    classes: dict[str, None] = {}
    for theirs, split in named.splits().items():
        dataset = named.open(theirs)
        found = list_files(dataset)
        _check_complete(named, dataset, theirs, found)
        classes |= dict.fromkeys(dataset.classes)
        for path, label in found:
            if split_of.setdefault(path, split) != split:
                raise UsageError(
                    f"{named.where}: '{path}' is in {split_of[path]} and in {split}; correct the "
                    "lists of the splits"
                )
            class_of[path] = label
    parents = {str(Path(path).parent.parent) for path in split_of}
    root = Path(os.path.commonpath(parents)) if parents else Path(named.root)
    short = {path: Path(path).relative_to(root).as_posix() for path in split_of}
    listed = list_of(
        {short[path]: split for path, split in split_of.items()},
        {short[path]: label for path, label in class_of.items()},
        classes,
        named,
    )
    return root, listed


def _check_complete(
    named: Named, dataset: Any, split: str | None, found: Sequence[tuple[str, str]]
) -> None:
    """Refuse a data set that lacks images which the list of its split names.

    torchgeo takes those that are there, e.g. after an interrupted download.
    """
    lists: Mapping[str | None, str] = getattr(dataset, "split_filenames", {})
    path = Path(named.root) / lists.get(split, f"{named.name.lower()}-{split}.txt")
    if not path.is_file():
        return
    names = {Path(line.strip()).stem for line in path.read_text().splitlines() if line.strip()}
    lacking = sorted(names - {Path(file).stem for file, _ in found})
    if lacking:
        raise UsageError(
            f"{named.where}: {len(lacking)} of {len(names)} images that {path.name} lists are "
            f"missing, e.g. {lacking[0]!a}; remove the folder of images, and "
            f"{named.how_to_prepare()}"
        )


def _settings_of_all_bands(
    name: str, facts: Mapping[str, Facts], config: DatasetConfig
) -> DatasetConfig:
    """Return the settings with all bands of the files, and a range that holds all their pixels.

    A range of the user is kept.
    """
    bounds = [
        (item.low, item.high)
        for item in facts.values()
        if item.dtype != "uint8" and item.low is not None and item.high is not None
    ]
    value_range = config.value_range
    if bounds and value_range is None:
        low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
        value_range = (low, high if high > low else low + 1)
    return config.model_copy(update={"bands": band_names(name), "value_range": value_range})


def _pixels(paths: Iterable[Path], reader: PatchReader) -> Iterable[NDArray[Any]]:
    """Yield the stored pixels of images, NaN where there are no data."""
    import numpy as np

    for path in paths:
        try:
            pixels, invalid = reader.stored(path)
        except ImageError:
            # Reading it gives a Problem, and on_error decides how to handle that.
            continue
        yield pixels if invalid is None else np.where(invalid, np.nan, pixels)
