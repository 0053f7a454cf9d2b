"""The writer of synthetic scenes: its layout as torchgeo reads it, and its determinism."""

import hashlib
import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from torchgeo.datasets import ChesapeakeCVPR

from benchmark.catalog.chesapeake.index import CLASSES, count_classes
from benchmark.catalog.chesapeake.scenes import open_chesapeake
from benchmark.catalog.synthetic.scenes import write_scenes
from benchmark.config import DatasetConfig
from benchmark.errors import BenchmarkError, UsageError

SIZE = 288


@pytest.fixture(scope="session")
def scenes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("synthetic") / "root", scenes=3, size=SIZE, seed=1)


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def config(root: Path, **settings: object) -> DatasetConfig:
    content = {"name": "synthetic", "root": str(root), "patch_size": 32, "purity": 0.3}
    return DatasetConfig.model_validate(content | settings)


def test_torchgeo_opens_every_split(scenes_dir: Path) -> None:
    for split in ChesapeakeCVPR.splits:
        assert len(ChesapeakeCVPR(str(scenes_dir), splits=[split])) == 1
    assert len(ChesapeakeCVPR(str(scenes_dir), splits=ChesapeakeCVPR.splits)) == 18


def test_torchgeo_reads_every_layer_of_the_one_full_tile(scenes_dir: Path) -> None:
    from torchgeo.samplers import GridGeoSampler

    layers = [layer for layer in ChesapeakeCVPR.valid_layers if "prior" not in layer]
    data = ChesapeakeCVPR(str(scenes_dir), splits=["wv-val"], layers=layers)
    sample = data[next(iter(GridGeoSampler(data, 64)))]
    assert sample["image"].shape[0] == 4 + 4 + 9 + 9
    assert sample["mask"].shape[0] == 3


def pixels_of(start: float, length: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of a scene that torchgeo sampled along one axis, and where they lie.

    Up to 0.9 it reads all pixels that the window touches; later, as many as the window is long,
    beyond the scene, too.
    """
    places = np.arange(count)
    if "boundless" in inspect.getsource(ChesapeakeCVPR.__getitem__):
        pixels = np.floor(start + (places + 0.5) * length / count).astype(int)
    else:
        pixels = max(math.floor(start), 0) + places
    is_inside = (pixels >= 0) & (pixels < SIZE)
    return pixels[is_inside], places[is_inside]


@pytest.mark.parametrize("split", ["wv-val", "ny-train"])
def test_torchgeo_samples_the_same_pixels_and_labels(scenes_dir: Path, split: str) -> None:
    """A grid of torchgeo's samples, laid side by side, gives our patches and our labels."""
    import pyproj
    from torchgeo.samplers import GridGeoSampler

    source = open_chesapeake(config(scenes_dir))
    data = ChesapeakeCVPR(str(scenes_dir), splits=[split])
    (entry,) = data.index.to_dict("records")
    (scene,) = [scene for scene in source.scenes if scene.mask == entry["lc"]]
    with rasterio.open(scenes_dir / scene.mask) as file:
        left, top, crs = file.bounds.left, file.bounds.top, file.crs
    to_scene = pyproj.Transformer.from_crs("EPSG:3857", crs, always_xy=True).transform
    image = np.zeros((4, SIZE, SIZE), np.uint8)
    mask = np.full((SIZE, SIZE), 99, np.uint8)
    num_samples = 0
    for query in GridGeoSampler(data, 100):
        sample = data[query]
        (west, east), (south, north) = ((side.start, side.stop) for side in query[:2])
        xs, ys = to_scene([west, east, east, west], [north, north, south, south])
        rows, sampled_rows = pixels_of(top - max(ys), max(ys) - min(ys), sample["mask"].shape[0])
        cols, sampled_cols = pixels_of(min(xs) - left, max(xs) - min(xs), sample["mask"].shape[1])
        here, there = np.ix_(rows, cols), np.ix_(sampled_rows, sampled_cols)
        image[:, *here] = sample["image"].numpy()[:, *there]
        mask[here] = sample["mask"].numpy()[there]
        num_samples += 1
    assert num_samples >= 9
    candidates = source.find(scene.name).candidates
    images = source.read(candidates)
    counts = count_classes(mask, 32)
    num_compared = 0
    for pixels, row in zip(images.pixels, candidates.to_pylist(), strict=True):
        window = slice(row["row"], row["row"] + 32), slice(row["col"], row["col"] + 32)
        if (mask[window] == 99).any():
            continue  # the index's box is a little smaller than the scene
        np.testing.assert_array_equal(pixels, image[:, *window])
        share = counts[row["row"] // 32, row["col"] // 32] / 32**2
        assert share.argmax() == row["label"]
        assert share.max() == pytest.approx(row["purity"])
        num_compared += 1
    assert num_compared >= 20


def test_scenes_are_unique_disjoint_and_where_their_names_say(scenes_dir: Path) -> None:
    features = json.loads((scenes_dir / "spatial_index.geojson").read_text())["features"]
    boxes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    names = [Path(feature["properties"]["lc"]).name for feature in features]
    assert len(set(names)) == 18
    for number, box in enumerate(boxes):
        assert not any(box.buffer(200).intersects(other) for other in boxes[:number])
    source = open_chesapeake(config(scenes_dir))
    for scene in source.scenes:
        table = source.find(scene.name).candidates
        south, east = int(scene.name[2:4]), -int(scene.name[4:7])
        assert all(south < lat < south + 1 for lat in table["lat"].to_pylist())
        assert all(east - 1 < lon < east for lon in table["lon"].to_pylist())


def test_source_is_marked_and_has_every_class(scenes_dir: Path) -> None:
    source = open_chesapeake(config(scenes_dir))
    assert source.is_synthetic
    labels = set()
    for unit in source.units():
        found = source.find(unit)
        assert not found.problems
        labels |= set(found.candidates["label"].to_pylist())
    assert labels == set(range(len(CLASSES)))


def test_same_seed_same_bytes(scenes_dir: Path, tmp_path: Path) -> None:
    again = write_scenes(tmp_path / "again", scenes=3, size=SIZE, seed=1)
    assert digests(again) == digests(scenes_dir)


def test_another_seed_other_pictures(scenes_dir: Path, tmp_path: Path) -> None:
    other = write_scenes(tmp_path / "other", scenes=3, size=256, seed=2)
    pictures = {digest for path, digest in digests(other).items() if path.endswith(".tif")}
    assert not pictures & set(digests(scenes_dir).values())


def test_complete_folder_is_left_alone(scenes_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in scenes_dir.rglob("*")}
    assert write_scenes(scenes_dir, scenes=3, size=SIZE, seed=1) == scenes_dir
    assert {path: path.stat().st_mtime_ns for path in scenes_dir.rglob("*")} == before


def test_cut_off_run_goes_on(scenes_dir: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "root"
    shutil.copytree(scenes_dir, root)
    (root / "SYNTHETIC.txt").rename(root / "SYNTHETIC.partial.txt")
    (root / "spatial_index.geojson").unlink()
    next(root.glob("ny*train*/*_lc.tif")).unlink()
    write_scenes(root, scenes=3, size=SIZE, seed=1)
    assert digests(root) == digests(scenes_dir)


def test_other_content_is_never_overwritten(scenes_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds synthetic scenes of other settings"):
        write_scenes(scenes_dir, scenes=3, size=SIZE, seed=9)
    (tmp_path / "spatial_index.geojson").write_text("{}")
    with pytest.raises(UsageError, match="is not empty"):
        write_scenes(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["spatial_index.geojson"]
    with pytest.raises(UsageError, match="is a file"):
        write_scenes(tmp_path / "spatial_index.geojson")


@pytest.mark.parametrize(
    ("settings", "message"),
    [((2, 256, 0), "scenes = 2: "), ((3, 255, 0), "size = 255: "), ((3, 256, -1), "seed = -1: ")],
)
def test_settings_out_of_range(
    tmp_path: Path, settings: tuple[int, int, int], message: str
) -> None:
    scenes, size, seed = settings
    with pytest.raises(UsageError, match=message):
        write_scenes(tmp_path / "root", scenes=scenes, size=size, seed=seed)


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(BenchmarkError, match=r"cannot write to .*too large") as caught:
            write_scenes(tmp_path / "root", scenes=3, size=256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "root" / "SYNTHETIC.txt").exists()


def test_unwritable_root_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="file/root: ") as caught:
        write_scenes(tmp_path / "file" / "root", scenes=3, size=256)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_script_without_a_guard_writes_scenes(tmp_path: Path) -> None:
    # The processes that write would run the script again.
    script = tmp_path / "mine.py"
    script.write_text(
        "import benchmark as bm\n"
        "print(bm.prepare('synthetic', 'scenes', scenes=3, size=256), __name__)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "scenes __main__\n"
    assert (tmp_path / "scenes/SYNTHETIC.txt").is_file()
