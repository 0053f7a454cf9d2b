"""Score all complete cells, train set by train set, and commit the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.catalog.metrics import HEADLINE
from benchmark.errors import BenchmarkError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.fold_sets import pooled_set
from benchmark.experiment.recipe import describe_experiment
from benchmark.experiment.train_sets import ChosenPatches
from benchmark.stages.evaluate.choices import describe_choices
from benchmark.stages.evaluate.comparison import compare, read_costs, unlike_devices
from benchmark.stages.evaluate.evaluation import Evaluation
from benchmark.stages.evaluate.flipped import flip_notes
from benchmark.stages.evaluate.folds import fold_notes, pool_cells
from benchmark.stages.evaluate.labels import describe_crossings, describe_train_sets
from benchmark.stages.evaluate.missing import find_kept, missing_notes
from benchmark.stages.evaluate.properties import describe_embeddings
from benchmark.stages.evaluate.schemas import RANKING
from benchmark.stages.evaluate.sizes import describe_sizes
from benchmark.stages.evaluate.transfer import compare_regions
from benchmark.stages.pooling import pool_predictions
from benchmark.store import provenance
from benchmark.store.artefacts import Artefact
from benchmark.store.names import SCORES_CSV, SCORES_FILE, beside
from benchmark.tables import SCORES, check_table


def compute(context: Context, artefact: Artefact, advance: Callable[[int], None]) -> None:
    """Score every complete cell of the grid and commit the scores.

    Commits nothing if the grid has changed meanwhile: its scores belong to another artefact.

    Raises:
        BenchmarkError: there is no complete cell.
    """
    grid = context.prediction_cells()
    cells = [cell for cell in grid if cell.artefact.is_complete]
    if not cells:
        reasons = {context.why_missing(cell.artefact) for cell in grid}
        raise BenchmarkError(f"there are no predictions to score: {sorted(reasons)[0]}")
    pools, incomplete = pool_cells(context, artefact)
    kept = find_kept(context, cells)
    evaluations = _evaluate(context, cells, pools, kept, advance)
    if context.scores().fingerprint != artefact.fingerprint:
        # Another run has completed predictions meanwhile: these scores do not match the name.
        return
    floor_heads = {item.name for item in context.heads if item.is_floor}
    floors = floor_heads | {item.name for item in context.backbones if item.is_floor}
    scores = check_table(
        pa.concat_tables(item.scores(artefact.fingerprint) for item in evaluations),
        SCORES,
        what="scores",
    )
    # Methods are not compared within a fold: its test patches are few.
    compared = evaluations[:1] if pools else evaluations
    rankings = [item.ranking(floors) for item in compared]
    costs = read_costs(context, pools or {cell: (cell,) for cell in cells})
    comparison = pa.concat_tables(
        compare(
            item.groups,
            design=item.designs["test"],
            costs=costs,
            floors=floor_heads,
            settings=context.experiment.evaluate,
        )
        for item in compared
    )
    properties, unreadable = describe_embeddings(context)
    tables = {
        "confusion": pa.concat_tables(item.confusion() for item in evaluations),
        "calibration": pa.concat_tables(item.calibration() for item in evaluations),
        "ranking": pa.Table.from_pandas(
            pd.concat(rankings).assign(metric=HEADLINE, split="test"), RANKING, preserve_index=False
        ),
        "comparison": comparison,
        "properties": properties,
    }
    transfer = compare_regions(context, cells, costs, floors)
    if transfer is not None:
        tables |= {"transfer": transfer.transfer, "drops": transfer.drops}
    for name, table in tables.items():
        artefact.write_table(beside(name), table)
    artefact.write_table(SCORES_FILE, scores)
    artefact.write_bytes(SCORES_CSV, scores.to_pandas().to_csv(index=False).encode())
    train_sets = []
    if len(context.train_sets) > 1:
        train_sets = describe_train_sets(context, cells)
    # The headline is made within the fullest train set.
    fullest = evaluations[0]
    artefact.commit(
        {
            "inputs": context.scores_inputs(),
            "num_cells": len(cells),
            "intervals": {
                split: {"kind": item.kind, "reason": item.reason}
                for split, item in fullest.designs.items()
            },
            "train_sets": train_sets,
            "transfer": None if transfer is None else transfer.record,
            "crossings": describe_crossings(comparison, train_sets),
            "choices": describe_choices(
                fullest.groups,
                design=fullest.designs["test"],
                costs=costs,
                floors=floor_heads,
                settings=context.experiment.evaluate,
            ),
            "sizes": describe_sizes(
                context,
                fullest.groups,
                design=fullest.designs["test"],
                costs=costs,
                floors=floor_heads,
            ),
            "optimism": fullest.optimism,
            "limits": fullest.limits(rankings[0]),
            "notes": [
                *(
                    note if item is fullest else f"Trained on {item.train_set}: {note}"
                    for item, ranking in zip(compared, rankings, strict=True)
                    for note in item.notes(ranking, floors)
                ),
                *incomplete,
                *missing_notes(context, cells, kept),
                *unreadable,
                *(fold_notes(context) if pools else ()),
                *flip_notes(context),
                # Each backbone once, whatever its train sets.
                *dict.fromkeys(unlike_devices(comparison)),
            ],
            "experiment": describe_experiment(context),
            "provenance": provenance.record(),
        },
        needs=(SCORES_FILE, *map(beside, tables)),
    )


def _evaluate(
    context: Context,
    cells: Sequence[Cell],
    pools: Mapping[Cell, Sequence[Cell]],
    kept: NDArray[Any] | None,
    advance: Callable[[int], None],
) -> list[Evaluation]:
    """Score pooled folds, then the cells of each train set, the fullest first."""
    found = []
    num_folds = context.experiment.protocol.cross_validation
    if pools and num_folds is not None:
        whole = ChosenPatches(context.patches, pooled_set(num_folds), 0)
        evaluation = Evaluation(context, whole.train_set.name, ("test",), num_folds=num_folds)
        for cell, parts in pools.items():
            evaluation.add(cell, whole, pool_predictions(context, parts))
        found.append(evaluation)
    for train_set in context.train_sets:
        mine = [cell for cell in cells if cell.train_set == train_set.name]
        if mine:
            evaluation = Evaluation(context, train_set.name, kept=kept)
            for cell in mine:
                evaluation.add(cell, context.rows_of(cell))
                advance(1)
            found.append(evaluation)
    return found
