"""``patches``: turn scenes into the table of labelled patches, with Ray Data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.experiment.cells import Cell, TextTable
from benchmark.experiment.context import Context
from benchmark.stages.base import Stage


class PatchesStage(Stage):
    """The stage that turns scenes into patches."""

    name = "patches"
    resumes_by_part = True

    def cells(self, context: Context) -> list[Cell]:
        """Return the data set's only cell."""
        return [Cell(stage=self.name, artefact=context.patches, dataset=context.dataset.name)]

    def check(self, context: Context) -> None:
        """Refuse classes in the settings of the sampling that the data do not have."""
        from benchmark.stages.patches.sampling import check_classes

        config = context.experiment.dataset
        check_classes(config, context.source.classes, context.experiment.path)

    def compute(self, context: Context, cells: Sequence[Cell]) -> None:
        """Write the table ``patches``."""
        for cell in cells:
            try:
                from benchmark.stages.patches.pipeline import compute

                compute(context, cell.artefact)
            except UsageError:
                raise
            except (BenchmarkError, OSError, ValueError) as error:
                context.fail(cell.artefact, one_line(error))

    def tables(self, context: Context) -> list[TextTable]:
        """Return the class counts."""
        if not context.patches.is_complete:
            return []
        return [counts_table(context.patches.manifest())]


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
