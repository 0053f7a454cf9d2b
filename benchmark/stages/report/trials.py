"""The trials of a search as the page counts them, failed ones included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.experiment.cells import Cell


def count_trials(manifest: Mapping[str, Any]) -> int | str:
    """Return the number of trials, with that of the failed ones if there are any."""
    count, failed = manifest["num_trials"], manifest.get("failed_trials", 0)
    return f"{count} ({failed} failed)" if failed else int(count)


def describe_failures(cells: Iterable[tuple[Cell, Mapping[str, Any]]]) -> str:
    """Return one sentence for each cell with failed trials: how many, and why the first did."""
    return "".join(
        f" {cell.label}: {manifest['remark']}."
        for cell, manifest in cells
        if manifest.get("failed_trials")
    )
