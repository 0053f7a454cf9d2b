"""Where the time went: the stages of the runs that computed these results."""

from __future__ import annotations

from benchmark.experiment.context import Context
from benchmark.experiment.usage import SavedUsage, load_usage, rate_text, summarise, usage_notes
from benchmark.page.html import Table


def load_saved_usage(context: Context) -> SavedUsage:
    """Return the usages of the stages, of this run and earlier ones."""
    # The time of the report itself is unknown while the page is written.
    return load_usage(context.store, context.experiment.name, without=["report"])


def usage_sentences(saved: SavedUsage) -> tuple[str, ...]:
    """Return the bottleneck and the notes on the table as sentences; none without usages."""
    if not saved.usages:
        return ()
    origin = "From the last run, without the report stage."
    if saved.num_runs > 1:
        origin = (
            f"From {saved.num_runs} runs: each row shows the last run that computed something in "
            "its stage. Earlier runs of the same stage are not included."
        )
    return (*usage_notes(saved.usages, summarise(saved.usages)), origin)


def usage_tables(saved: SavedUsage) -> tuple[Table, ...]:
    """Return a table with one row per stage; none without usages."""
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
            None if row.items_per_s is None else rate_text(row.items_per_s),
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
