"""Class and split of each image of a folder, from its path, a table or a random draw."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from benchmark.errors import UsageError, did_you_mean

SPLIT_TABLE = "splits.csv"
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {name: name for name in SPLITS} | {"valid": "val", "validation": "val"}
"""Split by its accepted names, which are compared without case."""


class Row(NamedTuple):
    """One row of ``splits.csv``."""

    split: str
    scene: str | None
    region: str | None
    line: int


class Group(NamedTuple):
    """Images with the same content; a random split keeps them together."""

    paths: tuple[str, ...]
    class_names: frozenset[str]


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
    try:
        # Spreadsheets put a byte order mark before the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            _check_columns(columns, where)
            for cells in reader:
                place = f"{where} line {reader.line_num}"
                if "" in cells:
                    raise UsageError(f"{place}: more cells than the {len(columns)} columns")
                row = {name: cell.strip() for name, cell in cells.items()}
                image = _listed_image(row["path"], path.parent, images, place)
                if image in rows:
                    raise UsageError(f"{place}: '{image}' is listed on line {rows[image].line} too")
                split = SPLIT_NAMES.get(row["split"].casefold())
                if split is None:
                    raise UsageError(
                        f"{place}: unknown split '{row['split']}'; write train, val or test"
                    )
                if "scene" in row and not row["scene"]:
                    raise UsageError(
                        f"{place}: '{image}' has no scene; fill the column for every image, or "
                        "remove it"
                    )
                rows[image] = Row(
                    split, row.get("scene"), row.get("region") or None, reader.line_num
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{where}: cannot be read as UTF-8 CSV: {error}") from None
    if not rows:
        raise UsageError(f"{where}: lists no images; write one row per image")
    _check_scenes(rows.values(), where)
    return rows


def split_folders(images: Iterable[str], *, where: str) -> dict[str, str]:
    """Return the split of each folder in the root; empty if these folders are classes.

    A folder that directly holds images is a class, even if it is called ``train`` and lies
    beside other classes.

    Raises:
        UsageError: only some folders are named as splits, or all are and one directly holds
            images.
    """
    folders, flat = set(), set()
    for image in images:
        folder, *rest = PurePosixPath(image).parts
        folders.add(folder)
        if len(rest) == 1:
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


def group_duplicates(
    digest_of: Mapping[str, str | None], class_of: Mapping[str, str]
) -> list[Group]:
    """Return the images grouped by the digest of their content; one without digest is alone."""
    members: dict[str, list[str]] = defaultdict(list)
    for path, digest in digest_of.items():
        members[digest or f"path {path}"].append(path)
    return [
        Group(tuple(paths), frozenset(class_of[path] for path in paths))
        for paths in members.values()
    ]


def draw_splits(
    groups: Sequence[Group], *, seed: int, val_fraction: float, test_fraction: float
) -> dict[str, str]:
    """Draw the split of each image, stratified by class; a group stays in one split.

    Groups are ordered by a hash of seed and path, so that neither the order of ``groups`` nor a
    library's random numbers matter. Fractions count groups. A class with three groups or more
    gets at least one in each split; with two: train and test; with one: train. A class may lack
    val or test only if most of its images also have another label.
    """

    def rank(group: Group) -> str:
        return hashlib.blake2b(f"{seed}/{min(group.paths)}".encode()).hexdigest()

    groups_of: dict[str, list[Group]] = defaultdict(list)
    for group in sorted(groups, key=rank):
        for name in group.class_names:
            groups_of[name].append(group)
    chosen: dict[Group, str] = {}
    # Small classes first: a group with two labels then serves the smaller class.
    for name in sorted(groups_of, key=lambda name: (len(groups_of[name]), name)):
        own = groups_of[name]
        quota = _quota(len(own), val_fraction, test_fraction)
        taken = Counter(chosen[group] for group in own if group in chosen)
        needed = [split for split in ("train", "test", "val") if quota[split] and not taken[split]]
        taken.update(needed)
        for split in ("test", "val", "train"):
            needed += [split] * (quota[split] - taken[split])
        # Shared groups come first and go to train, since another class may need them there.
        free = sorted(
            (group for group in own if group not in chosen),
            key=lambda group: len(group.class_names) == 1,
        )
        chosen.update(zip(free, needed, strict=False))
    for name in sorted(groups_of):
        # Other classes may have sent all groups shared with this one to val and test.
        if not any(chosen[group] == "train" for group in groups_of[name]):
            chosen[groups_of[name][0]] = "train"
    return {path: split for group, split in chosen.items() for path in group.paths}


def check_classes(
    split_of: Mapping[str, str], class_of: Mapping[str, str], *, where: str
) -> list[str]:
    """Return notes on the classes that are absent from val or test.

    Args:
        split_of: the split of each image.
        class_of: the class of each image.
        where: start of each message.

    Raises:
        UsageError: there is only one class, a split is empty, or train lacks a class.
    """
    classes = sorted(set(class_of.values()))
    if len(classes) == 1:
        raise UsageError(
            f"{where}: there is only one class, '{classes[0]}'; add a folder with images of "
            "another class"
        )
    notes = []
    for split in SPLITS:
        present = {class_of[path] for path in split_of if split_of[path] == split}
        absent = [name for name in classes if name not in present]
        if not present:
            raise UsageError(
                f"{where}: there are no {split} images; heads are trained on train, chosen on val "
                f"and scored on test: add some to {split} (a random split needs three different "
                f"images of a class) or write a {SPLIT_TABLE}"
            )
        if absent and split == "train":
            raise UsageError(
                f"{where}: class '{absent[0]}' has no train images; add some or remove the class"
            )
        if absent:
            notes.append(f"Classes without {split} images: {', '.join(absent)}.")
    return notes


def duplicate_notes(
    groups: Iterable[Group], split_of: Mapping[str, str], class_of: Mapping[str, str]
) -> list[str]:
    """Return notes on identical images with different labels or in different splits."""
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
                f"Groups of identical images {text}: {len(pairs)}, e.g. '{first}' and '{second}'."
            )
    return notes


def _check_columns(columns: list[str], where: str) -> None:
    known = ("path", "split", "scene", "region")
    for name in columns:
        if name not in known:
            raise UsageError(f"{where}: unknown column '{name}'.{did_you_mean(name, known)}")
        if columns.count(name) > 1:
            raise UsageError(f"{where}: the column '{name}' appears twice; remove one")
    for name in ("path", "split"):
        if name not in columns:
            raise UsageError(f"{where}: the column '{name}' is missing from the first line")


def _listed_image(text: str, root: Path, images: Collection[str], place: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise UsageError(f"{place}: '{text}' is outside the root; write a path relative to it")
    image = str(path)
    if image not in images:
        if (root / path).is_file():
            raise UsageError(
                f"{place}: '{text}' is hidden, in a linked folder, or not PNG, JPEG or TIFF"
            )
        raise UsageError(f"{place}: '{text}' does not exist; correct the path or remove the row")
    if len(path.parts) == 1:
        raise UsageError(f"{place}: '{text}' lies directly in the root; put it in a class folder")
    return image


def _check_scenes(rows: Iterable[Row], where: str) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        if row.scene is None:
            continue
        other = first.setdefault(row.scene, row)
        if other.split != row.split:
            raise UsageError(
                f"{where}: scene '{row.scene}' is in {other.split} (line {other.line}) and in "
                f"{row.split} (line {row.line}); put a scene into one split"
            )


def _quota(num_groups: int, val_fraction: float, test_fraction: float) -> dict[str, int]:
    if num_groups < 3:
        return {"train": 1, "val": 0, "test": num_groups - 1}
    num_val = max(1, round(num_groups * val_fraction))
    num_test = max(1, round(num_groups * test_fraction))
    # Large fractions of few groups may round up to all groups.
    while num_val + num_test >= num_groups:
        if num_val > num_test:
            num_val -= 1
        else:
            num_test -= 1
    return {"train": num_groups - num_val - num_test, "val": num_val, "test": num_test}
