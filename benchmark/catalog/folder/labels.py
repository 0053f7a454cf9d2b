"""Read the table of labels of an image folder (``[dataset] labels``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.catalog.folder.assignment import Given, read_name
from benchmark.catalog.folder.rows import open_table
from benchmark.catalog.folder.splits import ImageFinder, read_split
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.fields import shown


class Labels(NamedTuple):
    """The images that a table names."""

    given: dict[str, Given]
    """By relative path, in the order of the table."""
    notes: list[str]
    where: str
    """Start of messages about the table."""
    unit: str
    """Word for the number of a row in messages: ``line`` or ``row``."""


def read_labels(text: str, root: Path, images: Sequence[str], config: DatasetConfig) -> Labels:
    """Read a table with the columns path and label, and optionally split, scene and region.

    Args:
        text: path of the table, from the current folder.
        root: the images' folder; a path is relative to it, or absolute and below it.
        images: the images of the folder, relative POSIX paths, sorted.
        config: of the data set.

    Raises:
        UsageError: the table cannot be read, a path is wrong or named twice with different
            content, a label is empty, a split is unknown, or a split or scene is given for some
            images only.
    """
    where = f"[dataset] labels = '{text}'"
    path = Path(text)
    if not path.exists() and not path.is_absolute() and (root / path).exists():
        raise UsageError(
            f"{where}: does not exist, but lies in the root: write the path from the current "
            f"folder, '{Path(config.root) / path}'"
        )
    table = open_table(
        path, needed=("path", "label"), optional=("split", "scene", "region"), where=where
    )
    finder = ImageFinder((root, Path(config.root).absolute()), images)
    given: dict[str, Given] = {}
    num_repeated = 0
    for place, number, cells in table.rows:
        image = finder.find(cells["path"], place)
        item = _read_row(image, cells, number, place)
        other = given.setdefault(image, item)
        if other is item:
            continue
        if other._replace(number=number) != item:
            differs = next(
                name for name in Given._fields if getattr(other, name) != getattr(item, name)
            )
            raise UsageError(
                f"{place}: {shown(image)} has the {differs} {shown(getattr(item, differs), 100)}, "
                f"and {shown(getattr(other, differs), 100)} on {table.unit} {other.number}; keep "
                "one row"
            )
        num_repeated += 1
    if not given:
        raise UsageError(f"{where}: names no images; write one row per image")
    return Labels(given, _notes(given, images, table.ignored, num_repeated), where, table.unit)


def _read_row(image: str, cells: dict[str, str], number: int, place: str) -> Given:
    if not cells["label"]:
        raise UsageError(f"{place}: {shown(image)} has no label; give one, or remove the row")
    for name in ("split", "scene"):
        if not cells.get(name, "-"):
            raise UsageError(
                f"{place}: {shown(image)} has no {name}; fill the column for every image, or "
                "remove it"
            )
    scene, region = (
        read_name(cells[name], name, place) if cells.get(name) else None
        for name in ("scene", "region")
    )
    split = read_split(cells["split"], place) if "split" in cells else None
    return Given(read_name(cells["label"], "label", place), split, scene, region, number)


def _notes(
    given: dict[str, Given], images: Sequence[str], ignored: Sequence[str], num_repeated: int
) -> list[str]:
    notes = []
    unnamed = len(images) - len(given)
    if unnamed:
        example = next(image for image in images if image not in given)
        notes.append(
            f"Images left out because the table of labels does not name them: {unnamed}, "
            f"e.g. '{example}'."
        )
    if num_repeated:
        notes.append(f"Rows of the table of labels that repeat another one: {num_repeated}.")
    names = [shown(name, 50) if name else "one without a name" for name in dict.fromkeys(ignored)]
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        notes.append(f"Columns of the table of labels not used: {', '.join(names[:10])}{more}.")
    return notes
