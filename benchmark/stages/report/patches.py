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


def read_pictures(patches: Artefact, ids: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """Return patches as small pictures, uint8 (N, S, S, 3), read part by part.

    Args:
        patches: complete.
        ids: (N,) all among the patches.
        side: S, in px.
    """
    from PIL import Image

    manifest = patches.manifest()
    num_bands, size = len(manifest["bands"]), manifest["patch_size"]
    place = {name: index for index, name in enumerate(ids)}
    found = np.zeros((len(ids), side, side, 3), np.uint8)
    for name in [part["name"] for part in manifest["parts"] if part["num_rows"]]:
        read = partial(patches.read_table, names=[name])
        known = read(columns=["patch_id"])["patch_id"].to_pylist()
        at = [index for index, patch_id in enumerate(known) if patch_id in place]
        if not at:
            continue
        part = read(columns=["patch_id", "image"]).take(at)
        pixels = as_rgb(images_array(part["image"], (num_bands, size, size)), manifest["bands"])
        for patch_id, picture in zip(part["patch_id"].to_pylist(), pixels, strict=True):
            small = Image.fromarray(picture).resize((side, side), Image.Resampling.BOX)
            found[place[patch_id]] = np.asarray(small)
    return found


def as_rgb(images: NDArray[Any], bands: Sequence[str]) -> NDArray[Any]:
    """Return images (N, C, H, W), or grey (N, 1, H, W), as (N, H, W, 3): red, green and blue.

    Where one of these is not among ``bands``, the first bands are shown.
    """
    at = [list(bands).index(name) for name in ("red", "green", "blue") if name in bands]
    if len(at) < 3 or images.shape[1] == 1:
        at = [min(place, images.shape[1] - 1) for place in range(3)]
    return images[:, at].transpose(0, 2, 3, 1)
