"""What backbones keep of patches, beside the patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmark.errors import BenchmarkError
from benchmark.page import pictures
from benchmark.page.html import Picture
from benchmark.stages.report.figures import picture
from benchmark.stages.report.patches import pick_patches, red_green_blue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.specs import Backbone, Depiction
    from benchmark.stages.report.results import Results

NUM_PAIRS = 3
"""Patches of a class whose depictions are shown."""


def depiction_pictures(results: Results) -> list[Picture]:
    """Return what the backbones that can draw it keep of patches of test, beside the patches."""
    drawing = [
        item
        for item in results.context.backbones
        if item.depict is not None and item.name in results.embed
    ]
    if not drawing:
        return []
    patches = pick_patches(results, NUM_PAIRS, splits=("test",))
    return [_depiction_picture(results, backbone, patches) for backbone in drawing]


def _depiction_picture(
    results: Results, backbone: Backbone, patches: Sequence[NDArray[np.uint8]]
) -> Picture:
    counts = [len(item) for item in patches]
    fed, depiction = depict(results, backbone, np.concatenate(patches))
    bands = backbone.bands or tuple(results.patches["bands"])
    cuts = np.cumsum(counts)[:-1]
    sides = [
        np.split(_as_rgb(item, bands), cuts) for item in (fed, np.clip(depiction.pictures, 0, 1))
    ]
    fitted = results.embed[backbone.name].get("fitted", {})
    caption = "Patches of test."
    if "explained_variance" in fitted:
        caption = (
            f"{fitted['num_components']:,} components keep {fitted['explained_variance']:.1%} of "
            "the variance of train; the patches are of test."
        )
    figure = pictures.plot_pairs(
        sides[0],
        sides[1],
        results.classes,
        names=("patch", depiction.title),
        title=backbone.name,
        caption=" ".join(filter(None, (caption, results.caption))),
    )
    title = f"{depiction.title.capitalize()} of patches by {backbone.name}"
    return picture(results, "embeddings", title, figure)


def depict(
    results: Results, backbone: Backbone, patches: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], Depiction]:
    """Return patches (N, C, H, W) as a backbone is fed them, 0...1, and what it keeps of them."""
    import torch

    from benchmark.networks.embedder import Network
    from benchmark.networks.fitted import read_fitted

    if backbone.depict is None:
        raise BenchmarkError(f"backbone '{backbone.name}' has nothing to draw")
    state = None if backbone.fit is None else read_fitted(results.context.embeddings(backbone))
    network = Network(backbone, results.patches["bands"], state).eval()
    with torch.inference_mode():
        fed = network.preprocess(torch.from_numpy(patches)).numpy()
    return fed, backbone.depict(network.backbone, fed)


def _as_rgb(images: NDArray[np.float32], bands: Sequence[str]) -> NDArray[np.uint8]:
    """Return 0...1 (N, C, H, W) or grey (N, 1, H, W) as uint8 (N, H, W, 3)."""
    at = [0, 0, 0] if images.shape[1] == 1 else red_green_blue(bands)
    return np.asarray(np.rint(images[:, at].transpose(0, 2, 3, 1) * 255)).astype(np.uint8)
