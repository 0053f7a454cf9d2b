"""The jobs of embedding actors: one for each backbone, or for all variants of one network."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchmark.cluster.pools import Pool
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.networks.devices import Asked
from benchmark.specs import Backbone
from benchmark.stages.embed.workers import KEPT, Job, Output
from benchmark.store.artefacts import Artefact

Pending = tuple[Backbone, Cell]


def plan_jobs(context: Context, pending: Sequence[Pending], pool: Pool) -> list[Job]:
    """Return the jobs that embed the patches with these backbones, in their order.

    Variants of one network are embedded together, unless earlier runs have begun them with
    different plans.
    """
    manifest = context.patches.manifest()
    config = context.experiment.embed
    asked = Asked(
        precision=_asked(config.precision),
        channels_last=_asked(config.channels_last),
        batch_size=_asked(config.batch_size),
        num_threads=_asked(config.num_threads),
        is_compiled=_asked(config.compile),
    )
    num_patches = sum(part["num_rows"] for part in manifest["parts"])
    jobs = []
    for together in _group(pending):
        backbone, cell = together[0]
        jobs.append(
            Job.of(
                manifest,
                backbone=backbone if len(together) == 1 else _join(together),
                artefact=cell.artefact,
                variants=_outputs(together),
                patches=context.patches,
                asked=asked,
                num_threads=pool.num_threads,
                num_patches=math.ceil(num_patches / pool.num_actors),
                num_in_all=num_patches,
                uses_gpu=pool.num_gpus > 0,
            )
        )
    return jobs


def _asked(value: Any) -> Any:
    return None if value == "auto" else value


def _group(pending: Sequence[Pending]) -> list[list[Pending]]:
    """Return the backbones that are embedded together; those with a plan come first."""
    found: list[list[Pending]] = []
    groups: dict[str, dict[str, list[Pending]]] = {}
    for item in pending:
        backbone, cell = item
        if not backbone.group or backbone.dim is None:
            found.append([item])
            continue
        plans = groups.setdefault(backbone.group, {})
        if not plans:
            # The place of the network in the order of the experiment.
            found.append([])
            plans[""] = found[-1]
        plan = _plan_of(cell.artefact)
        if plan not in plans:
            plans[plan] = []
        plans[plan].append(item)
    for plans in groups.values():
        new, *begun = plans.values()
        if begun:
            # What has no plan takes the first one, whose variant is the leader.
            new[:] = [*begun[0], *new]
            found += begun[1:]
    return found


def _plan_of(artefact: Artefact) -> str:
    """Return what earlier runs have decided on an artefact, as text; empty: it is not begun."""
    plan = artefact.plan()
    if plan is None:
        return ""
    kept = {key: plan[key] for key in KEPT if key in plan and key != "reason"}
    return json.dumps(kept, sort_keys=True)


def _join(together: Sequence[Pending]) -> Backbone:
    """Return variants of one network as one backbone that gives their embeddings side by side."""
    first = together[0][0]
    readings = tuple(item.shared.reading for item, _ in together if item.shared is not None)
    if first.shared is None or len(readings) < len(together):
        raise ValueError(f"{first.name} is no variant")
    dims = tuple(item.dim or 0 for item, _ in together)
    return replace(
        first,
        name=first.group,
        build=partial(_build, first.shared.build, readings),
        shared=replace(first.shared, dims=dims),
        dim=sum(dims),
        # What is measured of one variant, or of others together, says nothing of these.
        options=(("together", tuple(item.options for item, _ in together)),),
    )


def _build(build: Any, readings: tuple[Any, ...], num_bands: int) -> Any:
    return build(num_bands, readings)


def _outputs(together: Sequence[Pending]) -> tuple[Output, ...]:
    if len(together) == 1:
        return ()
    return tuple(Output(item, cell.artefact, item.dim) for item, cell in together)
