"""The section "Recovered failures" of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.cluster.incidents import Kind
from benchmark.page.html import Table
from benchmark.stages.report.results import Results

WORDS: Mapping[Kind, tuple[str, str]] = {
    "node_lost": ("machine lost", "machines lost"),
    "process_restarted": ("process restarted", "processes restarted"),
    "task_repeated": ("task retried", "tasks retried"),
    "trial_repeated": ("trial restarted", "trials restarted"),
    "pipeline_repeated": ("pipeline restarted", "pipelines restarted"),
    "request_repeated": ("storage request retried", "storage requests retried"),
    "part_found": ("part reused from an earlier run", "parts reused from an earlier run"),
    "cell_taken_over": ("cell taken over from a dead run", "cells taken over from a dead run"),
}
"""Singular and plural of each kind."""


def repairs(results: Results) -> tuple[Table, ...]:
    """Return the incidents as a table, or nothing if there were none."""
    found = list(_incidents(results))
    if not found:
        return ()
    rows = tuple(
        (
            stage,
            cell,
            WORDS[item["kind"]][item["count"] != 1],
            item["count"],
            item["detail"] or None,
        )
        for stage, cell, item in found
    )
    return (
        Table(
            title=_sum_up([item for _, _, item in found]),
            columns=("stage", "cell", "incident", "count", "detail"),
            rows=rows,
            num_headers=2,
        ),
    )


def _incidents(results: Results) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield stage, cell and incident, in stage order."""
    dataset = results.context.dataset.name
    manifests = [
        ("patches", dataset, results.patches),
        *(("embed", name, manifest) for name, manifest in results.embed.items()),
        *((cell.stage, cell.label, manifest) for cell, manifest in results.manifests.items()),
    ]
    for stage, cell, manifest in manifests:
        # Manifests of older versions have no incidents.
        for item in manifest.get("incidents", []):
            yield stage, cell, item


def _sum_up(items: list[dict[str, Any]]) -> str:
    """Return the total of each kind in words, e.g. ``2 machines lost, 1 trial restarted``."""
    totals: dict[Kind, int] = {}
    machines = {item["detail"] for item in items if item["kind"] == "node_lost"}
    for item in items:
        totals[item["kind"]] = totals.get(item["kind"], 0) + item["count"]
    if machines:
        # Several cells may have lost the same machine.
        totals["node_lost"] = len(machines)
    return ", ".join(
        f"{totals[kind]} {words[totals[kind] != 1]}"
        for kind, words in WORDS.items()
        if kind in totals
    )
