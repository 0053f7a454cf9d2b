"""A source whose images are patches, all listed when it is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.catalog.folder.splits import Row
from benchmark.specs import Found, Images, Problem

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

UNIT_SIZE = 256
"""Smallest number of images in a unit."""
MAX_UNITS = 256
"""Largest number of units, since each costs a task and a file; larger sets get larger units."""


class Unusable(Exception):
    """An image cannot be used: its path and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        """Take the two fields of a Problem."""
        super().__init__(path, reason)
        self.problem = Problem(path, reason)


@dataclass(frozen=True, kw_only=True)
class ListedSource:
    """The listed part of a ``specs.Source``: its candidates are known, pixels are read later."""

    classes: tuple[str, ...]
    candidates: pa.Table
    """All images, with the columns of ``tables.CANDIDATES``, sorted by ``patch_id``. Processes of
    a machine share a table without copying it."""
    notes: tuple[str, ...]
    content_digest: str
    is_synthetic: bool = False

    def digest(self) -> str:
        """Return the digest of identities, labels, splits, scenes, regions and contents.

        It was computed when the source was opened.
        """
        return self.content_digest

    def units(self) -> Sequence[str]:
        """Return the names of the groups of images, in the order of their identities."""
        return [f"{unit:05d}" for unit in range(-(-self.candidates.num_rows // self._unit_size))]

    def find(self, unit: str) -> Found:
        """Return the candidates of one unit, without opening files.

        ``purity`` is 1, because the label covers the whole image; row, col, lon and lat are null.
        """
        rows = self.candidates.slice(int(unit) * self._unit_size, self._unit_size)
        return Found(rows, num_examined=rows.num_rows)

    @property
    def _unit_size(self) -> int:
        return max(UNIT_SIZE, -(-int(self.candidates.num_rows) // MAX_UNITS))


def read_images(
    ids: Sequence[str], shape: tuple[int, int, int], read: Callable[[str], NDArray[np.uint8]]
) -> Images:
    """Return images, uint8 (N, C, H, W), in the order of ``ids``.

    Args:
        ids: the identities of the images.
        shape: (C, H, W) of each.
        read: returns one image, or raises ``Unusable``: it becomes a Problem.
    """
    import numpy as np

    pixels = np.empty((len(ids), *shape), np.uint8)
    rows: list[int] = []
    problems = []
    for row, name in enumerate(ids):
        try:
            pixels[len(rows)] = read(name)
        except Unusable as error:
            problems.append(error.problem)
        else:
            rows.append(row)
    return Images(pixels[: len(rows)], np.array(rows, np.int64), tuple(problems))


def tabulate(
    rows: Mapping[str, Row], class_of: Mapping[str, str], classes: Sequence[str]
) -> pa.Table:
    """Return the images as candidates."""
    import pyarrow as pa

    from benchmark.tables import CANDIDATES

    label_of = {name: label for label, name in enumerate(classes)}
    columns = {
        "patch_id": list(rows),
        "split": [row.split for row in rows.values()],
        "label": [label_of[class_of[image]] for image in rows],
        "scene": [row.scene for row in rows.values()],
        "region": [row.region for row in rows.values()],
        "purity": [1.0] * len(rows),
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(len(rows), field.type)
        for field in CANDIDATES
    ]
    return pa.table(arrays, schema=CANDIDATES)


def digest_rows(
    rows: Mapping[str, Row],
    class_of: Mapping[str, str],
    digest_of: Mapping[str, str | None],
    *,
    classes: Sequence[str],
    more: Any = None,
) -> str:
    """Return the digest of a JSON list with one list per image, computed incrementally.

    Args:
        rows: split, scene and region of each image.
        class_of: the name of each image's class.
        digest_of: the digest of each image's content.
        classes: their order is part of the digest unless it is that of their names.
        more: further JSON, if any.
    """
    state = hashlib.blake2b(digest_size=16)
    for number, (image, row) in enumerate(rows.items()):
        content = [image, class_of[image], row.split, row.scene, row.region, digest_of[image]]
        state.update((", " if number else "[").encode() + json.dumps(content).encode())
    state.update(b"]")
    if more is not None or list(classes) != sorted(classes):
        state.update(json.dumps([list(classes), more]).encode())
    return state.hexdigest()
