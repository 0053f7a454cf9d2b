"""A folder of labelled images as a source of patches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from benchmark.catalog.folder.assignment import (
    assign,
    draw,
    random_note,
    sort_classes,
)
from benchmark.catalog.folder.images import SUFFIXES, ImageError, PatchReader, open_reader
from benchmark.catalog.folder.labels import read_labels
from benchmark.catalog.folder.listed import (
    ListedSource,
    Unusable,
    digest_rows,
    read_images,
    tabulate,
)
from benchmark.catalog.folder.splits import (
    SPLIT_TABLE,
    Row,
    check_classes,
    duplicate_notes,
    group_duplicates,
    read_split_table,
    split_folders,
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
    table = Path(os.path.relpath(Path(config.labels).resolve(), root)) if config.labels else None
    listing = _list_images(root, where, table=table.as_posix() if table else "")
    if config.labels is None:
        found = _label_by_folder(root, listing.images, listing.folders, config, where)
    else:
        found = _label_by_table(root, listing.images, config, where)
    reader, reader_notes = open_reader(root, found.rows, config, where=where)
    names = set(found.class_of.values())
    classes = tuple(sorted(names)) if config.labels is None else sort_classes(names)
    return FolderSource(
        root=root,
        classes=classes,
        candidates=tabulate(found.rows, found.class_of, classes),
        reader=reader,
        notes=(*listing.notes, *found.notes, *reader_notes),
        content_digest=digest_rows(found.rows, found.class_of, found.digest_of, classes=classes),
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
    levels = split_folders(images, where=where)
    depth = 1 if levels else 0
    class_of = {image: PurePosixPath(image).parts[depth] for image in images}
    if not table:
        notes += _empty_class_notes(folders, set(class_of.values()), depth)
    digest_of = _digest_files(root, images, where)
    groups = group_duplicates(digest_of, class_of)
    if table:
        split_of = {image: row.split for image, row in table.items()}
    elif levels:
        _check_levels(levels, where)
        split_of = {image: levels[PurePosixPath(image).parts[0]] for image in images}
    else:
        split_of = draw(groups, config, where)
        notes.append(random_note(config))
    notes += check_classes(split_of, class_of, where=where)
    notes += duplicate_notes(groups, split_of, class_of)
    rows = {image: table.get(image, Row(split_of[image], None, None, 0)) for image in images}
    return _Labelled(rows, class_of, digest_of, notes)


def _label_by_table(
    root: Path, listed: Sequence[str], config: DatasetConfig, where: str
) -> _Labelled:
    """Take the class of each image, and all else that is given, from the table ``labels``."""
    if not listed:
        raise UsageError(f"{where}: holds no PNG, JPEG or TIFF images")
    labels = read_labels(str(config.labels), root, listed, config)
    images = sorted(labels.given)
    digest_of = _digest_files(root, images, where)
    given = {image: labels.given[image] for image in images}
    rows, notes = assign(given, digest_of, config, where=labels.where, unit=labels.unit)
    if os.path.lexists(root / SPLIT_TABLE):
        notes.append(f"{SPLIT_TABLE} is not read, because [dataset] labels is set.")
    class_of = {image: item.label for image, item in given.items()}
    return _Labelled(rows, class_of, digest_of, [*labels.notes, *notes])


class _Listing(NamedTuple):
    images: list[str]
    folders: list[str]
    notes: list[str]


def _list_images(root: Path, where: str, *, table: str) -> _Listing:
    """List the images below the root; ``table`` is the relative path of the labels, if there."""
    images: list[str] = []
    folders: list[str] = []
    ignored: list[str] = []
    linked: list[str] = []
    outside: list[str] = []

    def fail(error: OSError) -> None:
        raise UsageError(f"{where}: cannot be listed: {error}") from None

    for folder, names, files in os.walk(root, onerror=fail):
        here = Path(folder)
        names[:] = [name for name in names if not name.startswith(".")]
        for name in names:
            path = here / name
            (linked if path.is_symlink() else folders).append(path.relative_to(root).as_posix())
        for name in files:
            path = (here / name).relative_to(root)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                ignored.append(path.as_posix())
            else:
                images.append(path.as_posix())
                link = here / name
                if link.is_symlink() and not _resolve(link).is_relative_to(root):
                    outside.append(path.as_posix())
    for path_text in images:
        # Arrow and JSON hold UTF-8 only, and the path is the patch's identity.
        try:
            path_text.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{where}: the file name {path_text!a} is not UTF-8; rename it"
            ) from None
    ignored = [path for path in ignored if path not in (SPLIT_TABLE, table)]
    found = (
        ("Files ignored because they are hidden or not PNG, JPEG or TIFF", ignored),
        ("Links to files outside the folder", outside),
        ("Linked folders that were not followed", linked),
    )
    notes = [f"{what}: {len(paths)}, e.g. {min(paths)!a}." for what, paths in found if paths]
    return _Listing(sorted(images), sorted(folders), notes)


def _resolve(link: Path) -> Path:
    """Return the target of a link, or the link if it is one of a loop: nothing can read it."""
    try:
        return follow_links(link)
    except OSError:
        return link


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


def _digest_files(root: Path, images: Sequence[str], where: str) -> dict[str, str | None]:
    """Return the digest of each file, or None if it is empty or cannot be opened."""
    from benchmark.store.digest import digest_files

    # A file without a digest is not an error here: reading it gives a Problem, and on_error
    # decides how to handle that.
    paths = {image: root / image for image in images}
    usable = [path for path in paths.values() if os.access(path, os.R_OK) and path.stat().st_size]
    try:
        digest_of = digest_files(usable)
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error}") from None
    return {image: digest_of.get(path) for image, path in paths.items()}
