"""A real Ray exports our metrics at the endpoint that Prometheus scrapes."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from benchmark import api
from benchmark.cluster.metering import exported_names
from benchmark.config import build
from tests.cluster.test_metering import RAYS_OWN

SCRAPE_TIMEOUT_S = 120.0
"""Ray's processes send every ten seconds, or later on a busy machine."""

MAX_FORWARD_S = 60.0
"""Limit for two small parts on a busy machine."""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""The value of each series: a name with its labels."""


def scrape() -> Samples:
    """Return the samples of this node's endpoint."""
    import ray

    (node,) = (node for node in ray.nodes() if node["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return {
        (name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))): float(value)
        for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.M)
    }


def values(
    samples: Samples, name: str, *labels: str, **wanted: str
) -> dict[tuple[str, ...], float]:
    """Return the values of a metric with the ``wanted`` labels, by the other ``labels``."""
    return {
        tuple(dict(pairs)[label] for label in labels): value
        for (found, pairs), value in samples.items()
        if found == name and wanted.items() <= pairs
    }


def by_actor(samples: Samples) -> dict[tuple[str, ...], float]:
    """Return how many patches each actor has embedded."""
    return values(samples, "ray_benchmark_embedded_patches_total", "actor", backbone="random")


def await_samples(check: Callable[[Samples], None]) -> Samples:
    """Return the last sample of each series once ``check`` passes.

    Processes send independently, so values can differ in age; values of the machine are rare;
    gauges of an ended stage disappear.
    """
    samples: Samples = {}
    for attempt in Retrying(
        retry=retry_if_exception_type(AssertionError),
        stop=stop_after_delay(SCRAPE_TIMEOUT_S),
        wait=wait_fixed(1),
        reraise=True,
    ):
        with attempt:
            samples |= scrape()
            check(samples)
    return samples


@pytest.mark.slow
def test_metrics_of_a_run_come_out_of_the_endpoint(
    experiment_content: dict[str, Any], new_store: Callable[[], Path]
) -> None:
    import ray

    from benchmark.stages.embed import EmbedStage
    from benchmark.stages.embed.calls import Task
    from benchmark.stages.embed.jobs import plan_jobs, plan_passes
    from benchmark.stages.embed.pipeline import _plan_pool
    from benchmark.stages.embed.workers import EmbedActor, ReadParts

    store = str(new_store())
    options = {"random": {"image_size": 32}}
    experiment = build({**experiment_content, "backbones": ["random"], "backbone": options})
    experiment = experiment.model_copy(update={"name": "metered"})
    api.run_stage("embed", experiment, store=store)

    with api.open_context(experiment, store=store) as context:
        num_patches = context.patches.manifest()["num_patches"]
        # An actor that stays: Ray kills those of a pipeline before they send their last values.
        (cell,) = (
            replace(cell, artefact=replace(cell.artefact, name="again"))
            for cell in EmbedStage().cells(context)
        )
        passes = plan_passes(context, [(context.backbones[0], cell)])
        jobs = plan_jobs(context, passes, _plan_pool(context))
        part = context.patches.manifest()["parts"][0]
        block = ReadParts(context.patches)(Task(0, ((part["name"], part["num_rows"]),), ()))
        actor = ray.remote(EmbedActor).options(num_cpus=0).remote(jobs)
        # More than the whole stage embeds, so that no actor of the pipeline has the same count.
        times = num_patches // part["num_rows"] + 1
        for _ in range(times):
            assert ray.get(actor.__call__.remote(block))["reason"].to_pylist() == [""]

        embedded = times * part["num_rows"]
        ours = exported_names() | RAYS_OWN - {"ray_node_gpus_utilization"}
        run = {"experiment": "metered", "stage": "embed"}

        def check(samples: Samples) -> None:
            assert ours <= {name for name, _ in samples}
            assert values(samples, "ray_benchmark_items_total", "unit", **run) == {
                ("patches",): num_patches
            }
            assert values(samples, "ray_benchmark_items_queued", "unit", **run) == {("patches",): 0}
            assert values(samples, "ray_benchmark_cells", "state", **run) == {
                **{("queued",): 0, ("running",): 0, ("done",): 1, ("failed",): 0}
            }
            assert values(samples, "ray_benchmark_cell_seconds_count", **run) == {(): 1}
            assert embedded in by_actor(samples).values()

        samples = await_samples(check)

    (actor,) = (actor for (actor,), count in by_actor(samples).items() if count == embedded)
    labels = {"backbone": "random", "actor": actor}
    busy = values(samples, "ray_benchmark_forward_seconds_total", **labels)[()]
    assert 0 < busy < MAX_FORWARD_S
