"""Size pools of embedding actors to the machines of a cluster."""

from __future__ import annotations

import math
from typing import NamedTuple

from benchmark.cluster.connection import Node, Resources, count_of
from benchmark.errors import UsageError

ACTOR_BYTES = 1_200_000_000
"""Memory to plan for an embedding actor on a CPU: torch, a model and its batches."""


class Pool(NamedTuple):
    """A pool of equal actors, and why it has that shape."""

    num_actors: int
    num_cpus: float
    num_gpus: float
    num_threads: int
    reason: str


def plan_pool(
    resources: Resources,
    *,
    num_actors: int | None,
    wants_gpu: bool = True,
    num_gpus: float = 1.0,
) -> Pool:
    """Size a pool so that a whole CPU stays free for the tasks that read and write.

    Actors that hold every CPU starve the read tasks, and the pipeline hangs silently
    (https://github.com/ray-project/ray/issues/44687). On CPUs the fastest pool is one actor
    of one thread for each core, booked at a little less than a core.

    Args:
        resources: available to the pool and its tasks.
        num_actors: set by the user; None chooses.
        wants_gpu: whether to book GPUs if there are any.
        num_gpus: booked by each actor; below one, several share a GPU.

    Raises:
        UsageError: there is no CPU, or ``num_actors`` do not fit.
    """
    cpus = whole_cpus(resources)
    if wants_gpu and int(resources.num_gpus):
        return _plan_on_gpus(resources, num_actors=num_actors, num_gpus=num_gpus)
    fits = max(1, int(resources.memory // ACTOR_BYTES)) if resources.memory else cpus
    count = num_actors or min(cpus, fits)
    if count > 8 * cpus:
        raise UsageError(
            f"[embed] num_actors = {count}: the cluster has {count_of(cpus, 'CPU')}; "
            f'ask for at most {8 * cpus}, or write "auto"'
        )
    share = 0.0 if cpus == 1 else round_down((cpus - 1) / count)
    # One thread for any number of actors: more threads would sum in another order.
    reason = (
        f"{count_of(cpus, 'CPU')}, no GPU: actors of one thread, a CPU left for reading and writing"
    )
    return Pool(count, min(1.0, share), 0.0, 1, reason)


def _plan_on_gpus(resources: Resources, *, num_actors: int | None, num_gpus: float) -> Pool:
    cpus, gpus = int(resources.num_cpus), int(resources.num_gpus)
    nodes = resources.nodes or (Node(resources.num_cpus, resources.num_gpus),)
    slots = [_slots(node, num_gpus) for node in nodes]
    most = min(sum(slots), _slots(Node(0.0, gpus), num_gpus))
    if most < 1:
        raise UsageError(
            f"[embed] num_gpus = {num_gpus:g}: no node of the cluster has that many GPUs"
        )
    count = num_actors or most
    if count > most:
        raise UsageError(
            f"[embed] num_actors = {count}: the cluster has {count_of(gpus, 'GPU')}, "
            f"{'one' if num_gpus == 1 else f'{num_gpus:g}'} for each actor "
            "([embed] num_gpus)"
        )
    # An actor runs on the machine of its GPU, which may have few CPUs.
    beside = min(
        node.num_cpus / number for node, number in zip(nodes, slots, strict=True) if number
    )
    spare = (cpus - 1) / count if cpus > 1 else 0.0
    share = round_down(min(1.0, beside, spare))
    of = "each" if num_gpus == 1 else f"on {num_gpus:g} of one"
    threads = max(1, (cpus - 1) // count)
    return Pool(count, share, num_gpus, threads, f"{count_of(gpus, 'GPU')}: an actor {of}")


def _slots(node: Node, num_gpus: float) -> int:
    """Return how many actors of ``num_gpus`` fit a machine; a share never spans two GPUs."""
    gpus = int(node.num_gpus)
    return int(gpus // num_gpus) if num_gpus >= 1 else gpus * int(1 / num_gpus)


def whole_cpus(resources: Resources) -> int:
    """Return the number of whole CPUs.

    Raises:
        UsageError: there is none.
    """
    if resources.num_cpus < 1:
        raise UsageError("the Ray cluster has no CPU: add a node with CPUs")
    return int(resources.num_cpus)


def round_down(num_cpus: float) -> float:
    """Return a number of CPUs, rounded down to what Ray can book."""
    # Ray counts in ten-thousandths of a CPU, and above one in whole CPUs only.
    return math.floor(num_cpus * 1000) / 1000 if num_cpus < 1 else float(math.floor(num_cpus))
