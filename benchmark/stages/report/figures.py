"""The figures of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmark.page import heatmaps, pictures, reliability, scores
from benchmark.page.html import Picture, Section
from benchmark.page.leaderboard import RankingRow
from benchmark.page.rendering import draw
from benchmark.stages.report.patches import EXAMPLE_SEED, as_rgb, pick_patches
from benchmark.stages.report.results import Results, rows_of
from benchmark.tables import find_common, vectors_array

MAX_HEAT_MAPS = 4
MAX_RECALLS = 6
MAX_RELIABILITIES = 4
MAX_PROJECTIONS = 6
MAX_POINTS = 4000
"""Points of a projection; more would hide each other."""
MAX_FIGURE_BYTES = 3_600_000
"""Of all figures of a page, as they are in it: with text and explorer it has at most 8 MB."""
MAX_RECTANGLES = 42
"""Embeddings of a figure, one per class at least: their noise is heavy, and six show the kind."""


def ranking_pictures(results: Results, ranking: Sequence[RankingRow]) -> list[Picture]:
    """Return the ranking, recalls per class, and scores against their cost."""
    frame = pd.DataFrame([vars(row) for row in ranking])
    chance = 1.0 / sum(n > 0 for n in results.num_test_patches().values())
    # A column with nothing but None would hold objects, which do not compare.
    frame["seconds"] = pd.to_numeric(frame["seconds"])
    cost = frame[frame["seconds"] > 0]
    found = [
        picture(results, "ranking", "Ranking", scores.plot_ranking, frame, chance=chance),
        picture(results, "classes", "Recall per class", scores.plot_recalls, _recall_rows(results)),
    ]
    if len(cost):
        found.append(
            picture(
                results,
                # Part of the answer, where there is a choice.
                "finetune" if results.finetuned else "cost",
                "Balanced accuracy against device-seconds",
                scores.plot_cost,
                cost,
                seconds="device-seconds of one seed",
            )
        )
    return found


def _recall_rows(results: Results) -> pd.DataFrame:
    rows = results.class_scores("recall")
    parts = []
    for row in results.ranking[~results.ranking["is_floor"]].head(MAX_RECALLS).itertuples():
        cell = rows_of(rows, row)
        first = cell[cell["seed"] == cell["seed"].min()]
        parts.append(first.assign(method=f"{row.backbone} / {row.method}"))
    chosen = pd.concat(parts or [rows_of(rows, results.ranking.iloc[0])])
    chosen["num_patches"] = chosen["label"].map(results.num_test_patches())
    return chosen[["method", "label", "value", "ci_low", "ci_high", "num_patches"]]


def calibration_picture(results: Results) -> Picture:
    """Return the reliability of the best methods, first seed."""
    parts = []
    for row in results.ranking.head(MAX_RELIABILITIES).itertuples():
        cell = rows_of(results.calibration, row)
        first = cell[cell["seed"] == cell["seed"].min()]
        parts.append(first.assign(method=f"{row.backbone} / {row.method}"))
    caption = (
        "How often a method is right (with interval) where its largest score is about so high; on "
        "the dashed line, scores are probabilities. The area of a point is its share of the "
        f"patches. First seed. {results.caption}"
    )
    return picture(
        results,
        "confusion",
        "Reliability",
        reliability.plot_reliability,
        pd.concat(parts),
        caption=caption.strip(),
    )


def confusion_pictures(results: Results) -> list[Picture]:
    """Return heat maps of the best methods, and how far their scores can be trusted."""
    maps = [
        picture(
            results,
            "confusion",
            f"Confusion of {name}",
            heatmaps.plot_confusion,
            counts,
            results.classes,
            title=name,
        )
        for name, counts in results.best_confusions(MAX_HEAT_MAPS)
    ]
    return [*maps, calibration_picture(results)]


def data_pictures(results: Results) -> list[Picture]:
    """Return class counts and example patches."""
    counts = pd.DataFrame(
        [
            {"split": item["split"], "region": item["region"] or "all", **item["counts"]}
            for item in results.patches["class_counts"]
        ]
    ).set_index(["split", "region"])[list(results.classes)]
    patches = pick_patches(results.context.patches, results.context.experiment.report.num_examples)
    examples = [as_rgb(images, results.patches["bands"]) for images in patches]
    return [
        picture(
            results, "data", "Patches per split and region", heatmaps.plot_class_counts, counts
        ),
        picture(
            results,
            "data",
            "Example patches of each class",
            pictures.plot_examples,
            examples,
            results.classes,
        ),
    ]


def embedding_pictures(results: Results) -> list[Picture]:
    """Return the embeddings as projections and as rectangles."""
    labelled = results.context.patches.read_table(columns=["patch_id", "split", "label"])
    found = []
    order = dict.fromkeys([*results.ranking["backbone"], *results.embed])
    for name in [item for item in order if item in results.embed][:MAX_PROJECTIONS]:
        table = results.context.embeddings(results.backbones[name]).read_table()
        vectors = vectors_array(table["embedding"])
        # A product may lack patches.
        at, _ = find_common(labelled["patch_id"].to_numpy(), table["patch_id"].to_numpy())
        labels, splits = (labelled[item].to_numpy()[at] for item in ("label", "split"))
        few = choose_points(len(vectors))
        projection = find_components(results, name, vectors, splits == "train").project(
            vectors[few]
        )
        found.append(
            picture(
                results,
                "embeddings",
                f"Principal components of {name}",
                pictures.plot_projection,
                projection.points,
                labels[few],
                splits[few],
                results.classes,
                explained=projection.explained,
                title=name,
            )
        )
        count = max(1, min(6, MAX_RECTANGLES // len(results.classes)))
        grids = [vectors[labels == k][:count] for k in range(len(results.classes))]
        found.append(
            picture(
                results,
                "embeddings",
                f"Embeddings of {name} as rectangles",
                pictures.plot_embeddings,
                grids,
                results.classes,
                title=name,
            )
        )
    return found


def choose_points(count: int) -> NDArray[np.intp]:
    """Return the sorted places of at most ``MAX_POINTS`` of so many embeddings."""
    order = np.random.default_rng(EXAMPLE_SEED).permutation(count)
    return np.sort(order[:MAX_POINTS])


def find_components(
    results: Results, name: str, vectors: NDArray[np.float32], is_train: NDArray[np.bool_]
) -> pictures.Components:
    """Return the components of a backbone's embeddings (N, D), found once: by ``choose_points``."""
    if name not in results.components:
        few = choose_points(len(vectors))
        # On busy cores two threads wait for each other: four times the CPU seconds.
        with threadpool_limits(1):
            results.components[name] = pictures.find_components(vectors[few], is_train[few])
    return results.components[name]


def keep_within(
    drawn: Sequence[Picture], max_bytes: int = MAX_FIGURE_BYTES
) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """Return the figures of at most ``max_bytes`` in a page, and those that are left out.

    The last figures of embeddings go first: they show the backbones that rank lowest. Others stay.
    """
    left_out: list[Picture] = []
    weight = sum(len(item.url) for item in drawn)
    for item in reversed(drawn):
        if weight > max_bytes and item.section == "embeddings" and not item.is_folded:
            left_out.insert(0, item)
            weight -= len(item.url)
    return tuple(item for item in drawn if item not in left_out), tuple(left_out)


def picture(
    results: Results,
    section: Section,
    title: str,
    plot: Callable[..., Figure],
    /,
    *args: Any,
    **settings: Any,
) -> Picture:
    """Plot and render a figure for a section of the page, with the caption of the results."""
    figure = plot(*args, **{"caption": results.caption, **settings})
    if results.figures is not None:
        results.figures.append((title, figure))
    return Picture(
        section=section,
        title=title,
        drawing=draw(figure),
        caption=results.caption,
        alt=f"{title}. {results.caption}".strip(),
    )
