"""What the Python interface returns: a run, the status of cells, the page and the data card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UsageError
from benchmark.experiment.cells import CellResult, TextTable
from benchmark.experiment.costs import SideCost
from benchmark.experiment.usage import StageUsage, usage_to_json
from benchmark.markup import html_link, html_page, html_table

if TYPE_CHECKING:
    import pandas as pd


class CellResults(list[CellResult]):
    """The status of cells; a list that notebooks show as a table."""

    @property
    def failed(self) -> CellResults:
        """The failed cells."""
        return CellResults(item for item in self if item.status == "failed")

    def to_frame(self) -> pd.DataFrame:
        """Return a row per cell: stage, dataset, backbone, method, seed, status, artefact."""
        import pandas as pd

        return pd.DataFrame([item.to_json() for item in self])

    def __repr__(self) -> str:
        counts = Counter(item.status for item in self)
        states = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"<{len(self)} cell{'' if len(self) == 1 else 's'}: {states or 'none'}>"

    def _repr_html_(self) -> str:
        rows = [(item.cell.stage, item.cell.label, item.status, item.reason) for item in self]
        return html_table(("stage", "cell", "status", "reason"), rows)


def count_left_out(results: Iterable[CellResult]) -> str:
    """Return how many cells are left out, as the end of a sentence; empty: none."""
    count = sum(item.status == "left out" for item in results)
    return f", {count} left out" if count else ""


@dataclass(frozen=True, repr=False)
class RunResult:
    """Result of a run: paths, cells and tables; notebooks show its ranking."""

    store: str
    scores: str | None
    """Path of the scores (Parquet); None if nothing could be evaluated."""
    report: str | None
    """Path of the page (HTML)."""
    cells: CellResults
    """The grid: dataset x backbone x method x train_set x seed."""
    stage_cells: CellResults
    """The cells of every stage."""
    tables: list[TextTable]
    usages: list[StageUsage] = field(default_factory=list)
    """Duration and load of each stage that computed something."""
    costs: list[SideCost] = field(default_factory=list)
    """What each backbone took, frozen and fine-tuned."""

    @property
    def failed(self) -> CellResults:
        """The failed cells of every stage."""
        return self.stage_cells.failed

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``benchmark run --json`` prints."""
        return {
            "store": self.store,
            "scores": self.scores,
            "report": self.report,
            "cells": [result.to_json() for result in self.cells],
            "usage": usage_to_json(self.usages),
            "costs": [cost.to_json() for cost in self.costs],
        }

    def __repr__(self) -> str:
        return f"<RunResult: {self._counts}; {self.report or self.store}>"

    def _repr_html_(self) -> str:
        tables = [item._repr_html_() for item in self.tables]
        if self.failed:
            tables.append(self.failed._repr_html_())
        place = html_link(self.report or self.store)
        return "".join([*tables, f"<p>{self._counts}: {place}</p>"])

    @property
    def _counts(self) -> str:
        num_done = sum(item.status == "complete" for item in self.cells)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{num_done} of {len(self.cells)} cells complete{failed}{count_left_out(self.cells)}"


@dataclass(frozen=True)
class Report:
    """The page of an experiment; notebooks show its ranking and the way to the page.

    The page is for a browser: in a frame of a notebook it could neither sort nor open patches, and
    each saved notebook would hold all of its megabytes.
    """

    path: str
    """Its path or URI."""
    html: str = field(repr=False)
    """Its content."""
    tables: list[TextTable] = field(default_factory=list, repr=False)
    """The ranking, and what else a run prints."""

    def _repr_html_(self) -> str:
        place = f"<p>The page, {len(self.html) / 1e6:.1f} MB: {html_link(self.path)}</p>"
        return "".join([*(item._repr_html_() for item in self.tables), place])


@dataclass(frozen=True)
class DataCard:
    """What the patches of an experiment are; notebooks show its page."""

    experiment: str
    """Name of the experiment."""
    content: dict[str, Any] = field(repr=False)
    """Counts, statistics and notes, as JSON (docs/DATA_CARD.md)."""
    html: str = field(repr=False)
    """The same with examples and maps, as one page."""

    def write(self, folder: str | Path) -> Path:
        """Write ``NAME-data-card.html`` and ``.json`` into a folder; return the page's path.

        Raises:
            UsageError: the folder cannot be written.
        """
        page = Path(folder) / f"{self.experiment}-data-card.html"
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(self.html, encoding="utf-8")
            text = json.dumps(self.content, indent=2)
            page.with_suffix(".json").write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{page} cannot be written: {error.strerror or error}") from None
        return page

    def _repr_html_(self) -> str:
        return html_page(self.html)
