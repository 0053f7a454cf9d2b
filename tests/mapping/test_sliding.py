"""Maps of scenes: classes, confidence, edges, overlaps, nodata, bands, memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError, UsageError
from benchmark.mapping import rasters, sliding
from benchmark.mapping.axes import Grid
from benchmark.mapping.rasters import NODATA, class_colors
from benchmark.mapping.scenes import Needs, open_scene
from benchmark.mapping.sliding import Mapped, classify_rows, write_map
from tests.mapping.pictures import RGB, SIDE, Model, draw, write_scene


def make_map(scene: Path, out: Path, *, stride: int = SIDE, **needs: Any) -> Mapped:
    with open_scene(str(scene), Needs(RGB, SIDE, **needs)) as found:
        grid = Grid.of(found.dataset.shape, patch_size=SIDE, stride=stride)
        rows = classify_rows(Model(), found, grid, 0, len(grid.rows))
        return write_map(rows, found, grid, out, Model.classes, tags={"MODEL": "toy"})


def read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        found: NDArray[Any] = file.read(1)
    return found


def by_hand(pixels: NDArray[np.uint8], stride: int) -> NDArray[np.float64]:
    """Return the mean probabilities (K, H, W) over the patches that cover each pixel."""
    _, height, width = pixels.shape
    sums, counts = np.zeros((3, height, width)), np.zeros((height, width))
    places = []
    for length in (height, width):
        starts = list(range(0, length - SIDE + 1, stride))
        spans = [(start, start, start + SIDE) for start in starts]
        if spans[-1][2] < length:
            spans.append((length - SIDE, spans[-1][2], length))
        places.append(spans)
    for y, top, bottom in places[0]:
        for x, left, right in places[1]:
            found = Model().predict(pixels[None, :, y : y + SIDE, x : x + SIDE])[0]
            sums[:, top:bottom, left:right] += found[:, None, None]
            counts[top:bottom, left:right] += 1
    return sums / counts


@pytest.mark.parametrize("stride", [SIDE, 8, 5, 1])
@pytest.mark.parametrize("size", [(48, 64), (53, 70), (SIDE, SIDE), (17, 16)])
def test_each_pixel_has_the_class_of_the_largest_mean_probability(
    tmp_path: Path, size: tuple[int, int], stride: int
) -> None:
    pixels = draw(*size)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    found = make_map(scene, tmp_path / "map.tif", stride=stride)
    expected = by_hand(pixels, stride)
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), expected.argmax(axis=0))
    confidence = read(tmp_path / "map.confidence.tif")
    np.testing.assert_allclose(confidence, expected.max(axis=0), rtol=1e-6)
    assert found.num_patches == Grid.of(size, patch_size=SIDE, stride=stride).num_patches
    counts = np.bincount(expected.argmax(axis=0).ravel(), minlength=3)
    assert list(found.counts.values()) == counts.tolist()
    assert found.num_empty == 0


def test_chunks_of_a_row_and_of_written_pixels_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write_scene(tmp_path / "scene.tif", draw(70, 150))
    make_map(scene, tmp_path / "whole.tif", stride=7)
    monkeypatch.setattr(sliding, "CHUNK", 3)
    monkeypatch.setattr(rasters, "WRITTEN_PX", 200)
    make_map(scene, tmp_path / "parts.tif", stride=7)
    for name in ("{}.tif", "{}.confidence.tif"):
        np.testing.assert_array_equal(
            read(tmp_path / name.format("whole")), read(tmp_path / name.format("parts"))
        )


def test_gdal_opens_the_map_with_its_place_colours_and_class_names(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", draw(1100, 700))
    make_map(scene, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as found, rasterio.open(scene) as source:
        assert (found.crs, found.transform, found.shape) == (
            source.crs, source.transform, source.shape,
        )  # fmt: skip
        assert found.dtypes == ("uint8",) and found.nodata == NODATA
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.overviews(1)
        assert found.tags()["MODEL"] == "toy"
        assert found.tags(1)["CLASS_2"] == "mostly <blue>"
        colors = found.colormap(1)
        assert [colors[i][:3] for i in range(3)] == class_colors(3)
    with rasterio.open(tmp_path / "map.confidence.tif") as found:
        assert found.dtypes == ("float32",) and np.isnan(found.nodata)
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    # GDAL itself reads the names, and writes those that it read.
    rasterio.shutil.copy(tmp_path / "map.tif", tmp_path / "map.vrt", driver="VRT")
    text = (tmp_path / "map.vrt").read_text()
    assert "<Category>mostly red</Category>" in text
    assert "<Category>mostly &lt;blue&gt;</Category>" in text
    with rasterio.open(tmp_path / "map.tif") as found:
        found.read(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "map.confidence.tif", "map.tif", "map.tif.aux.xml", "map.vrt", "scene.tif",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["nodata", "mask", "alpha", "nan"])
def test_pixels_without_data_stay_so_and_are_black_for_the_model(tmp_path: Path, kind: str) -> None:
    pixels = draw(64, 64)
    empty = np.zeros((64, 64), bool)
    empty[:32, 16:48] = True  # four whole patches
    empty[40:44, 3:9] = True  # a part of one
    shown = np.where(empty, np.uint8(0), pixels)
    path, needs = tmp_path / "scene.tif", {}
    if kind == "nodata":
        write_scene(path, shown, nodata=0)
    elif kind == "nan":
        write_scene(path, np.where(empty, np.nan, pixels).astype(np.float32))
        needs = {"value_range": (0.0, 255.0)}
    elif kind == "alpha":
        write_scene(
            path,
            np.concatenate([pixels, np.where(empty, 0, 255)[None].astype(np.uint8)]),
            photometric="RGB",
            alpha="yes",
        )
    else:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            write_scene(path, pixels)
            with rasterio.open(path, "r+") as file:
                file.write_mask(~empty)
    found = make_map(path, tmp_path / "map.tif", **needs)
    labels = read(tmp_path / "map.tif")
    np.testing.assert_array_equal(labels == NODATA, empty)
    np.testing.assert_array_equal(np.isnan(read(tmp_path / "map.confidence.tif")), empty)
    expected = by_hand(shown, SIDE).argmax(axis=0)
    np.testing.assert_array_equal(labels[~empty], expected[~empty])
    assert found.num_patches == 12 and found.num_empty == empty.sum()


def test_overlapping_patches_without_data_do_not_count(tmp_path: Path) -> None:
    pixels = draw(SIDE, 3 * SIDE)
    pixels[:, :, : 2 * SIDE] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    found = make_map(scene, tmp_path / "map.tif", stride=8)
    assert found.num_patches == 2
    last = Model().predict(pixels[None, :, :, 32:])[0]
    # The last 8 px are of the last patch alone.
    confidence = read(tmp_path / "map.confidence.tif")
    np.testing.assert_allclose(confidence[:, 40:], last.max(), rtol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "descriptions", "order"),
    [
        pytest.param((), None, (0, 1, 2), id="four bands are red, green, blue, nir"),
        pytest.param(("3", "2", "1"), None, (2, 1, 0), id="numbers"),
        pytest.param((), ("nir", "blue", "green", "red"), (3, 2, 1), id="by description"),
        pytest.param(("nir", "RED", "4"), None, (3, 0, 3), id="names"),
    ],
)
def test_bands_are_found_by_name_or_chosen(
    tmp_path: Path, chosen: tuple[str, ...], descriptions: Any, order: tuple[int, ...]
) -> None:
    pixels = draw(32, 32, num_bands=4)
    scene = write_scene(tmp_path / "scene.tif", pixels, photometric="minisblack", alpha="no")
    if descriptions:
        with rasterio.open(scene, "r+") as file:
            file.descriptions = descriptions
    make_map(scene, tmp_path / "map.tif", chosen=chosen)
    expected = by_hand(pixels[list(order)], SIDE).argmax(axis=0)
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), expected)


def test_values_are_scaled_as_in_the_experiment(tmp_path: Path) -> None:
    pixels = draw(32, 32)
    scene = write_scene(tmp_path / "scene.tif", (pixels.astype(np.uint16) * 10 + 100))
    make_map(scene, tmp_path / "map.tif", value_range=(100.0, 2650.0))
    expected = by_hand(pixels, SIDE).argmax(axis=0)
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), expected)


@pytest.mark.parametrize(
    ("pixels", "settings", "message"),
    [
        (draw(32, 32, num_bands=2), {}, r"has 2 bands \(band_1, band_2\); .*--bands 1,2,3"),
        (draw(32, 32, num_bands=5), {"photometric": "minisblack", "alpha": "no"}, "has 5 bands"),
        (draw(32, 32).astype(np.uint16), {}, "holds uint16 pixels, .*--value-range LOW HIGH"),
        (draw(32, 32).astype(np.complex64), {}, "holds complex64 pixels"),
        (draw(32, 32), {"crs": None}, r"has no location \(CRS"),
        (draw(32, 15), {}, "32 x 15 px is smaller than a patch of the model, 16 x 16 px"),
        (draw(32, 32), {"nodata": 0, "fill": 0}, "holds no data"),
    ],
)  # fmt: skip
def test_a_scene_that_does_not_suit_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, pixels: NDArray[Any], settings: dict[str, Any], message: str
) -> None:
    settings = dict(settings)
    if "fill" in settings:
        pixels = np.full_like(pixels, settings.pop("fill"))
    scene = write_scene(tmp_path / "scene.tif", pixels, **settings)
    with pytest.raises(UsageError, match=message) as error:
        make_map(scene, tmp_path / "map.tif")
    assert str(scene) in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_files_that_are_no_rasters_or_damaged_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(UsageError, match="cannot be read as a raster"):
        make_map(tmp_path / "text.tif", tmp_path / "map.tif")
    with pytest.raises(UsageError, match="cannot be read as a raster"):
        make_map(tmp_path / "absent.tif", tmp_path / "map.tif")
    noise = np.random.default_rng(0).integers(1, 255, (3, 200, 200)).astype(np.uint8)
    scene = write_scene(tmp_path / "cut.tif", noise)
    data = scene.read_bytes()
    scene.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(UsageError, match=r"cut\.tif: cannot be read"):
        make_map(scene, tmp_path / "map.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.tif", "text.tif"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [(("1", "2", "7"), "--bands '7': the scene has 3 bands"), (("a", "1", "2"), "--bands 'a'")],
)
def test_bands_that_a_scene_lacks_are_refused(
    tmp_path: Path, chosen: tuple[str, ...], message: str
) -> None:
    scene = write_scene(tmp_path / "scene.tif", draw(32, 32))
    with pytest.raises(UsageError, match=message):
        make_map(scene, tmp_path / "map.tif", chosen=chosen)


def test_a_failure_while_writing_keeps_an_older_map(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", draw(32, 32))
    make_map(scene, tmp_path / "map.tif")
    before = (tmp_path / "map.tif").read_bytes()
    write_scene(scene, np.zeros((3, 32, 32), np.uint8), nodata=0)
    with pytest.raises(BenchmarkError, match="holds no data"):
        make_map(scene, tmp_path / "map.tif")
    assert (tmp_path / "map.tif").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 4


def test_colours_of_255_classes_differ() -> None:
    colors = class_colors(255)
    assert len(set(colors)) == 255


MEMORY = """
import sys
from pathlib import Path
from benchmark.mapping import axes, rasters, scenes, sliding
from benchmark.peaks import peak_memory_bytes
from tests.mapping.pictures import RGB, Model

scenes.CACHE_BYTES, sliding.CHUNK_BYTES, rasters.WRITTEN_PX = 16, 4 * 2**20, 2**20
with scenes.open_scene(sys.argv[1], scenes.Needs(RGB, 256, ("1", "2", "3"))) as scene:
    grid = axes.Grid.of(scene.dataset.shape, patch_size=256, stride=256)
    rows = sliding.classify_rows(Model(256), scene, grid, 0, len(grid.rows))
    sliding.write_map(rows, scene, grid, Path(sys.argv[2]), Model.classes, tags={})
print(peak_memory_bytes())
"""
"""Maps a scene and prints the peak memory of the process (bytes; of Linux)."""


@pytest.mark.slow
def test_memory_does_not_grow_with_a_scene_of_ten_times_the_limit(tmp_path: Path) -> None:
    limit, num_bands = 48 * 2**20, 14
    peaks = []
    for side in (512, 6_144):
        profile = {
            **{"driver": "GTiff", "count": num_bands, "height": side, "width": side},
            **{"dtype": "uint8", "tiled": True, "sparse_ok": True, "crs": "EPSG:26918"},
            "transform": rasterio.transform.from_origin(500_000, 4_000_000, 2, 2),
        }
        scene = tmp_path / f"scene{side}.tif"
        with rasterio.open(scene, "w", **profile):
            pass  # all zeros, as GDAL reads what was never written
        command = [sys.executable, "-c", MEMORY, str(scene), str(tmp_path / f"map{side}.tif")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert num_bands * 6_144**2 >= 10 * limit
    assert peaks[1] - peaks[0] < limit, peaks
