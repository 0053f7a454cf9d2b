"""Patches beside the information that backbones keep of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from benchmark.errors import BenchmarkError
from benchmark.page.html import Picture
from benchmark.page.pictures import plot_pairs
from benchmark.stages.report.figures import picture
from benchmark.stages.report.patches import as_rgb, pick_patches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.specs import Backbone, Depiction
    from benchmark.stages.report.results import Results

NUM_PAIRS, MAX_PAIRS = 3, 42
"""Patches shown with their depiction: per class, and in all, but for one of each class."""


def depiction_pictures(results: Results) -> list[Picture]:
    """Return test patches beside their depiction, for each backbone that has one."""
    drawing = [
        name
        for name, item in results.backbones.items()
        if item.depict is not None and name in results.embed
    ]
    if not drawing:
        return []
    count = max(1, min(NUM_PAIRS, MAX_PAIRS // len(results.classes)))
    patches = pick_patches(results.context.patches, count, splits=("test",))
    return [_depiction_picture(results, name, patches) for name in drawing]


def _depiction_picture(
    results: Results, name: str, patches: Sequence[NDArray[np.uint8]]
) -> Picture:
    backbone = results.backbones[name]
    fed, depiction = depict(results, backbone, np.concatenate(patches))
    bands = backbone.bands or tuple(results.patches["bands"])
    cuts = np.cumsum([len(item) for item in patches])[:-1]
    left, right = (
        np.split(np.rint(as_rgb(item, bands) * 255).astype(np.uint8), cuts)
        for item in (fed, np.clip(depiction.pictures, 0, 1))
    )
    fitted = results.embed[name].get("fitted", {})
    caption = "Patches from test."
    if "explained_variance" in fitted:
        caption = (
            f"{fitted['num_components']:,} components keep {fitted['explained_variance']:.1%} of "
            "the train variance; the patches are from test."
        )
    drawn = picture(
        results,
        "embeddings",
        f"{depiction.title.capitalize()} of patches by {name}",
        plot_pairs,
        left,
        right,
        results.classes,
        names=("patch", depiction.title),
        title=name,
        caption=f"{caption} {results.caption}".strip(),
    )
    return replace(drawn, is_folded=True)


def depict(
    results: Results, backbone: Backbone, patches: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], Depiction]:
    """Return patches (N, C, H, W) as a backbone's input in 0...1, and their depiction.

    Raises:
        BenchmarkError: the backbone has no depiction.
    """
    import torch

    from benchmark.networks.embedder import Network
    from benchmark.networks.fitted import read_fitted

    if backbone.depict is None:
        raise BenchmarkError(f"backbone '{backbone.name}' has no depiction: its 'depict' is None")
    state = None if backbone.fit is None else read_fitted(results.context.embeddings(backbone))
    network = Network(backbone, results.patches["bands"], state).eval()
    with torch.inference_mode():
        fed = network.preprocess(torch.from_numpy(patches)).numpy()
    return fed, backbone.depict(network.backbone, fed)
