"""A model of the embedding pipeline, to reckon with machines that are not here. SIMULATION.

Parts go one after another through servers that are busy or free: the driver hands a part out, a
node's network brings it, a core reads it, a GPU embeds it, a core writes it. What the driver and
the cores need is measured here; the rates of networks and GPUs are assumptions, named as such.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from benchmark.stages.embed.calls import read_ahead_bytes, rows_of_call
from benchmark.stages.patches.reading import rows_of_part


@dataclass(frozen=True)
class Rates:
    """What a part, or a patch, costs each server."""

    patch_bytes: int
    driver_s: float
    """Of the one driver, for each part."""
    read_s: float
    """Of a core, for each patch."""
    write_s: float
    """Of a core, for each patch."""
    patches_per_s: float
    """Of one GPU (or actor), forward only."""
    start_s: float
    """From the begin of the stage to the first batch."""
    node_bytes_per_s: float = float("inf")
    """Of the network of one node."""
    store_bytes_per_s: float = float("inf")
    """Of the store, for all nodes together."""


@dataclass
class Simulated:
    """How long it takes, and the share of that time for which each kind of server is busy."""

    seconds: float
    busy: dict[str, float] = field(default_factory=dict)

    @property
    def limit(self) -> str:
        """What limits: the busiest kind of server, or the start where none is busy for half."""
        name = max(self.busy, key=lambda kind: self.busy[kind])
        return name if self.busy[name] >= 0.5 else "start"


def simulate(
    num_patches: int, rates: Rates, *, num_gpus: int, gpus_per_node: int, cores_per_node: int
) -> Simulated:
    """Send all parts, joined as for GPUs, through the pipeline, each as early as servers allow."""
    rows = rows_of_part(num_patches, rates.patch_bytes)
    rows *= -(-rows_of_call(rates.patch_bytes) // rows)
    num_parts = -(-num_patches // rows)
    nodes = -(-num_gpus // gpus_per_node)
    part_bytes = rows * rates.patch_bytes
    ahead = max(num_gpus, read_ahead_bytes(num_gpus, part_bytes) // part_bytes)
    gpus = [0.0] * min(num_gpus, num_parts)
    # A core reads or writes for a moment only: tasks of both kinds share it without waiting.
    readers, writers = (
        [[0.0] * max(1, cores_per_node - 1) for _ in range(nodes)] for _ in range(2)
    )
    network, store, driver = [0.0] * nodes, 0.0, 0.0
    embedded: list[float] = []
    spent = dict.fromkeys(("driver", "network", "store", "cores", "GPUs"), 0.0)
    ended = 0.0
    for part in range(num_parts):
        size = min(rows, num_patches - part * rows)
        num_bytes, node = size * rates.patch_bytes, part % nodes
        # Only so many parts wait in the object store.
        free = embedded[part - ahead] if part >= ahead else 0.0
        driver = max(driver, free) + rates.driver_s
        store = max(store, driver) + num_bytes / rates.store_bytes_per_s
        network[node] = max(network[node], driver) + num_bytes / rates.node_bytes_per_s
        came = max(store, network[node])
        read = max(came, heapq.heappop(readers[node])) + size * rates.read_s
        heapq.heappush(readers[node], read)
        done = max(read, heapq.heappop(gpus)) + size / rates.patches_per_s
        heapq.heappush(gpus, done)
        embedded.append(done)
        written = max(done, heapq.heappop(writers[node])) + size * rates.write_s
        heapq.heappush(writers[node], written)
        ended = max(ended, written)
        spent["driver"] += rates.driver_s
        spent["store"] += num_bytes / rates.store_bytes_per_s
        spent["network"] += num_bytes / rates.node_bytes_per_s / nodes
        spent["cores"] += size * (rates.read_s + rates.write_s) / sum(map(len, readers))
        spent["GPUs"] += size / rates.patches_per_s / num_gpus
    seconds = rates.start_s + ended
    return Simulated(seconds, {kind: each / seconds for kind, each in spent.items()})
