"""Draw patches from the candidates and check their splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.tables import SPLITS


def choose(candidates: pa.Table, config: DatasetConfig) -> pa.Table:
    """Draw the patches: all candidates, or as many per class and per region as the caps allow.

    Each candidate has a random key that depends only on its id and the seed; a cap keeps the
    smallest keys. So the draw is uniform and independent of the candidates' order. ``per_class``
    caps each class in each split and is applied first; ``per_region`` caps each region.
    """
    if config.per_class is None and config.per_region is None:
        return candidates
    ids = candidates["patch_id"].to_numpy(zero_copy_only=False)
    keys = pd.util.hash_array(
        ids.astype(object), hash_key=f"{config.seed % 10**16:016d}", categorize=False
    )
    frame = candidates.select(["split", "label", "region"]).to_pandas().assign(key=keys)
    if config.per_class is not None:
        rank = frame.groupby(["split", "label"])["key"].rank(method="first")
        frame = frame[rank <= config.per_class]
    if config.per_region is not None:
        rank = frame.groupby(["region"], dropna=False)["key"].rank(method="first")
        frame = frame[rank <= config.per_region]
    return candidates.take(pa.array(np.sort(frame.index.to_numpy())))


def check_splits(patches: pa.Table, classes: Sequence[str], where: str) -> list[str]:
    """Check that the splits are valid and return notes for the report.

    Raises:
        UsageError: a scene is in two splits, a split is empty, there is only one class, or a
            class is absent from train.
    """
    frame = patches.select(["split", "label", "scene"]).to_pandas()
    splits_of = (
        frame.dropna(subset=["scene"])
        .groupby("scene")["split"]
        .agg(lambda values: sorted(set(values)))
    )
    leaking = splits_of[splits_of.map(len) > 1]
    if len(leaking):
        scene = leaking.index[0]
        raise UsageError(
            f"{where} [dataset]: scene '{scene}' is in the splits "
            f"{' and '.join(leaking.iloc[0])}; assign each scene to one split"
        )
    for split in SPLITS:
        if not (frame["split"] == split).any():
            raise UsageError(
                f"{where} [dataset]: the split '{split}' has no patches; check the regions, "
                "fractions or split folders of the data set"
            )
    notes = []
    for split in SPLITS:
        present = set(frame.loc[frame["split"] == split, "label"])
        absent = [name for label, name in enumerate(classes) if label not in present]
        if absent and split == "train":
            raise UsageError(
                f"{where} [dataset]: train has no patches of class {', '.join(absent)}; "
                "add scenes or images, or lower purity"
            )
        if absent:
            notes.append(f"Absent from {split}: {', '.join(absent)}.")
    if frame["label"].nunique() < 2:
        raise UsageError(f"{where} [dataset]: only one class; use data with at least two classes")
    return notes


def count_classes(patches: pa.Table, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Count patches per class, in one record for each (split, region)."""
    frame = patches.select(["split", "region", "label"]).to_pandas()
    frame["region"] = frame["region"].fillna("")
    records = []
    for split in SPLITS:
        rows = frame[frame["split"] == split]
        for region, group in rows.groupby("region", sort=True):
            counts = np.bincount(group["label"].to_numpy(), minlength=len(classes))
            records.append(
                {
                    "split": split,
                    "region": str(region),
                    "counts": dict(zip(classes, map(int, counts), strict=True)),
                }
            )
    return records
