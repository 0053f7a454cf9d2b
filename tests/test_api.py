import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import benchmark as bm
from benchmark import api
from benchmark.config import build
from benchmark.tables import SCORES
from tests.scenes import write_scenes


@pytest.fixture(scope="module")
def toml(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    path = folder / "small.toml"
    path.write_text(
        textwrap.dedent(f"""
        name = "small"
        backbones = ["mean_color"]
        heads = ["logistic_regression", "knn"]
        store = "{folder}/runs"
        [dataset]
        name = "chesapeake"
        root = "{scenes}"
        patch_size = 32
        per_region = 40
        [tune]
        num_trials = 3
        [evaluate]
        num_resamples = 100
        """)
    )
    return path


@pytest.fixture(scope="module")
def result(ray_session, toml):
    return bm.run(bm.load(toml))


def test_a_run_fills_the_grid_and_names_its_files(result):
    assert [cell.status for cell in result.stage_cells] == ["complete"] * 6
    assert Path(result.scores).is_file()
    assert Path(result.report).is_file()
    document = result.to_json()
    assert set(document) == {"store", "scores", "report", "cells"}
    wanted = {"dataset", "backbone", "method", "seed", "status", "reason", "artefact"}
    assert all(wanted <= set(cell) for cell in document["cells"])
    assert [cell["method"] for cell in document["cells"]] == ["logistic_regression", "knn"]


def test_scores_are_a_frame(result, toml):
    frame = bm.scores(bm.load(toml))
    assert list(frame.columns) == SCORES.names
    assert len(frame[frame["metric"] == "balanced_accuracy"]) == 2 * 2


def test_status_says_complete_then_stale(result, toml):
    assert {item.status for item in bm.status(bm.load(toml))} == {"complete"}
    other = bm.status(bm.load(toml, ["tune.num_trials=4"]))
    by_stage = {item.cell.stage: item.status for item in other}
    assert by_stage["patches"] == by_stage["embed"] == "complete"
    assert by_stage["tune"] == "stale"


def test_a_second_run_computes_nothing_and_starts_nothing(result, toml):
    before = {p: p.stat().st_mtime_ns for p in Path(result.store).rglob("*") if p.is_file()}
    script = f"""
        import sys
        import benchmark as bm
        result = bm.run(bm.load({str(toml)!r}))
        assert not result.failed
        heavy = {{"ray", "torch", "sklearn", "matplotlib"}} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)
    after = {p: p.stat().st_mtime_ns for p in Path(result.store).rglob("*") if p.is_file()}
    assert after == before


def test_scores_before_a_run_say_what_to_do(toml, tmp_path):
    with pytest.raises(bm.BenchmarkError, match="run it first"):
        bm.scores(bm.load(toml), store=str(tmp_path))


def test_a_store_that_cannot_be_written_is_named(toml, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(bm.UsageError, match=r"store '.*file/runs' cannot be written"):
        bm.run(bm.load(toml), store=str(blocked / "runs"))


def test_a_failed_patches_stage_fails_the_cells_with_its_reason(ray_session, toml, tmp_path):
    root = write_scenes(tmp_path / "scenes", windows=4)
    mask = sorted(root.rglob("*_lc.tif"))[0]
    mask.write_bytes(mask.read_bytes()[:200])
    experiment = bm.load(toml, [f"dataset.root={root}"])
    result = bm.run(experiment, store=str(tmp_path / "runs"))
    assert {cell.status for cell in result.cells} == {"failed"}
    assert all(mask.name in cell.reason for cell in result.cells)
    assert result.scores is None and result.report is None


def test_a_setting_of_another_data_set_is_refused(experiment_content):
    content = dict(experiment_content)
    content["dataset"] = {**content["dataset"], "val_fraction": 0.3}
    with pytest.raises(bm.UsageError, match="'val_fraction' does not apply to the data set"):
        api.check_names(build(content))
