"""The contents of a folder's images: digests, facts, duplicates, and images without data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.catalog.folder.alike import MAX_IMAGES, find_alike
from benchmark.catalog.folder.decoding import ImageError, decode
from benchmark.catalog.folder.facts import MAX_INVALID, Facts, examine_images, step_of
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.fields import shown

CHUNK = 8192
"""Files whose paths are held at once: of a million, they would fill hundreds of MiB."""


class Contents(NamedTuple):
    """The images that are used, sorted by path, and what their contents tell."""

    images: list[str]
    digest_of: dict[str, str | None]
    facts: dict[str, Facts]
    pixels_of: dict[str, str | None]
    """Digest of the pixels; of the file if it cannot be decoded."""
    alike_of: dict[str, str]
    """Name of the group of each image that is nearly the same as another one."""
    notes: list[str]


def look_at(root: Path, class_of: Mapping[str, str], config: DatasetConfig, where: str) -> Contents:
    """Digest and examine the images, and leave out those with too few values that hold data.

    Raises:
        UsageError: a class has no other images.
    """
    digest_of = _digest_files(root, list(class_of), where)
    facts = examine_images(root, digest_of, where=where)
    first = next(iter(facts.values()), None)
    keeps_alpha = bool(first and config.bands and len(config.bands) == first.num_bands)
    empty = [
        image for image, item in facts.items() if item.without_data(alpha=keeps_alpha) > MAX_INVALID
    ]
    without = {*empty}
    images = [image for image in class_of if image not in without]
    notes = []
    if (step := step_of(count := len({*digest_of.values()}))) > 1:
        notes.append(
            f"Of {count:,} different images one in {step} was examined for nodata, names of bands "
            "and near copies; the others are read like these."
        )
    if empty:
        named = ", ".join(f"'{image}'" for image in empty[:10])
        more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
        notes.append(
            f"Images left out because more than {MAX_INVALID:.0%} of their values hold no data "
            f"(nodata, masked, transparent, NaN or infinite): {len(empty)} ({named}{more})."
        )
        left = {class_of[image] for image in images}
        for image in empty:
            if class_of[image] not in left:
                raise UsageError(
                    f"{where}: every image of class {shown(class_of[image], 100)} has more than "
                    f"{MAX_INVALID:.0%} of values without data (nodata, masked, transparent, NaN "
                    f"or infinite), e.g. '{image}'; repair them, or remove the class"
                )
    for image in empty:
        del facts[image], digest_of[image]
    pixels_of = {
        image: facts[image].pixels if image in facts else digest_of[image] for image in images
    }
    alike_of = find_alike(facts)
    if alike_of is None:
        notes.append(f"More than {MAX_IMAGES:,} images: nearly identical ones are not looked for.")
    return Contents(images, digest_of, facts, pixels_of, alike_of or {}, notes)


def why_unreadable(root: Path, images: Iterable[str]) -> str:
    """Return the first image that cannot be decoded, and the reason."""
    for image in images:
        try:
            decode(root / image)
        except ImageError as error:
            return f"'{image}' {error}"
    return "they have changed"


def _digest_files(root: Path, images: Sequence[str], where: str) -> dict[str, str | None]:
    """Return the digest of each file, or None if it is empty or cannot be opened."""
    from benchmark.store.digest import digest_files

    # A file without a digest is not an error here: reading it gives a Problem, and on_error
    # decides how to handle that.
    found: dict[str, str | None] = dict.fromkeys(images)
    for start in range(0, len(images), CHUNK):
        paths = {root / image: image for image in images[start : start + CHUNK]}
        usable = [path for path in paths if os.access(path, os.R_OK) and path.stat().st_size]
        try:
            digest_of = digest_files(usable)
        except OSError as error:
            raise UsageError(f"{where}: cannot be read: {error}") from None
        found |= {paths[path]: digest for path, digest in digest_of.items()}
    return found
