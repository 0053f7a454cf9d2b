"""Run an experiment twice on a cluster of three machines: its stages side by side, and in turn.

python -m tests.side_by_side STORES SCENES     prints the times of the stages as JSON

STORES/together and STORES/in-turn hold the patches already.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmark.catalog.datasets import DATASETS
from benchmark.catalog.heads import HEADS
from benchmark.catalog.metrics import METRICS
from benchmark.cluster.connection import Cluster
from benchmark.cluster.streaming import read_items
from benchmark.config import build
from benchmark.experiment.context import Context
from benchmark.progress import LoggedProgress
from benchmark.stages import STAGES
from benchmark.stages.running import SIDE_BY_SIDE, run_stages
from benchmark.store.artefacts import Store
from tests import forked_workers
from tests.toys import build_gated, toy

GATE = "tune/*quick-logistic_regression*/_manifest.json"


def open_context(store: Path, gate: Path, scenes: str, cluster: Cluster) -> Context:
    """Open an experiment whose second backbone waits until a head of the first is done."""
    backbones = (toy("quick"), toy("gated", partial(build_gated, str(gate), GATE)))
    content = {
        "name": "lanes",
        "backbones": [item.name for item in backbones],
        "heads": ["logistic_regression"],
        "dataset": {"name": "chesapeake", "root": scenes, "patch_size": 32, "per_region": 40},
        "embed": {"batch_size": 8, "num_actors": 1},
        "tune": {"num_trials": 2, "max_concurrent": 1},
        "finetune": {"backbones": ["quick"], "num_epochs": 1},
        "evaluate": {"num_resamples": 20},
    }
    experiment = build(content, where="lanes.toml")
    return Context(
        experiment=experiment,
        dataset=DATASETS.get("chesapeake"),
        backbones=backbones,
        heads=tuple(HEADS.get(name) for name in experiment.heads),
        metrics=tuple(METRICS),
        store=Store(str(store)),
        cluster=cluster,
        progress=LoggedProgress(),
    )


def main(stores: Path, scenes: str) -> None:
    from ray.cluster_utils import Cluster as Machines

    from benchmark.stages.embed import pipeline

    forked_workers.install()
    # One actor gets the parts in their order: none of the first waits behind one at the gate.
    pipeline.read_items = partial(read_items, keeps_order=True)  # type: ignore[assignment]
    size = {"num_cpus": 3, "object_store_memory": 100_000_000}
    gate = stores / "together"
    machines = Machines(initialize_head=True, head_node_args=dict(size))
    try:
        for _ in range(2):
            machines.add_node(**size)
        with Cluster(machines.address) as cluster:
            together = open_context(gate, gate, scenes, cluster)
            with together.leases:
                results = run_stages(together)
            in_turn = open_context(stores / "in-turn", gate, scenes, cluster)
            with in_turn.leases:
                for name in SIDE_BY_SIDE:
                    STAGES.get(name).load().run(in_turn)
        cells = [cell.to_json() for result in results for cell in result.cells]
        usages = [asdict(one) for one in together.usages]
        sys.stdout.write(json.dumps({"usages": usages, "cells": cells}) + "\n")
    finally:
        machines.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
