"""Cross-validation: the cells of the folds of a method and seed, and their predictions together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.fold_sets import pooled_set
from benchmark.store.artefacts import Artefact
from benchmark.store.names import SCORES_FILE
from benchmark.tables import find_rows

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def pooled_cells(context: Context, artefact: Artefact) -> dict[Cell, tuple[Cell, ...]]:
    """Return a cell for each method and seed with the cells of its folds, complete or not.

    Args:
        context: of the experiment; without cross-validation there is no such cell.
        artefact: the scores, which stand for the pooled predictions.
    """
    count = context.experiment.protocol.cross_validation
    found: dict[Cell, tuple[Cell, ...]] = {}
    for cell in context.prediction_cells() if count else ():
        name = pooled_set(count or 0).name
        whole = replace(cell, stage=artefact.stage, artefact=artefact, train_set=name)
        found[whole] = (*found.get(whole, ()), cell)
    return found


def pool_predictions(context: Context, parts: Sequence[Cell]) -> pa.Table:
    """Return the predictions of each fold's cell on its test patches, sorted by ``patch_id``.

    Raises:
        CellError: a prediction is missing.
    """
    import pyarrow as pa

    tables = []
    for cell in parts:
        rows = context.rows_of(cell)
        table = cell.artefact.read_table()
        tested = rows.rows.ids[rows.roles == "test"]
        at = find_rows(table["patch_id"].to_numpy(), tested, what=f"{cell.artefact.uri}, test,")
        tables.append(table.take(at))
    return pa.concat_tables(tables).sort_by("patch_id")


def fold_scores(scores: Artefact, metric: str) -> pd.DataFrame:
    """Return a metric of each method on pooled predictions and on each fold, mean over seeds.

    Args:
        scores: complete scores of folds.
        metric: its name.

    Returns: indexed by backbone and method, a column for each train set, the pooled one first.
    """
    frame = scores.read_table(names=[SCORES_FILE]).to_pandas()
    frame = frame[(frame["metric"] == metric) & (frame["split"] == "test")]
    sets = frame["train_set"].unique()
    # Seeds without a pooled score are left out.
    keys = ["backbone", "method", "seed"]
    pooled = frame.loc[frame["train_set"] == sets[0], keys]
    wide = frame.merge(pooled, on=keys).pivot_table(
        index=["backbone", "method"], columns="train_set", values="value", sort=False
    )
    return wide[list(sets)]
