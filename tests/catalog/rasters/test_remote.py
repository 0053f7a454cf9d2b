"""The user's own scenes on a web server and in a bucket are those of a folder."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import shapely

from benchmark.catalog.rasters import files
from benchmark.catalog.rasters.opening import open_rasters
from benchmark.catalog.rasters.source import RasterSource
from benchmark.config import DatasetConfig
from benchmark.errors import CellError, UsageError
from tests.object_store import KEYS, serve_objects
from tests.ranges import Server, first_times, serve
from tests.rasters import CLASSES, UTM, picture, stripes, write_raster

SIDE, PATCH, NUM = 1024, 64, 3
TILES = {"tiled": True, "blockxsize": 128, "blockysize": 128}
INDEX = {"index": "index.csv", "classes": CLASSES}
PATTERNS = {"images": "images/*.tif", "labels": "labels/*.tif", "classes": CLASSES}
POLYGONS = ("polygons.gpkg", "polygons.shp", "polygons.parquet", "polygons.geojson")
SHARES = [({"value_range": [0, 2000]}, 0.1), ({}, 0.2)]
"""Most of the bytes of images and labels that 1 % of the windows moves, with a range that is given,
and with those of the bands (docs/REMOTE.md)."""


def write_polygons(root: Path) -> None:
    """Write the squares of all labels in four formats."""
    shapes, kinds = [], []
    for number in range(NUM):
        x = 400_000 + number * SIDE
        for row, col in np.ndindex(SIDE // PATCH, SIDE // PATCH):
            west, north = x + PATCH * col, 4_400_000 - PATCH * row
            shapes.append(shapely.box(west, north - PATCH, west + PATCH, north))
            kinds.append(("water", "trees")[(row + col) % 2])
    frame = geopandas.GeoDataFrame({"kind": kinds, "geometry": shapes}, crs=UTM)
    for name in POLYGONS:
        frame.to_parquet(root / name) if name.endswith(".parquet") else frame.to_file(root / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 1,024 px of uint16, 768 windows of 64 px, with rasters and polygons."""
    root = tmp_path_factory.mktemp("root")
    labels, rows, items = stripes(SIDE, SIDE, PATCH), ["image,label"], []
    for number in range(NUM):
        x, paths = (
            400_000 + number * SIDE,
            [f"{kind}/s{number}.tif" for kind in ("images", "labels")],
        )
        write_raster(root / paths[0], picture(labels, bands=4, dtype="uint16") * 9, x=x, **TILES)
        write_raster(root / paths[1], labels, x=x, **TILES)
        rows.append(",".join(paths))
        assets = {"image": {"href": f"../{paths[0]}"}, "label": {"href": f"ROOT/{paths[1]}"}}
        items.append({"type": "Feature", "id": f"s{number}", "assets": assets})
    shutil.copyfile(root / "images/s0.tif", root / "images/.s9.tif")
    (root / "index.csv").write_text("\n".join(rows))
    (root / "stac").mkdir()
    content = json.dumps({"type": "FeatureCollection", "features": items})
    (root / "stac/items.json").write_text(content)
    write_polygons(root)
    return root


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Server]:
    with serve(folder) as found:
        yield found


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def opened(root: object, rasters: dict[str, Any] = INDEX, **settings: Any) -> RasterSource:
    content = {"name": "rasters", "root": str(root), "patch_size": PATCH, "rasters": rasters}
    return open_rasters(DatasetConfig.model_validate(content | settings))


def find_all(source: RasterSource) -> pa.Table:
    found = [source.find(unit) for unit in source.units()]
    assert not [item.problems for item in found if item.problems]
    return pa.concat_tables([item.candidates for item in found])


def assert_same(here: RasterSource, there: RasterSource, num: int = 8) -> None:
    """Compare the notes, all candidates, and the pixels and places of some."""
    assert here.notes == there.notes
    candidates = find_all(there)
    assert candidates.num_rows
    assert candidates.equals(find_all(here))
    rows = np.random.default_rng(0).permutation(candidates.num_rows)[:num]
    chosen = candidates.take(np.sort(rows))
    np.testing.assert_array_equal(there.corners(chosen), here.corners(chosen))
    for name in dict.fromkeys(chosen["scene"].to_pylist()):
        part = chosen.filter(pa.compute.equal(chosen["scene"], name))
        mine, other = there.read(part), here.read(part)
        assert not mine.problems
        np.testing.assert_array_equal(mine.rows, other.rows)
        np.testing.assert_array_equal(mine.pixels, other.pixels)


@pytest.mark.parametrize(("settings", "most"), SHARES)
def test_one_per_cent_of_the_windows_moves_a_small_share_of_the_bytes(
    server: Server, folder: Path, settings: dict[str, Any], most: float
) -> None:
    assert_same(opened(folder, **settings), opened(server.url, **settings))
    whole = sum(path.stat().st_size for path in folder.glob("*/s?.tif"))
    assert 0 < server.num_bytes(".tif") < most * whole


def test_stac_on_a_server_may_name_files_by_uri(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(folder, tmp_path / "root")
    with serve(root) as other:
        file = root / "stac/items.json"
        file.write_text(file.read_text().replace("ROOT", other.url))
        table = {"index": "stac/items.json", "classes": CLASSES}
        assert_same(opened(folder), opened(other.url, table))
        file.write_text(file.read_text().replace(other.url, "https://elsewhere.org"))
        with pytest.raises(UsageError, match=r"'https://elsewhere.org.*' is outside the root"):
            opened(other.url, table)


def test_a_second_opening_reads_no_raster(server: Server) -> None:
    first = opened(server.url)
    assert server.num_bytes(".tif")
    server.requests.clear()
    second = opened(server.url)
    assert second.digest() == first.digest()
    assert second == first == pickle.loads(pickle.dumps(first))
    rasters = [item.method for item in server.requests if item.path.endswith(".tif")]
    assert rasters == ["HEAD"] * 2 * NUM


@pytest.mark.parametrize("name", POLYGONS)
def test_polygons_are_copied_once(server: Server, folder: Path, name: str) -> None:
    rows = [f"images/s{number}.tif,{name}" for number in range(NUM)]
    (folder / "polygons.csv").write_text("\n".join(["image,label", *rows]))
    table = {"index": "polygons.csv", "label_field": "kind"}
    there = opened(server.url, table)
    assert_same(opened(folder, table), there)
    assert server.num_bytes(name) == (folder / name).stat().st_size
    assert there.digest() == opened(server.url, table).digest()


def test_polygons_that_cannot_be_copied_are_one_line(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"images/s{number}.tif,polygons.gpkg" for number in range(NUM)]
    (folder / "polygons.csv").write_text("\n".join(["image,label", *rows]))
    table = {"index": "polygons.csv", "label_field": "kind"}
    for status, message in (
        (404, "'polygons.gpkg' file is missing"),
        (403, r"'polygons.gpkg' access denied \(HTTP 403"),
        (503, r"polygons.gpkg: the server fails \(HTTP 503\) after 4 tries"),
    ):
        server.faults.status = lambda method, path, status=status: (
            status if path == "polygons.gpkg" else 0
        )
        with pytest.raises(UsageError, match=message):
            opened(server.url, table)
    server.reset()
    server.faults.stop = lambda path: "close" if path == "polygons.gpkg" else ""
    with pytest.raises(UsageError, match=r"the transfer ended early .*; check the address"):
        opened(server.url, table)
    server.reset()
    monkeypatch.setattr(files, "MAX_VECTOR_BYTES", 2**16)
    with pytest.raises(UsageError, match=r"'polygons.gpkg' has 0.0 GiB and must be copied; more"):
        opened(server.url, table)


def test_a_changed_file_of_polygons_is_copied_again(folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder, tmp_path / "root")
    (root / "index.csv").write_text("image,label\n" + "".join(
        f"images/s{number}.tif,polygons.geojson\n" for number in range(NUM)
    ))  # fmt: skip
    table = {"index": "index.csv", "label_field": "kind"}
    with serve(root) as other:
        digest = opened(other.url, table).digest()
        file = root / "polygons.geojson"
        file.write_text(file.read_text().replace('"water"', '"river"'))
        there = opened(other.url, table)
        assert there.classes == ("river", "trees")
        assert there.digest() != digest


def test_patterns_need_a_list_of_files(server: Server) -> None:
    with pytest.raises(
        UsageError, match=r"cannot be listed for 'images/\*.tif'; name the files in"
    ):
        opened(server.url, PATTERNS)
    with pytest.raises(UsageError, match=r"cannot be listed for 'stac/\*.json'; name the files in"):
        opened(server.url, {"index": "stac", "classes": CLASSES})


def test_scenes_of_a_bucket_are_those_of_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with serve_objects() as objects:
        root = objects.upload(folder, "my [1]/scenes")
        assert opened(root, PATTERNS).digest() == opened(root, PATTERNS).digest()
        assert_same(opened(folder, PATTERNS), opened(root, PATTERNS))
        objects.faults.slow_down_every = 9
        table = {"images": "images/*.tif", "labels": "polygons.gpkg", "label_field": "kind"}
        assert_same(opened(folder, table), opened(root, table))
        with pytest.raises(
            UsageError, match=r"images = 'x/\*.tif': matches no file below root = 's3"
        ):
            opened(root, PATTERNS | {"images": "x/*.tif"})
        assert objects.faults.count(503) > 0


# --- servers that fail ---


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"status": lambda method, path: 403}, r"index.csv.*: access denied \(HTTP 403, http"),
        ({"status": lambda method, path: 404}, "index.csv': file is missing"),
        ({"status": lambda method, path: 503}, r"index.csv: the server fails \(HTTP 503\) after 4"),
        (
            {"status": lambda method, path: 403 if path == "labels/s1.tif" else 0},
            r"labels/s1.tif.*access denied \(HTTP 403",
        ),
        (
            {"status": lambda method, path: 404 if path == "labels/s1.tif" else 0},
            r"1 of 3 scenes cannot be used; the first: 'labels/s1.tif' file is missing",
        ),
        (
            {"status": lambda method, path: 503 if path == "images/s2.tif" else 0},
            r"images/s2.tif: the server fails \(HTTP 503\) after 4 tries; check",
        ),
        ({"ignores_ranges": True}, r"images/s.\.tif' the server ignores byte ranges \(http"),
        ({"stop": lambda path: "close"}, "the transfer ended early .*; check the address"),
        (
            {"size": lambda path, size: size // 99 if path == "images/s0.tif" else size},
            "images/s0.tif' .*damaged",
        ),
        ({"has_tags": False}, "neither ETag nor Last-Modified"),
    ],
    ids=["403", "404", "503", "403-file", "404-file", "503-file", "ranges", "stop", "cut", "tags"],
)
def test_a_server_that_fails_at_opening_is_one_line(
    server: Server, faults: dict[str, Any], message: str
) -> None:
    for name, value in faults.items():
        setattr(server.faults, name, value)
    with pytest.raises(UsageError, match=message) as caught:
        opened(server.url).digest()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("faults", "kind", "reason"),
    [
        ({"status": lambda method, path: 403}, None, r"access denied \(HTTP 403, http"),
        ({"status": lambda method, path: 404}, None, "file is missing, though the index lists it"),
        ({"size": lambda path, size: size // 99}, None, "damaged"),
        ({"status": lambda method, path: 503}, CellError, r"the server fails \(HTTP 503\) after 4"),
        (
            {"stop": lambda path: "close"},
            CellError,
            "the transfer ended early .*; check the address",
        ),
    ],
    ids=["403", "404", "cut", "503", "stop"],
)
def test_a_server_that_fails_later_loses_a_file_or_ends_the_run(
    server: Server, faults: dict[str, Any], kind: type[Exception] | None, reason: str
) -> None:
    there = opened(server.url, on_error="skip")
    unit = there.units()[0]
    chosen = there.find(unit).candidates.slice(0, 3)
    for name, value in faults.items():
        setattr(server.faults, name, value)
    for work in (lambda: there.find(unit), lambda: there.read(chosen)):
        if kind is not None:
            # Not a Problem: with on_error = "skip" the scene would be left out for good.
            with pytest.raises(kind, match=reason):
                work()
            continue
        (problem,) = work().problems
        with pytest.raises(UsageError, match=reason):
            raise UsageError(problem.reason)


def test_a_busy_server_changes_nothing(server: Server, folder: Path) -> None:
    there = opened(server.url)
    server.faults.status = first_times(2, 503)
    assert_same(opened(folder), there)


def test_a_truncated_image_loses_only_its_rows(server: Server, folder: Path) -> None:
    here, there = opened(folder), opened(server.url)
    candidates = here.find("s0").candidates
    chosen = candidates.take(np.arange(0, candidates.num_rows, 25))
    server.faults.size = lambda path, size: size // 2 if path == "images/s0.tif" else size
    images = there.read(chosen)
    (problem,) = images.problems
    assert "the transfer ended early, or the file is damaged" in problem.reason
    assert f"({chosen.num_rows - len(images.rows)} patches lost)" in problem.reason
    assert 0 < len(images.rows) < chosen.num_rows
    np.testing.assert_array_equal(images.pixels, here.read(chosen).pixels[images.rows])
