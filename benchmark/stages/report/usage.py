"""Where the time went: the stages of the runs that computed these results."""

from __future__ import annotations

from benchmark.experiment.context import Context
from benchmark.experiment.usage import SavedUsage, load_usage, summarise, usage_notes
from benchmark.page.html import Table

OWN_STAGE = "report"
"""Its own time is not known while the page is written."""


def load_saved_usage(context: Context) -> SavedUsage:
    """Return what is known of the stages of earlier runs and of this one."""
    return load_usage(context.store, context.experiment.name, without=[OWN_STAGE])


def usage_sentences(saved: SavedUsage) -> tuple[str, ...]:
    """Return which stage limits, and what is to be known of the table; none without usages."""
    if not saved.usages:
        return ()
    origin = "Of the last run, without the page itself."
    if saved.num_runs > 1:
        origin = (
            f"Of {saved.num_runs} runs: each row is of the last run that computed something in "
            "its stage. What earlier runs took for the same stage is not in it."
        )
    return (*usage_notes(saved.usages), origin)


def usage_tables(saved: SavedUsage) -> tuple[Table, ...]:
    """Return one row for each stage; no table without usages."""
    rows = tuple(
        (
            row.stage,
            row.num_cells,
            row.wall_s,
            100 * row.share,
            row.num_slots,
            None if row.utilisation is None else 100 * row.utilisation,
            row.num_items,
            row.unit,
            row.items_per_s,
        )
        for row in summarise(saved.usages)
    )
    if not rows:
        return ()
    return (
        Table(
            title="Stages",
            columns=(
                "stage",
                "cells computed",
                "seconds",
                "% of the run",
                "slots",
                "% busy",
                "items",
                "unit",
                "items/s",
            ),
            rows=rows,
            decimals=1,
            caption="A slot is an actor, trial or task of the stage; % busy is its share of time "
            "at work.",
        ),
    )
