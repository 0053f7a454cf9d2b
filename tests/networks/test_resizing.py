"""Resizing of pixels: on a CPU as torchvision does it, elsewhere nearly so."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize as resize_by_torchvision

from benchmark.networks.resizing import Interpolation, resize, resizing_weights, rounded

SIDES = [(300, 224), (64, 224), (128, 36), (256, 232)]
PIXELS = torch.randint(
    0, 256, (2, 3, 300, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "size"), SIDES)
def test_bytes_are_resized_as_torchvision_resizes_them(
    side: int, size: int, interpolation: Interpolation
) -> None:
    pixels = PIXELS[..., :side, :side]
    expected = resize_by_torchvision(
        pixels, [size, size], interpolation=InterpolationMode(interpolation), antialias=True
    )
    found = resize(pixels, size, interpolation, is_rounded=True)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.float())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "size"), SIDES)
def test_products_with_matrices_differ_from_bytes_by_one_and_seldom(
    side: int, size: int, interpolation: Interpolation
) -> None:
    pixels = PIXELS[..., :side, :side]
    weights = resizing_weights(side, size, interpolation, is_rounded=True)
    found = rounded(weights @ rounded(pixels.float() @ weights.T))
    differs = (found - resize(pixels, size, interpolation, is_rounded=True)).abs()
    assert float(differs.max()) <= 1.0
    assert float((differs > 0).float().mean()) < 0.004


def test_what_is_not_rounded_is_resized_in_one_step() -> None:
    weights = resizing_weights(128, 36, "bicubic", is_rounded=False)
    pixels = PIXELS[..., :128, :128]
    found = resize(pixels, 36, "bicubic", is_rounded=False)
    torch.testing.assert_close(found, weights @ pixels.float() @ weights.T, atol=1e-3, rtol=0)
    assert not torch.equal(found, found.round())
