"""Small scenes with labels, written as a user would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

UTM = "EPSG:32618"
CLASSES = {"water": 1, "trees": [2, 3]}


def write_raster(
    path: Path,
    pixels: NDArray[Any],
    *,
    x: float = 400_000,
    y: float = 4_400_000,
    gsd: float = 1.0,
    names: tuple[str, ...] = (),
    **more: Any,
) -> Path:
    """Write pixels (C, H, W), or (H, W), with the upper left corner at x, y."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    count, height, width = pixels.shape
    profile = {
        "driver": "GTiff",
        "crs": UTM,
        "transform": from_origin(x, y, gsd, gsd),
        "dtype": pixels.dtype.name,
        "compress": "deflate",
    }
    profile |= {"count": count, "height": height, "width": width} | more
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        for band, name in enumerate(names, 1):
            file.set_band_description(band, name)
    return path


def stripes(height: int, width: int, side: int = 16) -> NDArray[np.uint8]:
    """Return labels (H, W): squares of the values 1 and 2 in turn, with a column of 3."""
    rows, cols = np.indices((height, width)) // side
    labels = ((rows + cols) % 2 + 1).astype(np.uint8)
    labels[:, -side:] = 3
    return labels


def picture(labels: NDArray[Any], *, bands: int = 3, dtype: str = "uint8") -> NDArray[Any]:
    """Return pixels (C, H, W) whose brightness follows the labels, with noise."""
    noise = np.random.default_rng(0).integers(0, 20, (bands, *labels.shape))
    return (labels.astype(int) * 60 + noise).astype(dtype)


def write_pairs(
    root: Path, *, num: int = 6, side: int = 64, dtype: str = "uint8", bands: int = 3
) -> Path:
    """Write scenes side by side with a gap, as images/s0.tif and labels/s0.tif and so on."""
    for number in range(num):
        labels = stripes(side, side)
        x = 400_000 + number * (side + 10)
        write_raster(root / f"images/s{number}.tif", picture(labels, bands=bands, dtype=dtype), x=x)
        write_raster(root / f"labels/s{number}.tif", labels, x=x)
    return root
