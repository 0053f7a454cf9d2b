"""Maps of embeddings: regions that colour them, and neighbours that t-SNE keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from benchmark.stages.report.explorer_maps import (
    MAX_REGIONS,
    MIN_NEIGHBOURS,
    PLACERS,
    describe_neighbours,
    name_regions,
    place_patches,
)


def find_placer(kind: str) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    if kind == "UMAP":
        pytest.importorskip("umap", reason="the extra umap is not installed")
    return PLACERS[kind]


def test_regions_have_numbers_and_rare_or_unknown_ones_are_together() -> None:
    nothing = {"regions": [], "regionNames": []}
    assert name_regions(np.array([None, None], object)) == nothing
    assert name_regions(np.array(["east", None, "east"], object)) == nothing
    found = name_regions(np.array(["west", "east", None], object))
    assert found["regionNames"] == ["east", "west", "other regions", "unknown"]
    assert found["regions"] == [1, 0, 3]
    names = [f"r{k:02d}" for k in range(MAX_REGIONS)]
    many = name_regions(np.array([*names, *names, "aa"], object))
    assert many["regionNames"][:MAX_REGIONS] == names
    assert many["regions"] == [*range(MAX_REGIONS), *range(MAX_REGIONS), MAX_REGIONS]


# Compiled where that is not on disk yet: 20 CPU seconds.
KINDS = pytest.mark.parametrize("kind", ["t-SNE", pytest.param("UMAP", marks=pytest.mark.slow)])


@KINDS
def test_a_map_keeps_neighbours_and_is_the_same_again(kind: str) -> None:
    place = find_placer(kind)
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), MIN_NEIGHBOURS // 4)
    vectors = rng.normal(size=(len(groups), 60)) + 20 * np.eye(4, 60)[groups]
    points = place(vectors.astype(np.float32))
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (groups[apart.argmin(axis=1)] == groups).mean() > 0.95
    assert np.array_equal(points, place(vectors.astype(np.float32)))


@KINDS
def test_a_map_of_equal_or_single_numbers_is_finite(kind: str) -> None:
    for vectors in (np.ones((MIN_NEIGHBOURS, 8)), np.arange(MIN_NEIGHBOURS)[:, None]):
        assert np.isfinite(find_placer(kind)(vectors.astype(np.float32))).all()


def test_the_note_is_there_only_with_such_a_map() -> None:
    assert describe_neighbours({}, {}) == ""
    both = describe_neighbours({"t-SNE": 2, "UMAP": 1}, {"UMAP": "no memory."})
    assert both.startswith("Maps by t-SNE and by UMAP show") and "mean nothing" in both
    assert both.endswith(" Further maps by UMAP are left out: no memory.")
    assert describe_neighbours({"UMAP": 0}, {"UMAP": "x"}) == "Maps by UMAP are left out: x."
    assert describe_neighbours({"UMAP": 0}, {}) == "Maps by UMAP need 100 patches with a picture."


def test_places_are_a_map_where_they_are_known_and_differ() -> None:
    lon, lat = [-77.0312345, -76.5, None], [38.9, 39.0, None]
    patches = pa.table({"patch_id": ["a", "b", "c"], "lon": lon, "lat": lat})
    (found,) = place_patches(patches, np.array(["b", "c", "a"], object))
    assert found["x"] == [-76.5, None, -77.03123] and found["y"] == [39.0, None, 38.9]
    assert place_patches(patches, np.array(["b", "c"], object)) == []
