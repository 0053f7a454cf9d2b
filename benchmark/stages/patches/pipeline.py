"""The two passes over a source: find candidates, then read the chosen ones.

Labels decide which windows are candidates, the draw chooses some, and only their pixels are read.
One task handles one unit or a group of parts; results do not depend on how many run in parallel.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmark.cluster.incidents import Account, Toll
from benchmark.cluster.streaming import Items, read_items, status_rows
from benchmark.config import DatasetConfig
from benchmark.errors import CellError, one_line
from benchmark.experiment.context import Context
from benchmark.experiment.usage import StageUsage
from benchmark.specs import Problem, Remark, Source
from benchmark.stages.patches.sampling import (
    check_splits,
    choose,
    count_classes,
    sampling_notes,
)
from benchmark.store import provenance
from benchmark.store.artefacts import Artefact
from benchmark.store.names import TABLES, current_name
from benchmark.tables import CANDIDATES, UNIT, check_table, images_column, patches_schema

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


def compute(context: Context, artefact: Artefact) -> None:
    """Write and commit the table ``patches``.

    Raises:
        CellError: a file could not be read and ``on_error`` is ``fail``.
        UsageError: the splits are not valid.
    """
    began, began_s = time.monotonic(), time.time()
    source, config = context.source, context.experiment.dataset
    artefact.begin({"inputs": context.patches_inputs})
    num_slots = max(1, int(context.cluster.connect().num_cpus))
    account = Account(artefact, context.leases)
    units = list(source.units())
    with _shown(context, "find", num_items=None, unit=context.dataset.unit) as advance:
        found = find_candidates(source, units, artefact, advance, account)
        problems = list(found.problems)
        _report_problems(problems, config, context)
    searched = time.monotonic()
    num_candidates, remarks = found.candidates.num_rows, list(found.remarks)
    sampled = sampling_notes(found.candidates, config, source.classes)
    chosen = choose(found.candidates, config, source.classes)
    check_splits(chosen, source.classes, where=context.experiment.path)
    parts = split_parts(chosen, num_bands=len(source.bands), config=config)
    num_chosen, num_examined = chosen.num_rows, found.num_examined
    # Of a million patches, each of these tables takes hundreds of MiB.
    del found, chosen
    with _shown(context, "read", num_items=num_chosen, unit="patches") as advance:
        read = write_parts(source, parts, artefact, config, advance, account)
        del parts
        problems += read.problems
        _report_problems(read.problems, config, context)
    written = artefact.read_table(columns=["split", "label", "scene", "region"])
    notes = [
        *source.notes,
        *check_splits(written, source.classes, context.experiment.path),
        *remark_notes([*remarks, *read.remarks]),
        *sampled,
    ]
    ended = time.monotonic()
    artefact.commit(
        {
            "inputs": context.patches_inputs,
            "num_patches": written.num_rows,
            "num_examined": num_examined,
            "unit": context.dataset.unit,
            "num_candidates": num_candidates,
            "classes": list(source.classes),
            "bands": list(source.bands),
            "patch_size": config.patch_size,
            "is_synthetic": source.is_synthetic,
            "dataset_digest": context.dataset_digest,
            "parts": read.parts,
            "class_counts": count_classes(written, source.classes),
            "notes": notes,
            "problems": [problem._asdict() for problem in problems],
            "incidents": account.to_json(),
            "seconds": {
                "find": round(searched - began, 3),
                "read": round(ended - searched, 3),
                "total": round(ended - began, 3),
            },
            "provenance": provenance.record(),
        },
        checksums=read.checksums,
    )
    context.usages.append(
        StageUsage(
            stage="patches",
            began_s=began_s,
            ended_s=time.time(),
            busy_s=None,
            num_slots=num_slots,
            num_cells=1,
            num_items=written.num_rows,
            unit="patches",
        )
    )


@contextmanager
def _shown(
    context: Context, step: str, *, num_items: int | None, unit: str
) -> Iterator[Callable[[int], None]]:
    """Show the progress of one pass; yield the function that counts its items."""
    progress = context.progress.stage(
        f"patches/{step}", num_cells=1, num_items=num_items, unit=unit
    )
    cell = context.dataset.name
    progress.start(cell)
    try:
        yield progress.advance
        progress.done(cell)
    except BaseException as error:
        progress.failed(cell, one_line(error))
        raise
    finally:
        progress.close()


@dataclass(frozen=True)
class FoundAll:
    """The candidates of all units."""

    candidates: pa.Table
    num_examined: int
    problems: tuple[Problem, ...]
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class ReadAll:
    """The name and rows of each written part, and the problems of unreadable files.

    ``checksums``: of the parts that this run wrote.
    """

    parts: list[dict[str, Any]]
    problems: tuple[Problem, ...]
    checksums: dict[str, str]
    remarks: tuple[Remark, ...] = ()


def find_unit(item: tuple[int, str], *, source: Source, artefact: Artefact) -> pa.Table:
    """Write the candidates of one unit and return a status row (one Ray Data task)."""
    index, unit = item
    toll = Toll()
    found = source.find(unit)
    checked = check_table(found.candidates, CANDIDATES, what=f"candidates of {unit}")
    checked = checked.append_column(UNIT, pa.array([unit] * checked.num_rows, pa.string()))
    checked = checked.replace_schema_metadata(
        {
            "num_examined": str(found.num_examined),
            "problems": _to_json(found.problems),
            "remarks": json.dumps(found.remarks),
        }
    )
    artefact.write_table(_candidates_name(index), checked)
    toll_json = json.dumps(toll.to_json())
    return pa.table({"num_examined": [found.num_examined], "toll": [toll_json]})


def find_candidates(
    source: Source, units: Sequence[str], artefact: Artefact, advance: Any, account: Account
) -> FoundAll:
    """Find the candidates of all units, except those written by an earlier run."""
    done = {current_name(name) for name in artefact.files()}
    done &= {_candidates_name(index) for index in range(len(units))}
    account.add("part_found", len(done), "candidates")
    todo = [item for item in enumerate(units) if _candidates_name(item[0]) not in done]
    if todo:
        items = Items("find", todo, partial(find_unit, source=source, artefact=artefact))
        for row in status_rows(read_items(items, num_items=len(todo), num_cpus=1)):
            account.add_toll(json.loads(row["toll"]))
            advance(row["num_examined"])
    tables, num_examined = [], 0
    problems: list[Problem] = []
    remarks: list[Remark] = []
    for index in range(len(units)):
        table = artefact.read_table(names=[_candidates_name(index)])
        metadata = table.schema.metadata or {}
        num_examined += int(metadata.get(b"num_examined", b"0"))
        problems += _from_json(metadata.get(b"problems", b"[]"))
        remarks += _remarks_of(metadata)
        tables.append(table.replace_schema_metadata(None))
    candidates = pa.concat_tables(tables).sort_by("patch_id")
    return FoundAll(candidates, num_examined, tuple(problems), tuple(remarks))


def _candidates_name(index: int) -> str:
    return f"{TABLES}candidates-{index:06d}.parquet"


def _to_json(problems: Sequence[Problem]) -> str:
    return json.dumps([problem._asdict() for problem in problems])


def _from_json(text: str | bytes) -> list[Problem]:
    return [Problem(**item) for item in json.loads(text)]


def _remarks_of(metadata: Mapping[bytes, bytes]) -> list[Remark]:
    return [Remark(*item) for item in json.loads(metadata.get(b"remarks", b"[]"))]


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
    status = {"num_rows": 0, "problems": _to_json(problems)}
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
            found += _from_json(row["problems"])
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
        stored = _from_json(keys.get(b"problems", b"[]"))
        problems += stored
        said = _remarks_of(keys)
        remarks += said
        if metadata.num_rows < part.candidates.num_rows and not (stored or said):
            raise CellError(
                f"{artefact.file_uri(name)} has {metadata.num_rows} of "
                f"{part.candidates.num_rows} rows: delete {artefact.uri} and run again"
            )
        written.append({"name": name, "num_rows": metadata.num_rows})
    return ReadAll(written, tuple(dict.fromkeys(problems)), checksums, tuple(remarks))


def remark_notes(remarks: Sequence[Remark]) -> list[str]:
    """Return the sum of each remark as a note, with its first patch as an example."""
    sums: Counter[str] = Counter()
    first: dict[str, str] = {}
    for text, num, patch_id in remarks:
        sums[text] += num
        first.setdefault(text, f", e.g. '{patch_id}'" if patch_id else "")
    return [f"{text}: {num:,}{first[text]}." for text, num in sums.items()]


def _report_problems(problems: Sequence[Problem], config: DatasetConfig, context: Context) -> None:
    if not problems:
        return
    first = problems[0]
    text = f"unreadable files: {len(problems)}, first {first.path}: {first.reason}"
    if config.on_error == "fail":
        raise CellError(f'{text}. Repair them, or set [dataset] on_error = "skip"')
    for problem in problems:
        context.progress.message(f"skipped {problem.path}: {problem.reason}")
