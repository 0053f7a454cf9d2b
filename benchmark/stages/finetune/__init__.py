"""``finetune``: backbones trained end to end on the patches, on Ray Train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmark.experiment.cells import Cell, CellResult
from benchmark.experiment.context import Context
from benchmark.networks.bands import band_indices
from benchmark.stages.base import Stage, check_train_sets
from benchmark.store.artefacts import LEFT_OUT


class FinetuneStage(Stage):
    """Patches to predictions of fine-tuned backbones."""

    name = "finetune"
    leases_late = True

    def cells(self, context: Context) -> list[Cell]:
        """Return one cell per fine-tuned backbone, mode, train set and seed."""
        return context.finetune_cells()

    def check(self, context: Context) -> None:
        """Refuse unsuitable train sets and bands, and too many workers."""
        config = context.experiment.finetune
        if config is None or all(cell.artefact.is_complete for cell in self.cells(context)):
            return
        check_train_sets(context)
        for backbone in context.finetuned_backbones:
            band_indices(backbone, context.source.bands)
        from benchmark.stages.finetune.pipeline import check

        check(context)

    def status(self, context: Context) -> list[CellResult]:
        """Return the status of the cells; what a small network will leave out is foreseen."""
        results = super().status(context)
        to_come = [item.cell for item in results if item.status in ("missing", "stale")]
        if not to_come:
            return results
        from benchmark.stages.finetune.suiting import find_unsuited, note_unsuited

        note_unsuited(context, to_come, find_unsuited(context, to_come, only_quick=True))
        left_out = context.left_out
        return [
            replace(item, status=LEFT_OUT, reason=left_out[item.cell.artefact.path])
            if item.status != "complete" and item.cell.artefact.path in left_out
            else item
            for item in results
        ]

    def compute(self, context: Context, cells: Sequence[Cell]) -> None:
        """Fine-tune the backbones of these cells."""
        if not context.patches.is_complete:
            for cell in cells:
                context.block(cell.artefact, context.patches)
            return
        from benchmark.stages.finetune.pipeline import compute

        compute(context, cells)
