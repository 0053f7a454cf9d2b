"""The figures of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmark.page import heatmaps, pictures
from benchmark.page import scores as plots
from benchmark.page.html import Picture, RankingRow
from benchmark.stages.report.patches import EXAMPLE_SEED, pick_patches, red_green_blue
from benchmark.stages.report.results import Results
from benchmark.tables import vectors_array

MAX_HEAT_MAPS = 4
MAX_RECALLS = 6
MAX_PROJECTIONS = 6
MAX_POINTS = 4000
"""Points of a projection: more hide one another."""


def ranking_pictures(results: Results, ranking: Sequence[RankingRow]) -> list[Picture]:
    """Return the ranking, recalls per class, and cost."""
    frame = pd.DataFrame([vars(row) for row in ranking])
    chance = 1.0 / int((results.num_test_patches() > 0).sum())
    # A column of None only would compare as objects.
    frame["seconds"] = pd.to_numeric(frame["seconds"])
    cost = frame[frame["seconds"] > 0]
    found = [
        picture(
            results,
            "ranking",
            "Ranking",
            plots.plot_ranking(frame, chance=chance, caption=results.caption),
        ),
        picture(results, "classes", "Recall per class", _recall_figure(results)),
    ]
    if len(cost):
        found.append(
            picture(
                results,
                "cost",
                "Balanced accuracy against device-seconds",
                plots.plot_cost(
                    cost, seconds="device-seconds of one seed", caption=results.caption
                ),
            )
        )
    return found


def _recall_figure(results: Results) -> Any:
    test = results.scores[results.scores["split"] == "test"]
    rows = test[test["metric"].str.startswith("recall/")].copy()
    rows["label"] = rows["metric"].str.removeprefix("recall/")
    parts = []
    for row in results.ranking[~results.ranking["is_floor"]].head(MAX_RECALLS).itertuples():
        at = (rows["backbone"] == row.backbone) & (rows["method"] == row.method)
        first = rows[at & (rows["seed"] == rows[at]["seed"].min())].copy()
        first["method"] = f"{row.backbone} / {row.method}"
        parts.append(first)
    if not parts:
        leader = results.ranking.iloc[0]
        at = (rows["backbone"] == leader["backbone"]) & (rows["method"] == leader["method"])
        parts = [rows[at]]
    chosen = pd.concat(parts)
    counts = dict(zip(results.classes, results.num_test_patches().tolist(), strict=True))
    chosen["num_patches"] = chosen["label"].map(counts)
    columns = ["method", "label", "value", "ci_low", "ci_high", "num_patches"]
    return plots.plot_recalls(chosen[columns], caption=results.caption)


def confusion_pictures(results: Results) -> list[Picture]:
    """Return heat maps of the best methods."""
    return [
        picture(
            results,
            "confusion",
            f"Confusion of {name}",
            heatmaps.plot_confusion(counts, results.classes, title=name, caption=results.caption),
        )
        for name, counts in results.best_confusions(MAX_HEAT_MAPS)
    ]


def data_pictures(results: Results) -> list[Picture]:
    """Return class counts and example patches."""
    counts = pd.DataFrame(
        [
            {"split": item["split"], "region": item["region"] or "all", **item["counts"]}
            for item in results.patches["class_counts"]
        ]
    ).set_index(["split", "region"])[list(results.classes)]
    found = [
        picture(
            results,
            "data",
            "Patches per split and region",
            heatmaps.plot_class_counts(counts, caption=results.caption),
        )
    ]
    patches = pick_patches(results, results.context.experiment.report.num_examples)
    at = red_green_blue(results.patches["bands"])
    examples = [images[:, at].transpose(0, 2, 3, 1) for images in patches]
    found.append(
        picture(
            results,
            "data",
            "Example patches of each class",
            pictures.plot_examples(examples, results.classes, caption=results.caption),
        )
    )
    return found


def embedding_pictures(results: Results) -> list[Picture]:
    """Return projections and rectangles of the embeddings."""
    labelled = results.context.patches.read_table(columns=["patch_id", "split", "label"])
    labels = labelled["label"].to_numpy()
    splits = labelled["split"].to_numpy()
    found = []
    order = dict.fromkeys([*results.ranking["backbone"], *results.embed])
    for name in [item for item in order if item in results.embed][:MAX_PROJECTIONS]:
        backbone = next(item for item in results.context.backbones if item.name == name)
        table = results.context.embeddings(backbone).read_table()
        vectors = vectors_array(table["embedding"])
        few = np.sort(np.random.default_rng(EXAMPLE_SEED).permutation(len(vectors))[:MAX_POINTS])
        projection = pictures.project(vectors[few], splits[few] == "train")
        found.append(
            picture(
                results,
                "embeddings",
                f"Principal components of {name}",
                pictures.plot_projection(
                    projection.points,
                    labels[few],
                    splits[few],
                    results.classes,
                    explained=projection.explained,
                    title=name,
                    caption=results.caption,
                ),
            )
        )
        grids = [vectors[labels == k][:6] for k in range(len(results.classes))]
        found.append(
            picture(
                results,
                "embeddings",
                f"Embeddings of {name} as rectangles",
                pictures.plot_embeddings(
                    grids, results.classes, title=name, caption=results.caption
                ),
            )
        )
    return found


def picture(results: Results, section: Any, title: str, figure: Any) -> Picture:
    """Render a figure for a section of the page."""
    return Picture(
        section=section,
        title=title,
        png=plots.to_png(figure),
        caption=results.caption,
        alt=f"{title}. {results.caption}".strip(),
    )
