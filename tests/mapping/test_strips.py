"""Strips of a scene: cut, sent as blocks, and written as one scene would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.mapping.axes import Grid
from benchmark.mapping.finding import Work
from benchmark.mapping.pooled import find_large
from benchmark.mapping.scenes import Needs, open_scene
from benchmark.mapping.sliding import classify_rows, write_map
from benchmark.mapping.strips import (
    STRIP_PATCHES,
    STRIPS_PER_ACTOR,
    Strip,
    cut_strips,
    pack_rows,
    unpack_rows,
)
from tests.mapping.pictures import RGB, SIDE, Model, draw, read, write_scene


@pytest.mark.parametrize("stride", [SIDE, 7, 3])
@pytest.mark.parametrize("num_actors", [1, 2, 50])
def test_a_map_of_strips_has_the_bits_of_a_map_at_once(
    tmp_path: Path, stride: int, num_actors: int
) -> None:
    pixels = draw(90, 101)
    pixels[:, 20:60, 10:50] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    with open_scene(str(scene), Needs(RGB, SIDE)) as found:
        grid = Grid.of(found.dataset.shape, patch_size=SIDE, stride=stride)
        rows = classify_rows(Model(), found, grid, 0, len(grid.rows))
        write_map(rows, found, grid, tmp_path / "whole.tif", Model.classes, tags={})

        def parts():
            for strip in cut_strips(grid, num_actors):
                block = pack_rows(classify_rows(Model(), found, grid, *strip))
                yield from unpack_rows({k: v[0] for k, v in block.items()}, grid, strip)

        write_map(parts(), found, grid, tmp_path / "parts.tif", Model.classes, tags={})
    for name in ("{}.tif", "{}.confidence.tif"):
        whole, part = (tmp_path / name.format(kind) for kind in ("whole", "parts"))
        assert whole.read_bytes() == part.read_bytes()
    assert len(np.unique(read(tmp_path / "parts.tif"))) == 4


def test_strips_cover_each_row_once_and_are_bounded() -> None:
    grid = Grid.of((5_000, 900), patch_size=10, stride=10)
    for num_actors in (1, 3, 7, 1_000):
        strips = cut_strips(grid, num_actors)
        assert [row for strip in strips for row in range(*strip)] == list(range(500))
        assert all(90 * (end - begin) < STRIP_PATCHES + 90 for begin, end in strips)
        assert len(strips) >= min(500, STRIPS_PER_ACTOR * num_actors)
    assert cut_strips(Grid.of((10, 10), patch_size=10, stride=10), 4) == [Strip(0, 1)]


def test_scenes_above_an_actors_share_are_cut() -> None:
    few, many, most = (Work(name, name) for name in "abc")
    counts = {few: 100, many: 1_000, most: 5_000}
    assert find_large(counts, 2) == [most]
    assert find_large(counts, 10) == [many, most]
    assert find_large({few: 100, many: STRIP_PATCHES}, 10) == []
    assert find_large({few: 100}, 1) == [few]
