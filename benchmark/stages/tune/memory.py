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
    needed: float, loaded: float, resources: Resources, *, slots: int, what: str
) -> tuple[float, int]:
    """Return the bytes that each trial shall book, and how many then fit on the largest machine.

    Nothing is booked (0 bytes) where every machine has memory for as many trials as it has CPUs.

    Args:
        needed: bytes of one trial.
        loaded: bytes of the embeddings, which the process that loads them holds for a moment.
        resources: of the cluster.
        slots: trials that may run at once.
        what: the head and its data; the error begins with it.

    Raises:
        BenchmarkError: no machine has the memory for one trial.
    """
    nodes = [node for node in resources.nodes if node.memory and node.num_cpus >= 1]
    if not nodes:
        return 0.0, slots
    largest = max(nodes, key=lambda node: node.memory)
    most = _count(largest, needed, loaded)
    if most < 1:
        raise BenchmarkError(
            f"{what}: one trial needs about {_gigabytes(needed + loaded)}, and the machine with "
            f"the most memory has {_gigabytes(largest.memory)} for it (free when Ray started, "
            "without Ray's object store): take fewer patches ([dataset] per_class), another head, "
            "or a machine with more memory"
        )
    if all(_count(node, needed, loaded) >= min(slots, int(node.num_cpus)) for node in nodes):
        return 0.0, slots
    return math.floor(largest.memory / most), most


def book_trial(config: dict[str, Any]) -> Any:
    """Return what a trial books: one CPU, and memory where it is scarce."""
    memory = {"memory": int(config["memory"])} if config.get("memory") else {}
    return tune.PlacementGroupFactory([{"CPU": 1.0, **memory}])


def _count(node: Node, needed: float, loaded: float) -> int:
    return max(0, math.floor((node.memory - loaded) / needed))


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
