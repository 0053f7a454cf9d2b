"""Cross-validation: the folds of a method and seed are scored together, as one test set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmark.errors import BenchmarkError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.fold_sets import Fold, find_folds
from benchmark.experiment.train_sets import PatchRows
from benchmark.stages.pooling import pooled_cells
from benchmark.statistics.design import Design
from benchmark.statistics.folds import Folds
from benchmark.store.artefacts import Artefact


def pool_cells(
    context: Context, artefact: Artefact
) -> tuple[dict[Cell, tuple[Cell, ...]], list[str]]:
    """Return a cell for each method and seed whose folds are all complete, with these folds' cells.

    Args:
        context: of the experiment.
        artefact: the scores, which stand for the pooled predictions.

    Returns: also a note on each method and seed that lacks a fold; nothing without folds.

    Raises:
        BenchmarkError: no method is complete on all folds.
    """
    found = pooled_cells(context, artefact)
    notes = []
    for whole, parts in found.items():
        missing = [part for part in parts if not part.artefact.is_complete]
        if missing:
            names = ", ".join(part.train_set.split()[1] for part in missing)
            are = "s {} of {} are" if len(missing) > 1 else " {} of {} is"
            notes.append(
                f"{whole.backbone} / {whole.method} / seed {whole.seed} has no score: fold"
                f"{are.format(names, len(parts))} missing "
                f"({context.why_missing(missing[0].artefact)})."
            )
    complete = {
        whole: parts
        for whole, parts in found.items()
        if all(part.artefact.is_complete for part in parts)
    }
    if found and not complete:
        raise BenchmarkError(f"no method is complete on all folds: {notes[0]}")
    return complete, notes


def with_folds(design: Design, rows: PatchRows, count: int) -> Design:
    """Return the design of all patches, which knows their folds.

    Args:
        design: of all patches.
        rows: the same patches in the same order.
        count: number of folds.
    """
    fold_of = find_folds(rows, count)
    of_unit = np.empty(design.num_units, np.int64)
    of_unit[design.unit] = fold_of
    roles = [Fold(number, count)(rows, 0) for number in range(1, count + 1)]
    ratio = np.mean([(item == "test").sum() / (item == "train").sum() for item in roles])
    reason = (
        f"{design.reason} They are of {count} folds whose methods share training data: the "
        "variance between folds, times patches of test over patches of train, is added."
    )
    return replace(design, folds=Folds(of_unit, count, float(ratio)), reason=reason)


def fold_notes(context: Context) -> list[str]:
    """Return what a reader of cross-validated scores must know."""
    count = context.experiment.protocol.cross_validation
    notes = [
        f"Cross-validation with {count} folds over all patches, by whole scenes where scenes are "
        "known, replaces the splits of the data: scores on test are of every patch, predicted by a "
        "method that was trained without its fold. Near-duplicates in different scenes are not "
        "known here and may make scores too high."
    ]
    fitted = [item.name for item in context.backbones if item.is_fitted]
    if fitted:
        notes.append(
            f"{', '.join(fitted)}: fitted without labels to the train split of the data, which "
            "holds patches that folds test."
        )
    return notes
