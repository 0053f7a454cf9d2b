"""A folder of labelled images as a source of patches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from benchmark.catalog.corners import centre_corners
from benchmark.catalog.folder.assignment import (
    alike_notes,
    assign,
    draw,
    join_scenes,
    random_note,
    similar_notes,
    sort_classes,
)
from benchmark.catalog.folder.contents import look_at, why_unreadable
from benchmark.catalog.folder.decoding import (
    TIFF_SUFFIXES,
    ImageError,
    without_warnings,
)
from benchmark.catalog.folder.facts import Facts
from benchmark.catalog.folder.formats import open_reader
from benchmark.catalog.folder.images import PatchReader
from benchmark.catalog.folder.labels import read_labels
from benchmark.catalog.folder.levels import read_levels
from benchmark.catalog.folder.listed import (
    ListedSource,
    Unusable,
    digest_rows,
    read_images,
    tabulate,
)
from benchmark.catalog.folder.listing import list_images
from benchmark.catalog.folder.splits import (
    SPLIT_TABLE,
    SPLITS,
    Row,
    check_classes,
    duplicate_notes,
    group_duplicates,
    read_split_table,
)
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError, one_line
from benchmark.regular import follow_links
from benchmark.specs import Images

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class FolderSource(ListedSource):
    """The images of a folder, one patch each; a ``patch_id`` is the path relative to the root."""

    root: Path
    reader: PatchReader

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the C bands."""
        return self.reader.bands

    def read(self, candidates: pa.Table) -> Images:
        """Return the images of the candidates, uint8 (N, C, P, P), in the order of the rows.

        An unusable image becomes a Problem and is left out of ``rows``.
        """
        paths = candidates["patch_id"].to_pylist()
        shape = (len(self.bands), self.reader.patch_size, self.reader.patch_size)
        return read_images(paths, shape, self._read_one)

    def corners(self, patches: pa.Table) -> NDArray[np.float64]:
        """Return the corners of the images' centres that became patches, as ``LocatedSource``.

        GeoTIFFs with a coordinate reference system have them; other images are NaN.
        """
        import numpy as np

        paths = patches["patch_id"].to_pylist()
        found = np.full((len(paths), 4, 2), np.nan)
        with without_warnings():
            for row, path in enumerate(paths):
                if PurePosixPath(path).suffix.lower() in TIFF_SUFFIXES:
                    found[row] = centre_corners(self.root / path)
        return found

    def _read_one(self, path: str) -> NDArray[np.uint8]:
        try:
            return self.reader.read(self.root / path)
        except ImageError as error:
            raise Unusable(str(self.root / path), str(error)) from None


class _Labelled(NamedTuple):
    """The images that are used, sorted by path, with all that is known of them."""

    rows: Mapping[str, Row]
    class_of: Mapping[str, str]
    digest_of: Mapping[str, str | None]
    facts: Mapping[str, Facts]
    notes: list[str]


def open_folder(config: DatasetConfig) -> FolderSource:
    """Open a folder of labelled images: ``CLASS/image.png`` or ``SPLIT/CLASS/image.png``.

    The splits come from a ``splits.csv`` in the root, else from folders called train, val and
    test above the classes, else from a random draw, stratified by class.

    With ``labels`` the classes come from that table instead, and so do splits, scenes and regions
    where it has such columns (see ``labels.read_labels``); folders mean nothing then.

    Raises:
        UsageError: the folder is absent, holds no images or only one class, its layout is
            ambiguous, a class has no train images, ``splits.csv`` or ``labels`` is invalid, or the
            first image does not match ``bands`` and ``value_range``.
    """
    where = f"[dataset] root = '{config.root}'"
    # Workers run in other directories, so the root must not stay relative.
    try:
        root = follow_links(Path(config.root))
    except OSError as error:
        raise UsageError(f"{where}: cannot be opened: {one_line(error)}") from None
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        holds = "one folder per class" if config.labels is None else "the images"
        raise UsageError(f"{where}: {what}; name the folder that holds {holds}")
    if config.labels is not None and config.class_level is not None:
        raise UsageError(
            "[dataset] class_level is for classes that are folders, but labels is set; remove one"
        )
    table = Path(os.path.relpath(Path(config.labels).resolve(), root)) if config.labels else None
    listing = list_images(root, where, table=table.as_posix() if table else "")
    if config.labels is None:
        found = _label_by_folder(root, listing.images, listing.folders, config, where)
    else:
        found = _label_by_table(root, listing.images, config, where)
    known = {image: found.facts[image] for image in found.rows if image in found.facts}
    unreadable = "" if known else why_unreadable(root, found.rows)
    opened = open_reader(known, unreadable, config, where=where)
    names = set(found.class_of.values())
    classes = tuple(sorted(names)) if config.labels is None else sort_classes(names)
    return FolderSource(
        root=root,
        classes=classes,
        candidates=tabulate(found.rows, found.class_of, classes),
        reader=opened.reader,
        notes=(*listing.notes, *found.notes, *opened.notes),
        content_digest=digest_rows(
            found.rows, found.class_of, found.digest_of, classes=classes, more=opened.marks or None
        ),
    )


def _label_by_folder(
    root: Path,
    listed: Sequence[str],
    folders: Sequence[str],
    config: DatasetConfig,
    where: str,
) -> _Labelled:
    """Take the class of each image from its path, its split from ``splits.csv``, path or a draw."""
    notes = []
    images = listed
    table: dict[str, Row] = {}
    if os.path.lexists(root / SPLIT_TABLE):
        table = read_split_table(root / SPLIT_TABLE, set(images), where=where)
        images = sorted(table)
        num_unlisted = len(listed) - len(images)
        if num_unlisted:
            example = next(image for image in listed if image not in table)
            notes.append(
                f"Images left out because {SPLIT_TABLE} does not list them: {num_unlisted}, "
                f"e.g. '{example}'."
            )
    _check_images(images, where)
    found = read_levels(images, class_level=config.class_level, where=where)
    notes += found.notes
    levels, class_of = found.splits, found.class_of
    if not table:
        used = {PurePosixPath(image).parts[found.depth] for image in images}
        notes += _empty_class_notes(folders, used, found.depth)
    looked_at = look_at(root, class_of, config, where)
    notes += looked_at.notes
    images, class_of = looked_at.images, {name: class_of[name] for name in looked_at.images}
    groups = group_duplicates(looked_at.pixels_of, class_of)
    if table:
        split_of = {image: table[image].split for image in images}
    elif levels:
        _check_levels(levels, where)
        split_of = {image: levels[PurePosixPath(image).parts[0]] for image in images}
    else:
        split_of = draw(join_scenes(groups, looked_at.alike_of, class_of), config, where)
        notes.append(random_note(config))
    notes += check_classes(split_of, class_of, where=where)
    notes += duplicate_notes(groups, split_of, class_of)
    notes += alike_notes(looked_at.alike_of, split_of, class_of)
    notes += similar_notes(set(class_of.values()))
    plain = {split: Row(split, None, None, 0) for split in SPLITS}
    rows = {image: table.get(image, plain[split_of[image]]) for image in images}
    return _Labelled(rows, class_of, looked_at.digest_of, looked_at.facts, notes)


def _label_by_table(
    root: Path, listed: Sequence[str], config: DatasetConfig, where: str
) -> _Labelled:
    """Take the class of each image, and all else that is given, from the table ``labels``."""
    if not listed:
        raise UsageError(f"{where}: holds no PNG, JPEG or TIFF images")
    labels = read_labels(str(config.labels), root, listed, config)
    class_of = {image: labels.given[image].label for image in sorted(labels.given)}
    looked_at = look_at(root, class_of, config, where)
    given = {image: labels.given[image] for image in looked_at.images}
    rows, notes = assign(
        given,
        looked_at.pixels_of,
        config,
        where=labels.where,
        unit=labels.unit,
        alike_of=looked_at.alike_of,
    )
    if os.path.lexists(root / SPLIT_TABLE):
        notes.append(f"{SPLIT_TABLE} is not read, because [dataset] labels is set.")
    class_of = {image: item.label for image, item in given.items()}
    notes = [*labels.notes, *looked_at.notes, *notes]
    return _Labelled(rows, class_of, looked_at.digest_of, looked_at.facts, notes)


def _check_images(images: Sequence[str], where: str) -> None:
    if not images:
        raise UsageError(
            f"{where}: holds no PNG, JPEG or TIFF images; put them into one folder per class"
        )
    loose = [image for image in images if "/" not in image]
    if loose:
        raise UsageError(
            f"{where}: {len(loose)} images are not in a class folder, e.g. '{loose[0]}'; put them "
            "into one folder per class"
        )


def _check_levels(levels: Mapping[str, str], where: str) -> None:
    folder_of: dict[str, str] = {}
    for folder, split in levels.items():
        other = folder_of.setdefault(split, folder)
        if other != folder:
            raise UsageError(
                f"{where}: the folders '{other}' and '{folder}' both mean {split}; keep one"
            )


def _empty_class_notes(folders: Sequence[str], classes: set[str], depth: int) -> list[str]:
    parts = [PurePosixPath(folder).parts for folder in folders]
    empty = sorted({part[depth] for part in parts if len(part) == depth + 1} - classes)
    return [f"Folders without images, not used as class: {', '.join(empty)}."] if empty else []
