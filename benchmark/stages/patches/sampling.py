"""Draw patches from the candidates and check their splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.config import DatasetConfig
from benchmark.errors import UsageError, did_you_mean
from benchmark.fields import shown
from benchmark.tables import SPLITS

RARE_SHARE = 0.5
"""Classes with less than this part of an equal share of train's candidates are rare."""
MOST_SHORT = 12
"""Counts below a cap that a note lists."""


def check_classes(config: DatasetConfig, classes: Sequence[str], where: str) -> None:
    """Check the names of classes in the settings of the sampling.

    Raises:
        UsageError: the data have no such class.
    """
    for key in ("per_class", "rare_class_boost"):
        given = getattr(config, key)
        for name in given if isinstance(given, Mapping) else ():
            if name not in classes:
                raise UsageError(
                    f"{where} [dataset]: '{key}' names the unknown class {shown(name, 100)}."
                    f"{did_you_mean(name, classes)}"
                )


def choose(candidates: pa.Table, config: DatasetConfig, classes: Sequence[str] = ()) -> pa.Table:
    """Draw the patches: all candidates, or as many as the caps and the sampling of train allow.

    Each candidate has a random key that depends only on its id and the seed; a cap keeps the
    smallest keys. So the draw is uniform and independent of the candidates' order. ``per_class``
    caps each class in each split and is applied first; ``per_region`` caps each region.

    ``rare_class_boost`` then draws train again, in each region as many patches as ``per_region``
    left to it. With factors w, class c keeps its share min(1, w_c f) of the region's candidates,
    where f fills this total; without ``per_region``, f is 1 / max(w). ``sampling = "balanced"``
    fills the regions with equal numbers of the classes, as far as their candidates go, and then
    cuts every class of train to the rarest one. Val and test are the same as without the two.

    Args:
        candidates: as ``tables.CANDIDATES``.
        config: caps, sampling and seed.
        classes: names of the K classes, which tables of the settings use.
    """
    factors = _factors(candidates, config, classes)
    is_balanced = config.sampling == "balanced"
    limits = _limits(config, classes)
    if not limits and config.per_region is None and not factors and not is_balanced:
        return candidates
    ids = candidates["patch_id"].to_numpy(zero_copy_only=False)
    keys = pd.util.hash_array(
        ids.astype(object), hash_key=f"{config.seed % 10**16:016d}", categorize=False
    )
    frame = candidates.select(["split", "label", "region"]).to_pandas().assign(key=keys)
    if limits:
        rank = frame.groupby(["split", "label"])["key"].rank(method="first")
        limit = frame["label"].map(limits) if isinstance(limits, dict) else limits
        # No limit is NaN, which nothing exceeds.
        frame = frame[~(rank > limit)]
    allowed = frame
    if config.per_region is not None:
        rank = frame.groupby(["region"], dropna=False)["key"].rank(method="first")
        frame = frame[rank <= config.per_region]
    if factors or is_balanced:
        train = _draw_train(
            allowed[allowed["split"] == "train"], frame[frame["split"] == "train"], config, factors
        )
        frame = pd.concat([train, frame[frame["split"] != "train"]])
    return candidates.take(pa.array(np.sort(frame.index.to_numpy())))


def _draw_train(
    allowed: pd.DataFrame, natural: pd.DataFrame, config: DatasetConfig, factors: dict[int, float]
) -> pd.DataFrame:
    """Return the rows of train: of those allowed, as many per region as a natural draw has."""
    allowed = allowed.assign(region=allowed["region"].fillna(""))
    if config.per_region is None:
        allowed["region"] = ""
    grouped = allowed.groupby(["region", "label"])["key"]
    rank, count = grouped.rank(method="first"), grouped.transform("size")
    factor = allowed["label"].map(factors).fillna(1.0)
    if config.per_region is None and factors:
        # At least one candidate of each class: (rank - 1) / count < factor / max(factor).
        return allowed[(rank - 1) * max(factors.values()) < count * factor]
    if config.per_region is not None:
        order = (rank - 0.5) / (count * factor) if factors else rank
        sizes = natural["region"].fillna("").value_counts()
        ordered = allowed.assign(order=order).sort_values(["order", "key"])
        place = ordered.groupby("region").cumcount()
        allowed = ordered[place < ordered["region"].map(sizes)]
    if factors:
        return allowed
    by_class = allowed.groupby("label")["key"]
    return allowed[by_class.rank(method="first") <= by_class.transform("size").min()]


def _limits(config: DatasetConfig, classes: Sequence[str]) -> int | dict[int, int]:
    """Return the cap of ``per_class``: one, or that of each label; 0 or empty: no cap."""
    given = config.per_class
    if isinstance(given, Mapping):
        return {classes.index(name): cap for name, cap in given.items()}
    return given or 0


def _factors(
    candidates: pa.Table, config: DatasetConfig, classes: Sequence[str]
) -> dict[int, float]:
    """Return the factors of ``rare_class_boost`` by label; without it, none."""
    given = config.rare_class_boost
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {classes.index(name): factor for name, factor in given.items()}
    is_train = pc.equal(candidates["split"], "train")
    counts = np.bincount(candidates.filter(is_train)["label"].to_numpy(), minlength=len(classes))
    rare = np.flatnonzero(counts < RARE_SHARE * counts.sum() / len(counts))
    return dict.fromkeys(rare.tolist(), given)


def sampling_notes(
    candidates: pa.Table, config: DatasetConfig, classes: Sequence[str]
) -> list[str]:
    """Return notes: how train was sampled, and which caps ask for more patches than there are."""
    notes = []
    if config.sampling == "balanced":
        notes.append(
            "Train is balanced: each class is cut to the number of patches of the rarest one. Val "
            "and test keep the frequencies of the data, up to their caps."
        )
    if factors := _factors(candidates, config, classes):
        listed = ", ".join(f"{classes[label]} {factor:g}" for label, factor in factors.items())
        notes.append(
            f"Train keeps a larger share of the candidates of rare classes, by the factor: "
            f"{listed}. Val and test keep the frequencies of the data, up to their caps."
        )
    elif config.rare_class_boost is not None:
        notes.append(
            "rare_class_boost changes nothing: no class has less than half an equal share of "
            "train's candidates."
        )
    return [*notes, *_short_notes(candidates, config, classes)]


def _short_notes(candidates: pa.Table, config: DatasetConfig, classes: Sequence[str]) -> list[str]:
    """Return a note for each cap that some candidates do not reach, with their counts."""
    frame = candidates.select(["split", "label", "region"]).to_pandas()
    limits = _limits(config, classes)
    per_class = limits if isinstance(limits, dict) else dict.fromkeys(range(len(classes)), limits)
    short: dict[str, list[tuple[str, int, int | None]]] = {
        "per_class": [
            (f"{split} {classes[label]}", count, per_class[label])
            for (split, label), count in frame.groupby(["split", "label"]).size().items()
            if count < per_class.get(label, 0)
        ],
        "per_region": [
            (region or "no region", count, config.per_region)
            for region, count in frame["region"].fillna("").value_counts().sort_index().items()
            if count < (config.per_region or 0)
        ],
    }
    notes = []
    for key, rows in short.items():
        listed = ", ".join(f"{name} {count} of {cap}" for name, count, cap in rows[:MOST_SHORT])
        more = f" and {len(rows) - MOST_SHORT} more" if len(rows) > MOST_SHORT else ""
        if rows:
            notes.append(f"Fewer patches than {key} asks for: {listed}{more}.")
    return notes


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
