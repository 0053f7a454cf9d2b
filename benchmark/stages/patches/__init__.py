"""``patches``: scenes to the table of labelled patches, by Ray Data."""

from __future__ import annotations

from typing import Any

from benchmark.context import Cell, CellResult, Context
from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.stages.base import Stage, StageResult, TextTable


class PatchesStage(Stage):
    """Scenes to patches."""

    name = "patches"

    def cells(self, context: Context) -> list[Cell]:
        """Return the one cell of the data set."""
        return [Cell(stage=self.name, artefact=context.patches, dataset=context.dataset.name)]

    def run(self, context: Context) -> StageResult:
        """Write the table ``patches`` unless it is complete."""
        (cell,) = self.cells(context)
        artefact = cell.artefact
        if not artefact.is_complete:
            try:
                from benchmark.stages.patches.pipeline import compute

                compute(context, artefact)
            except UsageError:
                raise
            except (BenchmarkError, OSError, ValueError) as error:
                context.fail(artefact, one_line(error))
        status, reason = context.status(artefact)
        result = StageResult(cells=[CellResult(cell=cell, status=status, reason=reason)])
        if status == "complete":
            result = result.with_tables([counts_table(artefact.manifest())])
        return result


def counts_table(manifest: dict[str, Any]) -> TextTable:
    """Return the class counts as a table to print."""
    classes = manifest["classes"]
    rows = [
        [
            record["split"],
            record["region"] or "-",
            *(str(record["counts"][name]) for name in classes),
            str(sum(record["counts"].values())),
        ]
        for record in manifest["class_counts"]
    ]
    synthetic = " (synthetic)" if manifest["is_synthetic"] else ""
    return TextTable(
        title=f"{manifest['num_patches']} patches{synthetic}",
        columns=("split", "region", *classes, "all"),
        rows=rows,
        notes=tuple(manifest["notes"]),
    )
