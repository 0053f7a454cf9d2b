"""Grids of embeddings of scenes: rasters, tables, places, nodata, bad input."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pytest
import rasterio
from numpy.typing import NDArray

import benchmark as bm
from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.corners import window_corners
from benchmark.cli.commands import invoke
from benchmark.mapping import embedding, vectors
from benchmark.mapping.embeddings import plan_embeddings
from benchmark.mapping.finding import Work
from benchmark.mapping.streams import Piece
from benchmark.mapping.strips import Strip
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder
from benchmark.products import PlacedProduct
from tests.catalog.test_raster_products import sample
from tests.mapping.pictures import PATCH, RGB, draw, mosaic, write_scene

SIZE, STRIDE = 16, 12
Command = Callable[..., tuple[int, list[Any]]]


@pytest.fixture
def embed(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command with mean colours; return its exit code and its document."""

    def embed(*arguments: object) -> tuple[int, list[Any]]:
        more = ["--stride", STRIDE, "--size", SIZE, "--bands", "1,2,3"]
        code = invoke(["embed-scenes", "mean_color", *map(str, [*arguments, *more]), "--json"])
        return code, json.loads(capsys.readouterr().out)["embeddings"]

    return embed


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command, which is refused with exit code 2; return its line."""

    def complaint(*arguments: object) -> str:
        capsys.readouterr()
        assert invoke(["embed-scenes", *map(str, arguments)]) == 2
        output = capsys.readouterr()
        assert not output.out
        return output.err.splitlines()[-1]

    return complaint


def expected(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the embeddings of all windows of a scene (R, n, D), computed one by one."""
    rows, columns = (range(0, side - SIZE + 1, STRIDE) for side in pixels.shape[1:])
    windows = np.stack(
        [pixels[:, y : y + SIZE, x : x + SIZE] for y in rows for x in columns]
    )  # fmt: skip
    return embed_windows(windows).reshape(len(rows), len(columns), -1)


def embed_windows(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the embeddings (N, D) of windows (N, C, H, W)."""
    plan = plan_device(num_threads=1, device="cpu")
    return Embedder(find_backbone("mean_color"), RGB, plan)(windows)[0]


def read(path: Path) -> NDArray[Any]:
    """Return the bands of a raster as they are stored, (R, n, D)."""
    with rasterio.open(path) as file:
        found: NDArray[Any] = file.read().transpose(1, 2, 0)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_raster_holds_the_embeddings_at_the_stride(
    embed: Command, tmp_path: Path, dtype: str
) -> None:
    pixels = draw(70, 101)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    code, (found,) = embed(scene, "--out", tmp_path / "out", "--dtype", dtype)
    assert code == 0 and found["num_embedded"] == 5 * 8 and found["num_empty"] == 0
    out = tmp_path / "out/scene.tif"
    wanted = expected(pixels)
    stored = read(out)
    assert stored.shape == wanted.shape == (5, 8, found["dim"])
    with rasterio.open(out) as file, rasterio.open(scene) as source:
        assert file.crs == source.crs
        # The middle of a pixel is the middle of its window.
        assert file.xy(3, 4) == source.xy(3 * STRIDE + SIZE / 2 - 0.5, 4 * STRIDE + SIZE / 2 - 0.5)
        assert file.res == (STRIDE * 2, STRIDE * 2)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.tags()["BACKBONE"] == "mean_color" and file.tags()["SCENE"] == "scene.tif"
        scales, offsets, nodata = np.array(file.scales), np.array(file.offsets), file.nodata
    if dtype == "int8":
        assert stored.dtype == np.int8 and nodata == -128
        assert stored.min() == -127 and stored.max() == 127
        assert (np.abs(stored * scales + offsets - wanted) <= 0.5001 * scales).all()
        assert (scales < np.ptp(wanted, axis=(0, 1)) / 250).all()
    elif dtype == "float16":
        np.testing.assert_array_equal(stored, wanted.astype(np.float16).astype(np.float32))
    else:
        np.testing.assert_array_equal(stored, wanted)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scene.tif"]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("empty", [slice(0, 40), slice(20, 70)])
def test_windows_without_data_are_nodata(
    embed: Command, tmp_path: Path, dtype: str, empty: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.mapping.embeddings.STRIP_PATCHES", 1)
    monkeypatch.setattr(vectors, "BLOCK_BYTES", 300)
    pixels = draw(70, 101)
    pixels[:, empty] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    has_data = [bool(pixels[0, y : y + SIZE].any()) for y in range(0, 70 - SIZE + 1, STRIDE)]
    assert 0 < sum(has_data) < 5
    code, (found,) = embed(scene, "--out", tmp_path / "out", "--dtype", dtype)
    assert code == 0 and found["num_empty"] == 8 * (5 - sum(has_data))
    stored = read(tmp_path / "out/scene.tif")
    is_empty = (stored == -128) if dtype == "int8" else np.isnan(stored)
    np.testing.assert_array_equal(is_empty.all(axis=(1, 2)), ~np.array(has_data))
    np.testing.assert_array_equal(is_empty.any(axis=(1, 2)), ~np.array(has_data))
    if dtype == "float32":
        np.testing.assert_array_equal(stored[has_data], expected(pixels)[has_data])


@pytest.mark.parametrize("format", ["geoparquet", "neuco_csv"])
def test_a_table_is_read_back_as_a_backbone(embed: Command, tmp_path: Path, format: str) -> None:
    pixels = draw(70, 101)
    pixels[:, :20, :40] = 0
    scenes = tmp_path / "scenes"
    scene = write_scene(scenes / "sub/a b.tif", pixels, nodata=0)
    code, (found,) = embed(scenes, "--out", tmp_path / "out", "--format", format)
    assert code == 0 and found["num_empty"] == 3
    (out,) = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert found["out"] == str(out) and out.parent.name == "sub"
    product = find_backbone(f"embeddings:{tmp_path / 'out'}").product
    assert product is not None
    wanted = expected(pixels)
    num_read = 0
    for piece in product.pieces():
        ids = [name for batch in product.identifiers(piece) for name in batch.to_pylist()]
        rows = np.concatenate([*product.vectors(piece, np.arange(len(ids)))])
        for name, vector in zip(ids, rows, strict=True):
            place, top, left = name.rsplit("_", 2)
            assert place == "sub/a b"
            np.testing.assert_array_equal(vector, wanted[int(top) // STRIDE, int(left) // STRIDE])
            num_read += 1
    assert num_read == found["num_embedded"] == 40 - 3
    if format == "neuco_csv":
        header = out.read_text().splitlines()[0]
        assert header == ",".join(["id", *map(str, range(wanted.shape[2]))])
        return
    frame = gpd.read_parquet(out)
    with rasterio.open(scene) as source:
        assert frame.crs == source.crs
        left, top = source.transform * (frame["col"][0], frame["row"][0])
    assert frame.geometry[0].bounds == (left, top - SIZE * 2, left + SIZE * 2, top)
    assert (frame.geometry.area == (SIZE * 2) ** 2).all()
    np.testing.assert_array_equal(frame["embedding"][0], wanted[0, frame["col"][0] // STRIDE])


def test_an_exported_model_writes_the_embeddings_of_its_backbone(
    model: Path, complaint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = mosaic(2, 3)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    (found,) = bm.embed_scenes(model, scene, out=tmp_path / "out", stride=np.int64(PATCH))
    assert found.num_embedded == 6 and found.dim == 6
    windows = pixels.reshape(3, 2, PATCH, 3, PATCH).transpose(1, 3, 0, 2, 4)
    wanted = embed_windows(windows.reshape(-1, 3, PATCH, PATCH)).reshape(2, 3, -1)
    np.testing.assert_allclose(read(Path(found.out)), wanted, atol=1e-6)
    with rasterio.open(found.out) as file:
        tags = file.tags()
    assert tags["BACKBONE"] == "mean_color" and tags["METHOD"] == "logistic_regression"
    assert tags["WINDOW_SIZE"] == str(PATCH) and len(tags["BACKBONE_REVISION"]) > 8
    # As an actor gets it, which has booked a GPU or not.
    plan = pickle.loads(pickle.dumps(plan_embeddings(str(model), out=str(tmp_path), stride=PATCH)))
    assert plan.needs_cpu
    actor = embedding.EmbedSceneActor(plan, 1, True)
    piece = Piece(Work(str(scene), found.out), Strip(0, 2))
    (row,) = actor(pa.table({"piece": [piece.to_json()]})).to_pylist()
    assert row["reason"] == ""
    np.testing.assert_allclose(np.frombuffer(row["vectors"], np.float32), wanted.ravel(), atol=1e-6)
    assert "--bands '1,2': names 2; the backbone takes 3" in complaint(
        model, scene, "--out", tmp_path / "new", "--stride", 8, "--bands", "1,2"
    )
    model.rename(tmp_path / "mean_color")
    monkeypatch.chdir(tmp_path)
    asked = ("mean_color", scene, "--out", "new", "--stride", PATCH)
    assert "and an exported folder here; write ./mean_color" in complaint(*asked)
    assert bm.embed_scenes("./mean_color", [scene], out="new", stride=PATCH)[0].dim == 6
    assert "was not exported; give a folder" in complaint("out", *asked[1:])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_raster_is_read_back_as_a_product(embed: Command, tmp_path: Path, dtype: str) -> None:
    pixels = draw(70, 101)
    pixels[:, :20, :40] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    code, (found,) = embed(scene, "--out", tmp_path / "out", "--dtype", dtype)
    assert code == 0 and found["num_empty"] == 3
    with rasterio.open(found["out"]) as file:
        rows, columns = np.indices(file.shape).reshape(2, -1)
        # In the rasters that the footprints lie on, a window is one pixel.
        corners = window_corners(file.transform, file.crs.to_string(), rows, columns, 1)
        stored = file.read().transpose(1, 2, 0).reshape(len(rows), -1)
        expected = stored * np.array(file.scales) + np.array(file.offsets)
        expected[(stored == file.nodata).any(axis=1) | np.isnan(stored).any(axis=1)] = np.nan
    assert np.isnan(expected).all(axis=1).sum() == 3
    product = find_backbone(f"embeddings:{tmp_path / 'out'}").product
    assert isinstance(product, PlacedProduct)
    vectors = sample(product, corners)[:, :-1]
    np.testing.assert_allclose(vectors, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stride": "8"}, r"bm.embed_scenes: stride = '8': give a whole number of px"),
        ({"size": 1.5}, r"size = 1.5: give a whole number"),
        ({"scenes": 7}, r"scenes = 7: give a path, or a list of paths"),
        ({"scenes": [None]}, r"scenes = None: give a path"),
        ({"scenes": []}, r"scenes = \[\]: give a path, or a list of paths"),
        ({"bands": "123"}, r"bands = '123': give a list"),
        ({"bands": [None]}, r"bands = None: give a list"),
        ({"value_range": (1, 0)}, r"value_range = \[1, 0\]: give \(low, high\)"),
        ({"format": None}, r"format = None: give a name"),
        ({"trust_code": 1}, r"trust_code = 1: give True or False"),
        ({"backbone": 3}, r"backbone = 3: give a name, or an exported folder"),
        ({"backbone": "a" * 5000}, r"it is a path of 5,000 bytes"),
        ({"out": b"out"}, r"out = b'out': give a path"),
    ],
)
def test_arguments_of_python_are_refused_in_one_line(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", draw(40, 50))
    given = {"backbone": "mean_color", "scenes": scene, "out": tmp_path / "out", "stride": 8}
    given |= {"size": 16, "bands": [1, 2, 3], **changed}
    with pytest.raises(bm.UsageError, match=message) as caught:
        bm.embed_scenes(**given)
    assert len(str(caught.value)) < 1500 and not (tmp_path / "out").exists()


def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    complaint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write_scene(tmp_path / "scene.tif", draw(40, 50))
    out = tmp_path / "out"
    rgb = ("--bands", "1,2,3")
    sides = ("--stride", 8, "--size", 16, *rgb)

    def refused(*arguments: object) -> str:
        line = complaint(*arguments, "--out", out)
        assert not out.exists() or not list(out.iterdir())
        return line

    for arguments, message in (
        (("mean_colour", scene, *sides), "Did you mean 'mean_color'?"),
        (("mean_color", scene, "--stride", 8, *rgb), "takes windows of any size; give --size PX"),
        (
            ("mean_color", scene, "--stride", 0, "--size", 16, *rgb),
            "--stride 0: give 1 to 65,536 px",
        ),
        (
            ("mean_color", scene, "--stride", 41, "--size", 16, *rgb),
            "is larger than the scene, 40 x 50",
        ),
        (
            ("mean_color", scene, "--stride", 8, "--size", 41, *rgb),
            "40 x 50 px is smaller than a patch",
        ),
        (("pca", scene, *sides), "is fitted on the train patches of an experiment"),
        (("mean_color", scene, *sides, "--format", "zarr"), "choose one of: cog, geoparquet"),
        (("mean_color", scene, *sides, "--dtype", "int4"), "choose one of: float32, float16"),
        (
            ("mean_color", scene, *sides, "--format", "geoparquet", "--dtype", "int8"),
            "tables hold float32",
        ),
        (("mean_color", scene, *sides[:4]), "takes any bands; say which of the scene"),
        (("efficientnet_lite0", scene, *sides, "--bands", "1,2"), "names 2; the backbone takes 3"),
        (("mean_color", scene, *sides, "--bands", "1,2,9"), "--bands '9': the scene has 3 bands"),
        (("mean_color", tmp_path / "no.tif", *sides), "cannot be read as a raster"),
    ):
        assert message in refused(*arguments)
    for pixels, settings, message in (
        (draw(40, 50, num_bands=2), {}, "has 2 bands (band_1, band_2)"),
        (draw(40, 50), {"crs": None}, "has no location (CRS"),
        (np.zeros((3, 40, 50), np.uint8), {"nodata": 0}, "holds no data"),
    ):
        other = write_scene(tmp_path / "other.tif", pixels, **settings)
        assert message in refused("efficientnet_lite0", other, *sides[:4])
    monkeypatch.setattr(vectors, "MAX_BANDS", 2)
    assert "a raster holds 2 bands; write --format geoparquet" in refused(
        "mean_color", scene, *sides
    )
    written = ("mean_color", scene, *sides, "--format", "neuco_csv", "--out", out)
    assert invoke(["embed-scenes", *map(str, written)]) == 0
    before = (out / "scene.csv").read_bytes()
    line = complaint(*written)
    assert line.endswith("scene.csv exist already; name another folder")
    assert (out / "scene.csv").read_bytes() == before
    assert "whose outputs go into a folder" in complaint(
        "mean_color", scene, *sides, "--out", tmp_path / "out.tif"
    )


def test_the_output_of_a_scene_that_is_damaged_in_the_middle_never_appears(
    complaint: Callable[..., str], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(1, 255, (3, 200, 200)).astype(np.uint8)
    scene = write_scene(tmp_path / "cut.tif", noise)
    data = scene.read_bytes()
    scene.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    for format in ("cog", "geoparquet", "neuco_csv"):
        arguments = ("mean_color", scene, "--stride", 64, "--size", 16, "--bands", "1,2,3")
        arguments += ("--format", format)
        line = complaint(*arguments, "--out", tmp_path / "out")
        assert "cut.tif: cannot be read" in line
        assert not list((tmp_path / "out").iterdir())


def test_a_constant_dimension_and_large_values_survive_or_are_refused() -> None:
    values = np.array([[3.0, -1.0], [3.0, 1.0]], np.float32)
    scale, offset = np.array([1.0, 2 / 254]), np.array([3.0, 0.0])
    stored = vectors.quantise(values, scale, offset)
    np.testing.assert_allclose(stored * scale + offset, values)
    assert vectors.quantise(np.full((1, 2), np.nan, np.float32), scale, offset).tolist() == [
        [-128, -128]
    ]


@pytest.mark.slow
def test_ray_writes_the_same_bits_and_a_bad_scene_stops_no_other(
    ray_session: None, embed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = tmp_path / "scenes"
    pixels = draw(150, 170)
    pixels[:, 30:80, 20:90] = 0
    write_scene(scenes / "a.tif", pixels, nodata=0)
    write_scene(scenes / "b.tif", draw(60, 60, seed=1))
    write_scene(scenes / "c.tif", draw(60, 60, num_bands=2))
    monkeypatch.setattr(embedding, "FEW_WINDOWS", 10_000)
    assert embed(scenes / "a.tif", "--out", tmp_path / "here")[0] == 0
    monkeypatch.undo()
    assert embed(scenes / "a.tif", "--out", tmp_path / "alone")[0] == 0
    code, found = embed(scenes, "--out", tmp_path / "out")
    assert code == 1
    assert [item["status"] for item in found] == ["complete", "complete", "failed"]
    assert "has 2 bands" in found[2]["reason"]
    for folder in ("alone", "out"):
        written = (tmp_path / folder / "a.tif").read_bytes()
        assert written == (tmp_path / "here/a.tif").read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.tif", "b.tif"]
