"""Maps by exported folders: of one scene here, of many on Ray, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import benchmark as bm
from benchmark.cli.commands import invoke
from benchmark.errors import UsageError
from benchmark.exporting import running as exporting
from benchmark.exporting.running import write_description
from benchmark.mapping.rasters import NODATA
from benchmark.mapping.running import plan_maps
from tests.exporting.cells import CLASSES
from tests.mapping.pictures import mosaic, read, write_scene

SIDE = 32


def check(model: Path, pixels: np.ndarray, out: Path) -> None:
    """Compare the blocks of a map with ``bm.predict`` on the same patches."""
    rows, columns = (side // SIDE for side in pixels.shape[1:])
    grid = pixels.reshape(3, rows, SIDE, columns, SIDE).transpose(1, 3, 0, 2, 4)
    frame = bm.predict(model, np.ascontiguousarray(grid.reshape(-1, 3, SIDE, SIDE)))
    labels = [CLASSES.index(name) for name in frame["label"]]
    assert len(set(labels)) > 1
    block = np.ones((SIDE, SIDE))
    expected = np.kron(np.reshape(labels, (rows, columns)), block)
    np.testing.assert_array_equal(read(out), expected)
    sure = np.kron(frame["confidence"].to_numpy().reshape(rows, columns), block)
    confidence = read(out.with_name(f"{out.stem}.confidence.tif"))
    np.testing.assert_allclose(confidence, sure, rtol=1e-5)


def test_a_block_of_the_map_has_the_class_of_its_patch(
    predict: Any, model: Path, tmp_path: Path
) -> None:
    pixels = mosaic(4, 5)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    code, found = predict(model, scene, "--out", tmp_path / "map.tif")
    assert code == 0
    check(model, pixels, tmp_path / "map.tif")
    (result,) = found
    assert result["status"] == "complete" and result["num_patches"] == 20
    labels = read(tmp_path / "map.tif")
    assert result["pixels"] == {n: int((labels == k).sum()) for k, n in enumerate(CLASSES)}
    with rasterio.open(tmp_path / "map.tif") as file:
        tags = file.tags()
    assert tags["MODEL"] == "mean_color / logistic_regression" and tags["SCENE"] == "scene.tif"


def test_the_command_prints_shares_and_refuses_in_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = str(write_scene(tmp_path / "scene.tif", mosaic(2, 2)))
    arguments = ["predict", str(model), scene, "--out", str(tmp_path / "map.tif")]
    assert invoke([*arguments, "--stride", "16", "--bands", "3,2,1"]) == 0
    assert "map.tif: 9 patches" in capsys.readouterr().out
    assert invoke(arguments) == 2
    assert capsys.readouterr().err.endswith("exist already; add --overwrite to replace\n")
    assert invoke([*arguments, "--overwrite"]) == 0
    assert invoke([*arguments, "--overwrite", "--stride", "33"]) == 2
    assert "--stride 33: give 1 to 32 px" in capsys.readouterr().err
    arguments[2] = str(tmp_path / "absent.tif")
    assert invoke([*arguments, "--overwrite"]) == 2
    assert "absent.tif: cannot be read as a raster" in capsys.readouterr().err


@pytest.mark.slow
def test_many_scenes_are_mapped_on_ray_and_one_that_fails_stops_no_other(
    ray_session: None, predict: Any, model: Path, tmp_path: Path
) -> None:
    scenes, maps = tmp_path / "scenes", tmp_path / "maps"
    pixels = {name: mosaic(2, 3, seed=k) for k, name in enumerate(("a.tif", "sub/b.tif"))}
    for name, content in pixels.items():
        write_scene(scenes / name, content)
    write_scene(scenes / "small.tif", mosaic(1, 1)[:, :20])
    code, found = predict(model, scenes, "--out", maps)
    assert code == 1
    by_scene = {Path(item["scene"]).name: item for item in found}
    assert "is smaller than a patch" in by_scene["small.tif"]["reason"]
    assert [item["status"] for item in found] == ["complete", "failed", "complete"]
    for name, content in pixels.items():
        check(model, content, maps / name)
    assert not (maps / "small.tif").exists()


def test_options_are_checked_against_the_model(model: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"bands": ("1", "2")}, "--bands '1,2': names 2; the model takes 3, in this order: red"),
        ({"stride": 0}, "--stride 0: give 1 to 32 px"),
        ({"value_range": (5.0, 5.0)}, "--value-range 5 5: give the smaller value first"),
    ):
        with pytest.raises(UsageError, match=message):
            plan_maps(str(model), **options)
    with pytest.raises(UsageError, match="was not exported"):
        plan_maps(str(tmp_path))
    write_description(model, {"classes": [str(k) for k in range(NODATA + 1)]})
    with pytest.raises(UsageError, match="has 256 classes; a map holds 255"):
        plan_maps(str(model))
    write_description(model, {"patch_size": None})
    with pytest.raises(UsageError, match="does not tell the size of its patches"):
        plan_maps(str(model))


def test_a_program_of_others_is_not_run_unless_trusted(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_is_foreign", lambda _: True)
    with pytest.raises(UsageError, match=r"was not exported by you .*--trust-code"):
        plan_maps(str(model))
    assert plan_maps(str(model), trust_code=True).trust_code


def test_own_code_of_a_hub_backbone_is_not_trusted_with_a_program(model: Path) -> None:
    write_description(model, {"kind": "package"})
    assert not plan_maps(str(model)).trust_code
