"""``report``: all complete results on one page.

Reads tables and manifests and computes nothing new: the page can be rewritten at any time, and
shows the gaps of a partial grid.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence

from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.stages.base import Stage


class ReportStage(Stage):
    """Turn scores into the page."""

    name = "report"
    is_handed_out = True

    def cells(self, context: Context) -> list[Cell]:
        """Return the only cell: the page of the complete scores."""
        return [Cell(stage=self.name, artefact=context.report(), dataset=context.dataset.name)]

    def check(self, context: Context) -> None:
        """Refuse maps by UMAP where its package is missing."""
        if context.experiment.report.umap and importlib.util.find_spec("umap") is None:
            raise UsageError(
                f"{context.experiment.path} [report]: umap needs the package umap-learn, which is "
                'not installed; run: pip install "backbone-benchmark[umap]"'
            )

    def compute(self, context: Context, cells: Sequence[Cell]) -> None:
        """Write the page."""
        for cell in cells:
            if context.scores().is_complete:
                self._write(context, cell)
            else:
                context.block(cell.artefact, context.scores())

    def _write(self, context: Context, cell: Cell) -> None:
        progress = context.progress.stage(self.name, num_cells=1, num_items=None, unit="figures")
        progress.start(cell.label)
        try:
            from benchmark.experiment.recipe import embed_recipe, make_recipe
            from benchmark.page.html import render_report
            from benchmark.stages.report.backbones import declare
            from benchmark.stages.report.content import collect
            from benchmark.stages.report.results import Results

            results = Results(context)
            data = collect(results)
            for number, picture in enumerate((*data.pictures, *data.left_out), start=1):
                name = figure_name(number, picture.title, picture.drawing.form)
                cell.artefact.write_bytes(name, picture.drawing.content)
                progress.advance(1)
            page = embed_recipe(render_report(data), make_recipe(context))
            cell.artefact.write_bytes("index.html", page.encode())
            inputs, scores = context.report_inputs(), context.scores().uri
            cell.artefact.commit(
                {"inputs": inputs, "scores": scores, "backbones": declare(results)},
                needs=("index.html",),
            )
            progress.done(cell.label)
        except (BenchmarkError, ValueError, OSError) as error:
            context.fail(cell.artefact, one_line(error))
            progress.failed(cell.label, one_line(error))
        finally:
            progress.close()


def figure_name(number: int, title: str, form: str) -> str:
    """Return the file name of a figure, e.g. ``figure-03-confusion-a-b.svg``."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return f"figure-{number:02d}-{words[:60]}.{form}"
