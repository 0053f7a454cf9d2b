"""Split of each image whose labels are given: as given, by region, or a draw of whole scenes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from benchmark.catalog.folder.splits import (
    Row,
    check_classes,
    check_scenes,
    duplicate_notes,
    group_duplicates,
)
from benchmark.config import DatasetConfig
from benchmark.drawing import Group, draw_splits
from benchmark.errors import UsageError, did_you_mean
from benchmark.fields import check_name, shown

REGION_SETTINGS = ("val_regions", "test_regions")

ADVICE = (
    "add images with another label",
    "give each image a split (train, val or test); a random split of scenes needs three scenes",
)


_NUMBER = re.compile(r"-?[0-9]{1,18}")


class Given(NamedTuple):
    """What the user says of one image."""

    label: str
    split: str | None
    scene: str | None
    region: str | None
    number: int
    """Of its row, for messages."""


def read_name(text: str, what: str, place: str) -> str:
    """Return a label, scene or region in one Unicode form (NFC): equal names are one class.

    Raises:
        UsageError: it is longer than a name, or contains a control character.
    """
    try:
        return check_name(unicodedata.normalize("NFC", text.strip()))
    except ValueError as error:
        raise UsageError(f"{place}: the {what} {shown(text, 100)} {error}") from None


def sort_classes(names: Collection[str]) -> tuple[str, ...]:
    """Return the names of classes in order; whole numbers by their value."""
    if all(_NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def assign(
    given: Mapping[str, Given],
    digest_of: Mapping[str, str | None],
    config: DatasetConfig,
    *,
    where: str,
    unit: str,
    alike_of: Mapping[str, str] | None = None,
) -> tuple[dict[str, Row], list[str]]:
    """Return the row of each image with its split, and notes for the report.

    A given split is kept. Else ``val_regions`` and ``test_regions`` decide, if they are set; all
    other regions are train. Else splits are drawn: images of one scene, and identical or nearly
    identical ones, stay together.

    Args:
        given: of each image, sorted by its identity; a split or scene is given for all or for none.
        digest_of: the digest of each image's content.
        config: gives the regions, the fractions and the seed.
        where: start of each message.
        unit: word for a row's number.
        alike_of: the group of each image that is nearly the same as another one.

    Raises:
        UsageError: a setting contradicts the splits, a region is unknown, a scene is in two
            splits, a split or class is empty, or there is one class only.
    """
    class_of = {image: item.label for image, item in given.items()}
    groups = group_duplicates(digest_of, class_of)
    regional = [name for name in REGION_SETTINGS if name in config.model_fields_set]
    notes = []
    if any(item.split for item in given.values()):
        if regional:
            raise UsageError(
                f"{where}: the images have splits, and [dataset] {regional[0]} is set; remove one "
                "of both"
            )
        split_of = {image: item.split or "" for image, item in given.items()}
    elif regional:
        split_of = split_by_region(given, config, where, unit)
    elif any(item.scene for item in given.values()):
        scene_of = {image: item.scene for image, item in given.items()}
        joined = join_scenes(join_scenes(groups, alike_of or {}, class_of), scene_of, class_of)
        split_of = draw(joined, config, where)
        notes.append(
            f"The split into train, val and test is random by scene (seed {config.seed}): scenes "
            "of one place may be in different splits."
        )
    else:
        split_of = draw(join_scenes(groups, alike_of or {}, class_of), config, where)
        notes.append(random_note(config))
    rows = {
        image: Row(split_of[image], item.scene, item.region, item.number)
        for image, item in given.items()
    }
    check_scenes(rows.values(), where, unit=unit)
    notes += check_classes(split_of, class_of, where=where, advice=ADVICE)
    notes += duplicate_notes(groups, split_of, class_of)
    notes += alike_notes(alike_of or {}, split_of, class_of)
    notes += similar_notes(set(class_of.values()))
    return rows, notes


def alike_notes(
    alike_of: Mapping[str, str], split_of: Mapping[str, str], class_of: Mapping[str, str]
) -> list[str]:
    """Return notes on nearly identical images, and on those that differ in label or split."""
    members: dict[str, list[str]] = {}
    for image, name in alike_of.items():
        members.setdefault(name, []).append(image)
    if not members:
        return []
    one = next(iter(members.values()))
    notes = [
        f"Groups of nearly identical images (by difference hash), kept together by a random "
        f"split: {len(members)} of {len(alike_of)} images, e.g. '{one[0]}' and '{one[1]}'."
    ]
    groups = [Group(tuple(paths), frozenset()) for paths in members.values()]
    return notes + duplicate_notes(groups, split_of, class_of, what="nearly identical")


def similar_notes(classes: Collection[str]) -> list[str]:
    """Return notes on classes that are probably one."""
    alike: dict[str, list[str]] = {}
    for name in sorted(classes):
        alike.setdefault(" ".join(name.casefold().split()), []).append(name)
    return [
        f"Classes whose names differ in case or spaces only: {', '.join(map(shown, names))}."
        for names in alike.values()
        if len(names) > 1
    ]


def split_by_region(
    given: Mapping[str, Given], config: DatasetConfig, where: str, unit: str
) -> dict[str, str]:
    """Return the split of each image by ``val_regions`` and ``test_regions``; others are train.

    Raises:
        UsageError: only one of both is set, a region is unknown, or an image has none.
    """
    for name in REGION_SETTINGS:
        if name not in config.model_fields_set:
            raise UsageError(f"{where}: [dataset] '{name}' is missing; set both, or none")
    split_of_region = {
        unicodedata.normalize("NFC", region): split
        for split, regions in (("val", config.val_regions), ("test", config.test_regions))
        for region in regions
    }
    known = {item.region for item in given.values() if item.region}
    if not known:
        raise UsageError(
            f"{where}: [dataset] val_regions is set, but no image has a region; give the regions, "
            "or remove val_regions and test_regions"
        )
    for region, split in split_of_region.items():
        if region not in known:
            raise UsageError(
                f"{where}: no image has the region {shown(region, 100)} of [dataset] "
                f"{split}_regions.{did_you_mean(region, known)}"
            )
    for item in given.values():
        if not item.region:
            raise UsageError(
                f"{where} {unit} {item.number}: no region; fill it for every image, or remove "
                "val_regions and test_regions"
            )
    return {image: split_of_region.get(item.region or "", "train") for image, item in given.items()}


def draw(groups: Sequence[Group], config: DatasetConfig, where: str) -> dict[str, str]:
    """Draw the split of each image with the fractions and the seed of ``config``.

    Raises:
        UsageError: the fractions leave nothing for train.
    """
    if config.val_fraction + config.test_fraction >= 1:
        raise UsageError(
            f"{where}: val_fraction = {config.val_fraction} and test_fraction = "
            f"{config.test_fraction} leave nothing for train; make their sum less than 1"
        )
    return draw_splits(
        groups,
        seed=config.seed,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
    )


def complete_splits(
    split_of: Mapping[str, str],
    class_of: Mapping[str, str],
    groups: Sequence[Group],
    config: DatasetConfig,
    where: str,
) -> tuple[dict[str, str], list[str]]:
    """Return the splits, with val and test drawn from train where there are none, and a note.

    Args:
        split_of: the split of each image; train, if the data have no splits.
        class_of: the class of each image.
        groups: images that a draw keeps together.
        config: gives the fractions and the seed.
        where: start of each message.

    Raises:
        UsageError: the fractions leave nothing for train.
    """
    missing = {"val", "test"} - {*split_of.values()}
    if not missing:
        return dict(split_of), []
    trains = [tuple(path for path in group.paths if split_of[path] == "train") for group in groups]
    free = [Group(paths, frozenset(class_of[path] for path in paths)) for paths in trains if paths]
    drawn = {path: split for path, split in draw(free, config, where).items() if split in missing}
    if len(missing) == 2:
        return {**split_of, **drawn}, [random_note(config)]
    (split,) = missing
    note = (
        f"The data have no {split} split: {len(drawn)} images of train, drawn by class (seed "
        f"{config.seed}), are {split}; neighbouring patches may be in both."
    )
    return {**split_of, **drawn}, [note]


def random_note(config: DatasetConfig) -> str:
    """Return the note on a split that knows nothing of scenes."""
    return (
        f"The split into train, val and test is random (seed {config.seed}): neighbouring "
        "patches may be in different splits, so scores are optimistic."
    )


def join_scenes(
    groups: Sequence[Group], scene_of: Mapping[str, str | None], class_of: Mapping[str, str]
) -> list[Group]:
    """Return the groups joined where they share a scene, directly or through other groups.

    Images without a scene are joined with their group only.
    """
    if not scene_of:
        return list(groups)
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for group in groups:
        names = [scene_of.get(path) or path for path in group.paths]
        first = find(names[0])
        for name in names[1:]:
            leader[find(name)] = first
    members: dict[str, list[str]] = {}
    for path in class_of:
        members.setdefault(find(scene_of.get(path) or path), []).append(path)
    return [
        Group(tuple(paths), frozenset(class_of[path] for path in paths))
        for paths in members.values()
    ]
