"""Read one labelled image (PNG, JPEG, TIFF) as one patch, whatever its bands and pixel type."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.config import DatasetConfig
from benchmark.errors import UsageError, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

PIL_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
SUFFIXES = PIL_SUFFIXES | TIFF_SUFFIXES

MAX_IMAGE_BYTES = 2**30
"""Largest decoded size of a TIFF; PIL has its own limit of 179 million px."""

RGB = ("red", "green", "blue")
RGB_NIR = (*RGB, "nir")


class ImageError(Exception):
    """An image cannot be used as a patch; the message is the reason, without the path."""


class Decoded(NamedTuple):
    """An image as stored: ``pixels`` (C, H, W), and the file's description of its bands."""

    pixels: NDArray[Any]
    descriptions: tuple[str | None, ...]
    has_alpha: bool
    """Whether the last band of ``pixels`` is marked as alpha."""


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

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Return the image as one patch, uint8 (C, P, P).

        Raises:
            ImageError: the file cannot be decoded, or its bands or pixel type do not match the
                folder's first image.
        """
        image = decode(path)
        pixels = image.pixels
        if image.has_alpha and not self.keeps_alpha:
            pixels = pixels[:-1]
        if len(pixels) != self.num_file_bands:
            raise ImageError(
                f"has {_bands(len(pixels))}, but the folder's first image has {self.num_file_bands}"
            )
        if pixels.dtype.name != "uint8":
            if self.value_range is None:
                low, high = observed_range(pixels)
                raise ImageError(
                    f"holds {pixels.dtype.name} pixels from {low} to {high}, but [dataset] "
                    "value_range is not set"
                )
            pixels = scale_pixels(pixels, self.value_range)
        patch = crop_and_resize(pixels, self.patch_size)
        return patch.repeat(len(self.bands), axis=0) if len(patch) == 1 else patch


def open_reader(
    root: Path, paths: Iterable[str], config: DatasetConfig, *, where: str
) -> tuple[PatchReader, list[str]]:
    """Return a reader for the format of the first readable image, and notes for the report.

    Args:
        root: the folder; ``paths`` are relative to it.
        paths: the images, in order.
        config: gives ``bands``, ``patch_size`` and ``value_range``.
        where: start of each message.

    Raises:
        UsageError: no image is readable, ``bands`` does not match, or ``value_range`` is invalid,
            or missing for pixels that are not uint8.
    """
    value_range = config.value_range
    if value_range is not None and not value_range[0] < value_range[1]:
        raise UsageError(
            f"{where}: value_range = {list(value_range)} is not a range; write [low, high] with "
            "low < high"
        )
    path, image = _first_readable(root, paths, where)
    pixels = image.pixels
    notes = []
    keeps_alpha = config.bands is not None and len(config.bands) == len(pixels)
    if image.has_alpha and not keeps_alpha:
        pixels = pixels[:-1]
        notes.append(
            f"The last of {_bands(len(image.pixels))} is marked as alpha and left out (e.g. in "
            f"'{path}'); if it holds data, name every band in [dataset] bands."
        )
    bands = config.bands or band_names(image.descriptions[: len(pixels)])
    if len(set(bands)) != len(bands):
        raise UsageError(f"{where}: bands = {list(bands)} names a band twice; remove one")
    if len(bands) != len(pixels) and not (len(pixels) == 1 and len(bands) == 3):
        raise UsageError(
            f"{where}: bands = {list(bands)} names {len(bands)}, but '{path}' has "
            f"{_bands(len(pixels))}; name each band once"
        )
    dtype = pixels.dtype.name
    if dtype != "uint8" and value_range is None:
        low, high = observed_range(pixels)
        setting = f"[{low}, {high if high > low else low + 1}]"
        raise UsageError(
            f"{where}: '{path}' holds {dtype} pixels from {low} to {high}; set [dataset] "
            f"value_range = {setting}, or wider if other images exceed it"
        )
    if dtype == "uint8" and value_range is not None:
        notes.append("value_range does not apply to uint8 images, which are used unchanged.")
    reader = PatchReader(
        bands=bands,
        num_file_bands=len(pixels),
        keeps_alpha=keeps_alpha,
        patch_size=config.patch_size,
        value_range=value_range,
    )
    return reader, notes


def band_names(descriptions: tuple[str | None, ...]) -> tuple[str, ...]:
    """Return the names of a file's bands from their number and their descriptions.

    One or three bands are red, green, blue, and four are red, green, blue, nir, unless the
    descriptions give the same names in another order. Other numbers of bands get the descriptions
    in lower case if all are set and distinct, else ``band_1`` and so on.
    """
    described = tuple((text or "").strip().lower() for text in descriptions)
    usual = {1: RGB, 3: RGB, 4: RGB_NIR}.get(len(described))
    if usual is not None:
        return described if sorted(described) == sorted(usual) else usual
    if all(described) and len(set(described)) == len(described):
        return described
    return tuple(f"band_{number}" for number in range(1, len(described) + 1))


def decode(path: Path) -> Decoded:
    """Return the pixels of a file in its own type.

    PIL reads JPEG and 8-bit PNG (gray, palette and CMYK become RGB, alpha is dropped). rasterio
    reads TIFF with all its bands, and 16-bit PNG, because PIL would drop the low bytes.

    Raises:
        ImageError: the file is absent, corrupt, truncated, empty or too large.
    """
    try:
        # Opening a pipe or a device could wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("is no regular file")
        if path.suffix.lower() in TIFF_SUFFIXES:
            return _decode_with_rasterio(path, "GTiff")
        if _is_16_bit_png(path):
            return _decode_with_rasterio(path, "PNG")
        return _decode_with_pil(path)
    except ImageError:
        raise
    # PIL's decoders raise many types on damaged files (SyntaxError, struct.error, ...).
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(f"cannot be opened: {error.strerror}") from error
        # Only the cause of rasterio's error has the reason.
        reason = one_line(error.__cause__ or error)
        raise ImageError(f"cannot be decoded (damaged or too large): {reason}") from error


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


def _first_readable(root: Path, paths: Iterable[str], where: str) -> tuple[str, Decoded]:
    first_reason = ""
    for path in paths:
        try:
            return path, decode(root / path)
        except ImageError as error:
            first_reason = first_reason or f"'{path}' {error}"
    raise UsageError(f"{where}: no image is readable; {first_reason}")


def _is_16_bit_png(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(25)
    if not header:
        raise ImageError("is empty (0 bytes)")
    return header.startswith(b"\x89PNG\r\n\x1a\n") and header[24:] == b"\x10"


def _decode_with_pil(path: Path) -> Decoded:
    from PIL import Image

    with Image.open(path, formats=("PNG", "JPEG")) as image:
        return Decoded(rgb_pixels(image), (None, None, None), has_alpha=False)


def _decode_with_rasterio(path: Path, driver: str) -> Decoded:
    import warnings

    import numpy as np
    import rasterio
    from rasterio.enums import ColorInterp
    from rasterio.errors import NotGeoreferencedWarning

    # Without a listing of the folder, files open fast, and no side-car file outside the digest
    # changes the pixels.
    with warnings.catch_warnings(), rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        # The location of an image is not used.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, driver=driver) as dataset:
            dtype = np.result_type(*dataset.dtypes)
            num_bytes = dataset.count * dataset.height * dataset.width * dtype.itemsize
            if num_bytes > MAX_IMAGE_BYTES:
                raise ImageError(
                    f"would take {num_bytes / 2**30:.1f} GiB decoded; an image is one patch, so "
                    "cut it into patches first"
                )
            if dtype.kind == "c":
                raise ImageError(f"holds complex numbers ({dtype.name}); store real bands")
            pixels = dataset.read()
            if dataset.colorinterp == (ColorInterp.palette,):
                palette = dataset.colormap(1)
                table = np.zeros((max(palette) + 1, 4), np.uint8)
                table[list(palette)] = list(palette.values())
                return Decoded(
                    table[pixels[0]].transpose(2, 0, 1)[:3], (None, None, None), has_alpha=False
                )
            has_alpha = dataset.count > 1 and dataset.colorinterp[-1] == ColorInterp.alpha
            return Decoded(pixels, dataset.descriptions, has_alpha)


def _bands(count: int) -> str:
    return "1 band" if count == 1 else f"{count} bands"
