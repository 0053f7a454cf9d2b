"""``tune``: tune heads on stored embeddings, with Ray Tune and Optuna."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.stages.base import Stage, check_train_sets
from benchmark.stages.tune.job import Job


class TuneStage(Stage):
    """The stage that turns embeddings into predictions of tuned heads."""

    name = "tune"
    leases_late = True

    def cells(self, context: Context) -> list[Cell]:
        """Return one cell for each backbone, head, train set and seed."""
        return context.tune_cells()

    def check(self, context: Context) -> None:
        """Refuse train sets that the patches cannot be divided into."""
        check_train_sets(context)

    def compute(self, context: Context, cells: Sequence[Cell]) -> None:
        """Search the cells whose embeddings are complete or are computed in this run."""
        heads = {head.name: head for head in context.heads}
        backbones = {backbone.name: backbone for backbone in context.backbones}
        ready, jobs = [], []
        for cell in cells:
            backbone = backbones[cell.backbone or ""]
            embeddings, flips = context.embeddings(backbone), context.flipped(backbone)
            needed = (embeddings, *flips.values())
            lacking = [item for item in needed if context.readiness(item) == "blocked"]
            if lacking:
                context.block(cell.artefact, lacking[0])
                continue
            ready.append(cell)
            jobs.append(
                Job(
                    head=heads[cell.method or ""],
                    seed=cell.seed or 0,
                    refit=context.experiment.tune.refit,
                    num_classes=len(context.source.classes),
                    patches=context.rows_of(cell),
                    embeddings=embeddings,
                    predictions=cell.artefact,
                    flips=tuple(flips.items()),
                )
            )
        if jobs:
            from benchmark.stages.tune.searcher import search

            search(context, ready, jobs)
