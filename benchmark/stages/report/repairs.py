"""The section "What went wrong and was repaired" of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.cluster.incidents import Kind
from benchmark.page.html import Table
from benchmark.stages.report.results import Results

WORDS: Mapping[Kind, tuple[str, str]] = {
    "node_lost": ("machine lost", "machines lost"),
    "process_restarted": ("process started again", "processes started again"),
    "task_repeated": ("piece of work begun again", "pieces of work begun again"),
    "trial_repeated": ("trial begun again", "trials begun again"),
    "pipeline_repeated": ("pipeline begun again", "pipelines begun again"),
    "request_repeated": ("storage request repeated", "storage requests repeated"),
    "part_found": ("part found from an earlier run", "parts found from an earlier run"),
    "cell_taken_over": ("cell taken over from a dead run", "cells taken over from a dead run"),
}
"""One and many of each kind."""


def repairs(results: Results) -> tuple[Table, ...]:
    """Return what was lost and repaired as a table, or nothing where nothing was."""
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
            columns=("stage", "cell", "what", "times", "which, or why"),
            rows=rows,
            num_headers=2,
        ),
    )


def _incidents(results: Results) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield stage, cell and incident, in the order of the stages."""
    dataset = results.context.dataset.name
    manifests = [
        ("patches", dataset, results.patches),
        *(("embed", name, manifest) for name, manifest in results.embed.items()),
        *((cell.stage, cell.label, manifest) for cell, manifest in results.manifests.items()),
    ]
    for stage, cell, manifest in manifests:
        # Absent where an older version wrote it.
        for item in manifest.get("incidents", []):
            yield stage, cell, item


def _sum_up(items: list[dict[str, Any]]) -> str:
    """Return the sum of each kind in words, e.g. ``2 machines lost, 1 trial begun again``."""
    totals: dict[Kind, int] = {}
    machines = {item["detail"] for item in items if item["kind"] == "node_lost"}
    for item in items:
        totals[item["kind"]] = totals.get(item["kind"], 0) + item["count"]
    if machines:
        # Several cells may have lost the same one.
        totals["node_lost"] = len(machines)
    return ", ".join(
        f"{totals[kind]} {words[totals[kind] != 1]}"
        for kind, words in WORDS.items()
        if kind in totals
    )
