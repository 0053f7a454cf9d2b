"""The reader of the Chesapeake layout, on hand-made scenes whose answers are known."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform

from benchmark.catalog.chesapeake.index import count_classes, count_unknown
from benchmark.catalog.chesapeake.preparing import prepare_chesapeake
from benchmark.catalog.chesapeake.scenes import (
    ChesapeakeSource,
    open_chesapeake,
    open_split_scenes,
)
from benchmark.config import DatasetConfig
from benchmark.errors import BenchmarkError, UsageError
from benchmark.tables import CANDIDATES, check_table

FOLDER = "pa_1m_2013_extended-debuffered-train_tiles"


def config(root: Path, **settings: object) -> DatasetConfig:
    content = {"name": "chesapeake", "root": str(root), "patch_size": 10, "purity": 0.85}
    return DatasetConfig.model_validate(content | settings)


def write_raster(path: Path, pixels: np.ndarray, **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {
        "driver": "GTiff",
        "crs": "EPSG:26918",
        "transform": from_origin(400_000, 4_400_000, 1, 1),
        "compress": "deflate",
        "interleave": "pixel",
        "dtype": pixels.dtype,
    }
    profile |= {"count": count, "height": height, "width": width} | more
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)


def noise(height: int, width: int, bands: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (bands, height, width), np.uint8)


def add_scene(
    root: Path,
    mask: np.ndarray,
    *,
    name: str = "m_4007601_ne_18_1",
    split: str = "pa-train",
    folder: str = FOLDER,
    image: np.ndarray | None = None,
) -> tuple[Path, Path]:
    paths = f"{folder}/{name}_naip-new.tif", f"{folder}/{name}_lc.tif"
    write_raster(root / paths[0], noise(*mask.shape) if image is None else image)
    write_raster(root / paths[1], mask.astype(np.uint8)[None])
    list_scene(root, split, *paths)
    return root / paths[0], root / paths[1]


def list_scene(root: Path, split: str, image: str, mask: str) -> None:
    index = root / "spatial_index.geojson"
    content = json.loads(index.read_text()) if index.exists() else {"features": []}
    properties = {"split": split, "naip-new": image, "lc": mask}
    content["features"].append({"type": "Feature", "properties": properties, "geometry": None})
    index.write_text(json.dumps(content))


@pytest.fixture
def two_scenes(tmp_path: Path) -> ChesapeakeSource:
    """Two scenes of 20 x 35 px: two window-rows of three windows, and a rest of 5 px."""
    first = np.zeros((20, 35), np.uint8)
    first[:10, :10] = 1
    first[:10, 10:20] = 2
    first[0, 10:20] = 0  # 90 % trees: kept
    first[:10, 20:30] = 3
    first[:2, 20:30] = 15  # 80 % low vegetation, the rest is nodata: dropped
    first[10:, :10] = 5
    first[10:15, :10] = 6  # both are impervious
    first[10:, 10:20] = 4
    first[18:, 10:15] = 7  # 90 % barren, the rest no known value: kept
    first[10:, 20:30] = 1
    first[10:15, 20:30] = 2  # a tie: dropped
    add_scene(tmp_path, first)
    second = np.full((20, 35), 3)
    folder = "de_1m_2013_extended-debuffered-val_tiles"
    add_scene(tmp_path, second, name="m_3807501_sw_18_1", split="de-val", folder=folder)
    return open_chesapeake(config(tmp_path))


def test_classes_purity_and_nodata(two_scenes: ChesapeakeSource) -> None:
    found = two_scenes.find("m_4007601_ne_18_1")
    table = check_table(found.candidates, CANDIDATES, what="found")
    assert found.num_examined == 6
    assert not found.problems
    rows = table.select(["patch_id", "label", "row", "col"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("m_4007601_ne_18_1-00000-00000", 0, 0, 0),
        ("m_4007601_ne_18_1-00000-00010", 1, 0, 10),
        ("m_4007601_ne_18_1-00010-00000", 4, 10, 0),
        ("m_4007601_ne_18_1-00010-00010", 3, 10, 10),
    ]
    assert table["purity"].to_numpy() == pytest.approx([1, 0.9, 1, 0.9])
    assert set(table["split"].to_pylist()) == {"test"}
    assert set(table["region"].to_pylist()) == {"pennsylvania"}
    (lon,), (lat,) = transform("EPSG:26918", "EPSG:4326", [400_015], [4_399_995])
    assert table["lon"][1].as_py() == pytest.approx(lon, abs=1e-9)
    assert table["lat"][1].as_py() == pytest.approx(lat, abs=1e-9)


def test_a_share_equal_to_purity_is_kept(tmp_path: Path) -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask.ravel()[:57] = 2  # 0.57 * 100 is below 57 in binary, 0.07 * 100 above 7
    add_scene(tmp_path, mask)
    for purity, num_kept in ((0.57, 1), (0.571, 0)):
        source = open_chesapeake(config(tmp_path, purity=purity))
        assert source.find(source.units()[0]).candidates.num_rows == num_kept


def test_splits_are_by_state(two_scenes: ChesapeakeSource) -> None:
    assert two_scenes.units() == ["m_3807501_sw_18_1", "m_4007601_ne_18_1"]
    assert {s.region: s.split for s in two_scenes.scenes} == {
        "delaware": "val",
        "pennsylvania": "test",
    }
    moved = open_chesapeake(
        config(Path(two_scenes.root), test_regions=["delaware"], val_regions=[])
    )
    assert {s.region: s.split for s in moved.scenes} == {
        "delaware": "test",
        "pennsylvania": "train",
    }


@pytest.mark.parametrize("is_tiled", [False, True])
def test_read_keeps_the_order_of_the_rows(tmp_path: Path, is_tiled: bool) -> None:
    image = noise(40, 200)
    path, _ = add_scene(tmp_path, np.full((40, 200), 1))
    write_raster(
        path, image, **({"tiled": True, "blockxsize": 16, "blockysize": 16} if is_tiled else {})
    )
    source = open_chesapeake(config(tmp_path))
    candidates = source.find(source.units()[0]).candidates
    chosen = candidates.take([61, 0, 19, 5, 40, 79, 4])
    pixels, rows, problems, _ = source.read(chosen)
    assert pixels.shape == (7, 4, 10, 10)
    assert pixels.dtype == np.uint8
    assert rows.tolist() == list(range(7))
    assert not problems
    for picture, row, col in zip(
        pixels, chosen["row"].to_pylist(), chosen["col"].to_pylist(), strict=True
    ):
        np.testing.assert_array_equal(picture, image[:, row : row + 10, col : col + 10])


def test_read_of_nothing(two_scenes: ChesapeakeSource) -> None:
    images = two_scenes.read(CANDIDATES.empty_table())
    assert images.pixels.shape == (0, 4, 10, 10)
    assert images.rows.size == 0


def test_source_pickles(two_scenes: ChesapeakeSource) -> None:
    assert pickle.loads(pickle.dumps(two_scenes)) == two_scenes


def test_count_classes_leaves_out_nodata() -> None:
    codes = np.array([[1, 1, 2, 0], [6, 5, 15, 255]], np.uint8)
    assert count_classes(codes, 2).tolist() == [[[2, 0, 0, 0, 2], [0, 1, 0, 0, 0]]]


def test_truncated_mask_is_a_problem(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(1, 5, (200, 200))
    _, mask = add_scene(tmp_path, codes)
    mask.write_bytes(mask.read_bytes()[: mask.stat().st_size // 2])
    source = open_chesapeake(config(tmp_path))
    found = source.find(source.units()[0])
    assert found.candidates.num_rows == 0
    assert found.candidates.schema == CANDIDATES
    (problem,) = found.problems
    assert problem.path == f"{FOLDER}/m_4007601_ne_18_1_lc.tif"
    assert problem.reason


def test_truncated_image_loses_only_its_rows(tmp_path: Path) -> None:
    pixels = noise(200, 200)
    image, _ = add_scene(tmp_path, np.full((200, 200), 1), image=pixels)
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    source = open_chesapeake(config(tmp_path))
    candidates = source.find(source.units()[0]).candidates.slice(0, 400)
    shuffled = candidates.take(np.random.default_rng(1).permutation(400))
    images = source.read(shuffled)
    assert 0 < len(images.rows) < 400
    assert images.pixels.shape == (len(images.rows), 4, 10, 10)
    (problem,) = images.problems
    assert problem.path == f"{FOLDER}/m_4007601_ne_18_1_naip-new.tif"
    assert f"{400 - len(images.rows)} patches lost" in problem.reason
    rows = shuffled.take(images.rows)
    for picture, row, col in zip(
        images.pixels, rows["row"].to_pylist(), rows["col"].to_pylist(), strict=True
    ):
        np.testing.assert_array_equal(picture, pixels[:, row : row + 10, col : col + 10])


@pytest.mark.parametrize(
    ("mask_shape", "image_shape", "name", "reason"),
    [
        (
            (30, 30),
            (4, 30, 31),
            "lc",
            "its grid (30 x 30 px of 1 x 1 from (400000, 4400000)",
        ),
        ((8, 30), (4, 8, 30), "naip-new", "smaller than a patch of 10 px"),
        ((30, 30), (3, 30, 30), "naip-new", "3 bands of uint8, expected 4"),
    ],
)
def test_inconsistent_scene_is_a_problem(
    tmp_path: Path,
    mask_shape: tuple[int, int],
    image_shape: tuple[int, int, int],
    name: str,
    reason: str,
) -> None:
    image = noise(*image_shape[1:], bands=image_shape[0])
    add_scene(tmp_path, np.ones(mask_shape), image=image)
    source = open_chesapeake(config(tmp_path))
    (problem,) = source.find(source.units()[0]).problems
    assert problem.path.endswith(f"_{name}.tif")
    assert reason in problem.reason


@pytest.mark.parametrize(
    ("kind", "profile", "reason"),
    [
        ("lc", {"crs": None}, "has no coordinate reference system"),
        ("naip-new", {"crs": None}, "has no coordinate reference system"),
        ("lc", {"crs": "EPSG:26917"}, "in EPSG:26917) differs from that of its image (20 x 20 px"),
        ("lc", {"transform": from_origin(400_010, 4_400_000, 1, 1)}, "from (400010, 4400000)"),
        ("lc", {"transform": from_origin(400_000, 4_400_000, 2, 2)}, "px of 2 x 2 from"),
    ],
)
def test_a_scene_whose_grids_differ_or_are_unknown_is_a_problem(
    tmp_path: Path, kind: str, profile: dict[str, object], reason: str
) -> None:
    image, mask = add_scene(tmp_path, np.ones((20, 20)))
    pixels = np.ones((1, 20, 20), np.uint8) if kind == "lc" else noise(20, 20)
    write_raster(mask if kind == "lc" else image, pixels, **profile)
    source = open_chesapeake(config(tmp_path))
    found = source.find(source.units()[0])
    (problem,) = found.problems
    assert problem.path.endswith(f"_{kind}.tif")
    assert reason in problem.reason
    assert not found.candidates.num_rows


def test_unknown_values_of_labels_are_counted(tmp_path: Path) -> None:
    codes = np.ones((20, 20), np.uint8)
    codes[0, :15] = [0, 15, 7, 7, 200, *[255] * 10]
    _, mask = add_scene(tmp_path, codes)
    assert count_unknown(codes, None) == {7: 2, 200: 1, 255: 10}
    write_raster(mask, codes[None], nodata=255)
    source = open_chesapeake(config(tmp_path))
    text = "Pixels of labels with the unknown value {}, taken for no data"
    expected = ((text.format(7), 2), (text.format(200), 1))
    assert tuple(item[:2] for item in source.find(source.units()[0]).remarks) == expected


def test_image_of_16_bit_is_a_problem(tmp_path: Path) -> None:
    add_scene(tmp_path, np.ones((20, 20)), image=noise(20, 20).astype(np.uint16))
    source = open_chesapeake(config(tmp_path))
    (problem,) = source.find(source.units()[0]).problems
    assert "4 bands of uint16" in problem.reason


def test_missing_files_are_problems(two_scenes: ChesapeakeSource) -> None:
    scene = two_scenes.scenes[0]
    candidates = two_scenes.find(scene.name).candidates
    Path(two_scenes.root, scene.image).unlink()
    for result in (two_scenes.find(scene.name), two_scenes.read(candidates)):
        (problem,) = result.problems
        assert problem.path == scene.image
        assert "missing, though the index lists it" in problem.reason
    assert two_scenes.find(two_scenes.scenes[1].name).candidates.num_rows == 4


def test_one_stem_in_two_states(tmp_path: Path) -> None:
    folder = "md_1m_2013_extended-debuffered-test_tiles"
    add_scene(tmp_path, np.ones((10, 10)))
    add_scene(tmp_path, np.ones((10, 10)), split="md-test", folder=folder)
    assert open_chesapeake(config(tmp_path)).units() == [
        "maryland-m_4007601_ne_18_1",
        "pennsylvania-m_4007601_ne_18_1",
    ]


def test_digest_follows_content(two_scenes: ChesapeakeSource, tmp_path: Path) -> None:
    before = two_scenes.digest()
    assert two_scenes.digest() == before
    mask = np.full((1, 20, 35), 3, np.uint8)
    mask[0, 0, 0] = 1
    write_raster(Path(two_scenes.root, two_scenes.scenes[0].mask), mask)
    changed = open_chesapeake(config(tmp_path)).digest()
    assert changed != before
    Path(two_scenes.root, two_scenes.scenes[0].mask).unlink()
    assert two_scenes.digest() not in (before, changed)


def test_synthetic_scenes_say_so(two_scenes: ChesapeakeSource, tmp_path: Path) -> None:
    assert not two_scenes.is_synthetic
    assert not two_scenes.notes
    (tmp_path / "SYNTHETIC.txt").write_text("")
    marked = open_chesapeake(config(tmp_path))
    assert marked.is_synthetic
    assert "synthetic" in marked.notes[0]


def test_missing_index(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"geojson is missing.*prepare chesapeake --root"):
        open_chesapeake(config(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"features": []}', "lists no scenes"),
        ("{", "cannot be read as GeoJSON"),
        ("[]", "cannot be read as GeoJSON"),
        ('{"features": [{"properties": {"split": "pa-train"}}]}', "feature 0 lacks a valid"),
        (
            '{"features": [{"properties": {"split": "tx-train", "naip-new": "a", "lc": "b"}}]}',
            "feature 0 lacks a valid",
        ),
    ],
)
def test_unusable_index(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "spatial_index.geojson").write_text(text)
    with pytest.raises(UsageError, match=message):
        open_chesapeake(config(tmp_path))


@pytest.mark.parametrize("path", ["../elsewhere_lc.tif", "/etc/a_lc.tif", "a/../../b_lc.tif"])
def test_paths_stay_below_the_root(tmp_path: Path, path: str) -> None:
    list_scene(tmp_path, "pa-train", "a_naip-new.tif", path)
    with pytest.raises(UsageError, match="is outside"):
        open_chesapeake(config(tmp_path))


def test_index_without_any_scene_on_disk(tmp_path: Path) -> None:
    list_scene(tmp_path, "pa-train", "a_naip-new.tif", "a_lc.tif")
    with pytest.raises(UsageError, match=r"none of the 1 scenes .*prepare synthetic --root"):
        open_chesapeake(config(tmp_path))


def test_scene_listed_twice(two_scenes: ChesapeakeSource) -> None:
    scene = two_scenes.scenes[0]
    list_scene(Path(two_scenes.root), "de-val", scene.image, scene.mask)
    with pytest.raises(UsageError, match="is listed 2 times"):
        open_chesapeake(config(Path(two_scenes.root)))


def test_unknown_region(two_scenes: ChesapeakeSource) -> None:
    root = Path(two_scenes.root)
    with pytest.raises(UsageError, match=r"unknown region 'delawere'\. Did you mean 'delaware'"):
        open_chesapeake(config(root, val_regions=["delawere"]))
    with pytest.raises(UsageError, match="'virginia' is in val_regions too"):
        open_chesapeake(config(root, val_regions=["virginia"], test_regions=["virginia"]))


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchgeo.datasets

    def refuse(*_: object, **__: object) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(torchgeo.datasets.ChesapeakeCVPR, "_download", refuse)
    with pytest.raises(BenchmarkError, match=r"download into .* failed: .*not known") as caught:
        prepare_chesapeake(tmp_path / "data")
    assert "\n" not in str(caught.value)
    (tmp_path / "SYNTHETIC.txt").write_text("")
    with pytest.raises(UsageError, match="holds synthetic scenes"):
        prepare_chesapeake(tmp_path)


def test_import_is_light() -> None:
    code = (
        "import sys, benchmark.catalog.chesapeake.scenes, benchmark.catalog.synthetic.scenes;"
        "print(sorted({'torch', 'numpy', 'rasterio', 'pyarrow', 'scipy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_candidates_of_two_scenes_are_refused(two_scenes: ChesapeakeSource) -> None:
    both = pa.concat_tables([two_scenes.find(unit).candidates for unit in two_scenes.units()])
    with pytest.raises(ValueError, match="too many values"):
        two_scenes.read(both)


def test_a_scene_whose_bands_are_in_another_order_is_a_problem(tmp_path: Path) -> None:
    image, _ = add_scene(tmp_path, np.full((20, 20), 1))
    source = open_chesapeake(config(tmp_path))
    with rasterio.open(image, "r+") as dataset:
        dataset.descriptions = ("Red", "Green", "Blue", "NIR")
    assert source.find(source.units()[0]).problems == ()
    with rasterio.open(image, "r+") as dataset:
        dataset.descriptions = ("NIR", "Red", "Green", "Blue")
    (problem,) = source.find(source.units()[0]).problems
    assert problem.reason == (
        "names its bands nir, red, green, blue, expected red, green, blue, nir"
    )


def test_a_scene_that_is_no_geotiff_inside_is_not_opened(tmp_path: Path) -> None:
    """A VRT under the name of a scene would read another file through it."""
    name, _ = add_scene(tmp_path, np.full((20, 20), 1))
    hidden = tmp_path / "hidden.tif"
    name.rename(hidden)
    with rasterio.open(hidden) as image:
        size, count = image.width, image.count
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>'
        f"<SourceFilename>{hidden}</SourceFilename><SourceBand>{band}</SourceBand>"
        "</SimpleSource></VRTRasterBand>"
        for band in range(1, count + 1)
    )
    name.write_text(f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}">{bands}</VRTDataset>')
    with rasterio.open(name) as through:
        assert through.read().any(), "what this guards against"
    source = open_chesapeake(config(tmp_path))
    found = source.find(source.units()[0])
    assert found.candidates.num_rows == 0
    assert found.problems and "not recognized" in found.problems[0].reason, found.problems


@pytest.mark.parametrize(
    "path", ["a\0b", "\ud800.tif", "x" * 300, "x/" * 3000, "", "a\nb.tif", 5, None, ["a"], {"a": 1}]
)
def test_a_path_that_no_file_can_have_is_one_line(tmp_path: Path, path: object) -> None:
    good: object = "a_lc.tif"
    for image, mask in ((path, good), (good, path)):
        list_scene(tmp_path, "pa-train", image, mask)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="feature 0: path") as caught:
            open_chesapeake(config(tmp_path))
        assert len(str(caught.value)) < 1000
        (tmp_path / "spatial_index.geojson").unlink()


def test_a_deep_index_a_pipe_and_a_loop_are_one_line(two_scenes: ChesapeakeSource) -> None:
    root = Path(two_scenes.root)
    index = root / "spatial_index.geojson"
    sound = index.read_text()
    index.write_text('{"features":' + "[" * 100_000)
    with pytest.raises(UsageError, match="cannot be read as GeoJSON: RecursionError"):
        open_chesapeake(config(root))
    index.unlink()
    os.mkfifo(index)
    with pytest.raises(UsageError, match="it is a pipe"):
        open_chesapeake(config(root))
    index.unlink()
    index.write_text(sound)
    mask = root / two_scenes.scenes[0].mask
    mask.unlink()
    mask.symlink_to(mask.name)
    with pytest.raises(UsageError, match="Too many levels of symbolic links"):
        open_chesapeake(config(root))


def test_regions_that_leave_a_split_without_scenes_are_refused(
    two_scenes: ChesapeakeSource,
) -> None:
    settings = config(Path(two_scenes.root))
    with pytest.raises(UsageError, match="no scene is left for train; it has scenes of delaware,"):
        open_split_scenes(settings)


def test_a_file_as_root_is_refused_before_the_download(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in (("file", "is a file; name a folder"), ("x" * 300, "File name too long")):
        with pytest.raises(UsageError, match=reason):
            prepare_chesapeake(tmp_path / name)
