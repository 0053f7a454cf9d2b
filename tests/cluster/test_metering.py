"""What Prometheus is told: the names that the dashboard asks for, and nothing without Ray."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmark.cluster.metering import METRICS, MeteredProgress, exported_names
from benchmark.progress import LoggedProgress

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "clusters" / "grafana.json"

RAYS_OWN = {
    "ray_node_cpu_utilization",
    "ray_node_gpus_utilization",
    "ray_node_mem_used",
    "ray_object_store_memory",
}
"""tests/jobs/test_metrics.py sees them come out of a head, but for those of GPUs."""


def queries() -> list[str]:
    board = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    variables = board["templating"]["list"]
    return found + [item["definition"] for item in variables if item["type"] == "query"]


def asked_names() -> set[str]:
    return {name for query in queries() for name in re.findall(r"\bray_\w+", query)}


def test_the_dashboard_asks_only_for_what_exists() -> None:
    assert asked_names() - RAYS_OWN <= exported_names()
    assert asked_names() >= RAYS_OWN


def test_the_dashboard_shows_every_metric_that_we_define() -> None:
    for spec in METRICS.values():
        assert asked_names() & set(spec.exported), spec.name


def test_the_dashboard_groups_by_labels_that_its_metrics_have() -> None:
    theirs = {"le", "instance", "GpuIndex"}
    ours = {label for spec in METRICS.values() for label in spec.labels}
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
                wanted |= set(group.replace(" ", "").split(","))
            assert wanted <= theirs | ours, panel["title"]
            for spec in METRICS.values():
                if set(re.findall(r"\bray_\w+", target["expr"])) & set(spec.exported):
                    assert wanted - theirs <= set(spec.labels), panel["title"]


def test_the_dashboard_can_be_imported() -> None:
    board = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) >= 8
    places = set()
    for panel in board["panels"]:
        assert panel["title"] and panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not places & cells, f"{panel['title']} lies on another panel"
        places |= cells


def test_without_ray_the_progress_is_passed_on_and_ray_is_not_imported() -> None:
    script = """
        import logging, sys
        from benchmark.cluster.metering import ForwardMeter, MeteredProgress
        from benchmark.progress import LoggedProgress
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
        progress = MeteredProgress(LoggedProgress(), experiment="x")
        stage = progress.stage("embed", num_cells=1, num_items=4, unit="patches")
        stage.start("a"); stage.advance(4); stage.done("a"); stage.close()
        progress.message("hello")
        ForwardMeter().count("mean_color", 4, 0.1)
        assert "ray" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "embed: a done (1/1)" in done.stdout
    assert "hello" in done.stdout


def test_a_metric_that_ray_refuses_fails_nothing(
    ray_session: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ray.util import metrics

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no agent")

    monkeypatch.setattr(metrics.Gauge, "set", refuse)
    with caplog.at_level(logging.DEBUG, logger="benchmark"):
        progress = MeteredProgress(LoggedProgress(), experiment="x")
        stage = progress.stage("embed", num_cells=1, num_items=4, unit="patches")
        stage.start("a")
        stage.advance(4)
        stage.failed("a", "on purpose")
        stage.close()
    assert "no more metrics: no agent" in caplog.text
    assert "embed: a failed: on purpose" in caplog.text
    assert caplog.text.count("no more metrics") == 1


def test_gauges_of_a_stage_are_told_again_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray forgets those that are not, and a cell may take hours."""
    from benchmark.cluster import metering

    told: list[tuple[str, float]] = []
    monkeypatch.setattr(metering, "REPEAT_S", 0.01)
    monkeypatch.setattr(
        metering.Meters, "record", lambda _, name, value, **labels: told.append((name, value))
    )
    stage = MeteredProgress(LoggedProgress(), experiment="x").stage(
        "embed", num_cells=1, num_items=4, unit="patches"
    )
    stage.advance(1)
    deadline = time.monotonic() + 10
    while told.count(("benchmark_items_queued", 3)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # A counter is told once.
    assert told.count(("benchmark_items", 1)) == 1
    stage.close()
    time.sleep(0.1)
    ended = len(told)
    time.sleep(0.1)
    assert len(told) == ended
