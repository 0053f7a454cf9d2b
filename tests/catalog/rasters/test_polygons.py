"""Polygons as labels: rasterised on the grid of their scene, or refused with the reason."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pytest
import shapely

from benchmark.catalog.rasters.opening import open_rasters
from benchmark.catalog.rasters.source import RasterSource
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from tests.ranges import serve
from tests.rasters import UTM, picture, stripes, write_raster

X, Y = 400_000, 4_400_000
FORMATS = ["gpkg", "shp", "parquet", "geojson"]


def box(x: float, y: float, width: float, height: float) -> shapely.Polygon:
    """Return a rectangle by its upper left corner, in m right of and below the first scene's."""
    return shapely.box(X + x, Y - y - height, X + x + width, Y - y)


def squares(x: float = 0) -> dict[str, list[Any]]:
    """Return the left half as water, and the right half as two polygons of trees."""
    shapes = [box(x, 0, 32, 64), box(x + 32, 0, 32, 32), box(x + 32, 32, 32, 32)]
    return {"kind": ["water", "trees", "trees"], "geometry": shapes}


def write_polygons(path: Path, columns: dict[str, list[Any]], crs: str | None = UTM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = geopandas.GeoDataFrame(columns, crs=crs)
    if path.suffix == ".geojson":
        frame = frame.to_crs("EPSG:4326")
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path)
    return path


def write_images(root: Path, num: int = 3) -> Path:
    for number in range(num):
        write_raster(root / f"images/s{number}.tif", picture(stripes(64, 64)), x=X + 1000 * number)
    return root


def opened(root: Path, labels: str, **settings: Any) -> RasterSource:
    table = {"images": "images/*.tif", "labels": labels, "label_field": "kind"} | settings
    content = {"name": "rasters", "root": str(root), "patch_size": 16, "rasters": table}
    return open_rasters(DatasetConfig.model_validate(content))


@pytest.mark.parametrize("suffix", FORMATS)
def test_polygons_of_each_format_become_labels(tmp_path: Path, suffix: str) -> None:
    write_images(tmp_path)
    for number in range(3):
        write_polygons(tmp_path / f"labels/s{number}.{suffix}", squares(1000 * number))
    source = opened(tmp_path, f"labels/*.{suffix}")
    assert source.classes == ("trees", "water")
    for unit in source.units():
        found = source.find(unit)
        assert not found.problems
        labels = {(row["row"], row["col"]): row for row in found.candidates.to_pylist()}
        assert len(labels) == 16
        assert all(item["label"] == int(col < 32) for (_, col), item in labels.items())
        assert all(item["purity"] > 0.99 for item in labels.values())


def test_one_file_in_another_crs_serves_all_scenes(tmp_path: Path) -> None:
    write_images(tmp_path, num=4)
    parts = [geopandas.GeoDataFrame(squares(1000 * number), crs=UTM) for number in range(3)]
    pandas.concat(parts).to_crs("EPSG:3857").to_file(tmp_path / "all.gpkg")
    source = opened(tmp_path, "all.gpkg")
    counts = [source.find(unit).candidates.num_rows for unit in source.units()]
    assert counts == [16, 16, 16, 0]
    tallies = {tally.text: tally.num for tally in source.find("s3").remarks}
    assert tallies["Scenes without polygons"] == 1


def test_strips_equal_the_whole_scene_at_once(tmp_path: Path) -> None:
    write_images(tmp_path)
    circles = [shapely.Point(X + 7 * n, Y - 9 * n).buffer(11) for n in range(8)]
    names = ["a", "b"] * 4
    for number in range(3):
        moved = [
            shapely.transform(shape, lambda p, n=number: p + np.array([1000 * n, 0]))
            for shape in circles
        ]
        write_polygons(tmp_path / f"labels/s{number}.gpkg", {"kind": names, "geometry": moved})
    source = opened(tmp_path, "labels/*.gpkg")
    with source._open_labels(source.scenes["s0"]) as labels:
        whole = labels.strip(0, 64)
        parts = np.concatenate([labels.strip(top, 16) for top in range(0, 64, 16)])
    assert (whole == parts).all()
    assert {0, 1, 252, 254} == set(np.unique(whole).tolist())


def test_numbers_map_to_classes_and_overlaps_of_classes_belong_to_none(tmp_path: Path) -> None:
    write_images(tmp_path)
    for number in range(3):
        x = 1000 * number
        columns = {
            "kind": [1, 2, 7, 2, None, 1],
            "geometry": [
                box(x, 0, 32, 64), box(x + 16, 0, 48, 32), box(x + 32, 32, 16, 32),
                box(x + 40, 0, 10, 10), box(x + 48, 32, 16, 32), box(x + 16, 0, 16, 32),
            ],
        }  # fmt: skip
        write_polygons(tmp_path / f"labels/s{number}.gpkg", columns)
    classes = {"water": 1, "trees": 2}
    source = opened(tmp_path, "labels/*.gpkg", classes=classes, ignore=[7])
    found = source.find("s0")
    labels = {(row["row"], row["col"]): row["label"] for row in found.candidates.to_pylist()}
    assert labels == {
        **{(row, 0): 0 for row in (0, 16, 32, 48)},
        **{(row, 16): 0 for row in (32, 48)},
        **{(row, col): 1 for row in (0, 16) for col in (32, 48)},
    }
    tallies = {tally.text.split(",")[0]: tally.num for tally in found.remarks}
    assert tallies["Label pixels in polygons of different classes"] == 16 * 32
    assert tallies["Label pixels whose value is in ignore"] == 2 * 16 * 32


def test_a_shared_file_that_lies_on_no_image_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_polygons(tmp_path / "all.gpkg", squares(500_000))
    with pytest.raises(UsageError, match=r"'all.gpkg' has no polygon on any image; check its CRS"):
        opened(tmp_path, "all.gpkg")


@pytest.mark.parametrize("suffix", ["gpkg", "parquet"])
def test_polygons_outside_of_their_image_are_counted(tmp_path: Path, suffix: str) -> None:
    write_images(tmp_path)
    for number in range(3):
        columns = squares(1000 * number)
        columns["kind"].append("water")
        columns["geometry"].append(box(1000 * number + 65, 70, 5, 5))
        write_polygons(tmp_path / f"labels/s{number}.{suffix}", columns)
    source = opened(tmp_path, f"labels/*.{suffix}")
    (tally,) = [item for item in source.find("s0").remarks if "outside" in item.text]
    assert tally[:2] == ("Polygons outside of their image, not used", 1)


BOW = shapely.Polygon([(X, Y), (X + 20, Y - 20), (X + 20, Y), (X, Y - 20)])

BAD = {
    "invalid": (
        {"kind": ["water", "trees"], "geometry": [box(0, 0, 9, 9), BOW]},
        "holds 1 invalid polygons, first that of number .*: Self-intersection.*; repair them",
    ),
    "points": (
        {"kind": ["water", "trees"], "geometry": [box(0, 0, 9, 9), shapely.Point(X + 5, Y - 5)]},
        "holds Point; labels must be polygons",
    ),
    "unknown": (
        {"kind": ["water", "trees", "x", "x"], "geometry": [box(0, 0, 9, 9)] * 4},
        r"holds unknown values: 'x' \(2 polygons\); add them to .* classes or ignore",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_polygons_are_a_problem_of_their_file(tmp_path: Path, case: str) -> None:
    write_images(tmp_path)
    columns, message = BAD[case]
    for number in range(3):
        write_polygons(tmp_path / f"labels/s{number}.gpkg", squares(1000 * number))
    write_polygons(tmp_path / "labels/s0.gpkg", columns)
    classes = {"water": "water", "trees": "trees"}
    source = opened(tmp_path, "labels/*.gpkg", classes=classes)
    (problem,) = source.find("s0").problems
    assert problem.path == "labels/s0.gpkg"
    with pytest.raises(UsageError, match=message):
        raise UsageError(problem.reason)
    assert not source.find("s1").problems


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (BAD["invalid"][0], BAD["invalid"][1]),
        (squares(500_000), "has no polygon on any image; check its CRS"),
    ],
    ids=["invalid", "outside"],
)
def test_bad_polygons_on_a_server_are_the_same_line(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    write_images(tmp_path)
    write_polygons(tmp_path / "all.gpkg", columns)
    rows = [f"images/s{number}.tif,all.gpkg" for number in range(3)]
    (tmp_path / "index.csv").write_text("\n".join(["image,label", *rows]))
    table = {"index": "index.csv", "label_field": "kind"}
    content = {"name": "rasters", "patch_size": 16, "rasters": table}
    with serve(tmp_path) as server, pytest.raises(UsageError, match=message):
        config = DatasetConfig.model_validate(content | {"root": server.url})
        raise UsageError(open_rasters(config).find("s0").problems[0].reason)


def far_away(root: Path) -> None:
    write_polygons(root / "labels/s0.gpkg", squares(500_000))


def no_crs(root: Path) -> None:
    write_polygons(root / "labels/s0.shp", squares(), crs=None)


def empty(root: Path) -> None:
    write_polygons(root / "labels/s0.gpkg", {"kind": [], "geometry": []})


def damaged(root: Path) -> None:
    (root / "labels/s0.gpkg").write_bytes(b"SQLite format 3\0" + b"x" * 5000)


def renamed(root: Path) -> None:
    (root / "labels/s0.gpkg").write_text("<OGRVRTDataSource></OGRVRTDataSource>")


def two_layers(root: Path) -> None:
    frame = geopandas.GeoDataFrame(squares(), crs=UTM)
    for layer in ("one", "two"):
        frame.to_file(root / "labels/s0.gpkg", layer=layer)


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (far_away, {}, "'labels/s0.gpkg' has no polygon on the image 'images/s0.tif'; check"),
        (no_crs, {"labels": "labels/*.shp"}, "has no coordinate reference system"),
        (empty, {}, "holds no polygons"),
        (damaged, {}, "'labels/s0.gpkg' cannot be read"),
        (renamed, {}, "does not begin as a file of its format"),
        (two_layers, {}, r"has 2 layers \(one, two\); set \[dataset.rasters\] label_layer"),
        (two_layers, {"label_layer": "on"}, "has no layer 'on'. Did you mean 'one'"),
        (None, {"label_field": "kinds"}, r"no field 'kinds' \(label_field\). Did you mean 'kind'"),
        (None, {"label_field": None}, "labels are polygons; set label_field"),
        (None, {"classes": {"a": "water"}}, "classes: name at least two"),
    ],
)
def test_unusable_files_are_one_line(
    tmp_path: Path, spoil: Any, settings: Any, message: str
) -> None:
    write_images(tmp_path, num=1)
    if spoil is None:
        write_polygons(tmp_path / "labels/s0.gpkg", squares())
    else:
        (tmp_path / "labels").mkdir()
        spoil(tmp_path)
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, **{"labels": "labels/*.gpkg"} | settings)


def test_the_layer_can_be_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    for number in range(3):
        frame = geopandas.GeoDataFrame(squares(1000 * number), crs=UTM)
        frame.to_file(tmp_path / f"l{number}.gpkg", layer="one")
        frame.assign(kind="z").to_file(tmp_path / f"l{number}.gpkg", layer="two")
        (tmp_path / f"images/s{number}.tif").rename(tmp_path / f"images/l{number}.tif")
    assert opened(tmp_path, "*.gpkg", label_layer="one").classes == ("trees", "water")


def test_a_missing_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    write_polygons(tmp_path / "all.gpkg", squares())
    real = builtins.__import__

    def refuse(name: str, *args: Any, **more: Any) -> Any:
        if name == "pyogrio":
            raise ImportError("no", name=name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match="need the package pyogrio; run `pip install"):
        opened(tmp_path, "all.gpkg")
