"""Flips at val and test: a prediction is the mean over a patch and its mirror images.

This is standard test-time augmentation: Krizhevsky, Sutskever and Hinton 2012, "ImageNet
Classification with Deep Convolutional Neural Networks", average over crops and their reflections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Flips = Literal["none", "horizontal", "all"]

AXES: Mapping[str, tuple[int, ...]] = {"left-right": (-1,), "up-down": (-2,), "both": (-2, -1)}
"""The axes of patches (..., H, W) that each flip reverses; ``both`` is half a turn."""

FLIPS: Mapping[Flips, tuple[str, ...]] = {
    "none": (),
    "horizontal": ("left-right",),
    "all": tuple(AXES),
}
"""The flips of each setting, beside the patch itself."""


def flip_images(pixels: NDArray[Any], flip: str) -> NDArray[Any]:
    """Return patches (..., H, W), each reversed by one flip of ``AXES``; a copy."""
    import numpy as np

    return np.ascontiguousarray(np.flip(pixels, AXES[flip]))


def mean_scores(versions: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the mean of class probabilities, float32 (N, K), over versions of the same patches.

    Summed in float64, so that equal versions have exactly their own mean. One version is returned
    as it is.
    """
    import numpy as np

    first, *others = versions
    if not others:
        return first
    total = first.astype(np.float64)
    for scores in others:
        total += scores
    return (total / len(versions)).astype(np.float32)


def predict_flipped(
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    pixels: NDArray[np.uint8],
    flips: Sequence[str],
) -> NDArray[np.float32]:
    """Return the mean probabilities (N, K) of patches and of their flips.

    Args:
        predict: returns the probabilities (N, K) of patches.
        pixels: uint8 (N, C, H, W).
        flips: names of ``AXES``; empty: the patches alone.
    """
    return mean_scores([predict(pixels), *(predict(flip_images(pixels, one)) for one in flips)])
