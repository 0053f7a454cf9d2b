"""Split of each scene, or of each block of ground: as given, by region, or drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmark.catalog.folder.assignment import (
    REGION_SETTINGS,
    Given,
    draw,
    join_scenes,
    split_by_region,
)
from benchmark.catalog.rasters.blocks import Blocks, draw_blocks
from benchmark.catalog.rasters.scenes import Scene, outline_of
from benchmark.config import DatasetConfig
from benchmark.drawing import Group
from benchmark.errors import UsageError

WHERE = "[dataset.rasters]"
LEAST_OVERLAP = 1e-4
"""Share of the smaller scene from which two scenes overlap; less is inaccuracy of reprojection."""


class Overlap(NamedTuple):
    """Two scenes that show the same ground, and the share of the smaller one."""

    one: str
    other: str
    share: float


class Assigned(NamedTuple):
    """The split of each scene, or the blocks, and notes for the report."""

    split_of: Mapping[str, str]
    blocks: Blocks | None
    notes: list[str]


def assign_scenes(scenes: Mapping[str, Scene], config: DatasetConfig) -> Assigned:
    """Return the splits of the scenes.

    Raises:
        UsageError: settings contradict each other, overlapping scenes are in different splits, or
            there are too few scenes or blocks.
    """
    assert config.rasters is not None
    has_splits = any(scene.pair.split for scene in scenes.values())
    regional = [name for name in REGION_SETTINGS if name in config.model_fields_set]
    ways = ["the splits of the index"] * has_splits
    ways += [f"[dataset] {name}" for name in regional[:1]]
    ways += ["block_m"] * (config.rasters.block_m is not None)
    if len(ways) > 1:
        raise UsageError(f"{WHERE}: {' and '.join(ways)} both give the split; remove one")
    if config.rasters.buffer_m and config.rasters.block_m is None:
        raise UsageError(f"{WHERE} buffer_m: needs block_m, the side of the blocks; set both")
    outlines = {name: outline_of(scene.grid) for name, scene in scenes.items()}
    overlaps = find_overlaps(outlines)
    notes = _overlap_notes(overlaps)
    if config.rasters.block_m is not None:
        blocks = draw_blocks(list(outlines.values()), config, where=WHERE)
        apart = f"are at least {blocks.buffer_m:g} m apart" if blocks.buffer_m else "do not touch"
        notes.append(
            f"The split is by blocks of ground of {blocks.side_m:g} m, drawn at random (seed "
            f"{config.seed}); patches of different splits {apart}."
        )
        return Assigned({}, blocks, notes)
    if has_splits:
        split_of = {name: scene.pair.split or "" for name, scene in scenes.items()}
    elif regional:
        given = {
            name: Given("", None, name, scene.pair.region, number)
            for number, (name, scene) in enumerate(scenes.items(), 1)
        }
        split_of = split_by_region(given, config, WHERE, "scene")
    else:
        split_of = _draw(list(scenes), overlaps, config)
        notes.append(
            f"The split into train, val and test is random by scene (seed {config.seed}): scenes "
            "side by side may be in different splits."
        )
    for item in overlaps:
        if split_of[item.one] != split_of[item.other]:
            raise UsageError(
                f"{WHERE}: the scenes '{item.one}' ({split_of[item.one]}) and '{item.other}' "
                f"({split_of[item.other]}) overlap by {item.share:.2%}; put both into one split, "
                "or set block_m"
            )
    return Assigned(split_of, None, notes)


def find_overlaps(outlines: Mapping[str, object]) -> list[Overlap]:
    """Return the scenes that overlap, by their outlines in degrees (shapely)."""
    import numpy as np
    import shapely  # type: ignore[import-untyped]

    names, shapes = list(outlines), np.array(list(outlines.values()), object)
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    one, other = one[one < other], other[one < other]
    shared = shapely.area(shapely.intersection(shapes[one], shapes[other]))
    smaller = np.minimum(shapely.area(shapes[one]), shapely.area(shapes[other]))
    return [
        Overlap(names[i], names[j], float(share))
        for i, j, share in zip(one, other, shared / smaller, strict=True)
        if share > LEAST_OVERLAP
    ]


def _draw(
    names: Sequence[str], overlaps: Sequence[Overlap], config: DatasetConfig
) -> dict[str, str]:
    """Draw the split of each scene; overlapping ones stay together."""
    alone = [Group((name,), frozenset({""})) for name in names]
    pairs = [Group((item.one, item.other), frozenset({""})) for item in overlaps]
    groups = join_scenes([*alone, *pairs], dict.fromkeys(names), dict.fromkeys(names, ""))
    if len(groups) < 3:
        raise UsageError(
            f"{WHERE}: {len(names)} scenes, of which {len(groups)} lie apart: a random split into "
            "train, val and test needs three; set block_m to split blocks of ground"
        )
    return draw(groups, config, WHERE)


def _overlap_notes(overlaps: Sequence[Overlap]) -> list[str]:
    if not overlaps:
        return []
    worst = max(overlaps, key=lambda item: item.share)
    return [
        f"Pairs of scenes that overlap: {len(overlaps)}, e.g. '{worst.one}' and '{worst.other}' by "
        f"{worst.share:.1%}: patches of one split may show the same ground."
    ]
