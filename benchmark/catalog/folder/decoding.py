"""Decode an image file (PNG, JPEG, TIFF, WebP) to its bands, with the pixels that hold no data."""

from __future__ import annotations

import json
import math
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.folder.bandnames import RGB, name_bands
from benchmark.errors import one_line
from benchmark.fields import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIL_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
WEBP = ".webp"
"""Read from Parquet alone: a folder's images of this suffix are ignored and counted."""
SUFFIXES = PIL_SUFFIXES | TIFF_SUFFIXES

MAX_IMAGE_BYTES = 2**30
"""Largest decoded size of a TIFF; PIL has its own limit of 179 million px."""

PAGES, TURNED, LAB = "pages", "turned", "lab"
"""How an image was read, beyond its plain pixels."""

_ORIENTATION, _PHOTOMETRIC = 274, 262
_CIELAB = 8
_COLOUR_SPACES = {9: "ICC L*a*b*", 10: "ITU L*a*b*", 32844: "LogL", 32845: "LogLuv"}


class ImageError(Exception):
    """An image cannot be used as a patch; the message is the reason, without the path."""


class Decoded(NamedTuple):
    """An image as stored, upright: ``pixels`` (C, H, W), and the file's words on its bands."""

    pixels: NDArray[Any]
    descriptions: tuple[str | None, ...]
    has_alpha: bool
    """Whether the last band of ``pixels`` is marked as alpha."""
    names: tuple[str, ...] | None = None
    """Names of the bands besides alpha, if the file tells them (see ``bandnames``)."""
    invalid: NDArray[np.bool_] | None = None
    """Values without data, (C, H, W): nodata, masked, NaN or infinite. None: there are none."""
    how: tuple[str, ...] = ()
    """How it was read: ``pages``, ``turned``, ``lab``."""

    def data(self, *, keeps_alpha: bool) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the pixels (C, H, W) besides a band of alpha, and where they hold no data.

        Alpha is a mask if it holds only 0 and one other value. Other values may be data, e.g. near
        infrared that a tool has marked as alpha, so they hide nothing.
        """
        if not self.has_alpha or keeps_alpha:
            return self.pixels, self.invalid
        pixels, alpha = self.pixels[:-1], self.pixels[-1]
        invalid = None if self.invalid is None else self.invalid[:-1]
        if alpha_kind(alpha) == "mask":
            hidden = (alpha == 0)[None].repeat(len(pixels), axis=0)
            invalid = hidden if invalid is None else invalid | hidden
        return pixels, invalid


def alpha_kind(alpha: NDArray[Any]) -> str:
    """Return ``opaque`` (one value, not 0), ``mask`` (0 and at most one other) or ``varied``."""
    top = alpha.max()
    if not ((alpha == 0) | (alpha == top)).all():
        return "varied"
    return "mask" if (alpha == 0).any() else "opaque"


@contextmanager
def without_warnings() -> Iterator[None]:
    """Hide warnings of the decoders, e.g. that an image has no location, which is not used.

    Filters belong to the whole process: enter it before threads are started.
    """
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        # Of PIL, which reads the tags of a TIFF whose pixels rasterio then refuses.
        warnings.filterwarnings("ignore", "Truncated File Read", UserWarning)
        yield


def decode(path: Path) -> Decoded:
    """Return the pixels of a file as ``decode_in_thread`` does, without warnings."""
    with without_warnings():
        return decode_in_thread(path)


def decode_in_thread(path: Path) -> Decoded:
    """Return the pixels of a file in its own type, turned upright.

    PIL reads JPEG, WebP, 8-bit PNG (gray, palette and CMYK become RGB, transparency a fourth band)
    and L*a*b* TIFF (which becomes RGB). rasterio reads other TIFF with all its bands, and 16-bit
    PNG, because PIL would drop the low bytes. Pages of one band each are the bands of one image.

    Raises:
        ImageError: the file is absent, corrupt, truncated, empty or too large, or its pages are
            not the bands of one image.
    """
    try:
        # Opening a pipe or a device could wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("is no regular file")
        if path.suffix.lower() in TIFF_SUFFIXES:
            return _decode_tiff(path)
        if _is_16_bit_png(path):
            return _turn(_decode_with_rasterio(path, "PNG"), _exif_orientation(path))
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


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return pixels (..., H, W) turned as the orientation of EXIF and TIFF says (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(-1, -2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[..., ::-1, :]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[..., ::-1]
    return pixels


def _turn(image: Decoded, orientation: int) -> Decoded:
    if orientation not in range(2, 9):
        return image
    invalid = None if image.invalid is None else upright(image.invalid, orientation)
    pixels = upright(image.pixels, orientation)
    return image._replace(pixels=pixels, invalid=invalid, how=(*image.how, TURNED))


def _exif_orientation(path: Path) -> int:
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as image:
        return _orientation(image)


def _orientation(image: Any) -> int:
    # PIL raises many types on damaged EXIF, which the pixels do not need.
    with suppress(Exception):
        found = image.getexif().get(_ORIENTATION, 1)
        return found if isinstance(found, int) else 1
    return 1


def _is_16_bit_png(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(25)
    if not header:
        raise ImageError("is empty (0 bytes)")
    return header.startswith(b"\x89PNG\r\n\x1a\n") and header[24:] == b"\x10"


def _decode_with_pil(path: Path) -> Decoded:
    import numpy as np
    from PIL import Image

    formats = ("WEBP",) if path.suffix == WEBP else ("PNG", "JPEG")
    with Image.open(path, formats=formats) as image:
        if path.suffix == WEBP and getattr(image, "n_frames", 1) > 1:
            raise ImageError("is an animation; store one image")
        image.load()
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB")).transpose(2, 0, 1)
        orientation = _orientation(image)
    return _turn(Decoded(pixels, (None,) * len(pixels), has_alpha, RGB), orientation)


def _decode_tiff(path: Path) -> Decoded:
    tags = _first_tags(path)
    photometric = tags.get(_PHOTOMETRIC)
    if photometric in _COLOUR_SPACES:
        raise ImageError(f"is in the colour space {_COLOUR_SPACES[photometric]}; store it as RGB")
    if photometric == _CIELAB:
        return _decode_lab(path)
    return _turn(_decode_with_rasterio(path, "GTiff"), tags.get(_ORIENTATION, 1))


def _first_tags(path: Path) -> dict[int, int]:
    """Return the orientation and the photometric interpretation of a TIFF's first page."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    found = {}
    # Damaged tags: GDAL says what is wrong with the file, or reads it as before.
    with suppress(Exception), path.open("rb") as file:
        header = file.read(8)
        if 43 in header[2:4]:
            header += file.read(8)
        tags = ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        for tag in (_ORIENTATION, _PHOTOMETRIC):
            if isinstance(value := tags.get(tag), int):
                found[tag] = value
    return found


def _decode_lab(path: Path) -> Decoded:
    import numpy as np
    from PIL import Image, ImageCms

    with Image.open(path, formats=("TIFF",)) as image:
        if image.mode != "LAB" or getattr(image, "n_frames", 1) > 1:
            raise ImageError("is in L*a*b* but not one page of 8 bits; store it as RGB")
        # Loading a TIFF turns it upright.
        is_turned = _orientation(image) != 1
        rgb = ImageCms.profileToProfile(
            image,
            ImageCms.createProfile("LAB"),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
        pixels = np.asarray(rgb).transpose(2, 0, 1)
    how = (LAB, TURNED) if is_turned else (LAB,)
    return Decoded(pixels, (None, None, None), has_alpha=False, names=RGB, how=how)


def _decode_with_rasterio(path: Path, driver: str) -> Decoded:
    import rasterio

    # Without a listing of the folder, files open fast, and no side-car file outside the digest
    # changes the pixels.
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        with rasterio.open(path, driver=driver) as dataset:
            pages = _pages(dataset)
            _check_size(dataset, max(1, len(pages)))
            _check_description(dataset, num_pages=max(1, len(pages)))
            if not pages:
                return _read_bands(dataset)
        return _read_pages(pages, driver)


def _pages(dataset: Any) -> list[str]:
    """Return the addresses of a TIFF's pages in order; empty if there is only one."""
    return sorted(dataset.subdatasets, key=lambda name: int(name.split(":")[1]))


def _check_size(dataset: Any, num_pages: int) -> None:
    import numpy as np

    dtype = np.result_type(*dataset.dtypes)
    num_bytes = num_pages * dataset.count * dataset.height * dataset.width * dtype.itemsize
    if num_bytes > MAX_IMAGE_BYTES:
        raise ImageError(
            f"would take {num_bytes / 2**30:.1f} GiB decoded; an image is one patch, so "
            "cut it into patches first"
        )
    if dtype.kind == "c":
        raise ImageError(f"holds complex numbers ({dtype.name}); store real bands")


def _check_description(dataset: Any, *, num_pages: int) -> None:
    """Refuse a file whose writer (tifffile, ImageJ) says that it holds more than is found."""
    text = dataset.tags().get("TIFFTAG_IMAGEDESCRIPTION", "")
    found = num_pages * dataset.count * dataset.height * dataset.width
    said = found
    with suppress(ValueError, TypeError, AttributeError):
        said = math.prod(int(side) for side in json.loads(text)["shape"])
    if images := re.match(r"ImageJ=.*?^images=(\d+)$", text, re.DOTALL | re.MULTILINE):
        said = int(images[1]) * dataset.count * dataset.height * dataset.width
    if said > found:
        raise ImageError(
            f"holds {found:,} values, but its description {shown(text, 80)} says {said:,}; write "
            "one page with all bands"
        )


def _read_pages(pages: list[str], driver: str) -> Decoded:
    import numpy as np
    import rasterio
    from rasterio.enums import ColorInterp

    images = []
    for number, page in enumerate(pages, 1):
        with rasterio.open(page, driver=driver) as dataset:
            if dataset.count != 1:
                raise ImageError(
                    f"has {len(pages)} pages, and page {number} has {dataset.count} bands; a page "
                    "must be one band: write one page, or one file per page"
                )
            if ColorInterp.palette in dataset.colorinterp:
                raise ImageError(
                    f"has {len(pages)} pages, and page {number} has a palette or white as 0; write "
                    "one page with all bands"
                )
            images.append(_read_bands(dataset))
    shapes = {(image.pixels.dtype.name, *image.pixels.shape[1:]) for image in images}
    if len(shapes) > 1:
        (dtype, *size), (other, *second) = sorted(shapes, key=str)[:2]
        raise ImageError(
            f"has {len(pages)} pages that differ, e.g. {size[0]} x {size[1]} px of {dtype} and "
            f"{second[0]} x {second[1]} px of {other}; keep the pages that are bands"
        )
    _, height, width = images[0].pixels.shape
    if width < min(height, len(pages)):
        raise ImageError(
            f"has {len(pages)} pages of {height} x {width} px: probably an image of {len(pages)} x "
            f"{height} px whose {width} bands lie in the last axis; write it as one page (with "
            "tifffile: planarconfig='contig')"
        )
    invalid = None
    if any(image.invalid is not None for image in images):
        parts = [
            np.zeros(image.pixels.shape, bool) if image.invalid is None else image.invalid
            for image in images
        ]
        invalid = np.concatenate(parts)
    pixels = np.concatenate([image.pixels for image in images])
    return Decoded(pixels, (None,) * len(pixels), False, None, invalid, (PAGES,))


def _read_bands(dataset: Any) -> Decoded:
    """Read all bands of one page; a palette becomes RGB."""
    import numpy as np
    from rasterio.enums import ColorInterp

    pixels = dataset.read()
    invalid = invalid_values(dataset, pixels)
    colors = tuple(dataset.colorinterp)
    if colors == (ColorInterp.palette,):
        palette = dataset.colormap(1)
        table = np.zeros((max(palette) + 1, 4), np.uint8)
        table[list(palette)] = list(palette.values())
        if invalid is not None:
            invalid = invalid.repeat(3, axis=0)
        rgb = table[pixels[0]].transpose(2, 0, 1)[:3]
        return Decoded(rgb, (None, None, None), False, RGB, invalid)
    has_alpha = dataset.count > 1 and colors[-1] == ColorInterp.alpha
    num_named = dataset.count - has_alpha
    names = name_bands(
        dataset.descriptions[:num_named], tuple(color.name for color in colors[:num_named])
    )
    return Decoded(pixels, dataset.descriptions, has_alpha, names, invalid)


def invalid_values(
    dataset: Any, pixels: NDArray[Any], window: Any = None
) -> NDArray[np.bool_] | None:
    """Return where the pixels are nodata, masked inside the file, NaN or infinite, or None.

    ``window``: that the pixels were read from; None: the whole raster.
    """
    import numpy as np
    from rasterio.enums import MaskFlags

    masks = list(zip(dataset.nodatavals, dataset.mask_flag_enums, strict=True))
    if pixels.dtype.kind != "f" and all(flags == [MaskFlags.all_valid] for _, flags in masks):
        return None
    invalid = np.zeros(pixels.shape, bool)
    if pixels.dtype.kind == "f":
        invalid |= ~np.isfinite(pixels)
    for place, (nodata, flags) in enumerate(masks):
        if nodata is not None and not math.isnan(nodata):
            # Of the largest float32, the tag holds a longer decimal form.
            value = np.float32(nodata) if pixels.dtype == np.float32 else nodata
            invalid[place] |= pixels[place] == value
        if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
            invalid[place] |= dataset.read_masks(place + 1, window=window) == 0
    return invalid if invalid.any() else None
