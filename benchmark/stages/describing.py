"""The data card: what the table of patches holds, as JSON and as one page; nothing is embedded.

Pixels are read once, part by part: a part of at most some hundred patches is in memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xxhash

from benchmark.experiment.context import Context
from benchmark.stages.data_card import draw_page
from benchmark.statistics.pixels import count_values, summarise
from benchmark.store.names import TABLES, current_name
from benchmark.store.provenance import library_versions
from benchmark.tables import SPLITS, images_array

FORMAT = 1
"""Raised by hand when keys of the document change their meaning."""
PURITY_BIN = 0.01
MAX_GROUPS = 100
"""Groups of duplicates that the document names; all are counted."""


class Described(NamedTuple):
    """The data card: its document, which is JSON, and its page, which is HTML."""

    content: dict[str, Any]
    page: str


def describe(context: Context) -> Described:
    """Return the data card of the complete patches of an experiment.

    Raises:
        CellError: a file of the patches is damaged.
    """
    manifest = context.patches.manifest()
    columns = ["patch_id", "split", "label", "scene", "region", "lon", "lat", "purity"]
    frame = context.patches.read_table(columns=columns).to_pandas()
    content = _count(context, manifest, frame) | _read_pixels(context, manifest)
    return Described(content, draw_page(context, manifest, frame, content))


def _count(context: Context, manifest: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """Return all that the metadata of the patches tell."""
    classes = manifest["classes"]
    return {
        "format": FORMAT,
        "experiment": context.experiment.name,
        "dataset": context.dataset.name,
        "is_synthetic": bool(manifest["is_synthetic"]),
        "patches": context.patches.uri,
        "fingerprint": context.patches.fingerprint,
        "dataset_digest": manifest["dataset_digest"],
        "settings": context.patches_inputs["settings"],
        "classes": classes,
        "bands": manifest["bands"],
        "patch_size": manifest["patch_size"],
        # Patches of older versions do not say what was examined.
        "unit": manifest.get("unit", "windows"),
        "num_examined": manifest["num_examined"],
        "num_candidates": manifest["num_candidates"],
        "num_patches": len(frame),
        "candidates": _count_candidates(context, classes),
        "counts": manifest["class_counts"],
        "scenes": _count_scenes(frame, classes),
        "purity": _count_purities(frame),
        "bounds": _find_bounds(frame),
        "notes": manifest["notes"],
        "problems": manifest["problems"],
        "versions": library_versions(),
    }


def _count_candidates(context: Context, classes: list[str]) -> list[dict[str, Any]]:
    """Return the candidates of each split and class, from which the patches were drawn."""
    names = [
        name
        for name in context.patches.files()
        if current_name(name).startswith(f"{TABLES}candidates-")
    ]
    if not names:
        return []
    table = context.patches.read_table(names=names, columns=["split", "label"])
    return _count_groups(table.to_pandas(), ["split"], classes)


def _count_scenes(frame: pd.DataFrame, classes: list[str]) -> list[dict[str, Any]]:
    known = frame.dropna(subset=["scene"]).assign(region=frame["region"].fillna(""))
    return _count_groups(known, ["scene", "split", "region"], classes)


def _count_groups(frame: pd.DataFrame, keys: list[str], classes: list[str]) -> list[dict[str, Any]]:
    """Return a record of each group: its keys, and the rows of each class."""
    counted = frame.groupby([*keys, "label"]).size().unstack("label", fill_value=0)
    counted = counted.reindex(columns=range(len(classes)), fill_value=0)
    records = []
    for key, row in zip(counted.index, counted.to_numpy().tolist(), strict=True):
        values = key if isinstance(key, tuple) else (key,)
        counts = dict(zip(classes, row, strict=True))
        records.append({**dict(zip(keys, values, strict=True)), "counts": counts})
    return records


def _count_purities(frame: pd.DataFrame) -> dict[str, Any] | None:
    """Return a histogram for each split, from the first filled bin to 1; None: all are 1."""
    known = frame.dropna(subset=["purity"])
    if not (known["purity"] < 1).any():
        return None
    edges = np.linspace(0, 1, round(1 / PURITY_BIN) + 1)
    counts = {
        split: np.histogram(known.loc[known["split"] == split, "purity"], edges)[0]
        for split in SPLITS
    }
    first = int(np.flatnonzero(sum(counts.values()))[0])
    return {
        "edges": edges[first:].round(6).tolist(),
        "counts": {split: values[first:].tolist() for split, values in counts.items()},
    }


def _find_bounds(frame: pd.DataFrame) -> dict[str, Any] | None:
    """Return the extent of the centres in degrees; None: no patch has coordinates."""
    known = frame.dropna(subset=["lon", "lat"])
    if known.empty:
        return None
    return {
        "west": float(known["lon"].min()),
        "south": float(known["lat"].min()),
        "east": float(known["lon"].max()),
        "north": float(known["lat"].max()),
        "num_patches": len(known),
    }


def _read_pixels(context: Context, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the statistics of each band and split, and the patches with equal pixels."""
    bands, size = manifest["bands"], manifest["patch_size"]
    histograms = {split: np.zeros((len(bands), 256), np.int64) for split in SPLITS}
    seen: list[pd.DataFrame] = []
    progress = context.progress.stage(
        "describe", num_cells=1, num_items=manifest["num_patches"], unit="patches"
    )
    progress.start(context.dataset.name)
    try:
        for part in manifest["parts"]:
            if not part["num_rows"]:
                continue
            table = context.patches.read_table(
                names=[part["name"]], columns=["patch_id", "split", "label", "image"]
            )
            images = images_array(table["image"], (len(bands), size, size))
            splits = table["split"].to_numpy()
            for split in set(splits.tolist()):
                histograms[split] += count_values(images[splits == split])
            digests = [xxhash.xxh3_128_digest(image.data) for image in images]
            seen.append(table.drop_columns("image").to_pandas().assign(digest=digests))
            progress.advance(len(images))
        progress.done(context.dataset.name)
    finally:
        progress.close()
    statistics = [
        {"split": split, "band": band, **summarise(counts)}
        for split, of_band in histograms.items()
        for band, counts in zip(bands, of_band, strict=True)
        if counts.any()
    ]
    return {
        "pixels": statistics,
        "duplicates": _find_duplicates(pd.concat(seen), manifest["classes"]),
    }


def _find_duplicates(frame: pd.DataFrame, classes: list[str]) -> dict[str, Any]:
    """Return the patches whose pixels equal those of another one, the gravest groups first."""
    twins = frame[frame.duplicated("digest", keep=False)].sort_values("patch_id")
    groups = [
        {
            "patch_ids": rows["patch_id"].tolist(),
            "splits": [split for split in SPLITS if split in set(rows["split"])],
            "classes": [classes[label] for label in sorted(set(rows["label"]))],
        }
        for _, rows in twins.groupby("digest")
    ]
    groups.sort(
        key=lambda item: (
            *(-len(item[key]) for key in ("classes", "splits", "patch_ids")),
            item["patch_ids"],
        )
    )
    return {
        "num_groups": len(groups),
        "num_patches": len(twins),
        "num_groups_in_several_splits": sum(len(item["splits"]) > 1 for item in groups),
        "num_groups_with_several_labels": sum(len(item["classes"]) > 1 for item in groups),
        "groups": groups[:MAX_GROUPS],
    }
