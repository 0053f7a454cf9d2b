"""The figures of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmark import heatmaps, pictures, plots
from benchmark.page import Picture, RankingRow
from benchmark.stages.report.results import Results
from benchmark.tables import images_array, vectors_array

MAX_HEAT_MAPS = 4
MAX_RECALLS = 6
MAX_PROJECTIONS = 6
MAX_POINTS = 4000
"""Points of a projection: more hide one another."""
EXAMPLE_SEED = 0


def ranking_pictures(results: Results, ranking: Sequence[RankingRow]) -> list[Picture]:
    """Return the ranking, recalls per class, and cost."""
    frame = pd.DataFrame([vars(row) for row in ranking])
    chance = 1.0 / int((results.num_test_patches() > 0).sum())
    cost = frame[frame["seconds"] > 0]
    found = [
        _picture(
            results,
            "ranking",
            "Ranking",
            plots.plot_ranking(frame, chance=chance, caption=results.caption),
        ),
        _picture(results, "classes", "Recall per class", _recall_figure(results)),
    ]
    if len(cost):
        found.append(
            _picture(
                results,
                "cost",
                "Balanced accuracy against device-seconds",
                plots.plot_cost(cost, caption=results.caption),
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
        _picture(
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
        _picture(
            results,
            "data",
            "Patches per split and region",
            heatmaps.plot_class_counts(counts, caption=results.caption),
        )
    ]
    examples = _examples(results)
    found.append(
        _picture(
            results,
            "data",
            "Example patches of each class",
            pictures.plot_examples(examples, results.classes, caption=results.caption),
        )
    )
    return found


def _examples(results: Results) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return uint8 (n, H, W, 3) of each class, from as few parts as will do."""
    wanted = results.context.experiment.report.num_examples
    bands = results.patches["bands"]
    at = [bands.index(name) for name in ("red", "green", "blue") if name in bands]
    at = at if len(at) == 3 else [0, min(1, len(bands) - 1), min(2, len(bands) - 1)]
    found: list[list[Any]] = [[] for _ in results.classes]
    size = results.patches["patch_size"]
    artefact = results.context.patches
    names = [part["name"] for part in results.patches["parts"] if part["num_rows"]]
    order = np.random.default_rng(EXAMPLE_SEED).permutation(len(names))
    for index in order:
        labels = artefact.read_table(names=[names[index]], columns=["patch_id", "label"])
        rows = labels["label"].to_numpy()
        needed = [k for k in range(len(found)) if len(found[k]) < wanted and (rows == k).any()]
        if not needed:
            continue
        part = artefact.read_table(names=[names[index]], columns=["patch_id", "image"])
        images = images_array(part["image"], (len(bands), size, size))
        for k in needed:
            # A few of each part, so that one scene does not fill the row.
            few = max(1, wanted // 3)
            picked = np.flatnonzero(rows == k)[: min(few, wanted - len(found[k]))]
            found[k] += [images[i][at].transpose(1, 2, 0) for i in picked]
    return [np.stack(items) if items else np.empty((0, size, size, 3), np.uint8) for items in found]


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
            _picture(
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
            _picture(
                results,
                "embeddings",
                f"Embeddings of {name} as rectangles",
                pictures.plot_embeddings(
                    grids, results.classes, title=name, caption=results.caption
                ),
            )
        )
    return found


def _picture(results: Results, section: Any, title: str, figure: Any) -> Picture:
    return Picture(
        section=section,
        title=title,
        png=plots.to_png(figure),
        caption=results.caption,
        alt=f"{title}. {results.caption}".strip(),
    )
