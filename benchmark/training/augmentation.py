"""Augmentation of overhead images, on their device.

Overhead images have no upright direction: flips and quarter turns (the eight symmetries of a
square) keep the label of a patch. Small colour shifts imitate sun, haze and sensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

GAIN = 0.1
"""Largest relative change of contrast about the middle grey."""
OFFSET = 12.75
"""Largest shift of all bands together, and of each band alone: 5 % of 255."""


@dataclass(frozen=True)
class Draws:
    """Random numbers, one row per patch; a shard takes its rows, so that shards do not matter."""

    symmetry: torch.Tensor
    """bool (B, 3): flip left-right, flip up-down, transpose."""
    gain: torch.Tensor
    """float32 (B, 1, 1, 1): factor of contrast."""
    offset: torch.Tensor
    """float32 (B, C, 1, 1): added to each band, on the scale 0...255."""

    def take(self, rows: torch.Tensor | slice, device: torch.device) -> Draws:
        """Return these rows, on a device."""
        parts = (self.symmetry, self.gain, self.offset)
        return Draws(*(part[rows].to(device, non_blocking=True) for part in parts))


def draw(count: int, num_bands: int, seed: int) -> Draws:
    """Draw for ``count`` patches; the same seed gives the same numbers on every machine."""
    generator = torch.Generator().manual_seed(seed)
    symmetry = torch.rand((count, 3), generator=generator) < 0.5
    gain = 1.0 + GAIN * (2.0 * torch.rand((count, 1, 1, 1), generator=generator) - 1.0)
    shift = torch.rand((count, num_bands + 1, 1, 1), generator=generator)
    shift = OFFSET * (2.0 * shift - 1.0)
    return Draws(symmetry, gain, shift[:, :1] + shift[:, 1:])


def turn(pixels: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Flip and turn patches, each by its own draw.

    Args:
        pixels: (B, C, H, W); the result has the same shape, so H must equal W.
        draws: of these B patches.
    """
    across, down, swap = (draws.symmetry[:, i, None, None, None] for i in range(3))
    pixels = torch.where(across, pixels.flip(-1), pixels)
    pixels = torch.where(down, pixels.flip(-2), pixels)
    return torch.where(swap, pixels.transpose(-1, -2), pixels)


def shift_colors(pixels: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Change contrast and colour a little: float32 (B, C, H, W) on the scale 0...255."""
    return ((pixels - 127.5) * draws.gain + (127.5 + draws.offset)).clamp_(0.0, 255.0)
