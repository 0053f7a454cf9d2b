"""Hand-crafted features as backbones: only the principal components are fitted on train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmark.specs import Backbone, Depiction, Fitted, TrainPatches

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

IMAGE_SIZE = 128
"""Side of the input in px, as in the study. It fixes the length of the features and bounds the
memory of the components."""


def build_hog(num_bands: int) -> torch.nn.Module:
    """Build histograms of oriented gradients: (B, C, 128, 128) to (B, 1568)."""
    from benchmark.networks.handcrafted import Hog

    del num_bands
    return Hog()


def depict_hog(module: torch.nn.Module, pixels: NDArray[np.float32]) -> Depiction:
    """Draw the histograms of patches."""
    from benchmark.networks import handcrafted

    return handcrafted.depict_hog(module, pixels)


def build_lbp_glcm(num_bands: int) -> torch.nn.Module:
    """Build local binary patterns and co-occurrences: (B, C, 128, 128) to (B, 88)."""
    from benchmark.networks.handcrafted import LbpGlcm

    del num_bands
    return LbpGlcm()


def build_pca(num_bands: int) -> torch.nn.Module:
    """Build the projection onto components, not fitted yet: (B, C, H, W) to (B, k)."""
    from benchmark.networks.handcrafted import Projected

    del num_bands
    return Projected()


def depict_pca(module: torch.nn.Module, pixels: NDArray[np.float32]) -> Depiction:
    """Draw patches reconstructed from their components."""
    from benchmark.networks import handcrafted

    return handcrafted.depict_projected(module, pixels)


@dataclass(frozen=True, kw_only=True)
class FitPca:
    """Fits principal components of the pixels of train."""

    num_components: int
    """Largest number of components."""
    kept_variance: float | None = None
    """Share of the variance of train at which to stop; None: ``num_components``."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The settings that change the result."""
        return asdict(self)

    def __call__(self, patches: TrainPatches) -> Fitted:
        """Return the mean and the components.

        Raises:
            CellError: there are fewer than two patches, or all are the same.
        """
        from benchmark.networks.principal import fit_components

        found = fit_components(
            patches, num_components=self.num_components, kept_variance=self.kept_variance
        )
        facts = {
            "num_patches": patches.num_patches,
            "num_components": len(found.axes),
            "explained_variance": round(found.explained, 6),
            "way": found.way,
        }
        return Fitted({"mean": found.mean, "axes": found.axes}, facts)


_handcrafted = partial(
    Backbone,
    family="hand-crafted",
    num_parameters=0,
    is_trainable=False,
    bands=None,
    image_size=IMAGE_SIZE,
)

_PCA = _handcrafted(
    name="pca",
    description="principal components of the pixels: 95 % of the variance, at most 512",
    build=build_pca,
    fit=FitPca(num_components=512, kept_variance=0.95),
    depict=depict_pca,
    dim=None,
    source="fitted on train",
    license="Apache-2.0",
)

HANDCRAFTED = (
    _handcrafted(
        name="hog",
        description="histograms of oriented gradients, mean over the bands",
        build=build_hog,
        depict=depict_hog,
        dim=1568,
        source="scikit-image hog: 8 orientations, cells of 16 px, blocks of 2 x 2 cells",
        license="BSD-3-Clause",
    ),
    _handcrafted(
        name="lbp_glcm",
        description="local binary patterns and grey-level co-occurrences, mean over the bands",
        build=build_lbp_glcm,
        dim=88,
        source="scikit-image local_binary_pattern (uniform, radius 1 and 2) and graycoprops",
        license="BSD-3-Clause",
    ),
    _PCA,
    replace(
        _PCA,
        name="pca_3000",
        description="3,000 principal components of the pixels, as in the study",
        fit=FitPca(num_components=3000),
    ),
)
"""Entries of ``backbones.BACKBONES``."""
