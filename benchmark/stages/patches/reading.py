"""The second pass over a source: read the pixels of the chosen candidates, part by part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmark.cluster.incidents import Account, Toll
from benchmark.cluster.streaming import Items, read_items, status_rows
from benchmark.config import DatasetConfig
from benchmark.errors import CellError
from benchmark.specs import Problem, Remark, Source
from benchmark.stages.patches.remarks import from_json, remarks_of, to_json
from benchmark.store.artefacts import Artefact
from benchmark.tables import CANDIDATES, check_table, images_column, patches_schema

PART_BYTES = 16 * 2**20
MIN_PART_ROWS, MAX_PART_ROWS = 64, 256
PARTS_WANTED = 32
"""Parts that keep many actors busy on a small data set; larger data sets have larger parts."""
MOST_PARTS, MOST_GROWTH = 1024, 4
"""A single driver schedules all parts: above this number, parts grow, at most by this factor."""


@dataclass(frozen=True)
class Part:
    """Consecutive chosen candidates, sorted by ``patch_id``, whose patches are one file."""

    index: int
    candidates: pa.Table

    @property
    def file_name(self) -> str:
        """The name of the file in the artefact."""
        return f"part-{self.index:06d}.parquet"


@dataclass(frozen=True)
class ReadAll:
    """The name and rows of each written part, and the problems of unreadable files.

    ``checksums``: of the parts that this run wrote.
    """

    parts: list[dict[str, Any]]
    problems: tuple[Problem, ...]
    checksums: dict[str, str]
    remarks: tuple[Remark, ...] = ()


def rows_of_part(num_patches: int, patch_bytes: int) -> int:
    """Return the number of patches in a part, given all patches and the bytes of each."""
    limit = max(1, min(MAX_PART_ROWS, PART_BYTES // patch_bytes))
    wanted = num_patches // PARTS_WANTED // MIN_PART_ROWS * MIN_PART_ROWS
    rows = min(limit, max(MIN_PART_ROWS, wanted))
    needed = num_patches // MOST_PARTS // MIN_PART_ROWS * MIN_PART_ROWS
    return max(rows, min(MOST_GROWTH * limit, needed))


def split_parts(chosen: pa.Table, *, num_bands: int, config: DatasetConfig) -> list[Part]:
    """Split the chosen candidates, sorted by ``patch_id``, into parts of bounded size."""
    rows = rows_of_part(chosen.num_rows, num_bands * config.patch_size**2)
    return [
        Part(index, chosen.slice(start, rows).combine_chunks())
        for index, start in enumerate(range(0, chosen.num_rows, rows))
    ]


def write_group(
    group: Sequence[Part], *, source: Source, artefact: Artefact, size: int, fails: bool
) -> pa.Table:
    """Read the pixels of some parts at once, write each part, and return a status row.

    Runs as one Ray Data task. Neighbouring parts share strips of a scene, which are read once.
    """
    toll = Toll()
    candidates = pa.concat_tables([part.candidates for part in group])
    tables: list[pa.Table] = []
    problems: list[Problem] = []
    remarks: list[Remark] = []
    for unit in pc.unique(candidates["unit"]).to_pylist():
        rows = candidates.filter(pc.equal(candidates["unit"], unit))
        images = source.read(rows)
        problems += images.problems
        remarks += images.remarks
        kept = rows.take(pa.array(images.rows)).select(CANDIDATES.names)
        tables.append(kept.append_column("image", images_column(images.pixels)))
    status = {"num_rows": 0, "problems": to_json(problems)}
    checksums: dict[str, str] = {}
    if not (problems and fails):
        read = pa.concat_tables(tables)
        for part in group:
            wanted = part.candidates["patch_id"].combine_chunks()
            found = read.filter(pc.is_in(read["patch_id"], wanted))
            schema = patches_schema(len(source.bands), size)
            table = check_table(found, schema, what=f"patches part {part.index}")
            lost = status["problems"] if table.num_rows < len(wanted) else "[]"
            names = set(wanted.to_pylist())
            said = [item for item in remarks if item.patch_id in names]
            metadata = {**(table.schema.metadata or {}), "problems": lost}
            metadata |= {"remarks": json.dumps(said)} if said else {}
            table = table.replace_schema_metadata(metadata)
            checksums[part.file_name] = artefact.write_table(part.file_name, table)
        status["num_rows"] = read.num_rows
    status["checksums"] = json.dumps(checksums)
    status["toll"] = json.dumps(toll.to_json())
    return pa.table({key: [value] for key, value in status.items()})


def group_parts(parts: Sequence[Part]) -> list[list[Part]]:
    """Join neighbouring parts into groups, up to the rows that one task reads."""
    groups: list[list[Part]] = []
    rows = MAX_PART_ROWS
    for part in parts:
        if rows + part.candidates.num_rows > MAX_PART_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(part)
        rows += part.candidates.num_rows
    return groups


def write_parts(
    source: Source,
    parts: Sequence[Part],
    artefact: Artefact,
    config: DatasetConfig,
    advance: Any,
    account: Account,
) -> ReadAll:
    """Write all parts, except those written by an earlier run.

    Raises:
        CellError: a file could not be read and ``on_error`` is ``fail``.
    """
    done = set(artefact.files("part-"))
    account.add("part_found", len(done), "patches")
    todo = [part for part in parts if part.file_name not in done]
    fails = config.on_error == "fail"
    found: list[Problem] = []
    checksums: dict[str, str] = {}
    if todo:
        write = partial(
            write_group, source=source, artefact=artefact, size=config.patch_size, fails=fails
        )
        groups = group_parts(todo)
        items = Items("read", groups, write)
        for row in status_rows(read_items(items, num_items=len(groups), num_cpus=1)):
            found += from_json(row["problems"])
            checksums |= json.loads(row["checksums"])
            account.add_toll(json.loads(row["toll"]))
            advance(row["num_rows"])
    if found and fails:
        return ReadAll([], tuple(found), {})
    written: list[dict[str, Any]] = []
    problems: list[Problem] = []
    remarks: list[Remark] = []
    for part in parts:
        name = part.file_name
        metadata = artefact.read_metadata(name)
        keys = metadata.metadata or {}
        stored = from_json(keys.get(b"problems", b"[]"))
        problems += stored
        said = remarks_of(keys)
        remarks += said
        if metadata.num_rows < part.candidates.num_rows and not (stored or said):
            raise CellError(
                f"{artefact.file_uri(name)} has {metadata.num_rows} of "
                f"{part.candidates.num_rows} rows: delete {artefact.uri} and run again"
            )
        written.append({"name": name, "num_rows": metadata.num_rows})
    return ReadAll(written, tuple(dict.fromkeys(problems)), checksums, tuple(remarks))
