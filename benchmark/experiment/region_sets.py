"""Transfer: train sets of some regions, tested on the same held-out scenes of every region.

A region is divided in the same way for every train set and seed, so that its score by a method
that was trained in it and by one that was trained elsewhere are of the same patches.
docs/PROTOCOLS.md explains the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmark.drawing import Group, draw_splits
from benchmark.errors import UsageError, did_you_mean
from benchmark.experiment.train_sets import UNUSED, PatchRows, TrainSet
from benchmark.fields import shown
from benchmark.protocol_settings import TransferConfig
from benchmark.store.artefacts import Artefact

if TYPE_CHECKING:
    from numpy.typing import NDArray

PENDING = "all regions but one"
"""The train set that stands for others until the regions are known."""

VAL_SHARE, TEST_SHARE = 0.2, 0.4
"""Shares of the scenes of a region that is divided here. Verdicts need scenes of test: of a fifth
of them, few regions would have enough."""


@dataclass(frozen=True)
class Regions:
    """Trains and validates in some regions, and tests in all regions of a list."""

    is_drawn: ClassVar[bool] = False
    train: tuple[str, ...]
    test: tuple[str, ...]
    shared: tuple[str, ...]
    """The regions of ``test`` that any train set of the protocol is trained in."""
    version: int = 1

    def __call__(self, rows: PatchRows, seed: int) -> NDArray[np.str_]:
        """Return the role of each patch; raise UsageError if a region or class lacks patches."""
        del seed
        _check_names(rows, (*self.train, *self.test))
        units = rows.units()
        _check_scenes(rows, units, (*self.train, *self.test))
        roles = rows.begin()
        for region in dict.fromkeys((*self.train, *self.test)):
            needs = {"test"} if region in self.test else set()
            if region in self.train or region in self.shared:
                needs |= {"train", "val"}
            at = np.flatnonzero(rows.regions == region)
            parts = _divide(rows, units, at, needs)
            for part in sorted(needs - {*parts.tolist()}):
                num = len(np.unique(units[at]))
                raise UsageError(
                    f"transfer: region {shown(region, 100)} has no {part} patches: its {num} "
                    f"scene{'' if num == 1 else 's'} cannot be divided into {_words(needs)}; add "
                    "scenes, or list the regions of train and test without it"
                )
            used = [part for part in needs if part == "test" or region in self.train]
            roles[at] = np.where(np.isin(parts, used), parts, UNUSED)
        self._check_classes(rows, roles)
        return roles

    def _check_classes(self, rows: PatchRows, roles: NDArray[Any]) -> None:
        there = np.bincount(rows.labels[roles == "train"], minlength=len(rows.classes))
        for k in np.unique(rows.labels).tolist():
            if not there[k]:
                one = len(self.train) == 1
                names = shown(self.train[0] if one else list(self.train), 200)
                raise UsageError(
                    f"transfer: region{'' if one else 's'} {names} {'has' if one else 'have'} no "
                    f"train patches of class '{rows.classes[k]}'; train in more regions together, "
                    "or add patches"
                )


@dataclass(frozen=True)
class EachLeftOut:
    """Checks patches whose regions are not known yet; trains on none."""

    test: tuple[str, ...]

    def __call__(self, rows: PatchRows, seed: int) -> NDArray[np.str_]:
        """Return roles of no patch; raise UsageError if one region cannot be left out."""
        _check_names(rows, self.test)
        regions = sorted({*rows.regions.tolist()} - {None})
        for item in region_sets(TransferConfig(test=self.test), regions):
            if item.rule is not None:
                item.rule(rows, seed)
        return rows.begin()


@dataclass(frozen=True)
class OneRegion:
    """Keeps the test patches of one region."""

    rule: Regions
    region: str

    def __call__(self, rows: PatchRows, seed: int) -> NDArray[np.str_]:
        """Return the role of each patch; raise UsageError as the rule does."""
        roles = self.rule(rows, seed)
        is_kept = (roles == "test") & (rows.regions == self.region)
        return np.where(is_kept, roles, UNUSED)


def region_sets(
    transfer: TransferConfig | None, regions: Sequence[str] | None
) -> tuple[TrainSet, ...]:
    """Return the train sets of a protocol.

    Args:
        transfer: its settings; None: there are none.
        regions: of the patches; None: not known yet. One train set then stands for all that leave
            out a region; none of its cells can be computed.
    """
    if transfer is None:
        return ()
    if transfer.train:
        test = transfer.test or tuple(dict.fromkeys(one for item in transfer.train for one in item))
        sets = {f"only {' + '.join(sorted(item))}": item for item in transfer.train}
    elif regions is None or len(regions) < 2:
        return (TrainSet(PENDING, EachLeftOut(transfer.test)),)
    else:
        test = transfer.test or tuple(regions)
        sets = {f"all but {one}": tuple(r for r in regions if r != one) for one in test}
    shared = tuple(sorted({*test} & {one for item in sets.values() for one in item}))
    return tuple(TrainSet(name, Regions(item, test, shared)) for name, item in sets.items())


def find_regions(patches: Artefact) -> tuple[str, ...] | None:
    """Return the regions of the patches, sorted; None: they are not complete."""
    if not patches.is_complete:
        return None
    counts = patches.manifest()["class_counts"]
    return tuple(sorted({row["region"] for row in counts if any(row["counts"].values())} - {None}))


def _words(needs: set[str]) -> str:
    *first, last = [part for part in ("train", "val", "test") if part in needs]
    return f"{', '.join(first)} and {last}" if first else last


def _check_names(rows: PatchRows, names: Sequence[str]) -> None:
    known = {*rows.regions.tolist()} - {None}
    if not known:
        raise UsageError(
            "transfer: the patches have no regions; give each a region (a column of the table "
            "of labels, docs/LABELS.md), or remove 'transfer'"
        )
    if len(known) == 1:
        raise UsageError(
            f"transfer: all patches are of the region {shown(*known)}; it needs two, or remove "
            "'transfer'"
        )
    for name in names:
        if name not in known:
            raise UsageError(
                f"transfer: no patch is of a region {shown(name, 100)}.{did_you_mean(name, known)}"
            )


def _check_scenes(rows: PatchRows, units: NDArray[np.int64], names: Sequence[str]) -> None:
    """Refuse a scene in two regions, which one would train on and the other test on."""
    first: dict[int, Any] = {}
    for unit, region in zip(units.tolist(), rows.regions.tolist(), strict=True):
        if region in names and first.setdefault(unit, region) != region:
            scene = rows.scenes[np.flatnonzero(units == unit)[0]]
            raise UsageError(
                f"transfer: scene {shown(scene, 100)} is in the regions {shown(first[unit], 100)} "
                f"and {shown(region, 100)}; put a scene into one region"
            )


def _divide(
    rows: PatchRows, units: NDArray[np.int64], at: NDArray[np.int64], needs: set[str]
) -> NDArray[Any]:
    """Return the part of each patch of a region (n,): train, val or test.

    Args:
        rows: all patches.
        units: (N,) number of the scene of each.
        at: (n,) places of the patches of the region.
        needs: the parts that the protocol needs of it.
    """
    own = rows.splits[at]
    if needs <= {*own.tolist()}:
        return own
    if needs == {"test"}:
        return np.full(len(at), "test")
    # A scene is drawn by its first patch, which depends neither on other scenes nor on the order.
    by_id = at[np.argsort(rows.ids[at])]
    names = rows.ids[by_id[np.unique(units[by_id], return_index=True)[1]]]
    unit = np.unique(units[at], return_inverse=True)[1]
    classes: list[set[str]] = [set() for _ in names]
    for one, label in np.unique(np.stack([unit, rows.labels[at]], axis=1), axis=0).tolist():
        classes[one].add(rows.classes[label])
    groups = [Group((name,), frozenset(of)) for name, of in zip(names, classes, strict=True)]
    drawn = draw_splits(groups, seed=0, val_fraction=VAL_SHARE, test_fraction=TEST_SHARE)
    parts = np.array([drawn[name] for name in names])[unit]
    return parts if "test" in needs else np.where(parts == "test", "train", parts)
