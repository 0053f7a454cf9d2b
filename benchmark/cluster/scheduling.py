"""Decide which stages run in parallel on a cluster, and what each may book.

Stages with different needs fill a cluster together: embedding and fine-tuning use its GPUs, head
searches its CPUs. No stage waits for resources of a later one, and each has CPUs of its own, so
none can starve another. On a cluster that is too small for two, they run one after the other.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmark.cluster.connection import Resources
from benchmark.config import Experiment, StageLimit

SIDE_BY_SIDE_CPUS = 8
"""A cluster with fewer CPUs and no GPU runs one stage after the other: each can use every core, and
two on half the cores would only wait for each other."""

WEIGHTS: Mapping[str, float] = {"embed": 4.0, "finetune": 3.0, "tune": 1.0}
"""For CPUs of a cluster without GPUs: heads are cheap compared with the stages that feed them."""

GPU_STAGES = frozenset({"embed", "finetune"})


class Budget(NamedTuple):
    """What a stage may book."""

    num_cpus: float
    num_gpus: float

    def covers(self, resources: Resources) -> bool:
        """Whether it covers a whole cluster."""
        return self.num_cpus >= resources.num_cpus and self.num_gpus >= resources.num_gpus


UNLIMITED = Budget(math.inf, math.inf)


@dataclass(frozen=True)
class Lane:
    """A stage that has work, and its bounds."""

    stage: str
    min_cpus: int = 1
    min_gpus: int = 1
    """Minimum, if the cluster has GPUs and the stage uses them."""
    fills_machines: bool = False
    """Without GPUs it can use every core of a machine, and does not start with fewer."""
    limit: Budget = UNLIMITED
    """Maximum: ``[resources]`` of the experiment."""

    @property
    def uses_gpus(self) -> bool:
        """Whether it computes on GPUs if there are any."""
        return self.stage in GPU_STAGES and self.limit.num_gpus > 0


def allot(resources: Resources, lanes: Sequence[Lane]) -> dict[str, Budget]:
    """Return what each lane may book now; an absent lane waits until another has ended.

    The first lane always runs. Budgets depend only on the cluster and the lanes, and their sum
    never exceeds the cluster.

    Args:
        resources: of the whole cluster.
        lanes: those with work, in the order in which they should end.
    """
    admitted = list(lanes)
    while len(admitted) > 1:
        budgets = _divide(resources, admitted)
        short = [lane for lane in admitted if not _suffices(resources, lane, budgets[lane.stage])]
        if not short:
            return budgets
        # The last one waits, so that the first backbones are finished first.
        admitted.remove(short[-1] if short[-1] is not admitted[0] else admitted[-1])
    return {lane.stage: _whole(resources, lane) for lane in admitted}


def _divide(resources: Resources, lanes: Sequence[Lane]) -> dict[str, Budget]:
    gpus = _divide_gpus(int(resources.num_gpus), lanes)
    if not resources.num_gpus:
        if resources.num_cpus < SIDE_BY_SIDE_CPUS:
            return {lane.stage: Budget(0.0, 0.0) for lane in lanes}
        weights = {lane.stage: WEIGHTS.get(lane.stage, 1.0) for lane in lanes}
    else:
        # Half of the CPUs feed GPUs, in proportion to each lane's; half are for the other lanes.
        others = sum(not lane.uses_gpus for lane in lanes)
        weights = {
            lane.stage: gpus[lane.stage] / max(1.0, sum(gpus.values()))
            if lane.uses_gpus
            else 1.0 / others
            for lane in lanes
        }
    cpus = _divide_cpus(int(resources.num_cpus), lanes, weights)
    return {lane.stage: Budget(cpus[lane.stage], gpus[lane.stage]) for lane in lanes}


def _divide_gpus(total: int, lanes: Sequence[Lane]) -> dict[str, float]:
    found = {lane.stage: 0.0 for lane in lanes}
    rest = total
    wanting = [lane for lane in lanes if lane.uses_gpus]
    for number, lane in enumerate(wanting):
        # Earlier stages get the odd GPU; a limit leaves more to later ones.
        share = -(-rest // (len(wanting) - number))
        found[lane.stage] = float(min(share, lane.limit.num_gpus))
        rest -= math.ceil(found[lane.stage])
    return found


def _divide_cpus(
    total: int, lanes: Sequence[Lane], weights: Mapping[str, float]
) -> dict[str, float]:
    """Divide whole CPUs by weight; what a limit leaves over goes to the others."""
    sharing = [lane for lane in lanes if weights[lane.stage]]
    found = {lane.stage: 0.0 for lane in lanes}
    while sharing:
        whole = sum(weights[lane.stage] for lane in sharing)
        parts = {lane.stage: int(total * weights[lane.stage] / whole) for lane in sharing}
        capped = [lane for lane in sharing if lane.limit.num_cpus < parts[lane.stage]]
        if not capped:
            return {**found, **{stage: float(part) for stage, part in parts.items()}}
        for lane in capped:
            found[lane.stage] = lane.limit.num_cpus
            total -= math.ceil(lane.limit.num_cpus)
            sharing.remove(lane)
    return found


def _suffices(resources: Resources, lane: Lane, budget: Budget) -> bool:
    if resources.num_gpus and lane.uses_gpus and budget.num_gpus < lane.min_gpus:
        return False
    fills = lane.fills_machines and not resources.num_gpus
    return budget.num_cpus >= max(lane.min_cpus, resources.node_cpus if fills else 0)


def _whole(resources: Resources, lane: Lane) -> Budget:
    limit = lane.limit
    return Budget(min(resources.num_cpus, limit.num_cpus), min(resources.num_gpus, limit.num_gpus))


def within(resources: Resources, budget: Budget) -> Resources:
    """Return the part of a cluster that a budget covers; memory is shared like the CPUs."""
    if budget.covers(resources):
        return resources
    share = budget.num_cpus / resources.num_cpus if resources.num_cpus else 1.0
    nodes = tuple(
        node._replace(
            num_cpus=min(node.num_cpus, budget.num_cpus),
            num_gpus=min(node.num_gpus, budget.num_gpus),
        )
        for node in resources.nodes
    )
    return Resources(
        num_cpus=min(resources.num_cpus, budget.num_cpus),
        num_gpus=min(resources.num_gpus, budget.num_gpus),
        memory=resources.memory * min(1.0, share),
        node_cpus=min(resources.node_cpus, budget.num_cpus),
        nodes=nodes,
    )


def lanes_of(experiment: Experiment) -> list[Lane]:
    """Return the lanes of an experiment: the stages that book a cluster for a long time."""
    limits = experiment.resources
    lanes = [
        # One CPU for the pool and one for the tasks that read and write.
        Lane("embed", min_cpus=2, limit=_limit(limits.embed)),
        Lane("tune", limit=_limit(limits.tune)),
    ]
    if experiment.finetune is not None:
        workers = experiment.finetune.num_workers
        asked = 1 if workers == "auto" else workers
        lanes.append(
            Lane(
                "finetune",
                min_cpus=1 + asked,
                min_gpus=asked,
                fills_machines=True,
                limit=_limit(limits.finetune),
            )
        )
    return lanes


def _limit(limit: StageLimit) -> Budget:
    return Budget(
        math.inf if limit.num_cpus is None else float(limit.num_cpus),
        math.inf if limit.num_gpus is None else float(limit.num_gpus),
    )


class Ledger:
    """Tracks which stages of a run have work, and what each may book; for threads."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        """Take the lanes of an experiment, in the order of its stages; none has work yet."""
        self._lanes = {lane.stage: lane for lane in lanes}
        self._open: set[str] = set()
        self._lock = threading.Lock()

    def open(self, stages: Iterable[str]) -> None:
        """Note that these stages have work."""
        with self._lock:
            self._open.update(stages)

    def close(self, stage: str) -> None:
        """Note that a stage has ended; its budget goes to the others."""
        with self._lock:
            self._open.discard(stage)

    def is_open(self, stage: str) -> bool:
        """Whether a stage has work, so that more of its output may come."""
        with self._lock:
            return stage in self._open

    def admitted(self, resources: Resources) -> Collection[str]:
        """Return the stages with work that may run now."""
        return allot(resources, self._lanes_of(self._open)).keys()

    def budget(self, stage: str, resources: Resources) -> Budget:
        """Return what a stage may book now, of the whole cluster's resources."""
        with self._lock:
            stages = {*self._open, stage}
        found = allot(resources, self._lanes_of(stages)).get(stage)
        return found or _whole(resources, self._lanes[stage])

    def first_budget(self, stage: str, resources: Resources) -> Budget:
        """Return what a stage may book when it starts and every stage has work.

        The threads of a training follow from it: they change the last bits of a result, and must
        not depend on which stages have ended.
        """
        lanes = list(self._lanes.values())
        while stage not in (found := allot(resources, lanes)):
            del lanes[0]
        return found[stage]

    def _lanes_of(self, stages: Collection[str]) -> list[Lane]:
        return [lane for stage, lane in self._lanes.items() if stage in stages]
