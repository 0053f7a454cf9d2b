"""Cross-validation: train sets that test on one fold each, so that every patch is tested once.

The folds are drawn over all patches, whatever their splits, by whole scenes, and depend neither on
the seed of a cell nor on the process that draws them. docs/PROTOCOLS.md explains the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmark.errors import UsageError
from benchmark.experiment.train_sets import PatchRows, TrainSet
from benchmark.protocol_settings import MOST_FOLDS, ProtocolConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

TWO_FOLDS = 4
"""Parts that are drawn for two folds: one fold is tested, a half of the other validates."""


@dataclass(frozen=True)
class Fold:
    """Tests on one fold, validates on the next one, and trains on the others."""

    number: int
    """From 1 to ``count``."""
    count: int
    version: int = 1

    def __call__(self, rows: PatchRows, seed: int) -> NDArray[np.str_]:
        """Return the role of each patch; raise UsageError if a fold would lack a class."""
        del seed
        parts = _parts_of(self.count)
        part_of = _draw_checked(rows, self.count)
        size = parts // self.count
        tested = np.arange((self.number - 1) * size, self.number * size)
        roles = rows.begin()
        roles[:] = "train"
        roles[part_of == (tested[-1] + 1) % parts] = "val"
        roles[np.isin(part_of, tested)] = "test"
        return roles


@dataclass(frozen=True)
class Pooled:
    """Tests on every patch: the predictions of all folds together."""

    count: int

    def __call__(self, rows: PatchRows, seed: int) -> NDArray[np.str_]:
        """Return the role test for each patch."""
        del seed
        roles = rows.begin()
        roles[:] = "test"
        return roles


def fold_sets(protocol: ProtocolConfig) -> tuple[TrainSet, ...]:
    """Return a train set for each fold of a protocol, or none."""
    count = protocol.cross_validation
    if count is None:
        return ()
    numbers = range(1, count + 1)
    return tuple(TrainSet(f"fold {number} of {count}", Fold(number, count)) for number in numbers)


def pooled_set(count: int) -> TrainSet:
    """Return the set of the pooled predictions of a number of folds."""
    return TrainSet(f"{count} folds", Pooled(count))


def find_folds(rows: PatchRows, count: int) -> NDArray[np.int64]:
    """Return the fold of each patch (N,), from 0.

    Raises:
        UsageError: a fold would lack a class.
    """
    return _draw_checked(rows, count) // (_parts_of(count) // count)


def draw_parts(rows: PatchRows, num: int) -> NDArray[np.int64]:
    """Return the part of each patch (N,), 0 to ``num`` - 1: stratified by class, whole scenes.

    Scenes are drawn one after another, those of the rarest class first, each into the part that
    lacks most patches of the class (Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification
    of Multi-Label Data"). Patches alone, without a scene or the only ones of theirs, then fill the
    parts evenly, class by class.
    """
    scene_of = rows.units()
    num_classes = len(rows.classes)
    counts = np.zeros((scene_of.max() + 1, num_classes), np.int64)
    np.add.at(counts, (scene_of, rows.labels), 1)
    place = np.random.default_rng(0).permutation(len(counts))
    part_of = np.full(len(counts), -1)
    there = np.zeros((num, num_classes), np.int64)
    is_alone = counts.sum(axis=1) == 1
    _draw_scenes(counts, place, part_of, there, np.flatnonzero(~is_alone))
    for k in np.argsort(counts.sum(axis=0), kind="stable"):
        alone = np.flatnonzero(is_alone & (counts[:, k] > 0))
        alone = alone[np.argsort(place[alone])]
        part_of[alone] = _deal(there, k, len(alone))
        there[:, k] += np.bincount(part_of[alone], minlength=num)
    return part_of[scene_of]


def _draw_scenes(
    counts: NDArray[np.int64],
    place: NDArray[np.int64],
    part_of: NDArray[np.int64],
    there: NDArray[np.int64],
    left: NDArray[np.int64],
) -> None:
    """Draw the part of the scenes that are left, and count their patches of each class there.

    Args:
        counts: (S, K) patches of each scene and class.
        place: (S,) of each scene in a random order.
        part_of: (S,) is filled.
        there: (parts, K) is added to.
        left: scenes to draw.
    """
    while len(left):
        scenes_with = (counts[left] > 0).sum(axis=0)
        k = int(np.argmin(np.where(scenes_with > 0, scenes_with, len(counts) + 1)))
        mine = left[counts[left, k] > 0]
        # The largest first: small scenes then even out what large ones have left.
        for scene in mine[np.lexsort((place[mine], -counts[mine, k]))]:
            part = int(np.lexsort((there.sum(axis=1), there[:, k]))[0])
            part_of[scene] = part
            there[part] += counts[scene]
        left = left[part_of[left] < 0]


def _deal(there: NDArray[np.int64], k: int, num: int) -> NDArray[np.int64]:
    """Return the part of ``num`` patches of class ``k``: the emptiest of the class first."""
    order = np.argsort(there.sum(axis=1), kind="stable")
    held = there[order, k]
    highest = int(held.max())
    gaps = highest - held
    # One entry for each patch that a part has less than the fullest one, the lowest first.
    levels = np.concatenate([np.arange(low, highest) for low in held])
    filled = np.repeat(order, gaps)[np.argsort(levels, kind="stable")]
    rounds = -(-max(num - len(filled), 0) // len(order))
    found: NDArray[np.int64] = np.concatenate([filled, np.tile(order, rounds)])[:num]
    return found


def _parts_of(count: int) -> int:
    return TWO_FOLDS if count == 2 else count


def _draw_checked(rows: PatchRows, count: int) -> NDArray[np.int64]:
    """Return the part of each patch (N,), each part with every class.

    Raises:
        UsageError: names a class, its scenes or patches, and the largest number that works.
    """
    part_of = draw_parts(rows, _parts_of(count))
    lacking = _find_lacking(rows, part_of, _parts_of(count))
    if lacking is None:
        return part_of
    largest = next(
        (
            number
            for number in range(MOST_FOLDS, 1, -1)
            if _find_lacking(rows, draw_parts(rows, _parts_of(number)), _parts_of(number)) is None
        ),
        None,
    )
    is_mine = rows.labels == lacking
    num, num_scenes = int(is_mine.sum()), len(np.unique(rows.units()[is_mine]))
    where = f"{num} patch{'' if num == 1 else 'es'}"
    if num_scenes != num:
        where += f" in {num_scenes} scene{'' if num_scenes == 1 else 's'}"
    advice = (
        "remove the setting, or add patches: each class needs three scenes or patches without one"
        if largest is None
        else f"use {largest}{' at most' if largest < count else ''}"
    )
    raise UsageError(
        f"cross_validation: {count} folds leave one without class '{rows.classes[lacking]}', which "
        f"has {where}; {advice}"
    )


def _find_lacking(rows: PatchRows, part_of: NDArray[np.int64], num: int) -> int | None:
    """Return the rarest class that has patches, but not in every part; None: there is none."""
    num_classes = len(rows.classes)
    counts = np.bincount(part_of * num_classes + rows.labels, minlength=num * num_classes)
    counts = counts.reshape(num, num_classes)
    total = counts.sum(axis=0)
    lacking = np.flatnonzero((total > 0) & (counts == 0).any(axis=0))
    return int(lacking[np.argmin(total[lacking])]) if len(lacking) else None
