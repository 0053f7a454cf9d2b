"""Tables of what each embedding is like: rank, dimension, duplicates, norms and neighbours."""

from __future__ import annotations

import pandas as pd

from benchmark.page.html import Table
from benchmark.stages.report.results import Results
from benchmark.store.names import beside

HEADINGS = {
    "dimension": "dimension",
    "effective_rank": "effective rank",
    "dimension_twonn": "TwoNN",
    "dimension_mle": "MLE",
    "duplicate_share": "share of duplicates",
    "norm_mean": "mean norm",
    "norm_spread": "spread of norms",
    "neighbour_precision": "nearest ten",
}
NEIGHBOURS = "neighbour_precision"


def property_tables(results: Results) -> tuple[Table, ...]:
    """Return the properties of each embedding, and its neighbours by class; or nothing."""
    # Scores of older versions have no such table.
    if beside("properties") not in results.evaluated["files"]:
        return ()
    stored = results.context.scores().read_table(names=[beside("properties")]).to_pandas()
    rows = results.naming.table(stored)
    if rows.empty:
        return ()
    best = list(dict.fromkeys([*results.ranking["backbone"], *rows["backbone"]]))
    values = rows.pivot_table(
        index="backbone", columns="property", values="value", dropna=False, sort=False
    ).reindex([name for name in best if name in set(rows["backbone"])])
    first = values.reindex(columns=list(HEADINGS)).rename(columns=HEADINGS)
    first["dimension"] = first["dimension"].astype("Int64")
    names = [name for name in results.classes if f"{NEIGHBOURS}/{name}" in values]
    per_class = values[[f"{NEIGHBOURS}/{name}" for name in names]].set_axis(names, axis=1)
    drawn = _drawn(rows, "effective_rank"), _drawn(rows, NEIGHBOURS)
    return (
        Table.from_frame(
            first.reset_index(),
            title="What each embedding is like",
            caption=(
                f"Of all patches; rank, TwoNN and MLE of {drawn[0]:,} drawn from them, without "
                "their labels. Effective rank (Roy and Vetterli 2007): how many directions vary "
                "about equally. TwoNN (Facco et al. 2017) and MLE (Levina and Bickel 2004): the "
                "dimension in which the patches lie, from distances to neighbours; both are too "
                "low where it is above ten or so. Spread of norms: standard deviation over mean. "
                "Nearest ten: share of the ten nearest train patches (cosine) that have the class "
                f"of a test patch, of {drawn[1]:,} test patches, mean over classes."
            ),
        ),
        Table.from_frame(
            per_class.reset_index(),
            title="Share of the nearest ten with the same class, by class",
            caption="Chance is the share of the class in train.",
        ),
    )


def _drawn(rows: pd.DataFrame, name: str) -> int:
    return int(rows.loc[rows["property"] == name, "num_patches"].max())
