"""Write small rasters of embeddings in the layouts of AlphaEarth and TESSERA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform as warp

from benchmark.catalog.corners import window_corners

CRS = "EPSG:32617"
WEST, NORTH = 500_000.0, 4_500_000.0
PIXEL_M = 10.0


def unit_vectors(height: int, width: int, dim: int = 64, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return random vectors of unit length, float32 (D, H, W)."""
    found = np.random.default_rng(seed).normal(size=(dim, height, width))
    return (found / np.linalg.norm(found, axis=0)).astype(np.float32)


def quantise(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return AlphaEarth's int8 of vectors; NaN becomes -128."""
    scaled = np.round(np.sign(vectors) * np.sqrt(np.abs(vectors)) * 127.5)
    return np.where(np.isnan(scaled), -128, np.clip(scaled, -127, 127)).astype(np.int8)


def dequantise(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the published vectors of AlphaEarth's int8, float32."""
    values = values.astype(np.float32)
    return np.asarray(np.sign(values) * (values / 127.5) ** 2)


def write_raster(
    path: Path,
    values: np.ndarray[Any, Any],
    *,
    west: float = WEST,
    north: float = NORTH,
    crs: str | None = CRS,
    pixel_m: float = PIXEL_M,
    is_south_up: bool = False,
    names: tuple[str, ...] = (),
    **profile: Any,
) -> Path:
    """Write (D, H, W) as a GeoTIFF of blocks of 64 px; ``south-up``: the last row is the north."""
    dim, height, width = values.shape
    transform = from_origin(west, north, pixel_m, pixel_m)
    if is_south_up:
        values = values[:, ::-1]
        transform = rasterio.Affine(pixel_m, 0, west, 0, pixel_m, north - height * pixel_m)
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": "pixel",
        "compress": "deflate", **profile,
    }  # fmt: skip
    with rasterio.open(
        path, "w", driver="GTiff", count=dim, height=height, width=width, dtype=values.dtype,
        crs=crs, transform=transform, **options,
    ) as file:  # fmt: skip
        file.write(values)
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)
    return path


def write_alphaearth(
    root: Path, vectors: np.ndarray[Any, Any], *, year: int = 2021, zone: str = "17N",
    name: str = "x7k-0000000000-0000000000", **place: Any,
) -> Path:  # fmt: skip
    """Write unit vectors (64, H, W) below ``YEAR/ZONE``; NaN becomes nodata."""
    names = tuple(f"A{number:02d}" for number in range(64))
    path = root / str(year) / zone / f"{name}.tiff"
    return write_raster(path, quantise(vectors), nodata=-128, names=names, **place)


def write_tessera(
    root: Path, vectors: np.ndarray[Any, Any], *, lon: float = -80.95, lat: float = 40.65,
    year: int = 2024, **place: Any,
) -> Path:  # fmt: skip
    """Write vectors (128, H, W) as ``grid_LON_LAT_YEAR.tiff``."""
    path = root / f"grid_{lon:.2f}_{lat:.2f}_{year}.tiff"
    return write_raster(path, vectors.astype(np.float32), **place)


def write_copernicus(root: Path, vectors: np.ndarray[Any, Any], **place: Any) -> Path:
    """Write vectors (D, H, W) as Copernicus-Embed's only file."""
    return write_raster(root / "embed_map_310k.tif", vectors, **place)


def footprints(
    rows: Any, cols: Any, size: float, *, pixel_m: float = PIXEL_M, crs: str = CRS
) -> np.ndarray[Any, Any]:
    """Return corners in degrees of squares, given in pixels of the rasters, (N, 4, 2)."""
    transform = (pixel_m, 0.0, WEST, 0.0, -pixel_m, NORTH)
    return window_corners(transform, crs, np.atleast_1d(rows), np.atleast_1d(cols), size)


class Placed(NamedTuple):
    """Patches on the ground, for which rasters are written: one for each scene."""

    ids: list[str]
    labels: np.ndarray[Any, Any]
    scenes: list[str]
    corners: np.ndarray[Any, Any]
    """In m of ``CRS``, (N, 4, 2)."""

    def expected(self, dim: int) -> np.ndarray[Any, Any]:
        """Return the vector of each patch: one of unit length for its class, (N, D)."""
        found = np.random.default_rng(1).normal(size=(1 + self.labels.max(), dim))
        return np.asarray((found / np.linalg.norm(found, axis=1)[:, None])[self.labels])

    def write(
        self, root: Path, write: Callable[..., Path], *, dim: int = 64, hidden: Sequence[int] = ()
    ) -> None:
        """Write rasters of 2 m with the vector of the class below each patch.

        Args:
            root: the folder.
            write: ``write_alphaearth`` or ``write_tessera``.
            dim: number of bands.
            hidden: numbers of the patches below which there is no data.
        """
        vectors, size = self.expected(dim), 2.0
        for place, scene in enumerate(sorted(set(self.scenes))):
            mine = [number for number, name in enumerate(self.scenes) if name == scene]
            west, south = np.floor(self.corners[mine].min(axis=(0, 1)) / size - 2) * size
            east, north = np.ceil(self.corners[mine].max(axis=(0, 1)) / size + 2) * size
            values = np.zeros((dim, round((north - south) / size), round((east - west) / size)))
            values[0] = 1
            for number in sorted(mine, key=lambda it: it in hidden):
                left, low = self.corners[number].min(axis=0)
                right, high = self.corners[number].max(axis=0)
                rows = slice(int((north - high) // size), int((north - low) // size) + 1)
                cols = slice(int((left - west) // size), int((right - west) // size) + 1)
                value = np.full(dim, np.nan) if number in hidden else vectors[number]
                values[:, rows, cols] = value[:, None, None]
            own = {"name": scene} if write is write_alphaearth else {"lon": place / 10}
            write(root, values, west=west, north=north, pixel_m=size, **own)


def run_and_place(content: dict[str, Any]) -> tuple[pa.Table, Placed]:
    """Run an experiment on scenes; return its patches, sorted, and where they lie."""
    import benchmark as bm
    from benchmark.catalog.chesapeake.scenes import open_chesapeake
    from benchmark.config import build

    experiment = build(content)
    bm.run(experiment)
    (folder,) = (Path(content["store"]) / "patches").iterdir()
    table = pq.read_table(folder).sort_by("patch_id")
    return table, place_patches(open_chesapeake(experiment.dataset), table)


def place_patches(source: Any, table: pa.Table) -> Placed:
    """Return the patches of a data set with corners."""
    corners = source.corners(table)
    x, y = warp("EPSG:4326", CRS, corners[..., 0].ravel(), corners[..., 1].ravel())
    return Placed(
        table["patch_id"].to_pylist(),
        table["label"].to_numpy(),
        table["scene"].to_pylist(),
        np.stack([x, y], axis=-1).reshape(corners.shape),
    )
