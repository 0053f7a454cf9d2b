"""Where patches lie, and which of them cover each pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.mapping.axes import Axis


def test_a_last_patch_is_moved_inside_and_counts_only_for_what_is_left() -> None:
    axis = Axis.of(20, patch_size=8, stride=8)
    assert axis.starts.tolist() == [0, 8, 12]
    assert axis.firsts.tolist() == [0, 8, 16]
    assert axis.ends.tolist() == [8, 16, 20]
    assert axis.covers.tolist() == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_one_patch_is_enough_for_a_scene_of_its_size(stride: int) -> None:
    assert Axis.of(8, patch_size=8, stride=stride).starts.tolist() == [0]


@given(st.integers(1, 20), st.integers(0, 60), st.data())
def test_every_pixel_is_covered_by_the_patches_that_count_for_it(
    size: int, more: int, data: st.DataObject
) -> None:
    length, stride = size + more, data.draw(st.integers(1, size))
    axis = Axis.of(length, patch_size=size, stride=stride)
    assert (axis.starts >= 0).all() and (axis.starts + size <= length).all()
    assert (axis.firsts >= axis.starts).all() and (axis.ends <= axis.starts + size).all()
    assert axis.widths.sum() == length and axis.cuts[0] == 0
    values = np.random.default_rng(0).integers(1, 9, len(axis)).astype(float)
    expected = np.zeros(length)
    for value, first, end in zip(values, axis.firsts, axis.ends, strict=True):
        expected[first:end] += value
    assert (expected > 0).all()
    np.testing.assert_array_equal(axis.sums(values).repeat(axis.widths), expected)
