"""Splits of scenes and of blocks of ground: nothing of train touches anything of val or test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from rasterio.warp import transform

from benchmark.catalog.rasters.opening import open_rasters
from benchmark.catalog.rasters.source import RasterSource
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from tests.rasters import CLASSES, picture, stripes, write_raster

UTM_17, UTM_18 = "EPSG:32617", "EPSG:32618"


def opened(root: Path, rasters: dict[str, Any] | None = None, **settings: Any) -> RasterSource:
    table = {"images": "images/*.tif", "labels": "labels/*.tif", "classes": CLASSES}
    content = {"name": "rasters", "root": str(root), "patch_size": 16}
    return open_rasters(
        DatasetConfig.model_validate(content | {"rasters": table | (rasters or {})} | settings)
    )


def write_scene(root: Path, name: str, x: float, *, side: int = 64, **more: Any) -> None:
    labels = stripes(side, side)
    write_raster(root / f"images/{name}.tif", picture(labels), x=x, **more)
    write_raster(root / f"labels/{name}.tif", labels, x=x, **more)


def candidates(source: RasterSource) -> pa.Table:
    return pa.concat_tables([source.find(unit).candidates for unit in source.units()])


def on_the_ground(source: RasterSource, table: pa.Table, crs: str) -> list[shapely.Polygon]:
    """Return the patches as polygons in m, with points along their edges."""
    shapes = []
    for row in table.to_pylist():
        grid = source.scenes[row["scene"].split("#")[0]].grid
        (points,) = grid.outlines([row["row"]], [row["col"]], 16, 16, points=16)
        x, y = transform("EPSG:4326", crs, points[:, 0].tolist(), points[:, 1].tolist())
        shapes.append(shapely.Polygon(zip(x, y, strict=True)))
    return shapes


def nearest_m(source: RasterSource, crs: str = UTM_18) -> float:
    """Return the distance in m between the nearest patches of different splits."""
    table = candidates(source)
    shapes = np.array(on_the_ground(source, table, crs), object)
    splits = np.array(table["split"].to_pylist())
    assert {"train", "val", "test"} == set(splits)
    return min(
        float(shapely.distance(shapes[splits == one][:, None], shapes[splits == other]).min())
        for one, other in (("train", "val"), ("train", "test"), ("val", "test"))
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three overlapping scenes, one of them in the zone beside and with larger pixels."""
    root = tmp_path_factory.mktemp("wide")
    write_scene(root, "a", 243_900, side=256)
    write_scene(root, "b", 244_100, side=256)
    x, y = transform(UTM_18, UTM_17, [243_950.0], [4_399_900.0])
    write_scene(root, "c", x[0], y=y[0], crs=UTM_17, gsd=2.0, side=128)
    return root


@pytest.mark.parametrize("buffer_m", [0.0, 7.0, 25.0])
@pytest.mark.parametrize("stride", [16, 5])
def test_no_patch_of_train_touches_one_of_val_or_test(
    wide: Path, buffer_m: float, stride: int
) -> None:
    source = opened(wide, {"block_m": 90, "buffer_m": buffer_m, "stride": stride})
    nearest = nearest_m(source)
    # UTM is up to 0.04 % and, at its edge, 0.1 % away from true distances.
    assert nearest > buffer_m * 0.998
    assert nearest > 0
    assert any("by blocks of ground of 90 m" in note for note in source.notes)
    dropped = [
        tally.num
        for unit in source.units()
        for tally in source.find(unit).remarks
        if "edges of blocks" in tally.text
    ]
    assert sum(dropped) > 0


def test_without_blocks_the_same_scenes_would_share_ground(wide: Path) -> None:
    with pytest.raises(UsageError, match=r"3 scenes, of which 1 lie apart: .* set block_m"):
        opened(wide)


def test_a_larger_buffer_leaves_fewer_patches(wide: Path) -> None:
    counts = [
        candidates(opened(wide, {"block_m": 90, "buffer_m": buffer})).num_rows
        for buffer in (0.0, 7.0, 25.0)
    ]
    assert counts[0] > counts[1] > counts[2] > 0


def test_the_cluster_of_a_patch_is_its_scene_and_block_in_one_split(wide: Path) -> None:
    table = candidates(opened(wide, {"block_m": 90}))
    splits: dict[str, set[str]] = {}
    for row in table.to_pylist():
        splits.setdefault(row["scene"], set()).add(row["split"])
    assert len(splits) > 9 and all(len(found) == 1 for found in splits.values())
    # A block has one split in all scenes.
    blocks: dict[str, set[str]] = {}
    for name, found in splits.items():
        blocks.setdefault(name.split("#")[1], set()).update(found)
    assert all(len(found) == 1 for found in blocks.values())


def test_blocks_follow_the_seed_and_the_fractions(wide: Path) -> None:
    one, same = (opened(wide, {"block_m": 60}).blocks for _ in range(2))
    other = opened(wide, {"block_m": 60}, seed=1).blocks
    most = opened(wide, {"block_m": 60}, test_fraction=0.6).blocks
    assert one is not None and other is not None and most is not None
    assert one == same and one.split_of != other.split_of
    assert one.split_of.keys() == other.split_of.keys()
    count = [list(item.split_of.values()).count("test") for item in (one, most)]
    assert count[1] > 2 * count[0]


def test_blocks_of_a_scene_in_degrees_are_as_large_as_in_metres(tmp_path: Path) -> None:
    from rasterio.transform import from_origin

    # 16 px are 160 m high and wide at 60 degrees north.
    for name, lon in (("a", 10.0), ("b", 10.1)):
        more = {"crs": "EPSG:4326", "transform": from_origin(lon, 60.0, 1.793e-4, 8.975e-5)}
        write_scene(tmp_path, name, 0, side=192, **more)
    source = opened(tmp_path, {"block_m": 600, "buffer_m": 30})
    assert nearest_m(source, "EPSG:32632") > 29.9
    assert source.blocks is not None
    for cell in source.blocks.split_of:
        west, south, east, north = source.blocks.bounds(cell)
        x, y = transform("EPSG:4326", "EPSG:32632", [west, east, west], [south, south, north])
        assert np.hypot(x[1] - x[0], y[1] - y[0]) == pytest.approx(600, rel=0.01)
        assert np.hypot(x[2] - x[0], y[2] - y[0]) == pytest.approx(600, rel=0.01)


@pytest.mark.parametrize(
    ("rasters", "message"),
    [
        ({"block_m": 1e6}, "cover 0 whole blocks, but train, val and test need three"),
        ({"block_m": 0.5}, "gives more than 20,000 blocks; set a larger block_m"),
    ],
)
def test_too_few_and_too_many_blocks(wide: Path, rasters: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(wide, rasters)


def write_index(root: Path, header: str, *rows: str) -> dict[str, Any]:
    (root / "index.csv").write_text("\n".join([f"image,label,{header}", *rows]))
    return {"images": None, "labels": None, "index": "index.csv"}


@pytest.fixture
def row_of(tmp_path: Path) -> Path:
    for number in range(4):
        write_scene(tmp_path, f"s{number}", 400_000 + 100 * number)
    return tmp_path


def pair(number: int) -> str:
    return f"images/s{number}.tif,labels/s{number}.tif"


def test_a_column_of_the_index_gives_the_split(row_of: Path) -> None:
    words = ["Training", "dev", "hold-out", "train"]
    rows = [f"{pair(number)},{word}" for number, word in enumerate(words)]
    source = opened(row_of, write_index(row_of, "split", *rows))
    assert [source.split_of[f"s{number}"] for number in range(4)] == [
        "train", "val", "test", "train",
    ]  # fmt: skip


def test_regions_give_the_split(row_of: Path) -> None:
    rows = [f"{pair(number)},{word}" for number, word in enumerate("abca")]
    index = write_index(row_of, "region", *rows)
    source = opened(row_of, index, val_regions=["b"], test_regions=["c"])
    assert list(source.split_of.values()) == ["train", "val", "test", "train"]
    assert source.find("s1").candidates["region"].to_pylist()[0] == "b"
    with pytest.raises(UsageError, match=r"no image has the region 'x' of .*test_regions"):
        opened(row_of, index, val_regions=["b"], test_regions=["x"])


def test_a_random_split_keeps_overlapping_scenes_together(row_of: Path) -> None:
    write_scene(row_of, "s0b", 400_032)
    for seed in range(6):
        source = opened(row_of, seed=seed)
        assert source.split_of["s0"] == source.split_of["s0b"]
    assert any("overlap: 1, e.g. 's0' and 's0b' by 50.0%" in note for note in source.notes)


def test_scenes_that_touch_do_not_overlap(row_of: Path) -> None:
    write_scene(row_of, "t", 400_364)
    source = opened(row_of)
    assert not any("overlap" in note for note in source.notes)


@pytest.mark.parametrize(
    ("header", "words", "settings", "message"),
    [
        ("split", ["train", "val", "test", "eval"], {}, "line 5: unknown split 'eval'"),
        ("split", ["train", "val", "test", ""], {}, "line 5: the split is empty"),
        (
            "split",
            ["train", "val", "test", "train"],
            {"val_regions": ["a"]},
            r"the splits of the index and \[dataset\] val_regions both give the split",
        ),
        ("region", ["a", "b", "c", ""], {"val_regions": ["b"], "test_regions": ["c"]}, "no region"),
        ("region", ["a", "b", "c", "a"], {"val_regions": ["b"]}, "'test_regions' is missing"),
    ],
)
def test_wrong_splits_are_one_line(
    row_of: Path, header: str, words: list[str], settings: Any, message: str
) -> None:
    rows = [f"{pair(number)},{word}" for number, word in enumerate(words)]
    with pytest.raises(UsageError, match=message):
        opened(row_of, write_index(row_of, header, *rows), **settings)


def test_overlapping_scenes_in_two_splits_are_refused(row_of: Path) -> None:
    write_scene(row_of, "s0b", 400_060)
    words = ["train", "val", "test", "train"]
    rows = [f"{pair(number)},{word}" for number, word in enumerate(words)]
    index = write_index(row_of, "split", *rows, "images/s0b.tif,labels/s0b.tif,test")
    with pytest.raises(
        UsageError, match=r"'s0' \(train\) and 's0b' \(test\) overlap by 6.25%; put"
    ):
        opened(row_of, index)
