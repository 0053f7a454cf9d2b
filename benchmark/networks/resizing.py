"""Resizing of pixels as image libraries do it: bytes in, bytes out."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F

Interpolation = Literal["bilinear", "bicubic"]

_MAX_WEIGHT = 2**15
"""The weights of bytes are 16-bit integers."""
_MAX_BITS = 22


def resize(
    pixels: torch.Tensor, size: int, interpolation: Interpolation, *, is_rounded: bool
) -> torch.Tensor:
    """Return square images of ``size`` px, float32 (B, C, size, size); shrinking is antialiased.

    Args:
        pixels: uint8 (B, C, H, W).
        size: side in px.
        interpolation: of torch and image libraries.
        is_rounded: whether rows, then columns are rounded to bytes. A CPU computes what torch
            computes for bytes, as transformers does; a GPU has no such kernel, and one value in 300
            differs from it by one.
    """
    height, width = pixels.shape[-2:]
    if not is_rounded:
        # Antialiasing costs time, and matters only when an image shrinks. Of the bicubic kernels,
        # only the antialiased one equals PIL's (a = -0.5; the other has a = -0.75).
        antialias = interpolation == "bicubic" or max(height, width) > size
        return _interpolate(pixels.to(torch.float32), (size, size), interpolation, antialias)
    if pixels.device.type == "cpu":
        return _interpolate(pixels, (size, size), interpolation, True).to(torch.float32)
    rows, columns = (
        resizing_weights(side, size, interpolation, is_rounded=True, device=pixels.device)
        for side in (height, width)
    )
    return rounded(rows @ rounded(pixels.to(torch.float32) @ columns.T))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Return the nearest whole numbers in 0...255; halves are rounded up."""
    # A bicubic kernel overshoots at edges.
    return (x + 0.5).floor().clamp(0, 255)


@lru_cache(maxsize=64)
def resizing_weights(
    side: int,
    size: int,
    interpolation: Interpolation,
    *,
    is_rounded: bool,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Return the matrix (size, side) that resizes rows or columns, on a device or the CPU.

    Interpolation is linear and separable: the matrix is what it makes of the unit matrix. For
    bytes, its entries are whole multiples of a power of two, as in torch and Pillow.
    """
    antialias = is_rounded or interpolation == "bicubic" or side > size
    unit = torch.eye(side)[None, None]
    weights = _interpolate(unit, (size, side), interpolation, antialias)[0, 0]
    if not is_rounded:
        return weights.to(device)
    largest, bits = float(weights.abs().max()), 0
    while bits < _MAX_BITS and int(largest * 2 ** (bits + 1) + 0.5) < _MAX_WEIGHT:
        bits += 1
    # Kept there: a copy would wait for all that a GPU has to do.
    return ((weights * 2.0**bits).round() / 2.0**bits).to(device)


def _interpolate(
    x: torch.Tensor, size: tuple[int, int], interpolation: Interpolation, antialias: bool
) -> torch.Tensor:
    return F.interpolate(x, size=size, mode=interpolation, align_corners=False, antialias=antialias)
