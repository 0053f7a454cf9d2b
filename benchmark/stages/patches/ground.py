"""Find scenes of different splits that cover the same ground, where test leaks into train."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from benchmark.catalog.rasters.splits import find_overlaps
from benchmark.fields import shown

LEAST_SHARE = 0.2
"""Share of the smaller scene that counts: neighbours share their edges, and boxes in degrees do."""


def ground_notes(candidates: pa.Table) -> list[str]:
    """Return a note on scenes of different splits over the same ground, or nothing.

    Scenes are compared by the boxes around the centres of their windows, in degrees.

    Args:
        candidates: of all scenes, with the columns of ``tables.CANDIDATES``.
    """
    import shapely  # type: ignore[import-untyped]

    table = candidates.select(["scene", "split", "lon", "lat"])
    is_placed = pc.and_(pc.is_finite(table["lon"]), pc.is_finite(table["lat"]))
    table = table.filter(pc.and_(is_placed, pc.is_valid(table["scene"])))
    sides = [(name, side) for name in ("lon", "lat") for side in ("min", "max")]
    scenes = table.group_by(["scene", "split"]).aggregate(sides).to_pylist()
    boxes = {
        str(number): shapely.box(row["lon_min"], row["lat_min"], row["lon_max"], row["lat_max"])
        for number, row in enumerate(scenes)
        if row["lon_min"] < row["lon_max"] and row["lat_min"] < row["lat_max"]
    }
    pairs = []
    for item in find_overlaps(boxes) if boxes else []:
        one, other = scenes[int(item.one)], scenes[int(item.other)]
        is_apart = one["scene"] != other["scene"] and one["split"] != other["split"]
        if is_apart and item.share > LEAST_SHARE:
            pairs.append(sorted((one, other), key=lambda row: str(row["scene"])))
    if not pairs:
        return []
    one, other = min(pairs, key=lambda pair: (pair[0]["scene"], pair[1]["scene"]))
    return [
        f"{len(pairs):,} pairs of scenes in different splits cover the same ground, e.g. "
        f"{shown(one['scene'], 100)} ({one['split']}) and {shown(other['scene'], 100)} "
        f"({other['split']}): scores may be too high. Leave one scene of each pair out."
    ]
