"""Example patches of each class, for figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.store.artefacts import Artefact
from benchmark.tables import images_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLE_SEED = 0


def pick_patches(
    patches: Artefact, count: int, *, splits: Sequence[str] | None = None
) -> list[NDArray[np.uint8]]:
    """Return uint8 (n, C, H, W) of each class, n <= ``count``, read from few parts.

    Args:
        patches: complete.
        count: patches per class.
        splits: splits to read; None: all.
    """
    manifest = patches.manifest()
    num_bands, size = len(manifest["bands"]), manifest["patch_size"]
    found: list[list[Any]] = [[] for _ in manifest["classes"]]
    names = [part["name"] for part in manifest["parts"] if part["num_rows"]]
    order = np.random.default_rng(EXAMPLE_SEED).permutation(len(names))
    # First a few from each part, so that one scene does not fill the row; then the rest.
    few = max(1, count // 3)
    for start, stop in ((0, few), (few, None)):
        for index in order:
            read = partial(patches.read_table, names=[names[index]], splits=splits)
            rows = read(columns=["patch_id", "label"])["label"].to_numpy()
            picked = {
                k: np.flatnonzero(rows == k)[start:stop][: count - len(items)]
                for k, items in enumerate(found)
            }
            if not any(len(at) for at in picked.values()):
                continue
            part = read(columns=["patch_id", "image"])
            images = images_array(part["image"], (num_bands, size, size))
            for k, at in picked.items():
                found[k] += [images[i] for i in at]
        if all(len(items) == count for items in found):
            break
    empty = np.empty((0, num_bands, size, size), np.uint8)
    return [np.stack(items) if items else empty for items in found]


def as_rgb(images: NDArray[Any], bands: Sequence[str]) -> NDArray[Any]:
    """Return images (N, C, H, W), or grey (N, 1, H, W), as (N, H, W, 3): red, green and blue.

    Where one of these is not among ``bands``, the first bands are shown.
    """
    at = [list(bands).index(name) for name in ("red", "green", "blue") if name in bands]
    if len(at) < 3 or images.shape[1] == 1:
        at = [min(place, images.shape[1] - 1) for place in range(3)]
    return images[:, at].transpose(0, 2, 3, 1)
