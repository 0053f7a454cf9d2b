"""The jobs of embedding actors: each of one backbone, or of all variants of one network."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmark.cluster.pools import Pool
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.flipped import FlippedPatches
from benchmark.networks.devices import Asked
from benchmark.specs import Backbone
from benchmark.stages.embed.flipped import PartRows, Pending, parts_of_cells
from benchmark.stages.embed.starting import KEPT, Job, Output
from benchmark.store.artefacts import Artefact


@dataclass(frozen=True)
class Pass:
    """What is embedded together: one backbone, or variants of one network, with the same flip."""

    members: tuple[tuple[Backbone, Cell], ...]
    parts: PartRows
    """The parts of ``patches`` that are embedded."""

    @property
    def num_patches(self) -> int:
        """The number of patches that pass."""
        return sum(part["num_rows"] for part in self.parts)


def plan_passes(context: Context, pending: Pending) -> list[Pass]:
    """Return the passes that embed these cells, in their order.

    Variants of one network are embedded together, unless earlier runs have begun them with
    different plans.
    """
    groups = _group(context, pending)
    parts = parts_of_cells(context, [group[0][1] for group in groups])
    return [Pass(tuple(group), mine) for group, mine in zip(groups, parts, strict=True)]


def plan_jobs(context: Context, passes: Sequence[Pass], pool: Pool) -> list[Job]:
    """Return the job of each pass."""
    manifest = context.patches.manifest()
    config = context.experiment.embed
    asked = Asked(
        precision=_asked(config.precision),
        channels_last=_asked(config.channels_last),
        batch_size=_asked(config.batch_size),
        num_threads=_asked(config.num_threads),
        is_compiled=_asked(config.compile),
    )
    jobs = []
    for one in passes:
        backbone, cell = one.members[0]
        outputs = [
            Output(item, own.artefact, _plain_of(context, item, own), item.dim)
            for item, own in one.members
        ]
        is_alone = len(outputs) == 1
        jobs.append(
            Job.of(
                manifest,
                backbone=backbone if is_alone else _join([item for item, _ in one.members]),
                artefact=cell.artefact,
                variants=() if is_alone else tuple(outputs),
                patches=context.patches,
                asked=asked,
                num_threads=pool.num_threads,
                num_patches=math.ceil(one.num_patches / pool.num_actors),
                num_in_all=one.num_patches,
                uses_gpu=pool.num_gpus > 0,
                num_gpus=pool.num_gpus,
                flipped=cell.flipped,
                plain=outputs[0].plain,
            )
        )
    return jobs


def _plain_of(context: Context, backbone: Backbone, cell: Cell) -> Artefact | None:
    return None if cell.flipped is None else context.embeddings(backbone)


def _asked(value: Any) -> Any:
    return None if value == "auto" else value


def _group(context: Context, pending: Pending) -> list[list[tuple[Backbone, Cell]]]:
    """Return the cells that are embedded together; those with a plan come first."""
    found: list[list[tuple[Backbone, Cell]]] = []
    groups: dict[tuple[str, FlippedPatches | None], dict[str, list[tuple[Backbone, Cell]]]] = {}
    for backbone, cell in pending:
        if not backbone.group or backbone.dim is None:
            found.append([(backbone, cell)])
            continue
        plans = groups.setdefault((backbone.group, cell.flipped), {})
        if not plans:
            # The place of the network in the order of the experiment.
            found.append([])
            plans[""] = found[-1]
        plan = _plan_of(cell.artefact, _plain_of(context, backbone, cell))
        plans.setdefault(plan, []).append((backbone, cell))
    for (_, flipped), plans in groups.items():
        new, *begun = plans.values()
        if begun and (flipped is None or not new):
            # What has no plan takes the first one, whose variant is the leader. Flips take the
            # plan that their plain patches get in this run.
            new[:] = [*begun.pop(0), *new]
        found += begun
    return found


def _plan_of(artefact: Artefact, plain: Artefact | None) -> str:
    """Return what earlier runs have decided on an artefact, as text; empty: it is not begun.

    A flip that is not begun has the plan of the plain patches.
    """
    plan = artefact.plan()
    if plan is None and plain is not None:
        plan = plain.plan()
    if plan is None:
        return ""
    kept = {key: plan[key] for key in KEPT if key in plan and key != "reason"}
    return json.dumps(kept, sort_keys=True)


def _join(together: Sequence[Backbone]) -> Backbone:
    """Return variants of one network as one backbone that gives their embeddings side by side."""
    first = together[0]
    readings = tuple(item.shared.reading for item in together if item.shared is not None)
    if first.shared is None or len(readings) < len(together):
        raise ValueError(f"{first.name} is no variant")
    dims = tuple(item.dim or 0 for item in together)
    return replace(
        first,
        name=first.group,
        build=partial(_build, first.shared.build, readings),
        shared=replace(first.shared, dims=dims),
        dim=sum(dims),
        # What is measured of one variant, or of others together, says nothing of these.
        options=(("together", tuple(item.options for item in together)),),
    )


def _build(build: Any, readings: tuple[Any, ...], num_bands: int) -> Any:
    return build(num_bands, readings)
