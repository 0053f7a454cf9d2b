"""The section "How many labels" of the page."""

from __future__ import annotations

from itertools import chain

import pandas as pd

from benchmark.experiment.label_sets import CURVES
from benchmark.methods import is_finetuned
from benchmark.page.html import Picture, Table
from benchmark.page.labels import plot_labels
from benchmark.stages.report.figures import picture
from benchmark.stages.report.results import TRAIN_SET, Results

MAX_CURVES = 10
TITLES = {
    "fraction": "Balanced accuracy over the share of the labels",
    "shots": "Balanced accuracy over the labels of each class",
}

HEADINGS = {
    "train_set": TRAIN_SET,
    "backbone": "backbone",
    "method": "method",
    "rank": "rank",
    "num_train": "labels in train",
    "num_val": "labels in val",
    "value": "score",
    "ci_low": "low",
    "ci_high": "high",
    "seed_std": "seed spread",
    "num_seeds": "seeds",
    "verdict": "against the leader",
}


def label_rows(results: Results) -> pd.DataFrame:
    """Return the ranking of every train set with its ``kind`` and number of patches."""
    sizes = pd.DataFrame(results.evaluated.get("train_sets", []))
    if sizes.empty:
        return sizes
    sizes = sizes[sizes["kind"].isin({*chain(*CURVES.values())})]
    if len(sizes) < 2:
        return pd.DataFrame()
    return results.every_ranking.merge(sizes, left_on="train_set", right_on="name")


def label_tables(results: Results) -> tuple[Table, ...]:
    """Return the score of each method on each train set, or nothing if there is one set."""
    rows = label_rows(results)
    if rows.empty:
        return ()
    sets = rows.drop_duplicates("train_set")
    wide = rows.pivot_table(
        index=["backbone", "method"], columns="train_set", values="value", sort=False
    )
    full = rows[list(HEADINGS)].rename(columns=HEADINGS)
    return (
        Table(
            title="Train sets",
            columns=(TRAIN_SET, "labels in train", "labels in val", "patches of test"),
            rows=tuple(
                sets[["train_set", "num_train", "num_val", "num_test"]].itertuples(
                    index=False, name=None
                )
            ),
            caption=_how(results),
        ),
        Table.from_frame(
            wide.reset_index(),
            title="Balanced accuracy on test by train set",
            num_headers=2,
            caption="Mean over seeds. Compare methods within a column.",
        ),
        Table.from_frame(
            full,
            title="Ranking within each train set",
            num_headers=3,
            caption="Ranks and verdicts are those of the row's train set alone.",
        ),
    )


def _how(results: Results) -> str:
    text = (
        "Each set keeps the first labels of each class in a random order of the seed, so that a "
        "smaller set is contained in a larger one; fractions fill one scene after another, shots "
        "are drawn from all of train. Val keeps the same share of each class as train, at least "
        "one patch; test is the same for all. Embeddings and what a backbone learns without labels "
        "(such as PCA) use all of train."
    )
    if results.finetuned:
        text += (
            " Fine-tuning takes up to ten times its epochs on few labels, so that it has about as "
            "many steps as on all of train."
        )
    return text


def label_pictures(results: Results) -> list[Picture]:
    """Return a figure of scores over fractions and one over shots, where there are two points."""
    rows = label_rows(results)
    found = []
    for curve, kinds in CURVES.items():
        mine = rows[rows["kind"].isin(kinds)] if len(rows) else rows
        if curve not in set(mine.get("kind", ())) or mine["num_train"].nunique() < 2:
            continue
        shown = mine[["backbone", "method"]].merge(_shown(results), on=["backbone", "method"])
        mine = mine.merge(shown.drop_duplicates(), on=["backbone", "method"])
        # Over seeds and scenes where there are several seeds: they also draw other labels.
        low, high = (mine[f"expected_{end}"].fillna(mine[f"ci_{end}"]) for end in ("low", "high"))
        mine = mine.assign(ci_low=low, ci_high=high, is_finetuned=mine["method"].map(is_finetuned))
        found.append(picture(results, "labels", TITLES[curve], plot_labels, mine))
    return found


def _shown(results: Results) -> pd.DataFrame:
    """Return backbone and method of the curves to draw: the best, and the best floor."""
    ranking = results.ranking
    best = ranking[~ranking["is_floor"]].head(MAX_CURVES)
    return pd.concat([best, ranking[ranking["is_floor"]].head(1)])[["backbone", "method"]]
