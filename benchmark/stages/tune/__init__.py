"""``tune``: heads on stored embeddings, searched by Ray Tune with Optuna."""

from __future__ import annotations

from benchmark.context import Cell, Context
from benchmark.stages.base import Stage, StageResult
from benchmark.stages.tune.job import Job


class TuneStage(Stage):
    """Embeddings to predictions of tuned heads."""

    name = "tune"

    def cells(self, context: Context) -> list[Cell]:
        """Return one cell for each backbone, head and seed."""
        return context.tune_cells()

    def run(self, context: Context) -> StageResult:
        """Search every cell that is not complete and whose embeddings are."""
        heads = {head.name: head for head in context.heads}
        backbones = {backbone.name: backbone for backbone in context.backbones}
        cells, jobs = [], []
        pending = [cell for cell in self.cells(context) if not cell.artefact.is_complete]
        for cell in pending:
            embeddings = context.embeddings(backbones[cell.backbone or ""])
            if not embeddings.is_complete:
                context.block(cell.artefact, embeddings)
                continue
            cells.append(cell)
            jobs.append(
                Job(
                    head=heads[cell.method or ""],
                    seed=cell.seed or 0,
                    refit=context.experiment.tune.refit,
                    num_classes=len(context.source.classes),
                    patches=context.patches,
                    embeddings=embeddings,
                    predictions=cell.artefact,
                )
            )
        if jobs:
            from benchmark.stages.tune.searcher import search

            search(context, cells, jobs)
        return StageResult(cells=self.status(context))
