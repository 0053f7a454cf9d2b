"""``embed``: patches to frozen embeddings, streamed by Ray Data through a pool of actors."""

from __future__ import annotations

from benchmark.bands import band_indices
from benchmark.context import Cell, Context
from benchmark.stages.base import Stage, StageResult


class EmbedStage(Stage):
    """Patches to embeddings."""

    name = "embed"

    def cells(self, context: Context) -> list[Cell]:
        """Return one cell for each backbone."""
        return [
            Cell(
                stage=self.name,
                artefact=context.embeddings(backbone),
                dataset=context.dataset.name,
                backbone=backbone.name,
            )
            for backbone in context.backbones
        ]

    def run(self, context: Context) -> StageResult:
        """Embed with every backbone that is not complete."""
        for backbone in context.backbones:
            band_indices(backbone, context.source.bands)
        cells = self.cells(context)
        pending = [
            (backbone, cell)
            for backbone, cell in zip(context.backbones, cells, strict=True)
            if not cell.artefact.is_complete
        ]
        if pending and not context.patches.is_complete:
            for _, cell in pending:
                context.block(cell.artefact, context.patches)
        elif pending:
            from benchmark.stages.embed.pipeline import compute

            compute(context, pending)
        return StageResult(cells=self.status(context))
