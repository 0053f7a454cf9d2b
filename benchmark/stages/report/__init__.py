"""``report``: everything that is complete by now, on one page.

Reads tables and manifests, computes nothing new: the page can be written again at any time,
and a partial grid is shown with its gaps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from benchmark.errors import BenchmarkError, one_line
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.stages.base import Stage
from benchmark.store.artefacts import Artefact


class ReportStage(Stage):
    """Scores to the page."""

    name = "report"

    def cells(self, context: Context) -> list[Cell]:
        """Return the one cell: the page of the scores complete by now."""
        return [Cell(stage=self.name, artefact=context.report(), dataset=context.dataset.name)]

    def compute(self, context: Context, cells: Sequence[Cell]) -> None:
        """Write the page."""
        for cell in cells:
            if not context.scores().is_complete:
                context.block(cell.artefact, context.scores())
            else:
                self._write(context, cell)

    def _write(self, context: Context, cell: Cell) -> None:
        progress = context.progress.stage(self.name, num_cells=1, num_items=None, unit="figures")
        progress.start(cell.label)
        try:
            from benchmark.page.html import render_report
            from benchmark.stages.report.backbones import declare
            from benchmark.stages.report.content import collect
            from benchmark.stages.report.results import Results

            results = Results(context)
            data = collect(results)
            for number, picture in enumerate(data.pictures, start=1):
                cell.artefact.write_bytes(figure_name(number, picture.title), picture.png)
                progress.advance(1)
            cell.artefact.write_bytes("index.html", render_report(data).encode())
            commit(context, cell.artefact, backbones=declare(results))
            progress.done(cell.label)
        except (BenchmarkError, ValueError, OSError) as error:
            context.fail(cell.artefact, one_line(error))
            progress.failed(cell.label, one_line(error))
        finally:
            progress.close()


def figure_name(number: int, title: str) -> str:
    """Return the file name of a figure, e.g. ``figure-03-confusion-a-b.png``."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return f"figure-{number:02d}-{words[:60]}.png"


def commit(context: Context, artefact: Artefact, *, backbones: list[dict[str, Any]]) -> None:
    """Complete the report; its manifest says what each backbone is and was fed."""
    inputs, scores = context.report_inputs(), context.scores().uri
    artefact.commit({"inputs": inputs, "scores": scores, "backbones": backbones})
