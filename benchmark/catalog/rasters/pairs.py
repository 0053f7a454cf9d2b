"""The pairs of imagery and labels that the user names: by patterns, a table, or STAC items."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from benchmark.catalog.folder.assignment import read_name
from benchmark.catalog.folder.rows import MAX_TABLE_BYTES, parse_table
from benchmark.catalog.folder.splits import read_split
from benchmark.catalog.rasters.files import (
    FileError,
    check_path,
    is_folder,
    is_vector,
    list_files,
    read_bytes,
)
from benchmark.catalog.rasters.stac import JSON_SUFFIXES, read_items
from benchmark.catalog.roots.root import Root
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.raster_settings import RastersConfig

WHERE = "[dataset.rasters]"


class Pair(NamedTuple):
    """An image and its label file, relative to the root, and what the user says of both."""

    name: str
    """Name of the scene, unique."""
    region: str | None
    split: str | None
    """train, val or test, if it is given."""
    image: str
    label: str


class Listed(NamedTuple):
    """All pairs, sorted by name, and notes for the report."""

    pairs: tuple[Pair, ...]
    notes: list[str]


def list_pairs(root: Root, config: RastersConfig) -> Listed:
    """Return the pairs that the settings name.

    Raises:
        UsageError: settings are missing or contradict each other, no pair is found, a path leads
            out of the root, a scene or an image is named twice, or the index is invalid.
    """
    by_pattern = config.images is not None and config.labels is not None
    if by_pattern == (config.index is not None) or (
        config.index is not None and (config.images or config.labels)
    ):
        raise UsageError(f"{WHERE}: set images and labels, or index alone")
    if config.index is not None:
        listed = _read_index(root, config.index, config)
    else:
        listed = _match(root, str(config.images), str(config.labels))
    for what, names in (
        ("scene", [pair.name for pair in listed.pairs]),
        ("image", [pair.image for pair in listed.pairs]),
    ):
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise UsageError(f"{WHERE}: the {what} {shown(name, 200)} is listed {count} times")
    splits = {pair.split is None for pair in listed.pairs}
    if len(splits) > 1:
        one = next(pair for pair in listed.pairs if pair.split is None)
        raise UsageError(
            f"{WHERE} index: scene '{one.name}' has no split, but others have; give a split to "
            "every scene, or to none"
        )
    return Listed(tuple(sorted(listed.pairs)), listed.notes)


def _read_index(root: Root, index: str, config: RastersConfig) -> Listed:
    where = f"{WHERE} index = '{index}'"
    path = _checked(root, index, where)
    if is_folder(root, path) or PurePosixPath(path).suffix.lower() in JSON_SUFFIXES:
        items = read_items(root, path, config, where=where)
        return Listed(
            tuple(
                Pair(
                    name=_scene_name(item.name, item.place),
                    region=read_name(item.region, "region", item.place) if item.region else None,
                    split=item.split,
                    image=_checked(root, item.image, item.place),
                    label=_checked(root, item.label, item.place),
                )
                for item in items
            ),
            [],
        )
    try:
        data = read_bytes(root, path, most_bytes=MAX_TABLE_BYTES)
    except FileError as error:
        raise UsageError(f"{where}: {error}") from None
    table = parse_table(
        data, needed=("image", "label"), optional=("scene", "region", "split"), where=where
    )
    pairs = tuple(_read_row(root, row.cells, row.place) for row in table.rows)
    if not pairs:
        raise UsageError(f"{where}: lists no scenes; write one row per image")
    ignored = [shown(name, 50) for name in table.ignored if name]
    return Listed(pairs, [f"Columns of the index not used: {', '.join(ignored)}."] * bool(ignored))


def _read_row(root: Root, cells: Mapping[str, str], place: str) -> Pair:
    for name in ("image", "label", *({"split", "scene"} & cells.keys())):
        if not cells[name]:
            raise UsageError(f"{place}: the {name} is empty; fill it, or remove the row")
    image = _checked(root, cells["image"].replace("\\", "/"), place)
    return Pair(
        name=_scene_name(cells.get("scene") or PurePosixPath(image).stem, place),
        region=read_name(cells["region"], "region", place) if cells.get("region") else None,
        split=read_split(cells["split"], place) if "split" in cells else None,
        image=image,
        label=_checked(root, cells["label"].replace("\\", "/"), place),
    )


def _match(root: Root, images: str, labels: str) -> Listed:
    """Return the pairs whose paths match two patterns with the same text for each ``*``."""
    images = _checked(root, images, f"{WHERE} images = '{images}'")
    labels = _checked(root, labels, f"{WHERE} labels = '{labels}'")
    shares_labels = "*" not in labels and is_vector(labels)
    if not shares_labels and images.count("*") != labels.count("*"):
        raise UsageError(
            f"{WHERE}: images = '{images}' has {images.count('*')} '*' and labels = '{labels}' "
            f"{labels.count('*')}; write as many in both, for the text that pairs the files"
        )
    found = _by_text(root, images, "images")
    if shares_labels:
        pairs = [(texts, image, labels) for texts, image in found.items()]
        return Listed(tuple(_pair(images, *item) for item in pairs), [])
    label_of = _by_text(root, labels, "labels")
    pairs = [(texts, image, label_of[texts]) for texts, image in found.items() if texts in label_of]
    if not pairs:
        raise UsageError(
            f"{WHERE}: no image has labels: the first of {len(found)} images is "
            f"'{next(iter(found.values()))}', the first of {len(label_of)} label files "
            f"'{next(iter(label_of.values()))}'; the text for '*' must be the same in both"
        )
    notes = _unpaired("Images", [found[key] for key in found if key not in label_of], "labels")
    notes += _unpaired("Label files", [label_of[k] for k in label_of if k not in found], "an image")
    return Listed(tuple(_pair(images, *item) for item in pairs), notes)


def _by_text(root: Root, pattern: str, key: str) -> dict[tuple[str, ...], str]:
    """Return the files that match a pattern, by the texts that each ``*`` matched."""
    expression = re.compile("([^/]*?)".join(re.escape(part) for part in pattern.split("*")))
    where = f"{WHERE} {key} = '{pattern}'"
    found: dict[tuple[str, ...], str] = {}
    for path in list_files(root, pattern):
        if match := expression.fullmatch(path):
            found[match.groups()] = _checked(root, path, where)
    if not found:
        raise UsageError(f"{where}: matches no file below root = '{root.address}'")
    return found


def _pair(pattern: str, texts: tuple[str, ...], image: str, label: str) -> Pair:
    """Return a pair; a first ``*`` that is a whole folder's name gives the region."""
    first = next((part for part in pattern.split("/") if "*" in part), "")
    has_region = len(texts) > 1 and first == "*"
    name = "/".join(texts) or PurePosixPath(image).stem
    return Pair(
        name=_scene_name(name, f"{WHERE} images"),
        region=read_name(texts[0], "region", f"{WHERE} images") if has_region else None,
        split=None,
        image=image,
        label=label,
    )


def _unpaired(what: str, paths: Iterable[str], lacking: str) -> list[str]:
    names = list(paths)
    return (
        [f"{what} without {lacking}, not used: {len(names)}, e.g. '{names[0]}'."] if names else []
    )


def _checked(root: Root, path: str, place: str) -> str:
    try:
        return check_path(root, path)
    except FileError as error:
        raise UsageError(f"{place}: {shown(path)} {error}") from None


def _scene_name(text: str, place: str) -> str:
    return read_name(text, "scene", place)
