"""Where the time of a run went: duration and utilisation of its stages, and the bottleneck.

Stages may run side by side. So the length of a run is that of the union of its stages' times, and
each moment is counted for the stage that was busiest then: a stage that waits for another is no
bottleneck.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmark.errors import CellError
from benchmark.experiment.cells import TextTable
from benchmark.store.artefacts import Store
from benchmark.store.filesystems import join

logger = logging.getLogger("benchmark")

FOLDER = "usage"

TITLE = "Where the time went"

UNKNOWN_UTILISATION = 0.5
"""Utilisation assumed for stages that do not measure it, to compare them with others."""

NOTED_GAP = 0.05
"""A note reports time between the stages above this share of the run."""


@dataclass(frozen=True)
class StageUsage:
    """Time and work of one stage in one run, for the cells that it computed.

    Attributes:
        stage: its name.
        began_s: seconds since the epoch.
        ended_s: seconds since the epoch.
        busy_s: slot-seconds at work; None: not measured.
        num_slots: number of parallel actors, trials or tasks.
        num_cells: cells computed.
        num_items: items computed, in ``unit``.
        unit: e.g. ``patches``.
        num_failed: failed items of these.
        failure: why the first of them failed.
    """

    stage: str
    began_s: float
    ended_s: float
    busy_s: float | None
    num_slots: int
    num_cells: int
    num_items: int
    unit: str
    num_failed: int = 0
    failure: str = ""

    @property
    def wall_s(self) -> float:
        """The duration (s)."""
        return max(0.0, self.ended_s - self.began_s)

    @property
    def utilisation(self) -> float | None:
        """The share of slot-seconds at work; None: not measured."""
        slot_s = self.num_slots * self.wall_s
        return None if self.busy_s is None or not slot_s else self.busy_s / slot_s


@dataclass(frozen=True)
class StageSummary:
    """One row: the usages of one stage, combined.

    Attributes:
        stage: its name.
        num_cells: cells computed.
        wall_s: the duration (s), overlaps within the stage counted once.
        share: of the length of the run; shares of overlapping stages add up to more than 1.
        num_slots: the most slots of one usage.
        utilisation: the share of slot-seconds at work; None: not measured.
        num_items: items computed, in ``unit``.
        unit: e.g. ``patches``.
        items_per_s: over ``wall_s``; None if that is 0.
        limiting_s: seconds of the run in which no other stage was busier.
    """

    stage: str
    num_cells: int
    wall_s: float
    share: float
    num_slots: int
    utilisation: float | None
    num_items: int
    unit: str
    items_per_s: float | None
    limiting_s: float


def run_seconds(usages: Iterable[StageUsage]) -> float:
    """Return how long at least one of the stages ran (s)."""
    total, reached = 0.0, float("-inf")
    for usage in sorted(usages, key=lambda item: item.began_s):
        total += max(0.0, usage.ended_s - max(reached, usage.began_s))
        reached = max(reached, usage.ended_s)
    return total


def summarise(usages: Sequence[StageUsage]) -> list[StageSummary]:
    """Return one row for each stage, in the order of their start."""
    total_s = run_seconds(usages)
    limiting = _limiting_seconds(usages)
    groups: dict[str, list[StageUsage]] = {}
    for usage in sorted(usages, key=lambda item: item.began_s):
        groups.setdefault(usage.stage, []).append(usage)
    rows = []
    for stage, group in groups.items():
        wall_s = run_seconds(group)
        unit = max(group, key=lambda item: item.wall_s).unit
        num_items = sum(item.num_items for item in group if item.unit == unit)
        rows.append(
            StageSummary(
                stage=stage,
                num_cells=sum(item.num_cells for item in group),
                wall_s=wall_s,
                share=wall_s / total_s if total_s else 0.0,
                num_slots=max(item.num_slots for item in group),
                utilisation=_utilisation(group),
                num_items=num_items,
                unit=unit,
                items_per_s=num_items / wall_s if wall_s else None,
                limiting_s=limiting.get(stage, 0.0),
            )
        )
    return rows


def _utilisation(group: Iterable[StageUsage]) -> float | None:
    measured = [item for item in group if item.busy_s is not None]
    slot_s = sum(item.num_slots * item.wall_s for item in measured)
    return sum(item.busy_s or 0.0 for item in measured) / slot_s if slot_s else None


def _limiting_seconds(usages: Sequence[StageUsage]) -> dict[str, float]:
    """Return the seconds in which each stage was the busiest; equal stages split them."""
    found: dict[str, float] = {}
    times = sorted({time for item in usages for time in (item.began_s, item.ended_s)})
    for began_s, ended_s in itertools.pairwise(times):
        running = [item for item in usages if item.began_s <= began_s and item.ended_s >= ended_s]
        busiest = max(map(_rank, running), default=0.0)
        stages = {item.stage for item in running if _rank(item) == busiest}
        for stage in stages:
            found[stage] = found.get(stage, 0.0) + (ended_s - began_s) / len(stages)
    return found


def _rank(usage: StageUsage) -> float:
    return UNKNOWN_UTILISATION if usage.utilisation is None else usage.utilisation


def name_limit(rows: Sequence[StageSummary], total_s: float) -> str:
    """Return a sentence about the bottleneck; empty if the run took no time.

    If its slots were busy more than half of the time, more or faster slots would shorten the run.
    Otherwise they mostly waited: for start-up, reading or other stages, or without work left.

    Args:
        rows: the stages, from ``summarise``.
        total_s: the length of the run, from ``run_seconds``.
    """
    if not total_s:
        return ""
    row = max(rows, key=lambda item: item.limiting_s)
    share = 100 * row.limiting_s / total_s
    what = f"{row.stage} is the bottleneck ({share:.0f} % of {total_s:.1f} s)"
    if row.utilisation is None:
        return f"{what}; its utilisation is not measured."
    slots = "its one slot was" if row.num_slots == 1 else f"its {row.num_slots} slots were"
    if row.utilisation > 0.5:
        return f"{what}: {slots} busy {100 * row.utilisation:.0f} % of the time."
    return f"{what}: {slots} idle {100 * (1 - row.utilisation):.0f} % of the time."


def usage_notes(usages: Sequence[StageUsage], rows: Sequence[StageSummary]) -> tuple[str, ...]:
    """Return sentences about the bottleneck, overlaps, gaps and failed items.

    Args:
        usages: of the stages.
        rows: from ``summarise``.
    """
    if not usages:
        return ()
    total_s = run_seconds(usages)
    notes = [name_limit(rows, total_s)]
    if sum(row.wall_s for row in rows) > total_s + 0.05:
        notes.append("Stages overlapped: their shares add up to more than 100 %.")
    span_s = max(item.ended_s for item in usages) - min(item.began_s for item in usages)
    if span_s - total_s > NOTED_GAP * span_s:
        notes.append(f"Not counted: {span_s - total_s:.1f} s between the stages.")
    notes += [
        f"{item.stage}: {item.num_failed} of {item.num_items} {item.unit} failed, the first: "
        f"{item.failure}"
        for item in usages
        if item.num_failed
    ]
    return tuple(note for note in notes if note)


def rate_text(items_per_s: float | None) -> str:
    """Return a rate with one decimal, or two digits that count where that would be zero."""
    if items_per_s is None:
        return "-"
    return f"{items_per_s:.2g}" if 0 < items_per_s < 0.095 else f"{items_per_s:,.1f}"


def usage_table(usages: Sequence[StageUsage]) -> TextTable:
    """Return the stages as a table to print, with ``usage_notes`` below it."""
    summaries = summarise(usages)
    rows = [
        (
            row.stage,
            str(row.num_cells),
            f"{row.wall_s:.1f}",
            f"{100 * row.share:.0f}",
            str(row.num_slots),
            "-" if row.utilisation is None else f"{100 * row.utilisation:.0f}",
            str(row.num_items),
            rate_text(row.items_per_s),
            row.unit,
        )
        for row in summaries
    ]
    columns = ("stage", "cells", "seconds", "% of run", "slots", "% busy", "items", "per s", "unit")
    return TextTable(title=TITLE, columns=columns, rows=rows, notes=usage_notes(usages, summaries))


def usage_to_json(usages: Sequence[StageUsage]) -> list[dict[str, Any]]:
    """Return the stages for ``benchmark run --json``, in the order of their start."""
    return [
        {**asdict(item), "wall_s": item.wall_s, "utilisation": item.utilisation}
        for item in sorted(usages, key=lambda item: item.began_s)
    ]


@dataclass(frozen=True)
class SavedUsage:
    """The usages of each stage in the last run that computed something in it."""

    usages: tuple[StageUsage, ...]
    num_runs: int
    """The number of runs that they come from; more than one if a run resumed another."""


def save_usage(store: Store, experiment: str, usages: Sequence[StageUsage]) -> None:
    """Save the usages of this run, replacing older ones of the same stages.

    Call it after each stage, so that the report, the last stage, shows the others, and a killed run
    leaves the usages of its finished stages. Of two simultaneous runs, the later call wins. A
    failing store is only logged: the results matter more.
    """
    if not usages:
        return
    ours = {item.stage for item in usages}
    run = min(item.began_s for item in usages)
    try:
        rows = [row for row in _read(store, experiment) if row[1].stage not in ours]
        rows += [(run, item) for item in usages]
        content = {"stages": [{"run": run, **asdict(item)} for run, item in rows]}
        store.write(_path(experiment), (json.dumps(content, indent=2) + "\n").encode())
    except CellError as error:
        logger.warning("could not save the durations of the stages: %s", error)


def load_usage(store: Store, experiment: str, *, without: Collection[str] = ()) -> SavedUsage:
    """Return the saved usages; none if nothing was saved.

    Args:
        store: of the runs.
        experiment: its name.
        without: stages to leave out.

    Raises:
        CellError: the store cannot be read.
    """
    rows = [(run, item) for run, item in _read(store, experiment) if item.stage not in without]
    return SavedUsage(tuple(item for _, item in rows), len({run for run, _ in rows}))


def _read(store: Store, experiment: str) -> list[tuple[float, StageUsage]]:
    """Return each usage with the start of its run (s since the epoch)."""
    try:
        content = json.loads(store.read(_path(experiment)))
        return [(row.pop("run"), StageUsage(**row)) for row in content["stages"]]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError):
        logger.warning("ignored %s: not written by benchmark", join(store.uri, _path(experiment)))
        return []


def _path(experiment: str) -> str:
    return f"{FOLDER}/{experiment}.json"
