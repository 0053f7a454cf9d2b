"""Corners of patches on the ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from benchmark.catalog.corners import centre_corners, window_corners


def write(path: Path, *, height: int = 30, width: int = 50, **place: object) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", **place
    ) as image:
        image.write(np.ones((1, height, width), np.uint8))
    return path


def test_corners_go_round_each_window_in_degrees() -> None:
    transform = from_origin(10.0, 50.0, 0.01, 0.02)
    found = window_corners(transform, "EPSG:4326", [0, 5], [0, 10], 4)
    assert found.shape == (2, 4, 2)
    np.testing.assert_allclose(
        found[0], [[10, 50], [10, 49.92], [10.04, 49.92], [10.04, 50]], atol=1e-9
    )
    np.testing.assert_allclose(found[1, 0], [10.1, 49.9], atol=1e-9)
    assert window_corners(transform, "EPSG:4326", [], [], 4).shape == (0, 4, 2)


def test_corners_are_reprojected_as_the_centre_is() -> None:
    from rasterio.warp import transform as warp

    transform = from_origin(400_000, 4_400_000, 1, 1)
    (found,) = window_corners(transform, "EPSG:26918", [64], [32], 128)
    lon, lat = warp("EPSG:26918", "EPSG:4326", [400_000 + 32 + 64], [4_400_000 - 64 - 64])
    np.testing.assert_allclose(found.mean(axis=0), [lon[0], lat[0]], atol=1e-7)


def test_a_window_across_the_antimeridian_is_not_spread_round_the_earth() -> None:
    transform = from_origin(179.99, -16.0, 0.01, 0.01)
    for crs in ("EPSG:4326", "EPSG:3832"):
        if crs == "EPSG:3832":  # Metres, centred on 150 degrees east.
            transform = from_origin(3_338_000, -1_800_000, 1000, 1000)
        (found,) = window_corners(transform, crs, [0], [0], 4)
        assert np.ptp(found[:, 0]) < 0.1
        assert found[:, 0].min() < 180 < found[:, 0].max()


def test_an_image_becomes_its_centred_square(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", crs="EPSG:4326", transform=from_origin(5, 45, 0.1, 0.1))
    found = centre_corners(path)
    np.testing.assert_allclose(found, [[6, 45], [6, 42], [9, 42], [9, 45]], atol=1e-9)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_an_image_without_a_place_has_no_corners(tmp_path: Path) -> None:
    (tmp_path / "bad.tif").write_bytes(b"II*\x00")
    plain = write(tmp_path / "plain.tif")
    no_crs = write(tmp_path / "no_crs.tif", transform=from_origin(5, 45, 0.1, 0.1))
    for path in (plain, no_crs, tmp_path / "bad.tif", tmp_path / "none.tif"):
        assert np.isnan(centre_corners(path)).all()
        assert centre_corners(path).shape == (4, 2)
