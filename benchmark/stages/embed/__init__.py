"""``embed``: turn patches into frozen embeddings, streamed by Ray Data through an actor pool."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.networks.bands import band_indices
from benchmark.stages.base import Stage


class EmbedStage(Stage):
    """The stage that turns patches into embeddings."""

    name = "embed"
    resumes_by_part = True

    def cells(self, context: Context) -> list[Cell]:
        """Return one cell for each backbone, and one for each flip of its patches."""
        return [
            Cell(
                stage=self.name,
                artefact=artefact,
                dataset=context.dataset.name,
                backbone=backbone.name,
                flipped=flipped,
            )
            for backbone in context.backbones
            for flipped, artefact in (
                (None, context.embeddings(backbone)),
                *context.flipped(backbone).items(),
            )
        ]

    def check(self, context: Context) -> None:
        """Refuse backbones that need bands which the data set lacks."""
        for backbone in context.backbones:
            band_indices(backbone, context.source.bands)
            if backbone.derived is not None:
                from benchmark.stages.embed.deriving import check_components

                check_components(context, backbone)

    def ready(self, context: Context, cells: Sequence[Cell]) -> Sequence[Cell]:
        """Return the cells that are not made from embeddings that are still to come."""
        pending = {cell.artefact.path for cell in cells}
        by_name = {backbone.name: backbone for backbone in context.backbones}
        return [
            cell
            for cell in cells
            if pending.isdisjoint(
                context.embeddings(parent).path
                for parent in context.parents_of(by_name[cell.backbone or ""])
            )
        ]

    def compute(self, context: Context, cells: Sequence[Cell]) -> None:
        """Embed the patches with the backbones of these cells."""
        if not context.patches.is_complete:
            for cell in cells:
                context.block(cell.artefact, context.patches)
            return
        from benchmark.stages.embed import deriving, pipeline, products

        backbones = {backbone.name: backbone for backbone in context.backbones}
        pending = [(backbones[cell.backbone or ""], cell) for cell in cells]
        read = [item for item in pending if item[0].product is not None]
        made = [item for item in pending if item[0].derived is not None]
        stored = (*read, *made)
        computed = [item for item in pending if not any(item is other for other in stored)]
        # First: they take seconds, and a mistake in them ends the run.
        if read:
            products.compute(context, read)
        if computed:
            pipeline.compute(context, computed)
        if made:
            deriving.compute(context, made)
