"""Plan the workers, cores and GPUs of a training, and how many trainings run in parallel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from benchmark.cluster.connection import Node, Resources, count_of
from benchmark.cluster.pools import round_down, whole_cpus
from benchmark.errors import UsageError

FEEDING_CPUS = 0.5
"""Left free beside trainings, for read tasks and Ray's own."""


class Team(NamedTuple):
    """The equal workers of one training."""

    num_workers: int
    num_cpus: float
    """Booked for each worker."""
    num_gpus: float
    num_threads: int
    """Of torch in each worker."""
    num_slots: int
    """Trainings that run in parallel."""
    reason: str

    @property
    def is_alone(self) -> bool:
        """Whether one worker does everything, in the process of its trial."""
        return self.num_workers == 1


def plan_team(resources: Resources, *, num_workers: int | None, num_trials: int) -> Team:
    """Share a cluster between trainings.

    Parallel trials need no communication, so they fill a cluster first; only GPUs that would stay
    idle join a training as further workers.

    Args:
        resources: of the cluster; ``node_cpus`` bounds the threads of a worker.
        num_workers: set by the user; None chooses.
        num_trials: that can run at once, over all cells.

    Raises:
        UsageError: there is no CPU, or ``num_workers`` exceeds the cluster's CPUs or GPUs.
    """
    cpus, gpus = whole_cpus(resources), int(resources.num_gpus)
    on_gpu = gpus > 0
    units, unit = (gpus, "GPU") if on_gpu else (cpus, "CPU")
    if num_workers is not None and num_workers > units:
        raise UsageError(
            f"[finetune] num_workers = {num_workers}: the cluster has {count_of(units, unit)}, "
            'at least one for each worker; ask for fewer, or write "auto"'
        )
    count = num_workers or (max(1, gpus // num_trials) if on_gpu else 1)
    slots = max(1, min(num_trials, units // count))
    node_cpus = max(1, int(resources.node_cpus or cpus))
    threads = max(1, min(cpus // (count * slots), node_cpus))
    share = _book(cpus, count * slots, threads)
    # All workers of a training start at once, each on a machine with the CPUs that it books.
    while threads > 1 and _places(resources.nodes, share, on_gpu=on_gpu) < count * slots:
        threads -= 1
        share = _book(cpus, count * slots, threads)
    if _places(resources.nodes, share, on_gpu=on_gpu) < count * slots:
        # Some machines have hardly a core for each GPU.
        share = round_down(min(share, _least_beside_gpu(resources.nodes)))
    reason = (
        f"{count_of(units, unit)} for {count_of(num_trials, 'training')}: {slots} side by side, of "
        f"{count_of(count, 'worker')}, {count_of(threads, 'thread')} each"
    )
    return Team(count, share, 1.0 if on_gpu else 0.0, threads, slots, reason)


def _book(cpus: int, num_workers: int, threads: int) -> float:
    """Return the CPUs that each worker books, so that some are left for the tasks that feed it."""
    return round_down(threads * max(0.0, cpus - FEEDING_CPUS) / max(cpus, num_workers * threads))


def _places(nodes: Sequence[Node], num_cpus: float, *, on_gpu: bool) -> float:
    """Return how many workers of ``num_cpus`` fit the machines at once; infinite if unknown."""
    if not nodes or not num_cpus:
        return math.inf
    fits = [int(node.num_cpus / num_cpus + 1e-9) for node in nodes]
    if on_gpu:
        fits = [min(int(node.num_gpus), fit) for node, fit in zip(nodes, fits, strict=True)]
    return sum(fits)


def _least_beside_gpu(nodes: Sequence[Node]) -> float:
    """Return the CPUs beside a GPU on the machine that has the fewest."""
    return min((node.num_cpus / node.num_gpus for node in nodes if node.num_gpus), default=1.0)
