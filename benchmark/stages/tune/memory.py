"""Memory of trials of heads: an estimate, and what the machines of the cluster have for it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ray import tune

from benchmark.cluster.connection import Node, Resources
from benchmark.errors import BenchmarkError
from benchmark.specs import HeadMemory

PROCESS_BYTES = 300e6
"""A trial's process with scikit-learn and Ray, without data: measured 144 MB private, 106 MB of
files (``RssAnon``, ``RssFile``)."""
SMALL_BYTES = 2 * PROCESS_BYTES
"""A trial that needs less is never refused, and books nothing: its data are less than its process,
and what is free changes by as much."""


class Booking(NamedTuple):
    """What a trial books on its machine."""

    num_bytes: float
    """0: nothing."""
    is_scarce: bool = False
    """Whether fewer trials run at once than CPUs allow."""
    most: int = 0
    """Trials at once on the largest machine, if memory is scarce."""


class Sizes(NamedTuple):
    """The rows of a search."""

    num_train: int
    num_val: int
    num_test: int
    dim: int
    num_classes: int

    @property
    def num_rows(self) -> int:
        """Rows of all splits."""
        return self.num_train + self.num_val + self.num_test

    @property
    def num_bytes(self) -> int:
        """Bytes of all embeddings, float32."""
        return 4 * self.dim * self.num_rows


def estimate_trial(memory: HeadMemory, sizes: Sizes, *, refit: str) -> float:
    """Return the bytes that a trial needs at its peak, beside the shared embeddings.

    Args:
        memory: of the head.
        sizes: of the data.
        refit: ``train`` or ``train+val``: the rows that the chosen configuration is fitted on.
    """
    num_fitted = sizes.num_train + (sizes.num_val if refit == "train+val" else 0)
    # Scaling copies the rows that are scored, split by split.
    num_scored = max(sizes.num_val, sizes.num_test)
    # A refit on train and val joins both in one array, which is scaled in place.
    copies = max(memory.copies, 1.0 if refit == "train+val" else 0.0)
    rows = 4 * sizes.dim * (copies * num_fitted + num_scored)
    scored = memory.bytes_per_scored * num_scored
    scores = memory.bytes_per_score * sizes.num_classes * sizes.num_rows
    return PROCESS_BYTES + rows + scored + scores


def plan_memory(
    needed: float, loaded: float, resources: Resources, *, most_trials: float, what: str
) -> Booking:
    """Return what each trial of a head books, so that Ray starts no more than fit on a machine.

    Where every machine has memory for as many trials as CPUs, a trial books the share of a CPU:
    their number stays the same, and heads that need more find what is left.

    Args:
        needed: bytes of one trial.
        loaded: bytes of the embeddings, which the process that loads them holds for a moment.
        resources: of the cluster.
        most_trials: ``[tune] max_concurrent``.
        what: the head and its data; the error begins with it.

    Raises:
        BenchmarkError: no machine has the memory for one trial.
    """
    nodes = [node for node in resources.nodes if node.memory and node.num_cpus >= 1]
    if not nodes or needed < SMALL_BYTES:
        return Booking(0.0)
    largest = max(nodes, key=lambda node: node.memory)
    most = _count(largest, needed, loaded)
    if most < 1:
        raise BenchmarkError(
            f"{what}: one trial needs about {_gigabytes(needed + loaded)}, and the machine with "
            f"the most memory has {_gigabytes(largest.memory)} for it (free when Ray started, "
            "without Ray's object store): take fewer patches ([dataset] per_class), another head, "
            "or a machine with more memory"
        )
    slots = [min(most_trials, int(node.num_cpus)) for node in nodes]
    pairs = list(zip(nodes, slots, strict=True))
    if all(_count(node, needed, loaded) >= number for node, number in pairs):
        return Booking(math.floor(min(node.memory / number for node, number in pairs)))
    return Booking(math.floor(largest.memory / most), is_scarce=True, most=most)


def book_trial(config: dict[str, Any]) -> Any:
    """Return what a trial books: one CPU, and memory where it is scarce."""
    memory = {"memory": int(config["memory"])} if config.get("memory") else {}
    return tune.PlacementGroupFactory([{"CPU": 1.0, **memory}])


def _count(node: Node, needed: float, loaded: float) -> int:
    return max(0, math.floor((node.memory - loaded) / needed))


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
