"""Our metrics come out of the endpoint that Prometheus scrapes, of a real Ray."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark import api
from benchmark.config import build
from benchmark.metering import exported_names
from tests.test_metering import RAYS_OWN

SCRAPE_TIMEOUT_S = 60.0
"""Ray's processes send every ten seconds."""

Samples = dict[str, list[tuple[dict[str, str], float]]]


def scrape() -> Samples:
    """Return by name the labels and values of the endpoint of this node."""
    import ray

    (node,) = (node for node in ray.nodes() if node["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found: Samples = {}
    for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.M):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found.setdefault(name, []).append((pairs, float(value)))
    return found


def values(
    samples: Samples, name: str, *labels: str, **wanted: str
) -> dict[tuple[str, ...], float]:
    """Return the values of a metric that has the wanted labels, by some others."""
    return {
        tuple(pairs[label] for label in labels): value
        for pairs, value in samples.get(name, [])
        if wanted.items() <= pairs.items()
    }


@pytest.mark.slow
@pytest.mark.skipif(
    "BENCHMARK_TEST_METRICS" not in os.environ,
    reason="Ray's agent does not always answer in time: set BENCHMARK_TEST_METRICS=1",
)
def test_metrics_of_a_run_come_out_of_the_endpoint(
    experiment_content: dict[str, Any], new_store: Callable[[], Path]
) -> None:
    import ray

    from benchmark.stages.embed import EmbedStage
    from benchmark.stages.embed.pipeline import _jobs, _plan_pool
    from benchmark.stages.embed.workers import EmbedActor, ReadPart, Task

    store = str(new_store())
    experiment = build({**experiment_content, "backbones": ["random"]})
    experiment = experiment.model_copy(update={"name": "metered"})
    api.run_stage("embed", experiment, store=store)

    with api.open_context(experiment, store=store) as context:
        num_patches = context.patches.manifest()["num_patches"]
        # One that stays: Ray kills the actors of a pipeline with what they have not sent yet.
        (cell,) = (
            replace(cell, artefact=replace(cell.artefact, name="again"))
            for cell in EmbedStage().cells(context)
        )
        jobs = _jobs(context, [(context.backbones[0], cell)], _plan_pool(context, 1.0))
        part = context.patches.manifest()["parts"][0]
        block = ReadPart(context.patches)(Task(0, part["name"], part["num_rows"]))
        actor = ray.remote(EmbedActor).options(num_cpus=0).remote(jobs)
        for _ in range(2):
            assert ray.get(actor.__call__.remote(block))["reason"].to_pylist() == [""]

        deadline = time.monotonic() + SCRAPE_TIMEOUT_S
        samples = scrape()
        ours = exported_names() | RAYS_OWN - {"ray_node_gpus_utilization"}
        while missing := ours - set(samples):
            assert time.monotonic() < deadline, f"never came: {missing}"
            time.sleep(1)
            samples = scrape()

    run = {"experiment": "metered", "stage": "embed"}
    assert values(samples, "ray_benchmark_items_total", "unit", **run) == {
        ("patches",): num_patches
    }
    assert values(samples, "ray_benchmark_items_queued", "unit", **run) == {("patches",): 0}
    assert values(samples, "ray_benchmark_cells", "state", **run) == {
        **{("queued",): 0, ("running",): 0, ("done",): 1, ("failed",): 0}
    }
    assert values(samples, "ray_benchmark_cell_seconds_count", **run) == {(): 1}
    found = values(samples, "ray_benchmark_embedded_patches_total", "actor", backbone="random")
    assert 2 * part["num_rows"] in found.values()
    (busy,) = (
        values(samples, "ray_benchmark_forward_seconds_total", backbone="random", actor=actor)[()]
        for (actor,), count in found.items()
        if count == 2 * part["num_rows"]
    )
    assert 0 < busy < SCRAPE_TIMEOUT_S
