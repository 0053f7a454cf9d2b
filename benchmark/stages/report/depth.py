"""Scores by layer and pooling of one network, and why its variants are fine-tuned once."""

from __future__ import annotations

import pandas as pd

from benchmark.methods import is_finetuned
from benchmark.page.depth import plot_depth
from benchmark.page.html import Picture
from benchmark.stages.report.figures import picture
from benchmark.stages.report.results import Results

MAX_CURVES = 9
MAX_NETWORKS = 4


def depth_pictures(results: Results) -> list[Picture]:
    """Return a figure for each network with several layers, best network first."""
    rows = depth_rows(results)
    found = []
    for group in list(dict.fromkeys(rows["group"]))[:MAX_NETWORKS]:
        mine = rows[rows["group"] == group]
        if mine["layer"].nunique() < 2:
            continue
        # Curves in the order of their best point.
        names = mine[["pooling", "method"]].drop_duplicates().head(MAX_CURVES)
        shown = mine.merge(names, on=["pooling", "method"])
        title = f"Balanced accuracy by layer of {group}"
        found.append(picture(results, "embeddings", title, plot_depth, shown, title=group))
    return found


def depth_rows(results: Results) -> pd.DataFrame:
    """Return the ranking's rows of variants, with their ``group``, ``layer`` and ``pooling``."""
    variants = pd.DataFrame(
        [
            (name, name.rpartition("@")[0] or name, item.shared.layer, item.shared.pooling)
            for name, item in results.backbones.items()
            if item.shared is not None and item.group
        ],
        columns=["backbone", "group", "layer", "pooling"],
    )
    ranking = results.ranking
    frozen = ranking[~ranking["method"].map(is_finetuned) & ~ranking["is_floor"]]
    return frozen.merge(variants, on="backbone")


def variant_notes(results: Results) -> list[str]:
    """Return a sentence on the fine-tuning of networks with variants, or nothing."""
    chosen = results.context.finetuned_backbones
    groups = [item.group for item in results.context.backbones if item.group]
    short = results.naming.short
    names = [short[item.name] for item in chosen if groups.count(item.group) > 1]
    if not names:
        return []
    return [
        "A network with several layers or poolings is fine-tuned once, as its first variant reads "
        f"it, unless the experiment names others: {', '.join(names)}."
    ]
