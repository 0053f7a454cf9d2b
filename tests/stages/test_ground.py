"""Scenes of different splits over the same ground are said."""

from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa

from benchmark.stages.patches.ground import ground_notes
from benchmark.tables import CANDIDATES


def windows(
    scene: str | None, split: str, west: float, south: float = 40.0
) -> list[dict[str, Any]]:
    """Four by four windows, 0.3 degrees wide and high."""
    row = dict.fromkeys(CANDIDATES.names) | {"label": 0, "scene": scene, "split": split}
    return [
        {**row, "patch_id": f"{scene}-{i}-{j}", "lon": west + i / 10, "lat": south + j / 10}
        for i, j in itertools.product(range(4), repeat=2)
    ]


def notes(*scenes: list[dict[str, Any]]) -> list[str]:
    return ground_notes(
        pa.Table.from_pylist([row for scene in scenes for row in scene], CANDIDATES)
    )


def test_scenes_of_different_splits_over_the_same_ground_are_named() -> None:
    (note,) = notes(
        windows("pa_1", "test", -75.0),
        windows("de_7", "train", -74.95),
        windows("md_2", "val", -75.0, south=40.1),
        windows("far", "train", -70.0),
    )
    assert note.startswith("3 pairs of scenes in different splits cover the same ground, e.g. ")
    assert "'de_7' (train) and 'md_2' (val)" in note


def test_neighbours_scenes_of_one_split_and_single_places_are_not() -> None:
    assert not notes(windows("a", "train", -75.0), windows("b", "test", -74.75))
    assert not notes(windows("a", "train", -75.0), windows("b", "train", -75.0))
    # Blocks of one scene lie in several splits.
    assert not notes(windows("a", "train", -75.0), windows("a", "test", -75.0))
    assert not notes(windows(None, "train", -75.0), windows(None, "test", -75.0))
    assert not notes(windows("a", "train", -75.0)[:1], windows("b", "test", -75.0)[:1])
    assert not notes(windows("a", "train", float("nan")), windows("b", "test", float("nan")))
