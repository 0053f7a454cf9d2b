"""Count losses and their repairs while a cell is computed, for its manifest.

None of them changes a result: lost work is computed again, to the same bytes. The driver keeps an
``Account`` of each cell; a worker counts the retries for one item of work in a ``Toll``, and sends
them with its result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from benchmark.store.artefacts import Artefact
from benchmark.store.leases import Leases
from benchmark.store.retries import num_repeats

Kind = Literal[
    "node_lost",
    "process_restarted",
    "task_repeated",
    "trial_repeated",
    "pipeline_repeated",
    "request_repeated",
    "part_found",
    "cell_taken_over",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

EXPECTED_DEATHS = ("EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE")
"""Ray's reasons for nodes that left as planned and are not lost."""


@dataclass(frozen=True)
class Incident:
    """A kind of loss that was repaired: how often, and where or why."""

    kind: Kind
    count: int
    detail: str = ""


class Account:
    """Collects the incidents of one cell, from its start to its manifest."""

    def __init__(self, artefact: Artefact, leases: Leases | None = None) -> None:
        """Count losses from now on.

        Args:
            artefact: of the cell.
            leases: tell whether the cell was taken over from a dead run.
        """
        self._folder = artefact.folder
        self._counts: Counter[tuple[Kind, str]] = Counter()
        self._requests = num_repeats(self._folder)
        self.forget_nodes()
        former = None if leases is None else leases.former_owner(artefact)
        if former:
            self.add("cell_taken_over", detail=former)

    def forget_nodes(self) -> None:
        """Count only the nodes that are lost from now on."""
        self._lost = lost_nodes()

    def add(self, kind: Kind, count: int = 1, detail: str = "") -> None:
        """Add ``count`` incidents; 0 adds nothing."""
        if count:
            self._counts[kind, detail] += count

    def add_toll(self, toll: Mapping[str, int]) -> None:
        """Add the counts of a worker."""
        for kind in KINDS:
            self.add(kind, toll.get(kind, 0))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the incidents so far, as the manifest lists them: kind, count and detail."""
        counts = self._counts.copy()
        for node, place in lost_nodes().items():
            if node not in self._lost:
                counts["node_lost", place] += 1
        requests = num_repeats(self._folder) - self._requests
        if requests:
            counts["request_repeated", ""] += requests
        found = [Incident(kind, count, detail) for (kind, detail), count in counts.items()]
        found.sort(key=lambda item: (KINDS.index(item.kind), item.detail))
        return [asdict(item) for item in found]


def lost_nodes() -> dict[str, str]:
    """Return the lost nodes of the cluster by id, each with its address and the id's start.

    Ray declares a node dead some seconds after it has vanished.
    """
    import ray

    if not ray.is_initialized():
        return {}
    return {
        node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if not node["Alive"] and node.get("DeathReason") not in EXPECTED_DEATHS
    }


@dataclass
class Toll:
    """Counts, in a process of Ray, the retries for one item of work."""

    _requests: int = field(default_factory=num_repeats)

    def to_json(self) -> dict[str, int]:
        """Return the counts since it was made, by kind; kinds with a count of 0 are left out."""
        counts: dict[Kind, int] = {
            "request_repeated": num_repeats() - self._requests,
            "task_repeated": _attempt(),
        }
        return {kind: count for kind, count in counts.items() if count}


def add_tolls(*tolls: Mapping[str, int]) -> dict[str, int]:
    """Return the sum of tolls."""
    total: Counter[str] = Counter()
    for toll in tolls:
        total.update(toll)
    return dict(total)


def explain_death(text: str) -> str:
    """Return in a few words why a process of Ray ended, given Ray's message."""
    reasons = (
        (r"low on memory|OUT_OF_MEMORY", "its machine was short of memory"),
        (r"preempted", "its machine was taken back"),
        (r"node has died", "its machine was lost"),
        (r"died", "its process died"),
    )
    found = (reason for pattern, reason in reasons if re.search(pattern, text))
    return next(found, "for a reason that Ray does not tell")


def is_restarted() -> bool:
    """Return whether the actor of this process was restarted after it died."""
    import ray

    place = ray.get_runtime_context()
    return bool(place.get_actor_id()) and bool(place.was_current_actor_reconstructed)


def _attempt() -> int:
    """Return how often the running task was retried because its process or node died.

    0 in a process without Ray, as of measurements.
    """
    import ray
    from ray._private.worker import global_worker

    if not ray.is_initialized():
        return 0

    # Ray has no public name for it. An actor of Ray Data works in another thread than its task
    # and reads 0 here; ``is_restarted`` covers that case.
    worker: Any = global_worker
    return int(worker.core_worker.get_current_task_attempt_number())
