"""Scenes on a web server and in a bucket are those of a folder, for a small share of the bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from rasterio.transform import from_origin

from benchmark.catalog.chesapeake.scenes import ChesapeakeSource, open_split_scenes
from benchmark.catalog.names import check_names
from benchmark.config import DatasetConfig, build
from benchmark.errors import CellError, UsageError
from benchmark.specs import Images
from tests.object_store import KEYS, serve_objects
from tests.ranges import Server, first_times, serve

SIDE, PATCH = 2048, 128
TILES = {"tiled": True, "blockxsize": 256, "blockysize": 256}
SHARES = {"tiles": 0.06, "strips": 0.25}
"""Most of the bytes of images and labels that 1 % of the windows moves (docs/REMOTE.md)."""

MOST_AT_ONCE = 4
"""Most requests that one process has open while it reads a scene (docs/REMOTE.md)."""


def write_scene(root: Path, state: str, layout: str) -> dict[str, object]:
    """Write a scene of photograph-like noise; its windows of 128 px have a single class."""
    rng = np.random.default_rng(list(state.encode()))
    codes = np.kron(rng.integers(1, 7, (SIDE // PATCH,) * 2), np.ones((PATCH, PATCH), np.uint8))
    pixels = rng.integers(0, 64, (4, SIDE, SIDE), np.uint8) + 20 * codes.astype(np.uint8)
    paths = {"naip-new": f"{state}/x_naip-new.tif", "lc": f"{state}/x_lc.tif"}
    for path, bands in zip(paths.values(), (pixels, codes[None].astype(np.uint8)), strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": len(bands)}
        profile |= {"dtype": "uint8", "crs": "EPSG:26918", "compress": "deflate", "zlevel": 1}
        profile |= {"interleave": "pixel"} | (TILES if layout == "tiles" else {})
        transform = from_origin(300_000, 4_300_000, 1, 1)
        with rasterio.open(root / path, "w", **profile, transform=transform) as file:
            file.write(bands)
    return {"properties": {"split": f"{state}-train", **paths}, "geometry": None}


@pytest.fixture(scope="module", params=["tiles", "strips"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, layout: str) -> Path:
    """Three scenes of 2,048 px: 768 windows of 128 px."""
    root = tmp_path_factory.mktemp(layout)
    features = [write_scene(root, state, layout) for state in ("de", "md", "pa")]
    (root / "spatial_index.geojson").write_text(json.dumps({"features": features}))
    return root


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Server]:
    with serve(folder) as found:
        yield found


def open_scenes(root: object) -> ChesapeakeSource:
    return open_split_scenes(DatasetConfig(name="chesapeake", root=str(root), patch_size=PATCH))


def find_all(source: ChesapeakeSource) -> pa.Table:
    found = [source.find(unit) for unit in source.units()]
    assert not [item.problems for item in found if item.problems]
    return pa.concat_tables([item.candidates for item in found])


def draw(candidates: pa.Table, num: int) -> pa.Table:
    rows = np.random.default_rng(0).permutation(candidates.num_rows)[:num]
    return candidates.take(np.sort(rows))


def read_all(source: ChesapeakeSource, rows: pa.Table) -> list[Images]:
    names = dict.fromkeys(rows["scene"].to_pylist())
    return [source.read(rows.filter(pa.compute.equal(rows["scene"], name))) for name in names]


def assert_same(ours: list[Images], others: list[Images]) -> None:
    for mine, other in zip(ours, others, strict=True):
        assert not mine.problems
        np.testing.assert_array_equal(mine.pixels, other.pixels)
        np.testing.assert_array_equal(mine.rows, other.rows)


def test_one_per_cent_of_the_windows_moves_a_small_share_of_the_bytes(
    server: Server, folder: Path, layout: str
) -> None:
    here, there = open_scenes(folder), open_scenes(server.url)
    candidates = find_all(there)
    assert candidates.equals(find_all(here))
    assert candidates.num_rows == 768
    chosen = draw(candidates, 8)
    assert_same(read_all(there, chosen), read_all(here, chosen))
    whole = sum(path.stat().st_size for path in folder.glob("*/*.tif"))
    share = server.num_bytes(".tif") / whole
    assert 0 < share < SHARES[layout]
    np.testing.assert_array_equal(there.corners(chosen), here.corners(chosen))


def test_all_windows_move_each_byte_about_once(server: Server, folder: Path) -> None:
    here, there = open_scenes(folder), open_scenes(server.url)
    candidates = find_all(here)
    assert_same(read_all(there, candidates), read_all(here, candidates))
    whole = sum(path.stat().st_size for path in folder.glob("*/*_naip-new.tif"))
    assert server.num_bytes("_naip-new.tif") < 1.1 * whole
    assert server.most_at_once <= MOST_AT_ONCE


def test_scenes_of_a_bucket_are_those_of_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with serve_objects() as objects:
        there, here = open_scenes(objects.upload(folder, "scenes")), open_scenes(folder)
        assert there.digest() == open_scenes(objects.uri("scenes")).digest() != here.digest()
        objects.faults.slow_down_every = 5
        candidates = find_all(there)
        assert candidates.equals(find_all(here))
        chosen = draw(candidates, 8)
        assert_same(read_all(there, chosen), read_all(here, chosen))
        assert objects.faults.count(503) > 0


def test_the_digest_is_of_sizes_and_etags(server: Server, folder: Path, tmp_path: Path) -> None:
    digest = open_scenes(server.url).digest()
    assert server.num_bytes(".tif") == 0
    assert digest == open_scenes(f"{server.url}/").digest()
    root = shutil.copytree(folder, tmp_path / "root")
    with serve(root) as other:
        assert open_scenes(other.url).digest() == digest
        mask = root / "pa" / "x_lc.tif"
        mask.write_bytes(mask.read_bytes() + b" ")
        assert open_scenes(other.url).digest() != digest


# --- servers that fail ---


def test_a_busy_server_changes_nothing(server: Server, folder: Path) -> None:
    here, there = open_scenes(folder), open_scenes(server.url)
    unit = there.units()[0]
    chosen = draw(here.find(unit).candidates, 3)
    server.faults.status = first_times(2, 503)
    assert there.find(unit).candidates.equals(here.find(unit).candidates)
    server.faults.status = first_times(2, 503)
    assert_same([there.read(chosen)], [here.read(chosen)])


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (
            {"status": lambda method, path: 403},
            r"access denied \(HTTP 403, http.*x_naip-new\.tif\)",
        ),
        (
            {"status": lambda method, path: 404},
            r"file is missing, though the index lists it \(http",
        ),
        ({"ignores_ranges": True}, r"the server ignores byte ranges \(http"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem(
    server: Server, faults: dict[str, object], reason: str
) -> None:
    there = open_scenes(server.url)
    unit = there.units()[0]
    chosen = draw(there.find(unit).candidates, 3)
    for name, value in faults.items():
        setattr(server.faults, name, value)
    for problems in (there.find(unit).problems, there.read(chosen).problems):
        (problem,) = problems
        assert problem.path == "de/x_naip-new.tif"
        with pytest.raises(UsageError, match=reason):
            raise UsageError(problem.reason)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (
            {"status": lambda method, path: 503},
            r"the server fails \(HTTP 503\) after 4 tries; check",
        ),
        ({"stop": lambda path: "close"}, "the transfer ended early .*; check the address"),
    ],
)
def test_a_server_that_fails_ends_the_run_and_loses_no_file(
    server: Server, faults: dict[str, object], reason: str
) -> None:
    there = open_scenes(server.url)
    unit = there.units()[0]
    chosen = draw(there.find(unit).candidates, 3)
    for name, value in faults.items():
        setattr(server.faults, name, value)
    # Not a Problem: with on_error = "skip" the scene would be left out for good.
    with pytest.raises(CellError, match=reason):
        there.find(unit)
    with pytest.raises(CellError, match=reason):
        there.read(chosen)


def test_a_truncated_file_loses_only_its_rows(server: Server, folder: Path) -> None:
    here, there = open_scenes(folder), open_scenes(server.url)
    candidates = here.find("delaware-x").candidates
    chosen = candidates.take(np.arange(0, 256, 25))
    server.faults.size = lambda path, size: size // 2 if path == "de/x_naip-new.tif" else size
    images = there.read(chosen)
    (problem,) = images.problems
    assert "the transfer ended early, or the file is damaged" in problem.reason
    assert f"({chosen.num_rows - len(images.rows)} patches lost)" in problem.reason
    assert 0 < len(images.rows) < chosen.num_rows
    whole = here.read(chosen)
    np.testing.assert_array_equal(images.pixels, whole.pixels[images.rows])


def test_an_index_of_missing_scenes(server: Server) -> None:
    server.faults.status = lambda method, path: 404 if path.endswith(".tif") else 0
    there = open_scenes(server.url)
    with pytest.raises(UsageError, match=r"root = 'http.*none of the 3 scenes of spatial_index"):
        there.digest()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, r"root = 'http://.*': spatial_index.geojson is missing. Give the URI of the folder"),
        (403, r"root = 'http://.*': spatial_index.geojson: access denied \(HTTP 403"),
    ],
)
def test_a_root_without_an_index(server: Server, status: int, reason: str) -> None:
    server.faults.status = lambda method, path: status
    with pytest.raises(UsageError, match=reason):
        open_scenes(server.url)


def test_an_experiment_names_its_root_before_anything_is_read() -> None:
    content = {"name": "x", "backbones": ["mean_color"]}

    def check(**dataset: str) -> None:
        check_names(build({**content, "dataset": dataset}, where="x.toml"))

    check(name="chesapeake", root="https://host/data")
    with pytest.raises(UsageError, match=r"x.toml \[dataset\]: root must not hold a password"):
        check(name="folder", root="https://me:secret@host/data")
    with pytest.raises(UsageError, match="from a folder alone; copy the data into a folder"):
        check(name="folder", root="https://host/data")
