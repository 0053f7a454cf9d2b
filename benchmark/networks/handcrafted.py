"""Hand-crafted features as torch modules: textures, gradients and principal components.

Textures and gradients use the mean over the bands, one picture at a time, with scikit-image on
the CPU; the projection is linear. All take pixels in 0...1 and compute in float32 or better,
whatever the precision of the run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage.feature import graycomatrix, graycoprops, hog, local_binary_pattern

from benchmark.errors import CellError
from benchmark.specs import Depiction

HOG = {
    "orientations": 8,
    "pixels_per_cell": (16, 16),
    "cells_per_block": (2, 2),
    "block_norm": "L2-Hys",
}
LBP_CIRCLES = ((8, 1), (16, 2))
"""Neighbours and radius in px (Ojala et al. 2002)."""
GLCM_DISTANCES = (1, 2, 4)
"""In px."""
GLCM_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
GLCM_LEVELS = 32
GLCM_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
"""Of Haralick et al. (1973), as scikit-image names them."""
LBP_GLCM_DIM = sum(points + 2 for points, _ in LBP_CIRCLES) + len(GLCM_PROPERTIES) * len(
    GLCM_DISTANCES
) * len(GLCM_ANGLES)


class PictureFeatures(torch.nn.Module, ABC):
    """Features computed on one grey picture at a time: (B, C, H, W) to (B, D), on the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features, float32 (B, D), on the device of ``x``."""
        num_bands = x.shape[1]
        features = [self.describe(picture, num_bands) for picture in sum_bands(x)]
        return torch.from_numpy(np.stack(features).astype(np.float32)).to(x.device)

    @abstractmethod
    def describe(self, picture: NDArray[np.float64], num_bands: int) -> NDArray[np.float64]:
        """Return the features (D,) of the sum (H, W) of ``num_bands`` bands of 0...255."""


class Hog(PictureFeatures):
    """Histograms of oriented gradients (Dalal and Triggs 2005)."""

    def describe(self, picture: NDArray[np.float64], num_bands: int) -> NDArray[np.float64]:
        """Return the histograms of all blocks; scale does not change them, so sum equals mean."""
        del num_bands
        return np.asarray(hog(picture, **HOG))


class LbpGlcm(PictureFeatures):
    """Uniform local binary patterns, then properties of grey-level co-occurrences."""

    def describe(self, picture: NDArray[np.float64], num_bands: int) -> NDArray[np.float64]:
        """Return the shares of patterns per circle, then properties by distance and angle."""
        levels = np.clip(np.floor(picture / num_bands + 0.5), 0, 255).astype(np.uint8)
        found = []
        for points, radius in LBP_CIRCLES:
            patterns = local_binary_pattern(levels, points, radius, method="uniform")
            counts = np.bincount(patterns.astype(np.int64).ravel(), minlength=points + 2)
            found.append(counts / patterns.size)
        matrix = graycomatrix(
            levels // (256 // GLCM_LEVELS),
            GLCM_DISTANCES,
            GLCM_ANGLES,
            levels=GLCM_LEVELS,
            symmetric=True,
            normed=True,
        )
        found += [graycoprops(matrix, name).ravel() for name in GLCM_PROPERTIES]
        return np.concatenate(found)


class Projected(torch.nn.Module):
    """Projection of centred pixels onto principal components: (B, C, H, W) to (B, k).

    It is built empty; ``load_state_dict`` sets the sizes.
    """

    mean: torch.Tensor
    axes: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("axes", torch.empty(0, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores, float32 (B, k)."""
        if not len(self.mean):
            raise CellError("the principal components are not fitted on train yet")
        with torch.autocast(x.device.type, enabled=False):
            scores: torch.Tensor = F.linear(x.float().flatten(1) - self.mean, self.axes)
        return scores

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """Return x reconstructed from its components, clipped to 0...1, (B, C, H, W)."""
        return (self.forward(x) @ self.axes + self.mean).clamp(0, 1).reshape(x.shape)

    def _load_from_state_dict(
        self, state_dict: dict[str, torch.Tensor], prefix: str, *args: object
    ) -> None:
        for name in ("mean", "axes"):
            setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *args)


def sum_bands(x: torch.Tensor) -> NDArray[np.float64]:
    """Return the sum of the bands, 0...1 (B, C, H, W), as grey levels of 0...255 C, (B, H, W).

    Sums are rounded to 1/64 level; whole levels stay whole. So gradients between two bins and
    means between two levels do not depend on the last bit, which differs between devices, memory
    layouts and batches.
    """
    return np.ascontiguousarray((x.double().sum(dim=1) * (255 * 64)).round().cpu().numpy() / 64)


def depict_hog(module: torch.nn.Module, pixels: NDArray[np.float32]) -> Depiction:
    """Draw the histogram of each cell as a star of lines, grey (N, 1, H, W)."""
    del module
    drawn = np.stack(
        [hog(item, **HOG, visualize=True)[1] for item in sum_bands(torch.from_numpy(pixels))]
    )
    # Without the cut, a few strong edges would leave the rest black.
    top = np.percentile(drawn, 99.5, axis=(1, 2), keepdims=True)
    bright = np.clip(drawn / np.maximum(top, 1e-12), 0, 1)
    return Depiction("oriented gradients", bright[:, None].astype(np.float32))


def depict_projected(module: torch.nn.Module, pixels: NDArray[np.float32]) -> Depiction:
    """Draw patches reconstructed from their components, (N, C, H, W)."""
    if not isinstance(module, Projected):
        raise TypeError(f"{type(module).__name__} has no principal components")
    with torch.inference_mode():
        pictures = module.reconstruct(torch.from_numpy(pixels))
    return Depiction("reconstruction", pictures.numpy())
