"""Small scenes in the layout of torchgeo's ChesapeakeCVPR, with every class in every state."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

STATES = {"de": 2013, "md": 2013, "ny": 2013, "pa": 2013, "va": 2014, "wv": 2014}
# Mean colour (red, green, blue, nir) and texture of lc 1...5.
COLOURS = np.array(
    [[40, 60, 90, 20], [50, 80, 45, 150], [110, 130, 80, 160], [150, 120, 90, 110], [120] * 4]
)
TEXTURES = (2, 25, 12, 18, 40)


def write_scenes(root: Path, *, num_scenes: int = 2, windows: int = 8, patch: int = 32) -> Path:
    """Write ``num_scenes`` scenes per state of ``windows`` x ``windows`` pure windows."""
    features = []
    for number, (state, year) in enumerate(STATES.items()):
        for index in range(num_scenes):
            rng = np.random.default_rng([number, index])
            kinds = rng.integers(0, 5, (windows, windows))
            kinds.flat[:5] = range(5)
            stem = f"m_39{number:02d}{index:02d}_ne_18_1"
            folder = f"{state}_1m_{year}_extended-debuffered-train_tiles"
            paths = {
                "naip-new": f"{folder}/{stem}_naip-new.tif",
                "lc": f"{folder}/{stem}_lc.tif",
            }
            labels = np.kron(kinds + 1, np.ones((patch, patch), int)).astype(np.uint8)
            colour = COLOURS[labels - 1].transpose(2, 0, 1).astype(float)
            noise = rng.normal(size=(4, *labels.shape)) * np.take(TEXTURES, labels - 1)
            pixels = np.clip(colour + noise + 3 * number, 0, 255).astype(np.uint8)
            left, top = 300_000 + 100_000 * index, 4_300_000 + 50_000 * number
            write_raster(root / paths["naip-new"], pixels, left, top)
            write_raster(root / paths["lc"], labels[None], left, top)
            features.append(
                {
                    "type": "Feature",
                    "properties": {"split": f"{state}-train", **paths},
                    "geometry": None,
                }
            )
    index_file = root / "spatial_index.geojson"
    index_file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return root


def write_raster(path: Path, pixels: np.ndarray, left: float, top: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=count,
        dtype="uint8",
        crs="EPSG:26918",
        transform=from_origin(left, top, 1, 1),
        compress="deflate",
    ) as file:
        file.write(pixels)


SMALLEST = """name = "small"
backbones = ["mean_color"]
heads = ["majority"]
[dataset]
name = "chesapeake"
root = "{root}"
patch_size = 32
per_region = 12
[embed]
num_actors = 1
[tune]
num_trials = 1
[evaluate]
num_resamples = 20
"""
"""An experiment on scenes at ``root`` that has one cell and takes seconds."""
