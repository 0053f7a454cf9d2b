"""A random split into train, val and test that keeps groups together, stratified by class."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple


class Group(NamedTuple):
    """Images (or scenes) that a random split keeps together."""

    paths: tuple[str, ...]
    class_names: frozenset[str]


def draw_splits(
    groups: Sequence[Group], *, seed: int, val_fraction: float, test_fraction: float
) -> dict[str, str]:
    """Draw the split of each image, stratified by class; a group stays in one split.

    Groups are ordered by a hash of seed and path, so that neither the order of ``groups`` nor a
    library's random numbers matter. Fractions count groups. A class with three groups or more
    gets at least one in each split; with two: train and test; with one: train. A class may lack
    val or test only if most of its images also have another label.
    """

    def rank(group: Group) -> bytes:
        return hashlib.blake2b(f"{seed}/{min(group.paths)}".encode()).digest()

    groups_of: dict[str, list[Group]] = defaultdict(list)
    for group in sorted(groups, key=rank):
        for name in group.class_names:
            groups_of[name].append(group)
    chosen: dict[Group, str] = {}
    # Small classes first: a group with two labels then serves the smaller class.
    for name in sorted(groups_of, key=lambda name: (len(groups_of[name]), name)):
        own = groups_of[name]
        quota = _quota(len(own), val_fraction, test_fraction)
        taken = Counter(chosen[group] for group in own if group in chosen)
        needed = [split for split in ("train", "test", "val") if quota[split] and not taken[split]]
        taken.update(needed)
        for split in ("test", "val", "train"):
            needed += [split] * (quota[split] - taken[split])
        # Shared groups come first and go to train, since another class may need them there.
        free = sorted(
            (group for group in own if group not in chosen),
            key=lambda group: len(group.class_names) == 1,
        )
        chosen.update(zip(free, needed, strict=False))
    for name in sorted(groups_of):
        # Other classes may have sent all groups shared with this one to val and test.
        if not any(chosen[group] == "train" for group in groups_of[name]):
            chosen[groups_of[name][0]] = "train"
    return {path: split for group, split in chosen.items() for path in group.paths}


def _quota(num_groups: int, val_fraction: float, test_fraction: float) -> dict[str, int]:
    if num_groups < 3:
        return {"train": 1, "val": 0, "test": num_groups - 1}
    num_val = max(1, round(num_groups * val_fraction))
    num_test = max(1, round(num_groups * test_fraction))
    # Large fractions of few groups may round up to all groups.
    while num_val + num_test >= num_groups:
        if num_val > num_test:
            num_val -= 1
        else:
            num_test -= 1
    return {"train": num_groups - num_val - num_test, "val": num_val, "test": num_test}
