"""Class and split of each image of a folder, from its path, a table or a random draw."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from benchmark.catalog.folder.rows import open_table
from benchmark.drawing import Group
from benchmark.errors import UsageError, did_you_mean
from benchmark.fields import shown

SPLIT_TABLE = "splits.csv"
SPLITS = ("train", "val", "test")
SPLIT_WORDS = {name: name for name in SPLITS} | {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "testing": "test",
    "holdout": "test",
    "hold-out": "test",
    "held-out": "test",
}
"""Split by its accepted names in a table, which are compared without case."""


class Row(NamedTuple):
    """What a table says of an image."""

    split: str
    scene: str | None
    region: str | None
    line: int


def read_split_table(path: Path, images: Collection[str], *, where: str) -> dict[str, Row]:
    """Read ``splits.csv``: columns path and split, optionally scene and region.

    Args:
        path: the table.
        images: the images of the folder, relative POSIX paths.
        where: start of each message.

    Raises:
        UsageError: a column is unknown or missing, a path is listed twice, absent or outside
            the root, a split is unknown, or a scene is missing or in two splits.
    """
    where = f"{where}: {SPLIT_TABLE}"
    rows: dict[str, Row] = {}
    if not path.is_file():
        raise UsageError(f"{where}: is no regular file, or a link to none; mend or remove it")
    table = open_table(path, needed=("path", "split"), optional=("scene", "region"), where=where)
    for name in table.ignored:
        if name:
            known = ("path", "split", "scene", "region")
            raise UsageError(f"{where}: unknown column '{name}'.{did_you_mean(name, known)}")
    finder = ImageFinder((path.parent,), images)
    for place, number, cells in table.rows:
        image = finder.find(cells["path"], place)
        if "/" not in image:
            raise UsageError(
                f"{place}: '{image}' lies directly in the root; put it in a class folder"
            )
        if image in rows:
            raise UsageError(f"{place}: '{image}' is listed on line {rows[image].line} too")
        split = read_split(cells["split"], place)
        if "scene" in cells and not cells["scene"]:
            raise UsageError(
                f"{place}: '{image}' has no scene; fill the column for every image, or remove it"
            )
        rows[image] = Row(split, cells.get("scene"), cells.get("region") or None, number)
    if not rows:
        raise UsageError(f"{where}: lists no images; write one row per image")
    check_scenes(rows.values(), where)
    return rows


def read_split(word: str, place: str) -> str:
    """Return train, val or test.

    Raises:
        UsageError: the word means none of them.
    """
    split = SPLIT_WORDS.get(word.casefold())
    if split is None:
        raise UsageError(f"{place}: unknown split {shown(word, 100)}; write train, val or test")
    return split


def group_duplicates(
    digest_of: Mapping[str, str | None], class_of: Mapping[str, str]
) -> list[Group]:
    """Return the images grouped by the digest of their content; one without digest is alone."""
    members: dict[str, list[str]] = defaultdict(list)
    for path, digest in digest_of.items():
        members[digest or f"path {path}"].append(path)
    shared: dict[frozenset[str], frozenset[str]] = {}
    groups = []
    for paths in members.values():
        names = frozenset(class_of[path] for path in paths)
        groups.append(Group(tuple(paths), shared.setdefault(names, names)))
    return groups


def check_classes(
    split_of: Mapping[str, str],
    class_of: Mapping[str, str],
    *,
    where: str,
    advice: tuple[str, str] = (
        "add a folder with images of another class",
        f"write a {SPLIT_TABLE}",
    ),
) -> list[str]:
    """Return notes on the classes that are absent from val or test.

    Args:
        split_of: the split of each image.
        class_of: the class of each image.
        where: start of each message.
        advice: how to add a class, and how to give the splits.

    Raises:
        UsageError: there is only one class, a split is empty, or train lacks a class.
    """
    classes = sorted(set(class_of.values()))
    if len(classes) == 1:
        raise UsageError(f"{where}: there is only one class, {shown(classes[0], 100)}; {advice[0]}")
    notes = []
    for split in SPLITS:
        present = {class_of[path] for path in split_of if split_of[path] == split}
        absent = [name for name in classes if name not in present]
        if not present:
            raise UsageError(
                f"{where}: there are no {split} images; heads are trained on train, chosen on val "
                f"and scored on test: add some to {split} (a random split needs three different "
                f"images of a class) or {advice[1]}"
            )
        if absent and split == "train":
            alike = [name for name in present if name.casefold() == absent[0].casefold()]
            hint = f" (or rename it, if it is the class {shown(alike[0], 100)})" if alike else ""
            raise UsageError(
                f"{where}: class {shown(absent[0], 200)} has no train images; add some or remove "
                f"the class{hint}"
            )
        if absent:
            notes.append(f"Classes without {split} images: {', '.join(absent)}.")
    return notes


def duplicate_notes(
    groups: Iterable[Group],
    split_of: Mapping[str, str],
    class_of: Mapping[str, str],
    *,
    what: str = "identical",
) -> list[str]:
    """Return notes on groups of identical images with different labels or in different splits."""
    notes = []
    for by, text in ((class_of, "with different labels"), (split_of, "in different splits")):
        pairs = []
        for group in groups:
            other = next((p for p in group.paths if by[p] != by[group.paths[0]]), None)
            if other is not None:
                pairs.append((group.paths[0], other))
        if pairs:
            first, second = min(pairs)
            notes.append(
                f"Groups of {what} images {text}: {len(pairs)}, e.g. '{first}' and '{second}'."
            )
    return notes


class ImageFinder:
    """Finds the images of a folder by the paths of a table."""

    def __init__(self, roots: Sequence[Path], images: Collection[str]) -> None:
        """Look among ``images``, relative POSIX paths below each of ``roots``, which are equal."""
        self._roots = roots
        self._images = frozenset(images)
        # macOS and Linux write the same name with different code points.
        self._by_form: dict[str, list[str]] = defaultdict(list)
        for image in images:
            self._by_form[unicodedata.normalize("NFC", image)].append(image)

    def find(self, text: str, place: str) -> str:
        """Return the relative path of an image, given with forward or back slashes.

        Raises:
            UsageError: there is no path or no such image, or it is outside the root.
        """
        if not text:
            raise UsageError(f"{place}: the path is empty; name an image")
        found = self._look_up(text, place) or self._look_up(text.replace("\\", "/"), place)
        if found is None:
            # os.path answers for names that no file system can hold; pathlib raises.
            if any(os.path.isfile(root / text) for root in self._roots):  # noqa: PTH113
                raise UsageError(
                    f"{place}: {shown(text)} is hidden, in a linked folder, or not PNG, JPEG or "
                    "TIFF"
                )
            raise UsageError(
                f"{place}: {shown(text)} does not exist; correct the path or remove the row"
            )
        return found

    def _look_up(self, text: str, place: str) -> str | None:
        path = PurePosixPath(text)
        if path.is_absolute():
            below = [path.relative_to(root) for root in self._roots if path.is_relative_to(root)]
            path = below[0] if below else path
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"{place}: {shown(text)} is outside the root; write a path relative to it"
            )
        image = str(path)
        if image in self._images:
            return image
        same = self._by_form.get(unicodedata.normalize("NFC", image), [])
        if len(same) > 1:
            raise UsageError(
                f"{place}: {shown(text)} is {len(same)} files whose names differ in their Unicode "
                "form only; rename one"
            )
        return same[0] if same else None


def check_scenes(rows: Iterable[Row], where: str, *, unit: str = "line") -> None:
    """Refuse a scene in two splits; ``unit`` is the word for a row's number."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.scene is None:
            continue
        other = first.setdefault(row.scene, row)
        if other.split != row.split:
            raise UsageError(
                f"{where}: scene '{row.scene}' is in {other.split} ({unit} {other.line}) and in "
                f"{row.split} ({unit} {row.line}); put a scene into one split"
            )
