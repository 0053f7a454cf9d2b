"""Scenes drawn for maps, and a model whose classes can be seen in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from tests.exporting.cells import draw as draw_patches

RGB = ("red", "green", "blue")
SIDE = 16
PATCH = 32
"""Side of the patches of the exported model, in px."""


class Model:
    """A model whose probabilities are the shares of its bands."""

    bands = RGB
    classes = ("mostly red", "mostly green", "mostly <blue>")

    def __init__(self, patch_size: int = SIDE) -> None:
        self.patch_size = patch_size

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (3, self.patch_size, self.patch_size)
        sums = pixels.sum(axis=(2, 3), dtype=np.float64) + 1e-9
        return (sums / sums.sum(axis=1, keepdims=True)).astype(np.float32)


def draw(height: int, width: int, *, num_bands: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Return pixels (C, H, W), 1...255, in blocks of 8 px, one colour each."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 256, (num_bands, -(-height // 8), -(-width // 8)))
    return coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width].astype(np.uint8)


def write_scene(path: Path, pixels: NDArray[Any], **settings: Any) -> Path:
    """Write a GeoTIFF; settings replace those of rasterio's profile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {
        **{"driver": "GTiff", "count": count, "height": height, "width": width},
        **{"dtype": pixels.dtype, "crs": "EPSG:26918", "compress": "deflate"},
        "transform": from_origin(500_000, 4_000_000, 2, 2),
        **settings,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
    return path


def mosaic(rows: int, columns: int, *, seed: int = 5) -> NDArray[np.uint8]:
    """Return patches of all classes side by side, (3, 32 rows, 32 columns)."""
    patches, _ = draw_patches(rows * columns, seed=seed)
    grid = patches.reshape(rows, columns, 3, PATCH, PATCH).transpose(2, 0, 3, 1, 4)
    return np.maximum(grid.reshape(3, rows * PATCH, columns * PATCH), 1)


def read(path: Path) -> NDArray[Any]:
    """Return the first band of a raster, (H, W)."""
    with rasterio.open(path) as file:
        found: NDArray[Any] = file.read(1)
    return found
