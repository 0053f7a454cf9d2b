"""Resamples of a split's patches, and intervals of metrics over them.

Scenes are resampled if there are several: neighbouring patches are correlated, and resampling
patches would give intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from benchmark.statistics.counts import Coded, Statistics, accumulate, encode

FEW_SCENES = 10
"""With fewer scenes a cluster interval is known to be too narrow (Cameron, Gelbach and
Miller 2008, "Bootstrap-Based Improvements for Inference with Clustered Errors")."""

CHUNK_BYTES = 256 * 2**20
"""Upper bound of the working memory of one chunk of resamples."""

_MAX_REDRAWS = 100


@dataclass(frozen=True, eq=False)
class Resampling:
    """R resamples of one split, drawn once and shared by all methods, so differences are paired.

    Attributes:
        kind: ``scene`` resamples clusters, ``patch`` resamples patches within their class.
        reason: sentence for the report: the kind, and why.
        num_resamples: R.
        num_groups: S scenes, or N patches.
        y_true: (N,) the labels, in the order that predictions must have.
        scene_index: (N,) index of each patch's scene; None where ``kind`` is ``patch``.
        weights: (R, S) how often each resample holds each scene; None where ``kind`` is
            ``patch``, whose draws are repeated from ``seed``, not stored.
        seed: of the PCG64 generator.
    """

    kind: Literal["scene", "patch"]
    reason: str
    num_resamples: int
    num_groups: int
    y_true: NDArray[np.int64]
    scene_index: NDArray[np.int64] | None
    weights: NDArray[np.int64] | None
    seed: int


class Interval(NamedTuple):
    """A percentile interval."""

    low: float
    high: float


def draw_resamples(
    y_true: ArrayLike,
    scenes: Sequence[Any] | NDArray[Any] | None,
    *,
    num_resamples: int,
    seed: int,
) -> Resampling:
    """Draw the resamples of one split: scenes if there are several, otherwise patches.

    The cluster bootstrap draws S scenes with replacement. A draw that lacks a class of the split
    is repeated, because balanced accuracy is the mean over the classes present: without a rare
    class it would estimate another quantity. The fall-back draws patches with replacement within
    each class, which keeps the class counts.

    Args:
        y_true: (N,) labels of the split.
        scenes: (N,) scene of each patch, None or NaN if unknown; None: no scenes.
        num_resamples: R.
        seed: of the PCG64 generator.

    Raises:
        ValueError: there is no patch, or ``scenes`` has another length.
    """
    labels = np.asarray(y_true, dtype=np.int64)
    if labels.size == 0:
        raise ValueError("there is no patch to resample")
    names = None if scenes is None else np.asarray(scenes, dtype=object)
    why_patches = _why_patches(names, len(labels))
    if names is None or why_patches:
        reason = (
            f"Intervals come from {num_resamples} class-stratified resamples of "
            f"{len(labels)} patches, because {why_patches}. Where neighbouring patches "
            "are correlated, these intervals are too narrow."
        )
        return Resampling("patch", reason, num_resamples, len(labels), labels, None, None, seed)
    unique, scene_index = np.unique(names.astype(str), return_inverse=True)
    num_scenes = len(unique)
    per_scene = np.zeros((num_scenes, int(labels.max()) + 1), np.int64)
    np.add.at(per_scene, (scene_index, labels), 1)
    weights, num_redrawn, num_incomplete = _draw_scenes(per_scene > 0, num_resamples, seed)
    reason = f"Intervals come from {num_resamples} bootstrap resamples of {num_scenes} scenes."
    if num_redrawn:
        reason += f" {num_redrawn} draws without a patch of some class were drawn again."
    if num_incomplete:
        reason += f" {num_incomplete} resamples still lack a class and leave it out."
    if num_scenes < FEW_SCENES:
        reason += f" With fewer than {FEW_SCENES} scenes such intervals are too narrow."
    return Resampling(
        "scene", reason, num_resamples, num_scenes, labels, scene_index, weights, seed
    )


def resample(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_score: ArrayLike,
    *,
    num_classes: int,
    resampling: Resampling,
) -> Statistics:
    """Return the statistics of every resample: leading axis R.

    Two methods on the same ``resampling`` get the same draws, so the difference of their
    metrics, resample by resample, is paired. Needs at most about ``CHUNK_BYTES`` beside the
    result.

    Raises:
        ValueError: as ``summarise``; or ``y_true`` is not the one that was resampled.
    """
    coded = encode(y_true, y_pred, y_score, num_classes)
    if not np.array_equal(np.asarray(y_true), resampling.y_true):
        raise ValueError("y_true differs from the labels that were resampled: sort by patch_id")
    if resampling.weights is None or resampling.scene_index is None:
        return _resample_patches(coded, resampling, num_classes)
    per_scene = accumulate(coded, resampling.scene_index, resampling.num_groups, num_classes)
    weights = resampling.weights.astype(np.float64)
    return Statistics(*(np.tensordot(weights, array, axes=1) for array in per_scene.arrays()))


def interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the percentile interval of a metric's values (R,) over resamples.

    Resamples in which the metric is undefined (NaN) are left out; NaN, NaN where all are.
    """
    array = np.asarray(values, dtype=np.float64)
    defined = array[~np.isnan(array)]
    if defined.size == 0:
        return Interval(float("nan"), float("nan"))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def _why_patches(names: NDArray[np.object_] | None, num_patches: int) -> str:
    if names is None:
        return "there is no scene column"
    if names.shape != (num_patches,):
        raise ValueError(f"scenes has shape {names.shape}, y_true ({num_patches},)")
    unknown = int(pd.isna(names).sum())
    if unknown:
        return f"the scene of {unknown} patches is unknown"
    if len(set(names.tolist())) == 1:
        return "all of them come from one scene"
    return ""


def _draw_scenes(
    has_class: NDArray[np.bool_], num_resamples: int, seed: int
) -> tuple[NDArray[np.int64], int, int]:
    """Draw weights (R, S) for ``has_class`` (S, K); count repeated and incomplete draws."""
    rng = np.random.Generator(np.random.PCG64(seed))
    num_scenes = len(has_class)
    chances = np.full(num_scenes, 1.0 / num_scenes)
    weights = rng.multinomial(num_scenes, chances, size=num_resamples)
    needed = has_class[:, has_class.any(axis=0)].astype(np.float64)
    num_redrawn = 0
    lacking = np.flatnonzero(((weights @ needed) == 0).any(axis=1))
    for _ in range(_MAX_REDRAWS):
        if lacking.size == 0:
            break
        num_redrawn += lacking.size
        weights[lacking] = rng.multinomial(num_scenes, chances, size=lacking.size)
        lacking = lacking[((weights[lacking] @ needed) == 0).any(axis=1)]
    return weights, num_redrawn, lacking.size


def _resample_patches(coded: Coded, resampling: Resampling, k: int) -> Statistics:
    labels = resampling.y_true
    n = len(labels)
    # Patches sorted by class: each position draws from the range of its own class.
    order = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    start, size = np.repeat(first, sizes), np.repeat(sizes, sizes)
    ordered = coded.take(order)
    rng = np.random.Generator(np.random.PCG64(resampling.seed))
    # Draws, picks and gathered columns: about eight arrays of 8 bytes per patch and resample.
    step = max(1, CHUNK_BYTES // (64 * n + 8 * k * k))
    parts = []
    for begin in range(0, resampling.num_resamples, step):
        r = min(step, resampling.num_resamples - begin)
        # One stream of N numbers per resample, so that the chunk size does not change a draw.
        picks = (rng.random((r, n)) * size).astype(np.int64)
        picks += start
        drawn = ordered.take(picks.reshape(-1))
        parts.append(accumulate(drawn, np.repeat(np.arange(r), n), r, k))
    columns = zip(*(part.arrays() for part in parts), strict=True)
    return Statistics(*(np.concatenate(column) for column in columns))
