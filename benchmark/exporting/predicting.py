"""Classify images with an exported folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.arguments import check_range, check_type, path_text, refuse
from benchmark.catalog.folder.bandnames import RGB, band_names
from benchmark.catalog.folder.decoding import SUFFIXES, Decoded, ImageError, decode
from benchmark.catalog.folder.images import (
    crop_and_resize,
    observed_range,
    rgb_pixels,
    scale_pixels,
)
from benchmark.errors import UsageError
from benchmark.exporting.running import OpenedModel, open_model
from benchmark.fields import shown

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

logger = logging.getLogger("benchmark")

BATCH = 64
"""Images in memory at once."""

_ADVICE = "give a path, an array (N, C, H, W) or (H, W, C), a PIL image, or a list of these"


class _Image(NamedTuple):
    """One image to classify, with the name of its row."""

    name: str | int
    content: Any
    """A path, a PIL image, or an array (C, H, W), (H, W, C) or (H, W)."""
    is_of_array: bool = False
    """Whether it is a part of an array (N, C, H, W) or (N, H, W, C)."""


def predict(
    model: str | os.PathLike[str],
    images: Any,
    *,
    value_range: tuple[float, float] | None = None,
    trust_code: bool = False,
) -> pd.DataFrame:
    """Classify images with a trained model.

    The centre square of an image that is not of the model's patch size is resized to it.

    Args:
        model: the folder that ``export`` wrote.
        images: the path of an image, or of a folder of images; a PIL image; an array, uint8
            (N, C, H, W), (C, H, W) or (H, W, C); or a list of paths, PIL images and arrays. The
            bands are the model's, in its order; the bands of a file are found by name if it names
            them.
        value_range: pixel values that are mapped to 0 and 255, for pixels that are not uint8; the
            one of ``[dataset]``.
        trust_code: whether to run a program of others, or the own code of a backbone of the
            Hugging Face hub.

    Returns:
        One row for each image, named by its path or position: ``label``, ``confidence`` (the
        probability of the label), and ``p_CLASS`` for each class, float32.

    Raises:
        UsageError: the folder was not exported or is damaged, or an image cannot be read, or has
            other bands or pixel values than the model takes.

    Example:
        >>> images = np.zeros((2, 4, 32, 32), np.uint8)
        >>> bm.predict(model, images).columns[:2].tolist()
        ['label', 'confidence']
    """
    import numpy as np
    import pandas as pd

    folder = path_text("predict: model", model, "give a folder that bm.export wrote")
    limits = check_range("predict: value_range", value_range)
    check_type("predict: trust_code", trust_code, bool, "give True or False")
    rows = _images(images)
    opened = open_model(folder, trust_code=trust_code)
    parts, names = [], []
    sizes = _Sizes(opened.patch_size)
    while batch := list(islice(rows, BATCH)):
        names += [image.name for image in batch]
        patches = [sizes.fit(_pixels(image, opened, limits)) for image in batch]
        for _, same in groupby(patches, key=np.shape):
            parts.append(opened.predict(np.stack(list(same))))
    if not names:
        raise UsageError(f"bm.predict: images = {shown(images, 100)}: there are no images")
    sizes.warn(len(names))
    scores = np.concatenate(parts)
    best = scores.argmax(axis=1)
    columns: dict[str, Any] = {
        "label": [opened.classes[k] for k in best],
        "confidence": scores[np.arange(len(best)), best],
    }
    columns |= {f"p_{name}": scores[:, k] for k, name in enumerate(opened.classes)}
    return pd.DataFrame(columns, index=pd.Index(names, name="image"))


def _images(given: Any) -> Iterator[_Image]:
    """Yield the images one by one."""
    if isinstance(given, (str, os.PathLike)):
        path = Path(path_text("predict: images", given))
        if path.is_dir():
            found = sorted(item for item in path.rglob("*") if item.suffix.lower() in SUFFIXES)
            return (_Image(str(item), item) for item in found)
        return iter([_Image(str(path), path)])
    if _is_picture(given):
        return iter([_Image(0, given)])
    if isinstance(given, (bytes, bytearray, dict)):
        raise refuse("predict: images", given, _ADVICE)
    if hasattr(given, "__array__") and getattr(given, "ndim", 1) > 1:
        if given.ndim != 4:
            return iter([_Image(0, given)])
        return (_Image(number, item, is_of_array=True) for number, item in enumerate(given))
    if not isinstance(given, Iterable):
        raise refuse("predict: images", given, _ADVICE)
    return (
        _Image(os.fspath(item) if isinstance(item, (str, os.PathLike)) else number, item)
        for number, item in enumerate(given)
    )


def _is_picture(given: object) -> bool:
    from PIL import Image

    return isinstance(given, Image.Image)


def _pixels(
    image: _Image, model: OpenedModel, value_range: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """Return the model's bands of an image, uint8 (C, H, W)."""
    where = f"bm.predict: image {shown(image.name, 200)}"
    try:
        pixels, names = _read(image, model.bands)
        if len(pixels) == 1 and model.bands == RGB:
            pixels, names = pixels.repeat(3, axis=0), RGB
        if set(model.bands) <= set(names):
            pixels = pixels[[names.index(band) for band in model.bands]]
        if len(pixels) != len(model.bands):
            raise ImageError(
                f"has {len(pixels)} bands; the model takes {', '.join(model.bands)}, in this order"
            )
        if pixels.dtype == "uint8":
            return pixels
        if pixels.dtype.kind not in "iuf":
            raise ImageError(f"holds {pixels.dtype.name} pixels; give numbers")
        if value_range is None:
            low, high = observed_range(pixels)
            raise ImageError(
                f"holds {pixels.dtype.name} pixels from {low:g} to {high:g}; give value_range= as "
                "in the experiment's [dataset]"
            )
        return scale_pixels(pixels, value_range)
    except ImageError as error:
        raise UsageError(f"{where} {error}") from None


def _read(image: _Image, bands: tuple[str, ...]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the pixels (C, H, W) of an image, and the names of its bands; empty: unknown."""
    import numpy as np

    content = image.content
    if isinstance(content, (str, os.PathLike)):
        return _of_file(decode(Path(content)), bands)
    if _is_picture(content):
        if content.mode == "L" or content.mode[0] in "IF":
            return np.asarray(content)[None], ()
        return rgb_pixels(content), RGB
    if not hasattr(content, "__array__"):
        raise ImageError(f"is {shown(content, 100)}: {_ADVICE}")
    pixels = np.asarray(content)
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or not pixels.size:
        raise ImageError(f"is an array of shape {pixels.shape}; give (C, H, W) or (H, W, C)")
    # An array is (C, H, W) or (H, W, C): the number of bands tells.
    counts = (1, 3) if len(bands) == 3 else (len(bands),)
    is_first, is_last = pixels.shape[0] in counts, pixels.shape[2] in counts
    if is_first and is_last and not image.is_of_array:
        raise ImageError(
            f"of shape {pixels.shape} can be read as (C, H, W) and as (H, W, C); give (N, C, H, W)"
        )
    return pixels.transpose(2, 0, 1) if is_last and not is_first else pixels, ()


def _of_file(image: Decoded, bands: tuple[str, ...]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the pixels (C, H, W) of a file, and the names of its bands; empty: unknown.

    Values without data get the smallest value of their type, or NaN: they become 0.
    """
    import numpy as np

    keeps_alpha = image.has_alpha and len(image.pixels) == len(bands)
    pixels, invalid = image.data(keeps_alpha=keeps_alpha)
    if invalid is not None:
        is_float = pixels.dtype.kind == "f"
        pixels = np.where(invalid, np.nan if is_float else np.iinfo(pixels.dtype).min, pixels)
    if len(pixels) == 1:
        return pixels, ()
    if image.names is not None and len(image.names) == len(pixels):
        return pixels, image.names
    return pixels, band_names(image.descriptions[: len(pixels)])


class _Sizes:
    """Brings images to the size of the model's patches, and counts those that had another."""

    def __init__(self, patch_size: int | None) -> None:
        self._side = patch_size
        self._num_resized = 0

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return uint8 (C, H, W) as (C, P, P); unchanged if P is unknown."""
        side = self._side
        if side is None or pixels.shape[1:] == (side, side):
            return pixels
        self._num_resized += 1
        return crop_and_resize(pixels, side)

    def warn(self, num_images: int) -> None:
        """Say how many images were not of the model's size."""
        if self._num_resized:
            logger.warning(
                "predict: %d of %d images are not %d x %d px, the model's patches: the centre "
                "square of each was resized",
                *(self._num_resized, num_images, self._side, self._side),
            )
