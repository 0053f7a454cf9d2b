"""Turn the images of a folder into patches: the same bands, pixel type and size for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.catalog.folder.decoding import ImageError, decode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class PatchReader:
    """Converts each image of a folder to uint8 (C, P, P), with the same bands for all."""

    bands: tuple[str, ...]
    """Names of the C bands."""
    num_file_bands: int
    """Number of bands of each file; a single band is replicated to ``bands``."""
    keeps_alpha: bool
    """Whether a last band marked as alpha is kept as data."""
    patch_size: int
    value_range: tuple[float, float] | None
    """Pixel values that become 0 and 255; None: the images are uint8."""
    order: tuple[str, ...] | None = None
    """The files' own names of the bands, in the order of ``bands``; None: none tells them."""
    kept: tuple[int, ...] | None = None
    """Places in a file of the bands that are kept; None: all."""
    ranges: tuple[tuple[float, float], ...] | None = None
    """Pixel values of each kept band that become 0 and 255, instead of ``value_range``."""

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Return the image as one patch, uint8 (C, P, P); values without data are 0.

        Raises:
            ImageError: the file cannot be decoded, or its bands or pixel type do not match those
                of the folder.
        """
        pixels, invalid = self.stored(path)
        if self.ranges is not None:
            pixels = scale_bands(pixels, self.ranges)
        elif self.value_range is not None:
            pixels = scale_pixels(pixels, self.value_range)
        if invalid is not None:
            pixels = pixels.copy()
            pixels[invalid] = 0
        patch = crop_and_resize(pixels, self.patch_size)
        return patch.repeat(len(self.bands), axis=0) if len(patch) == 1 else patch

    def stored(self, path: Path) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the pixels as stored, (C, H, W), and where they hold no data (None: nowhere).

        Raises:
            ImageError: as for ``read``.
        """
        image = decode(path)
        pixels, invalid = image.data(keeps_alpha=self.keeps_alpha)
        if len(pixels) != self.num_file_bands:
            raise ImageError(
                f"has {count_bands(len(pixels))}, but the folder's first image has "
                f"{self.num_file_bands}"
            )
        if (pixels.dtype.name == "uint8") != (self.value_range is None):
            raise ImageError(_other_type(pixels, self.value_range))
        places = _places(image.names, self.order)
        for chosen in (places, self.kept):
            if chosen is not None:
                pixels = pixels[list(chosen)]
                invalid = None if invalid is None else invalid[list(chosen)]
        return pixels, invalid


def _places(names: tuple[str, ...] | None, order: tuple[str, ...] | None) -> list[int] | None:
    """Return the place in a file of each band of ``order``; None: they are in this order.

    Raises:
        ImageError: the file names other bands.
    """
    if order is None or names is None or names == order or len(names) != len(order):
        return None
    if {*names} != {*order}:
        raise ImageError(
            f"names its bands {', '.join(names)}, but other images of the folder name "
            f"{', '.join(order)}"
        )
    return [names.index(name) for name in order]


def _other_type(pixels: NDArray[Any], value_range: tuple[float, float] | None) -> str:
    low, high = observed_range(pixels)
    text = f"holds {pixels.dtype.name} pixels from {low} to {high}, but "
    if value_range is None:
        return f"{text}the folder's other images are uint8; convert it to uint8"
    return (
        f"{text}the folder's other images are not uint8, and value_range = {list(value_range)} "
        "is for those; convert it to their type"
    )


def rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image of PIL as uint8 (3, H, W): gray and palette become RGB, alpha is dropped."""
    import numpy as np

    # PIL warns of a palette with transparency unless it goes through RGBA.
    whole = image.convert("RGBA") if "transparency" in image.info else image
    return np.asarray(whole.convert("RGB")).transpose(2, 0, 1)


def scale_pixels(pixels: NDArray[Any], value_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Return pixels mapped linearly from the range to 0...255, clipped and rounded; NaN is 0."""
    import numpy as np

    low, high = value_range
    scaled = (pixels.astype(np.float64) - low) * (255.0 / (high - low))
    return np.rint(np.nan_to_num(np.clip(scaled, 0.0, 255.0), nan=0.0)).astype(np.uint8)


def scale_bands(pixels: NDArray[Any], ranges: Sequence[tuple[float, float]]) -> NDArray[np.uint8]:
    """Return pixels (C, H, W) scaled as by ``scale_pixels``, each band by its own range."""
    import numpy as np

    pairs = zip(pixels, ranges, strict=True)
    return np.stack([scale_pixels(band, value_range) for band, value_range in pairs])


def observed_range(pixels: NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and largest finite pixel as int or float; 0 and 1 if there is none."""
    import numpy as np

    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        return 0.0, 1.0
    return finite.min().item(), finite.max().item()


def crop_and_resize(pixels: NDArray[np.uint8], patch_size: int) -> NDArray[np.uint8]:
    """Return the centre of an image: (C, H, W) to (C, P, P), the short side resized to P.

    PIL's bilinear filter resizes each band; it is antialiased (its support grows with the
    reduction). An image whose short side is P is only cropped, and keeps its pixel values.
    """
    import numpy as np
    from PIL import Image

    _, height, width = pixels.shape
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    patch = np.empty((len(pixels), patch_size, patch_size), np.uint8)
    for target, band in zip(patch, pixels, strict=True):
        # With `box`, the filter still reads pixels outside the crop at its edges, so this equals
        # resizing the whole image and then cropping, for less work.
        target[:] = np.asarray(
            Image.fromarray(np.ascontiguousarray(band)).resize(
                (patch_size, patch_size),
                Image.Resampling.BILINEAR,
                box=(left, top, left + side, top + side),
            )
        )
    return patch


def count_bands(count: int) -> str:
    """Return a number of bands as text."""
    return "1 band" if count == 1 else f"{count} bands"
