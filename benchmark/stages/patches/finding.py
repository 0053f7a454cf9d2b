"""The first pass over a source: find the candidates of its units."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from benchmark.cluster.incidents import Account, Toll
from benchmark.cluster.streaming import Items, read_items, status_rows
from benchmark.specs import Problem, Remark, Source
from benchmark.stages.patches.remarks import from_json, remarks_of, to_json
from benchmark.store.artefacts import Artefact
from benchmark.store.names import TABLES, current_name
from benchmark.tables import CANDIDATES, UNIT, check_table

TASK_S = 1.0
"""Seconds of a task that finds candidates, if its units are small: Ray takes 30 ms for any."""
TASKS_PER_SLOT = 8
"""At least, so that all slots end at about the same time."""


@dataclass(frozen=True)
class FoundAll:
    """The candidates of all units."""

    candidates: pa.Table
    num_examined: int
    problems: tuple[Problem, ...]
    remarks: tuple[Remark, ...]


def find_units(group: Sequence[tuple[int, str]], *, source: Source, artefact: Artefact) -> pa.Table:
    """Write the candidates of some units and return a row of status for each (one task)."""
    rows = []
    for index, unit in group:
        toll, began = Toll(), time.perf_counter()
        found = source.find(unit)
        checked = check_table(found.candidates, CANDIDATES, what=f"candidates of {unit}")
        checked = checked.append_column(UNIT, pa.array([unit] * checked.num_rows, pa.string()))
        checked = checked.replace_schema_metadata(
            {
                "num_examined": str(found.num_examined),
                "problems": to_json(found.problems),
                "remarks": json.dumps(found.remarks),
            }
        )
        artefact.write_table(_candidates_name(index), checked)
        rows.append(
            {
                "num_examined": found.num_examined,
                "seconds": time.perf_counter() - began,
                "toll": json.dumps(toll.to_json()),
            }
        )
    return pa.Table.from_pylist(rows)


def group_units(
    todo: Sequence[tuple[int, str]], *, num_slots: int, unit_s: float
) -> list[Sequence[tuple[int, str]]]:
    """Join units into tasks of about ``TASK_S``, but keep some for each slot.

    Args:
        todo: the units.
        num_slots: tasks that run at once.
        unit_s: seconds of one unit.
    """
    most = -(-len(todo) // (TASKS_PER_SLOT * num_slots))
    size = max(1, min(most, int(TASK_S / max(unit_s, 1e-6))))
    return [todo[start : start + size] for start in range(0, len(todo), size)]


def find_candidates(
    source: Source,
    units: Sequence[str],
    artefact: Artefact,
    advance: Any,
    account: Account,
    *,
    num_slots: int = 1,
) -> FoundAll:
    """Find the candidates of all units, except those written by an earlier run.

    The first units are tasks of their own; their seconds tell how many make a task thereafter.
    """
    done = {current_name(name) for name in artefact.files()}
    done &= {_candidates_name(index) for index in range(len(units))}
    account.add("part_found", len(done), "candidates")
    todo = [item for item in enumerate(units) if _candidates_name(item[0]) not in done]
    num_first = num_slots * TASKS_PER_SLOT
    if len(todo) <= 2 * num_first:
        num_first = len(todo)
    first = _find(
        group_units(todo[:num_first], num_slots=num_slots, unit_s=TASK_S),
        source,
        artefact,
        advance,
        account,
    )
    groups = group_units(todo[num_first:], num_slots=num_slots, unit_s=first / max(num_first, 1))
    _find(groups, source, artefact, advance, account)
    tables, num_examined = [], 0
    problems: list[Problem] = []
    remarks: list[Remark] = []
    for index in range(len(units)):
        table = artefact.read_table(names=[_candidates_name(index)])
        metadata = table.schema.metadata or {}
        num_examined += int(metadata.get(b"num_examined", b"0"))
        problems += from_json(metadata.get(b"problems", b"[]"))
        remarks += remarks_of(metadata)
        tables.append(table.replace_schema_metadata(None))
    candidates = pa.concat_tables(tables).sort_by("patch_id")
    return FoundAll(candidates, num_examined, tuple(problems), tuple(remarks))


def _find(
    groups: Sequence[Sequence[tuple[int, str]]],
    source: Source,
    artefact: Artefact,
    advance: Any,
    account: Account,
) -> float:
    """Find the candidates of groups of units; return the seconds that their tasks took."""
    if not groups:
        return 0.0
    seconds = 0.0
    items = Items("find", groups, partial(find_units, source=source, artefact=artefact))
    for row in status_rows(read_items(items, num_items=len(groups), num_cpus=1)):
        account.add_toll(json.loads(row["toll"]))
        seconds += row["seconds"]
        advance(row["num_examined"])
    return seconds


def _candidates_name(index: int) -> str:
    return f"{TABLES}candidates-{index:06d}.parquet"
