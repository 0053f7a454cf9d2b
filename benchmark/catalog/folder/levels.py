"""Split and class of images by the folders that they lie in."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from benchmark.catalog.folder.splits import SPLITS
from benchmark.errors import UsageError
from benchmark.fields import check_name, shown

SPLIT_NAMES = {name: name for name in SPLITS} | {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}
"""Split by the accepted names of folders, which are compared without case."""


class Levels(NamedTuple):
    """What the folders of images mean."""

    class_of: dict[str, str]
    splits: dict[str, str]
    """Split by the folder in the root; empty if these folders mean no splits."""
    depth: int
    """Number of folders above that of the class."""
    notes: list[str]


def read_levels(images: Sequence[str], *, class_level: int | None, where: str) -> Levels:
    """Return the class of each image, and the splits that folders name.

    Args:
        images: relative POSIX paths, none directly in the root.
        class_level: the level of the folders that are classes; 1: those in the root. None: the
            first level below the splits.
        where: start of each message.

    Raises:
        UsageError: the folders are ambiguous, an image lies above the level of the classes, or the
            name of a class is no printable text.
    """
    splits = {} if class_level == 1 else split_folders(images, where=where)
    depth = class_level - 1 if class_level else (1 if splits else 0)
    first_of: dict[str, str] = {}
    for image in images:
        first_of.setdefault(_folder(image), image)
    parts_of = {folder: PurePosixPath(folder).parts for folder in first_of}
    notes = []
    if class_level is None:
        _check_repeated(parts_of.values(), depth, where)
    for folder, parts in parts_of.items():
        if len(parts) < depth + 1:
            raise UsageError(
                f"{where}: [dataset] class_level = {class_level}, but '{first_of[folder]}' has "
                f"{len(parts)} folders above it; move it, or correct class_level"
            )
    name_of = _unite_forms({folder: parts[depth] for folder, parts in parts_of.items()})
    for folder, name in name_of.items():
        try:
            check_name(name)
        except ValueError as error:
            raise UsageError(
                f"{where}: the folder {shown(name, 100)} of '{first_of[folder]}' is a class, but "
                f"its name {error}"
            ) from None
    above = sorted({"/".join(parts[bool(splits) : depth]) for parts in parts_of.values()} - {""})
    if above:
        more = f" and {len(above) - 10} more" if len(above) > 10 else ""
        notes.append(
            f"Folders above the classes, not used: {', '.join(above[:10])}{more}; images of one "
            "place in several of them may be in different splits."
        )
    return Levels({image: name_of[_folder(image)] for image in images}, splits, depth, notes)


def _folder(image: str) -> str:
    return image.rpartition("/")[0]


def split_folders(images: Iterable[str], *, where: str) -> dict[str, str]:
    """Return the split of each folder in the root; empty if these folders are classes.

    A folder that directly holds images is a class, even if it is called ``train`` and lies
    beside other classes.

    Raises:
        UsageError: only some folders are named as splits, or all are and one directly holds
            images.
    """
    folders, flat = set(), set()
    for above in {_folder(image) for image in images}:
        folder, *rest = PurePosixPath(above).parts
        folders.add(folder)
        if not rest:
            flat.add(folder)
    found = {
        folder: SPLIT_NAMES[folder.casefold()]
        for folder in sorted(folders)
        if folder.casefold() in SPLIT_NAMES
    }
    if len(found) < len(folders):
        levels = sorted(set(found) - flat)
        if levels:
            other = min(folders - set(found))
            raise UsageError(
                f"{where}: the split folder '{levels[0]}' lies beside '{other}'; put every "
                f"class below train/, val/ or test/, or rename '{levels[0]}' if it is a class"
            )
        return {}
    if flat:
        raise UsageError(
            f"{where}: images lie directly in '{min(flat)}'; put them into one folder per class "
            f"('{min(flat)}/CLASS/image.png')"
        )
    return found


def _check_repeated(paths: Iterable[Sequence[str]], depth: int, where: str) -> None:
    """Refuse classes of which each holds the same folders: these may be the classes instead.

    Args:
        paths: the parts of each folder that holds images.
        depth: the place of the class among them.
        where: start of the message.
    """
    below: dict[str, set[str]] = defaultdict(set)
    for parts in paths:
        if len(parts) < depth + 2:
            return
        below[parts[depth]].add(parts[depth + 1])
    repeated = sorted(set.intersection(*below.values()))
    if len(below) < 2 or len(repeated) < 2:
        return
    above = " and ".join(shown(name, 60) for name in sorted(below)[:2])
    under = " and ".join(shown(name, 60) for name in repeated[:2])
    raise UsageError(
        f"{where}: each of {len(below)} folders (e.g. {above}) holds the same {len(repeated)} "
        f"folders (e.g. {under}), so it is not clear which are the classes; set [dataset] "
        f"class_level = {depth + 1} for {above}, or {depth + 2} for {under}"
    )


def _unite_forms(class_of: Mapping[str, str]) -> dict[str, str]:
    """Return the class of each folder, with one name for those that differ in Unicode form only."""
    forms: dict[str, set[str]] = defaultdict(set)
    for name in set(class_of.values()):
        forms[unicodedata.normalize("NFC", name)].add(name)
    united = {name: form for form, names in forms.items() if len(names) > 1 for name in names}
    return {image: united.get(name, name) for image, name in class_of.items()}
