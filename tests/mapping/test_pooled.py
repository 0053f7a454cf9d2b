"""Maps on Ray: large scenes in strips, several scenes, lost actors and bad scenes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmark.cli.commands import invoke
from benchmark.cluster import pools
from benchmark.mapping import pooled
from benchmark.mapping.finding import Work
from benchmark.mapping.rasters import MapPaths
from benchmark.mapping.running import map_here, plan_maps
from benchmark.progress import LoggedProgress
from tests.mapping.pictures import mosaic, read, write_scene

STRIDE = "9"
pytestmark = pytest.mark.slow


class KilledOnce(pooled.MapActor):
    """Is killed in the middle of its first strip; its file says that it was."""

    def __call__(self, block: pa.Table) -> pa.Table:
        mark = Path(self._plan.model).with_name("killed")
        done = super().__call__(block)
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return done
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


@pytest.fixture
def pool_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the number of actors."""
    plan_pool = pools.plan_pool

    def set_actors(count: int) -> None:
        def plan(resources: Any, **settings: Any) -> pools.Pool:
            return plan_pool(resources, **{**settings, "num_actors": count})

        monkeypatch.setattr(pools, "plan_pool", plan)

    return set_actors


def bits(path: Path) -> list[bytes]:
    files = MapPaths.of(path)
    return [files.classes.read_bytes(), files.confidence.read_bytes(), files.names.read_bytes()]


def test_a_large_scene_has_the_same_bits_with_any_number_of_actors_and_after_a_loss(
    ray_session: None,
    pool_of: Any,
    predict: Any,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = mosaic(8, 9)
    pixels[:, 60:130, 40:200] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    found = {}
    for count in (1, 2):
        pool_of(count)
        code, (found[count],) = predict(
            model, scene, "--stride", STRIDE, "--out", tmp_path / f"{count}.tif"
        )
        assert code == 0 and found[count]["status"] == "complete"
    plan = plan_maps(str(model), stride=int(STRIDE))
    map_here(plan, Work(str(scene), str(tmp_path / "here.tif")), LoggedProgress())
    monkeypatch.setattr(pooled, "MapActor", KilledOnce)
    assert predict(model, scene, "--stride", STRIDE, "--out", tmp_path / "killed.tif")[0] == 0
    assert (tmp_path / "killed").exists()
    for name in ("2.tif", "here.tif", "killed.tif"):
        assert bits(tmp_path / name) == bits(tmp_path / "1.tif")
    assert len(np.unique(read(tmp_path / "1.tif"))) > 2
    assert found[1]["num_patches"] == found[2]["num_patches"] > 500
    assert found[2]["pixels"] == found[1]["pixels"] and found[2]["empty_pixels"] == 70 * 160


def test_large_and_small_scenes_share_a_pool_and_a_damaged_one_stops_no_other(
    ray_session: None, predict: Any, model: Path, tmp_path: Path
) -> None:
    scenes = tmp_path / "scenes"
    write_scene(scenes / "large.tif", mosaic(6, 8))
    write_scene(scenes / "small.tif", mosaic(2, 2))
    noise = np.random.default_rng(0).integers(1, 255, (3, 256, 320)).astype(np.uint8)
    damaged = write_scene(scenes / "damaged.tif", noise)
    data = damaged.read_bytes()
    damaged.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    arguments = ("--stride", STRIDE, "--out", tmp_path / "maps")
    code, found = predict(model, scenes, *arguments)
    assert code == 1
    assert {Path(item["scene"]).stem: item["status"] for item in found} == {
        "damaged": "failed", "large": "complete", "small": "complete",
    }  # fmt: skip
    assert "damaged.tif: cannot be read" in found[0]["reason"]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == sorted(
        path.name
        for name in ("large", "small")
        for path in MapPaths.of(tmp_path / f"{name}.tif")
    )  # fmt: skip
    plan = plan_maps(str(model), stride=int(STRIDE))
    for name in ("large", "small"):
        out = tmp_path / f"{name}.tif"
        map_here(plan, Work(str(scenes / f"{name}.tif"), str(out)), LoggedProgress())
        assert bits(out) == bits(tmp_path / "maps" / f"{name}.tif")


def test_the_only_scene_of_a_pool_is_refused_in_one_line(
    ray_session: None, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_scene(tmp_path / "empty.tif", np.zeros((3, 300, 300), np.uint8), nodata=0)
    arguments = ["predict", str(model), str(scene), "--stride", STRIDE]
    assert invoke([*arguments, "--out", str(tmp_path / "map.tif")]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "empty.tif: holds no data (all pixels are nodata); no map written" in line
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["empty.tif"]
