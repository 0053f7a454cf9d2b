"""Labelled images in Parquet shards as a source of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmark.catalog.folder.assignment import complete_splits, similar_notes, sort_classes
from benchmark.catalog.folder.decoding import ImageError, decode
from benchmark.catalog.folder.facts import Facts, describe
from benchmark.catalog.folder.formats import open_reader
from benchmark.catalog.folder.images import PatchReader
from benchmark.catalog.folder.listed import (
    ListedSource,
    Unusable,
    digest_rows,
    read_images,
    tabulate,
)
from benchmark.catalog.folder.splits import Row, check_classes, duplicate_notes, group_duplicates
from benchmark.catalog.parquet import encoded
from benchmark.catalog.parquet.columns import Columns, open_shard
from benchmark.catalog.parquet.shards import list_shards
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError, one_line
from benchmark.regular import follow_links
from benchmark.specs import Images

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

MAX_SHARDS, MAX_FIRST = 8, 16
"""Shards, evenly spread, and the first rows of each, that are decoded when the set is opened."""
WORDS = {
    "image": "column of images",
    "label": "column of labels",
    "names": "names of the classes",
    "has_splits": "column of splits",
}
"""What the fields of ``Columns`` are called."""


@dataclass(frozen=True, kw_only=True)
class ParquetSource(ListedSource):
    """Images of Parquet shards, one patch each; a ``patch_id`` is ``SHARD:ROW``."""

    root: Path
    column: str
    """Of the images."""
    reader: PatchReader

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the C bands."""
        return self.reader.bands

    def read(self, candidates: pa.Table) -> Images:
        """Return the images of the candidates, uint8 (N, C, P, P), in the order of the rows.

        The encoded images of all of them are in memory. An unusable one becomes a Problem.
        """
        names = candidates["patch_id"].to_pylist()
        shape = (len(self.bands), self.reader.patch_size, self.reader.patch_size)
        rows_of: dict[str, list[int]] = {}
        for shard, row in map(_place_of, names):
            rows_of.setdefault(shard, []).append(row)
        images: dict[str, bytes | None] = {}
        damaged: dict[str, str] = {}
        for shard, rows in rows_of.items():
            try:
                images |= _read_rows(self.root, shard, self.column, sorted(rows))
            except Exception as error:  # pyarrow raises many types on damaged files
                damaged[shard] = f"cannot be read: {one_line(error)}"
        return read_images(names, shape, partial(self._read_one, images, damaged))

    def _read_one(
        self, images: Mapping[str, bytes | None], damaged: Mapping[str, str], name: str
    ) -> NDArray[np.uint8]:
        shard, row = _place_of(name)
        if shard in damaged:
            raise Unusable(str(self.root / shard), damaged[shard])
        try:
            with encoded.as_file(images[name]) as path:
                return self.reader.read(path)
        except ImageError as error:
            raise Unusable(f"{self.root / shard} row {row}", str(error)) from None


class _Labelled(NamedTuple):
    """The rows of all shards."""

    columns: Columns
    num_rows: dict[str, int]
    """By shard."""
    split_of: dict[str, str]
    class_of: dict[str, str]
    """By ``patch_id``, sorted."""
    notes: list[str]


def open_parquet(name: str, how: str, config: DatasetConfig) -> ParquetSource:
    """Open a folder with the Parquet shards of a data set; its labels are read, its images later.

    Splits are those of the shards (``shards.list_shards``); val and test are drawn from train if
    there are none, with equal images in one split.

    Args:
        name: of the data set, for messages.
        how: what to do if it is not there.
        config: gives the root, bands, value_range, the fractions and the seed.

    Raises:
        UsageError: it is absent or incomplete, its columns or splits do not fit, or a setting does
            not fit its images.
    """
    from benchmark.store.digest import digest_files

    where = f"[dataset] name = '{name}', root = '{config.root}'"
    try:
        root = follow_links(Path(config.root))
    except OSError as error:
        raise UsageError(f"{where}: cannot be opened: {one_line(error)}") from None
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(f"{where}: {what}; {how}")
    columns, num_rows, split_of, class_of, told = _label_rows(root, where, how)
    # Equal images matter where splits are drawn; to find them, all images are read once.
    is_drawn = {*split_of.values()} != {"train", "val", "test"}
    content_of: dict[str, str | None] = dict.fromkeys(class_of)
    if is_drawn:
        content_of = _digest_images(root, num_rows, columns.image, where, how)
    groups = group_duplicates(content_of, class_of)
    split_of, notes = complete_splits(split_of, class_of, groups, config, where)
    notes += told
    advice = ("add images with another label", how)
    notes += check_classes(split_of, class_of, where=where, advice=advice)
    notes += duplicate_notes(groups, split_of, class_of)
    present = {*class_of.values()}
    notes += similar_notes(present)
    known = columns.names or sort_classes(present)
    classes = tuple(item for item in known if item in present)
    if absent := [item for item in known if item not in present]:
        notes.append(f"Classes without images: {', '.join(absent)}.")
    facts, unreadable = _examine(root, num_rows, columns.image)
    if len(facts) < len(class_of):
        notes.append(
            f"Of {len(class_of):,} images {len(facts)} were examined for their type, bands and "
            "nodata; the others are read like these."
        )
    opened = open_reader(facts, unreadable, config, where=where)
    rows = {item: Row(split, None, None, 0) for item, split in split_of.items()}
    digests = digest_files(root / shard for shard in num_rows)
    digest_of = {item: digests[root / _place_of(item)[0]] for item in rows}
    more = [columns.image, columns.label, *opened.marks]
    return ParquetSource(
        classes=classes,
        candidates=tabulate(rows, class_of, classes),
        notes=(*notes, *opened.notes),
        content_digest=digest_rows(rows, class_of, digest_of, classes=classes, more=more),
        root=root,
        column=columns.image,
        reader=opened.reader,
    )


def _label_rows(root: Path, where: str, how: str) -> _Labelled:
    """Return split and class of each row, read from all shards; without a split it is train.

    Raises:
        UsageError: as ``open_parquet``.
    """
    columns: dict[str, Columns] = {}
    num_rows: dict[str, int] = {}
    given: dict[str, tuple[str, str]] = {}
    shards = list_shards(root, where, how)
    # A column of splits counts where the files do not tell them apart.
    wants_splits = len({shard.split for shard in shards}) == 1
    for shard in shards:
        path = shard.path
        place = f"{where}: '{path}'"
        opened = open_shard(root / path, place, how, wants_splits=wants_splits)
        columns[path], num_rows[path] = opened.columns, len(opened.labels)
        splits = opened.splits or [shard.split or "train"] * len(opened.labels)
        given |= {
            _name_of(path, row): item
            for row, item in enumerate(zip(splits, opened.labels, strict=True))
        }
    names = sorted(given)
    return _Labelled(
        _check_alike(columns, where),
        num_rows,
        {name: given[name][0] for name in names},
        {name: given[name][1] for name in names},
        ["The splits are those of the column 'split'."] * bool(opened.splits),
    )


def _name_of(shard: str, row: int) -> str:
    """Return a ``patch_id``; sorted as text, rows are in order."""
    return f"{shard}:{row:08d}"


def _place_of(name: str) -> tuple[str, int]:
    shard, _, row = name.rpartition(":")
    return shard, int(row)


def _read_rows(root: Path, shard: str, column: str, rows: Sequence[int]) -> dict[str, bytes | None]:
    """Return the encoded images of some rows, sorted, by their ``patch_id``."""
    found = encoded.iterate_rows(root / shard, column, rows)
    return {_name_of(shard, row): data for row, data in zip(rows, found, strict=True)}


def _check_alike(found: Mapping[str, Columns], where: str) -> Columns:
    """Return the columns that all shards have."""
    (first, columns), *others = found.items()
    for path, item in others:
        for field, one, other in zip(Columns._fields, columns, item, strict=True):
            if one != other:
                what = WORDS[field]
                raise UsageError(
                    f"{where}: '{first}' and '{path}' differ in the {what}; they are no shards of "
                    "one data set"
                )
    return columns


def _digest_images(
    root: Path, num_rows: Mapping[str, int], column: str, where: str, how: str
) -> dict[str, str | None]:
    """Return the digest of each image's encoded bytes by its ``patch_id``."""
    found: dict[str, str | None] = {}
    for shard, count in num_rows.items():
        try:
            digests = encoded.digest_rows(root / shard, column, count)
        except Exception as error:  # pyarrow raises many types on damaged files
            raise UsageError(
                f"{where}: '{shard}' is damaged: {one_line(error)}; remove it, and {how}"
            ) from None
        found |= {_name_of(shard, row): digest for row, digest in enumerate(digests)}
    return found


def _examine(root: Path, num_rows: Mapping[str, int], column: str) -> tuple[dict[str, Facts], str]:
    """Return facts on some images by their ``patch_id``, and why the first of others has none."""
    facts: dict[str, Facts] = {}
    reasons = []
    filled = [shard for shard, count in num_rows.items() if count]
    for shard in filled[:: -(-len(filled) // MAX_SHARDS)]:
        try:
            images = _read_rows(root, shard, column, range(min(MAX_FIRST, num_rows[shard])))
        except Exception as error:  # pyarrow raises many types on damaged files
            reasons.append(f"'{shard}' cannot be read: {one_line(error)}")
            continue
        for name, data in images.items():
            try:
                with encoded.as_file(data) as path:
                    facts[name] = describe(decode(path))
            except ImageError as error:
                reasons.append(f"'{name}' {error}")
    return facts, reasons[0] if reasons else "there are none"
