"""A data set as a list of records and a function that reads the pixels of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.catalog.folder.splits import check_classes, read_split
from benchmark.drawing import Group, draw_splits
from benchmark.errors import CellError, UsageError, blame
from benchmark.fields import shown
from benchmark.specs import Found, Images, Problem

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from benchmark.config import DatasetConfig

RANDOM_SPLIT = (
    "The split into train, val and test is random (seed {seed}): neighbouring patches may be in "
    "different splits, so scores are optimistic."
)
UNIT_SIZE = 256
"""Smallest number of records in a unit."""
MAX_UNITS = 256


@dataclass(frozen=True)
class Records:
    """What a reader returns: one record for each patch, and how to read it.

    A record is a dictionary with ``label`` (name of the class) and ``path`` (of its file) or
    ``id``; ``split`` (train, val or test), ``scene`` and ``region`` are optional, other keys are
    passed to ``read``. Without any ``split`` it is drawn, with the records of a scene together.
    """

    records: Sequence[Mapping[str, Any]]
    read: Callable[[Mapping[str, Any]], NDArray[np.uint8]]
    """Return the pixels of a record: uint8 (C, H, W), with H = W = ``[dataset] patch_size``."""
    bands: tuple[str, ...] = ("red", "green", "blue")
    notes: tuple[str, ...] = ()
    """Sentences that the report must show."""
    is_synthetic: bool = False


@dataclass(frozen=True, kw_only=True)
class RecordSource:
    """The records of a reader; implements ``specs.Source``."""

    records: Mapping[str, Mapping[str, Any]]
    """By ``patch_id``."""
    candidates: pa.Table
    reader: Callable[[Mapping[str, Any]], Any]
    classes: tuple[str, ...]
    bands: tuple[str, ...]
    notes: tuple[str, ...]
    is_synthetic: bool
    patch_size: int

    @classmethod
    def of(cls, found: Records, config: DatasetConfig) -> RecordSource:
        """Check the records and tabulate them.

        Raises:
            UsageError: a record lacks a key, two have the same id, a split is unknown or empty,
                or a scene is in two splits.
        """
        where = f"[dataset] name = '{config.name}'"
        records = _by_id(found.records, config, where)
        class_of = {key: str(record["label"]) for key, record in records.items()}
        split_of, notes = _splits(records, class_of, config, where)
        notes += check_classes(split_of, class_of, where=where)
        classes = tuple(sorted(set(class_of.values())))
        return cls(
            records=records,
            candidates=_tabulate(records, class_of, split_of, classes),
            reader=found.read,
            classes=classes,
            bands=tuple(found.bands),
            notes=(*found.notes, *notes),
            is_synthetic=found.is_synthetic,
            patch_size=config.patch_size,
        )

    def digest(self) -> str:
        """Return the digest of the records, their splits and the contents of their files."""
        from benchmark.store.digest import digest_files

        files = {
            key: Path(str(item["path"])) for key, item in self.records.items() if "path" in item
        }
        usable = [path for path in files.values() if path.is_file()]
        digest_of = digest_files(usable)
        state = hashlib.blake2b(digest_size=16)
        for row in self.candidates.select(["patch_id", "split", "scene", "region"]).to_pylist():
            record = self.records[row["patch_id"]]
            known = {key: item for key, item in record.items() if key != "path"}
            content = [row, known, digest_of.get(files.get(row["patch_id"], Path()), "")]
            state.update(json.dumps(content, sort_keys=True, default=repr).encode())
        return state.hexdigest()

    def units(self) -> Sequence[str]:
        """Return the names of the groups of records."""
        return [f"{unit:05d}" for unit in range(-(-len(self.records) // self._unit_size))]

    def find(self, unit: str) -> Found:
        """Return the candidates of one group."""
        rows = self.candidates.slice(int(unit) * self._unit_size, self._unit_size)
        return Found(rows, num_examined=rows.num_rows)

    @property
    def _unit_size(self) -> int:
        return max(UNIT_SIZE, -(-len(self.records) // MAX_UNITS))

    def read(self, candidates: pa.Table) -> Images:
        """Return the images of the candidates; one that cannot be read becomes a Problem."""
        import numpy as np

        keys = candidates["patch_id"].to_pylist()
        shape = (len(self.bands), self.patch_size, self.patch_size)
        pixels = np.empty((len(keys), *shape), np.uint8)
        rows: list[int] = []
        problems = []
        for row, key in enumerate(keys):
            try:
                image = np.asarray(self.reader(self.records[key]))
                if image.dtype != np.uint8 or image.shape != shape:
                    raise CellError(
                        f"read type {image.dtype}, shape {image.shape}; return uint8 {shape}"
                    )
            except Exception as error:  # own code raises what it likes
                problems.append(Problem(key, blame(error)))
            else:
                pixels[len(rows)] = image
                rows.append(row)
        return Images(pixels[: len(rows)], np.array(rows, np.int64), tuple(problems))


def _by_id(
    records: Sequence[Mapping[str, Any]], config: DatasetConfig, where: str
) -> dict[str, Mapping[str, Any]]:
    """Return the records by ``id``, or by the path below the root, sorted."""
    found: dict[str, Mapping[str, Any]] = {}
    root = Path(config.root).resolve()
    for number, record in enumerate(records):
        place = f"{where}: record {number}"
        if not isinstance(record, Mapping) or "label" not in record:
            raise UsageError(f"{place} is {shown(record, 100)}; give a dictionary with 'label'")
        if "id" not in record and "path" not in record:
            raise UsageError(f"{place} has neither 'path' nor 'id': {shown(dict(record), 100)}")
        if "id" in record:
            key = str(record["id"])
        else:
            path = Path(str(record["path"])).resolve()
            key = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
            # Workers run in other folders.
            record = {**record, "path": str(path)}
        if key in found:
            raise UsageError(
                f"{place}: {shown(key, 100)} appears twice; give each an 'id' of its own"
            )
        found[key] = record
    if not found:
        raise UsageError(f"{where}: the reader returned no records from root = '{config.root}'")
    return dict(sorted(found.items()))


def _splits(
    records: Mapping[str, Mapping[str, Any]],
    class_of: Mapping[str, str],
    config: DatasetConfig,
    where: str,
) -> tuple[dict[str, str], list[str]]:
    """Return the split of each record, and a note if it is drawn."""
    given = {key: record["split"] for key, record in records.items() if record.get("split")}
    if not given:
        groups: dict[str, list[str]] = {}
        for key, record in records.items():
            scene = record.get("scene")
            groups.setdefault(f"id {key}" if scene is None else f"scene {scene}", []).append(key)
        drawn = draw_splits(
            [
                Group(tuple(keys), frozenset(class_of[key] for key in keys))
                for keys in groups.values()
            ],
            seed=config.seed,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
        )
        has_scenes = all(record.get("scene") is not None for record in records.values())
        return drawn, [] if has_scenes else [RANDOM_SPLIT.format(seed=config.seed)]
    if len(given) < len(records):
        missing = next(key for key in records if key not in given)
        raise UsageError(f"{where}: {shown(missing, 100)} has no 'split', but others have")
    found = {}
    scene_of: dict[str, str] = {}
    for key, text in given.items():
        split = read_split(str(text), f"{where}: {shown(key, 100)}")
        scene = records[key].get("scene")
        if scene is not None and scene_of.setdefault(str(scene), split) != split:
            raise UsageError(
                f"{where}: scene {shown(scene, 100)} is in {scene_of[str(scene)]} and in {split}; "
                "put a scene into one split"
            )
        found[key] = split
    return found, []


def _tabulate(
    records: Mapping[str, Mapping[str, Any]],
    class_of: Mapping[str, str],
    split_of: Mapping[str, str],
    classes: Sequence[str],
) -> pa.Table:
    import pyarrow as pa

    from benchmark.tables import CANDIDATES

    label_of = {name: label for label, name in enumerate(classes)}

    def text(key: str, name: str) -> str | None:
        value = records[key].get(name)
        return None if value is None else str(value)

    columns = {
        "patch_id": list(records),
        "split": [split_of[key] for key in records],
        "label": [label_of[class_of[key]] for key in records],
        "scene": [text(key, "scene") for key in records],
        "region": [text(key, "region") for key in records],
        "purity": [1.0] * len(records),
    }
    arrays = [
        pa.array(columns[item.name], item.type)
        if item.name in columns
        else pa.nulls(len(records), item.type)
        for item in CANDIDATES
    ]
    return pa.table(arrays, schema=CANDIDATES)
