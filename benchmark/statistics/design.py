"""The design of a test set: which patches belong together, and what so few of them can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from benchmark.statistics.folds import Folds

Array = NDArray[np.float64]

FEW_PATCHES = 10
"""Test patches of a class below which its recall is marked."""


@dataclass(frozen=True, eq=False)
class Design:
    """The patches of one split and their units: scenes, or patches where scenes are unknown.

    Attributes:
        kind: of the units.
        reason: sentence for the report: the units, and why.
        y_true: (N,) labels, in the order that predictions must have.
        unit: (N,) index of each patch's unit.
        num_units: scenes, or patches.
        weights: (N,) share of each patch in a balanced accuracy: 1 / (K n_k) over the K classes
            present.
        folds: of pooled predictions; None: all were made by one model.
    """

    kind: Literal["scene", "patch"]
    reason: str
    y_true: NDArray[np.int64]
    unit: NDArray[np.int64]
    num_units: int
    weights: Array
    folds: Folds | None = None

    @property
    def has_scenes(self) -> bool:
        """Whether the units are scenes."""
        return self.kind == "scene"

    @property
    def scene_or_whole(self) -> NDArray[np.int64]:
        """The scene of each patch; without scenes its fold, or all patches are one group."""
        if self.has_scenes:
            return self.unit
        return np.zeros_like(self.unit) if self.folds is None else self.folds.of_unit[self.unit]

    @property
    def num_groups(self) -> int:
        """The number of groups of ``scene_or_whole``."""
        if self.has_scenes:
            return self.num_units
        return 1 if self.folds is None else self.folds.num

    def contributions(self, right: Array) -> Array:
        """Return what each unit adds to a balanced accuracy: (N,) to (units,)."""
        return np.bincount(self.unit, self.weights * right, self.num_units).astype(np.float64)

    @property
    def unit_weights(self) -> Array:
        """The share of each unit in a balanced accuracy: (units,), sums to 1."""
        return np.bincount(self.unit, self.weights, self.num_units).astype(np.float64)


def least_units(alpha: float) -> int:
    """Return the fewest units with which a flip test can reject: six at 5 %.

    The most extreme of all flips of U units has a chance of 2 / 2^U.
    """
    return math.ceil(1.0 - math.log2(alpha))


def find_design(
    y_true: ArrayLike, scenes: Sequence[Any] | NDArray[Any] | None, *, alpha: float = 0.05
) -> Design:
    """Return the design of a split: its scenes if there are several, otherwise its patches.

    Args:
        y_true: (N,) labels.
        scenes: (N,) scene of each patch, None or NaN if unknown; None: no scenes.
        alpha: level of the tests, for the reason.

    Raises:
        ValueError: there is no patch, or ``scenes`` has another length.
    """
    labels = np.asarray(y_true, dtype=np.int64)
    if labels.size == 0:
        raise ValueError("there is no patch to score")
    counts = np.bincount(labels)
    weights = 1.0 / (counts[labels] * np.count_nonzero(counts))
    names = None if scenes is None else np.asarray(scenes, dtype=object)
    if names is None or (why := _why_patches(names, len(labels))):
        why = "there is no scene column" if names is None else why
        reason = (
            f"Intervals and tests take the {len(labels)} patches for independent, because {why}. "
            "Where neighbouring patches are alike, the intervals are too narrow and the tests "
            "find differences too often."
        )
        return Design("patch", reason, labels, np.arange(len(labels)), len(labels), weights)
    unique, unit = np.unique(names.astype(str), return_inverse=True)
    reason = (
        f"Intervals and tests take the {len(unique)} scenes for independent, not their patches."
    )
    if len(unique) < (least := least_units(alpha)):
        reason += f" With fewer than {least} scenes no difference can be shown to be real."
    return Design("scene", reason, labels, unit, len(unique), weights)


def _why_patches(names: NDArray[np.object_], num_patches: int) -> str:
    if names.shape != (num_patches,):
        raise ValueError(f"scenes has shape {names.shape}, y_true ({num_patches},)")
    unknown = int(pd.isna(names).sum())
    if unknown:
        return f"the scene of {unknown} patches is unknown"
    if len(set(names.tolist())) == 1:
        return "all of them come from one scene"
    return ""


MOST_NAMED = 20
"""Classes that one note names."""


def rare_classes(design: Design, classes: Sequence[str]) -> list[str]:
    """Return notes on the classes whose recall rests on few test patches or on one scene.

    Those with as few patches, or all in one scene, share a note.
    """
    alike: dict[str, list[str]] = {}
    for label, name in enumerate(classes):
        mine = design.y_true == label
        num = int(mine.sum())
        what = f"{num} test {'patch' if num == 1 else 'patches'}"
        num_scenes = len(np.unique(design.unit[mine])) if design.has_scenes else 0
        if num and num_scenes == 1:
            alike.setdefault(f"one scene ({what})", []).append(name)
        elif num and num < FEW_PATCHES:
            alike.setdefault(what, []).append(name)
    notes = []
    for what, names in alike.items():
        *first, last = names[:MOST_NAMED]
        if len(names) > MOST_NAMED:
            first, last = [*first, last], f"{len(names) - MOST_NAMED:,} more"
        text = f"{', '.join(first)} and {last} rest" if first else f"{last} rests"
        notes.append(f"{text} on {what}{' each' if first else ''}.")
    return notes
