"""Label efficiency: train sets that keep a few labels of train, and their share of val.

Every rule takes the first patches of each class in an order that the seed alone draws, so that a
smaller set is contained in a larger one of its kind. docs/PROTOCOLS.md explains the rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmark.errors import UsageError
from benchmark.experiment.train_sets import ALL, ChosenPatches, PatchRows, TrainSet
from benchmark.protocol_settings import ProtocolConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

CURVES = {"fraction": ("all", "fraction"), "shots": ("all", "shots")}
"""Curves over the number of labels, with the kinds of their train sets: all of train ends both."""
MOST_EPOCHS = 10
"""Most times as many epochs as set, for a train set with few labels."""


@dataclass(frozen=True)
class Fraction:
    """Keeps a share of the labels of each class, scene by scene where scenes are known."""

    share: float
    version: int = 1

    def __call__(self, rows: PatchRows, seed: int) -> NDArray[np.str_]:
        """Return the role of each patch; raise UsageError if a class would have no patch."""
        counts = _counts(rows, "train")
        kept = [math.floor(self.share * count + 0.5) for count in counts]
        rarest, count = _rarest(rows)
        if not math.floor(self.share * count + 0.5):
            # The smallest share that gives it one patch, with three significant digits.
            step = 10.0 ** (math.floor(math.log10(0.5 / count)) - 2)
            least = math.ceil(round(0.5 / count / step, 6)) * step
            raise UsageError(
                f"label_fractions: {self.share:g} leaves class '{rarest}' without a patch of its "
                f"{count} in train; use {least:.3g} or more"
            )
        return _take(rows, kept, _draw(rows, seed, by_scene=True))


@dataclass(frozen=True)
class Shots:
    """Keeps a number of labels of each class, drawn from all of train."""

    number: int
    version: int = 1

    def __call__(self, rows: PatchRows, seed: int) -> NDArray[np.str_]:
        """Return the role of each patch; raise UsageError if a class has fewer patches."""
        rarest, count = _rarest(rows)
        if count < self.number:
            raise UsageError(
                f"shots: {self.number} of class '{rarest}', which has {count} patches in train; "
                f"use {count} at most"
            )
        kept = [self.number if count else 0 for count in _counts(rows, "train")]
        return _take(rows, kept, _draw(rows, seed, by_scene=False))


def label_sets(protocol: ProtocolConfig) -> tuple[TrainSet, ...]:
    """Return the train sets of a protocol, the fullest first."""
    return (
        *(
            ALL if share == 1.0 else TrainSet(f"{100 * share:.6g}%", Fraction(share))
            for share in sorted(protocol.label_fractions, reverse=True)
        ),
        *(
            TrainSet(f"{number} shot{'' if number == 1 else 's'}", Shots(number))
            for number in sorted(protocol.shots, reverse=True)
        ),
    )


def epoch_factor(rows: ChosenPatches) -> int:
    """Return how many times as many epochs fine-tuning may take as its settings say.

    An epoch of few labels has few steps: with as many epochs as on all of train, fine-tuning would
    end long before it has learned what they teach.
    """
    if not isinstance(rows.train_set.rule, (Fraction, Shots)):
        return 1
    num_whole = sum(_counts(rows.rows, "train"))
    return max(1, min(MOST_EPOCHS, round(num_whole / rows.num_train)))


def _counts(rows: PatchRows, split: str) -> list[int]:
    """Return the patches of each class (K,) in a split of the data."""
    labels = rows.labels[rows.splits == split]
    return [int(count) for count in np.bincount(labels, minlength=len(rows.classes))]


def _rarest(rows: PatchRows) -> tuple[str, int]:
    """Return the name and the patches of the rarest class of train."""
    counts = zip(_counts(rows, "train"), rows.classes, strict=True)
    count, name = min((count, name) for count, name in counts if count)
    return name, count


def _draw(rows: PatchRows, seed: int, *, by_scene: bool) -> NDArray[np.int64]:
    """Return the place of each patch (N,) in a random order, the patches of a scene together."""
    rng = np.random.default_rng(seed)
    within = rng.permutation(len(rows.ids))
    if not by_scene:
        return within
    scene_of = rows.units()
    order = np.lexsort((within, rng.permutation(scene_of.max() + 1)[scene_of]))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def _take(rows: PatchRows, kept: Sequence[int], place: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return roles (N,): the first patches of each class in train, its share in val, all of test.

    Args:
        rows: the patches.
        kept: (K,) number of patches of each class in train.
        place: (N,) of each patch in the order of the draw.
    """
    roles = rows.begin("test")
    in_train, in_val = (_counts(rows, split) for split in ("train", "val"))
    is_of = {split: rows.splits == split for split in ("train", "val")}
    whole = sum(kept) / max(1, sum(in_train))
    for k, num in enumerate(kept):
        share = num / in_train[k] if in_train[k] else whole
        for split, count in (("train", num), ("val", max(1, math.floor(share * in_val[k] + 0.5)))):
            at = np.flatnonzero(is_of[split] & (rows.labels == k))
            roles[at[np.argsort(place[at])][:count]] = split
    return roles
