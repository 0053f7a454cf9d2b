"""Augmentation keeps a patch's content; draws are equal on every machine and in every shard."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.training.augmentation import GAIN, OFFSET, Draws, draw, shift_colors, turn

CPU = torch.device("cpu")
COUNT = 400


def symmetries(image: torch.Tensor) -> list[torch.Tensor]:
    """Return the eight turned and flipped versions of a picture (C, H, W)."""
    turned = [torch.rot90(image, quarter, (-2, -1)) for quarter in range(4)]
    return turned + [item.flip(-1) for item in turned]


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (COUNT, 3, 6, 6), dtype=torch.uint8, generator=generator)


def test_a_patch_is_turned_into_one_of_its_eight_symmetries(pixels: torch.Tensor) -> None:
    turned = turn(pixels, draw(COUNT, 3, 0))
    assert (turned.shape, turned.dtype) == (pixels.shape, torch.uint8)
    found = []
    for before, after in zip(pixels, turned, strict=True):
        matches = [i for i, item in enumerate(symmetries(before)) if torch.equal(item, after)]
        assert len(matches) == 1
        found += matches
    # Each comes to one patch in eight.
    counts = [found.count(i) for i in range(8)]
    assert min(counts) > COUNT / 8 / 2
    assert max(counts) < COUNT / 8 * 2


def test_the_bands_of_a_patch_are_turned_together(pixels: torch.Tensor) -> None:
    same = pixels[:, :1].expand(-1, 3, -1, -1)
    turned = turn(same, draw(COUNT, 3, 1))
    assert torch.equal(turned[:, :1].expand(-1, 3, -1, -1), turned)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**62), world=st.integers(1, 4), count=st.integers(1, 30))
def test_a_patch_is_drawn_for_alike_in_whatever_shard_it_is(
    seed: int, world: int, count: int
) -> None:
    images = torch.arange(count * 3 * 4 * 4).reshape(count, 3, 4, 4).remainder(251).float()
    draws = draw(count, 3, seed)
    expected = shift_colors(turn(images, draws), draws)
    for rank in range(world):
        rows = torch.arange(count)[rank::world]
        mine = draws.take(rows, CPU)
        assert torch.equal(shift_colors(turn(images[rows], mine), mine), expected[rows])


def test_the_same_seed_draws_the_same_and_another_one_does_not() -> None:
    one, two, other = (draw(50, 4, seed) for seed in (5, 5, 6))
    for name in ("symmetry", "gain", "offset"):
        assert torch.equal(getattr(one, name), getattr(two, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw(8, 3, 1)
    assert torch.equal(torch.rand(3), expected)


def test_colours_shift_by_little_and_to_no_side(pixels: torch.Tensor) -> None:
    before = pixels.float()
    draws = draw(COUNT, 3, 0)
    after = shift_colors(before.clone(), draws)
    change = after - before
    assert change.abs().max() <= GAIN * 127.5 + 2 * OFFSET
    assert change.abs().mean() > 3.0
    assert abs(float(change.mean())) < 2.0
    assert after.min() >= 0.0
    assert after.max() <= 255.0
    # Every patch and every band has its own shift.
    middle = shift_colors(torch.full((COUNT, 3, 1, 1), 127.5), draws).reshape(COUNT, 3)
    assert len(middle[:, 0].unique()) > 0.9 * COUNT
    assert (middle[:, 0] != middle[:, 1]).float().mean() > 0.9


@pytest.mark.parametrize("level", [0.0, 255.0])
def test_black_and_white_stay_on_the_scale(level: float) -> None:
    shifted = shift_colors(torch.full((COUNT, 3, 2, 2), level), draw(COUNT, 3, 2))
    assert shifted.min() >= 0.0
    assert shifted.max() <= 255.0


def test_a_draw_of_nothing_changes_nothing(pixels: torch.Tensor) -> None:
    draws = Draws(
        torch.zeros((COUNT, 3), dtype=torch.bool),
        torch.ones((COUNT, 1, 1, 1)),
        torch.zeros((COUNT, 3, 1, 1)),
    )
    assert torch.equal(turn(pixels, draws), pixels)
    assert torch.equal(shift_colors(pixels.float(), draws), pixels.float())
