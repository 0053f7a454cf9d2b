import doctest
import inspect
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import benchmark as bm
from benchmark import api, interactive
from benchmark.config import build
from benchmark.tables import SCORES, images_array
from tests.scenes import write_scenes
from tests.strangers import forgotten


@pytest.fixture(scope="module")
def toml(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    path = folder / "small.toml"
    path.write_text(
        textwrap.dedent(f"""
        name = "small"
        backbones = ["mean_color"]
        heads = ["logistic_regression", "knn", "majority"]
        store = "{folder}/runs"
        [dataset]
        name = "chesapeake"
        root = "{scenes}"
        patch_size = 32
        per_region = 40
        [embed]
        num_actors = 1
        [tune]
        num_trials = 3
        max_concurrent = 1
        [evaluate]
        num_resamples = 100
        """)
    )
    return path


@pytest.fixture(scope="module")
def result(ray_session, toml):
    return bm.run(bm.load(toml))


def test_a_run_fills_the_grid_and_names_its_files(result):
    assert [cell.status for cell in result.stage_cells] == ["complete"] * 7
    assert Path(result.scores).is_file()
    assert Path(result.report).is_file()
    document = result.to_json()
    assert set(document) == {"store", "scores", "report", "cells", "usage", "costs"}
    wanted = {"dataset", "backbone", "method", "seed", "status", "reason", "artefact"}
    assert all(wanted <= set(cell) for cell in document["cells"])
    methods = [cell["method"] for cell in document["cells"]]
    assert methods == ["logistic_regression", "knn", "majority"]


def test_scores_are_a_frame(result, toml):
    frame = bm.scores(bm.load(toml))
    assert frame.index.names == ["backbone", "method", "train_set", "seed", "split", "metric"]
    assert frame.index.is_unique and frame.index.is_monotonic_increasing
    assert {*frame.index.names, *frame} == {*SCORES.names, "class_name", "artefact"}
    assert len(frame.xs("balanced_accuracy", level="metric")) == 3 * 2
    assert len(frame.loc["mean_color", "knn"]) == len(frame) / 3


def test_rows_of_scores_name_their_class_and_lead_to_their_cell(result, toml):
    frame = bm.scores(bm.load(toml)).reset_index()
    recall = frame[frame["metric"].str.startswith("recall/")]
    assert len(recall) == 5 * 3 * 2
    assert (recall["metric"] == "recall/" + recall["class_name"]).all()
    assert frame.loc[frame["metric"] == "accuracy", "class_name"].isna().all()
    row = frame[(frame["method"] == "knn") & (frame["split"] == "test")].iloc[0]
    cell = next(item for item in result.cells if item.cell.method == "knn")
    assert row["artefact"] == cell.cell.artefact.uri
    assert hasattr(bm.load_head(row["artefact"]), "predict_proba")


def test_readers_look_where_the_last_run_wrote(result, toml, tmp_path, monkeypatch):
    monkeypatch.setattr(interactive, "_last_stores", {})
    elsewhere = bm.load(toml, [f"store={tmp_path}/empty"])
    with pytest.raises(bm.BenchmarkError, match=r"in '.*/empty' yet; run it first, or .* store="):
        bm.scores(elsewhere)
    with pytest.raises(bm.BenchmarkError, match=r"in '.*/empty' yet; run it first, or .* store="):
        bm.report(elsewhere)
    # As a relative path, from another folder than that of the readers.
    monkeypatch.chdir(Path(result.store).parent)
    bm.run(elsewhere, store="runs")
    monkeypatch.chdir(tmp_path)
    again = bm.load(toml, [f"store={tmp_path}/empty"])
    assert len(bm.scores(again)) == len(bm.scores(elsewhere, store=result.store))
    assert repr(bm.status(again)) == "<7 cells: 7 complete>"
    assert bm.report(again).path.startswith(str(Path(result.store)))
    other = bm.load(toml, [f"store={tmp_path}/empty", "tune.num_trials=4"])
    with pytest.raises(bm.BenchmarkError, match="/empty"):
        bm.scores(other)


def test_a_report_that_is_complete_is_shown_and_one_that_is_not_is_written(result, toml):
    before = Path(result.report).stat().st_mtime_ns
    shown = bm.report(bm.load(toml))
    assert shown.path == result.report
    assert Path(result.report).stat().st_mtime_ns == before
    assert shown.html == Path(result.report).read_text()
    titled = bm.load(toml, ["report.title=Another"])
    written = bm.report(titled)
    assert written.path != shown.path
    assert "Another" in written.html
    assert Path(written.path).is_file()


def test_a_run_shows_its_ranking_and_its_cells(result):
    assert repr(result) == f"<RunResult: 3 of 3 cells complete; {result.report}>"
    page = result._repr_html_()
    assert "<b>Balanced accuracy on test</b>" in page
    assert "<td>mean_color</td><td>logistic_regression (floor)</td>" in page
    assert repr(result.cells) == "<3 cells: 3 complete>"


def test_an_exported_head_predicts_what_its_cell_predicted(result, toml, tmp_path):
    exp = bm.load(toml)
    folder = bm.export(exp, backbone="mean_color", method="knn", out=tmp_path / "model")
    assert folder == tmp_path / "model"
    with api.open_readable(exp) as context:
        manifest = context.patches.manifest()
        patches = context.patches.read_table(splits=["test"])
        pixels = images_array(patches["image"], (len(manifest["bands"]), 32, 32))
        knn = next(head for head in context.heads if head.name == "knn")
        cell = context.predictions(context.backbones[0], knn, 0)
        predicted = cell.read_table().to_pandas().set_index("patch_id")
    frame = bm.predict(folder, pixels)
    predicted = predicted.loc[patches["patch_id"].to_pylist()]
    classes = manifest["classes"]
    assert list(frame.columns) == ["label", "confidence", *(f"p_{name}" for name in classes)]
    assert frame["label"].tolist() == [classes[k] for k in predicted["y_pred"]]
    expected = np.stack(predicted["y_score"])
    np.testing.assert_allclose(frame[[f"p_{name}" for name in classes]], expected, atol=1e-5)
    np.testing.assert_allclose(frame["confidence"], expected.max(axis=1), atol=1e-5)


def test_status_says_complete_then_stale(result, toml):
    assert {item.status for item in bm.status(bm.load(toml))} == {"complete"}
    other = bm.status(bm.load(toml, ["tune.num_trials=4"]))
    by_stage = {item.cell.stage: item.status for item in other}
    assert by_stage["patches"] == by_stage["embed"] == "complete"
    assert {item.status for item in other if item.cell.method == "knn"} == {"stale"}


def test_a_second_run_computes_nothing_and_starts_nothing(result, toml):
    before = times_of(result.store)
    script = f"""
        import sys
        import benchmark as bm
        result = bm.run(bm.load({str(toml)!r}))
        assert not result.failed
        heavy = {{"ray", "torch", "sklearn", "matplotlib"}} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)
    assert times_of(result.store) == before


def times_of(store: str) -> dict[Path, int]:
    """Return when each file was written, without the records of who ran an experiment last."""
    found = (path for path in Path(store).rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in found if path.parent.name != "experiments"}


@pytest.mark.slow
def test_the_examples_of_every_public_function_run_in_the_order_of_their_page(
    result, toml, tmp_path, monkeypatch
):
    page = Path(api.__file__).parents[1] / "docs/API.md"
    lines = [line.split() for line in page.read_text().splitlines() if line.startswith(".. auto")]
    named = [name.partition("(")[0] for _, _, name in lines]
    assert sorted(named) == bm.__all__
    monkeypatch.chdir(tmp_path)
    shutil.copy(toml, "small.toml")
    shared = {"bm": bm, "exp": bm.load("small.toml"), "np": np, "Path": Path}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    finder = doctest.DocTestFinder(recurse=False)
    with forgotten():
        for name in (name for name in named if inspect.isfunction(getattr(bm, name))):
            (test,) = finder.find(getattr(bm, name), name, globs=shared)
            assert test.examples, f"bm.{name} has no example"
            test.globs = shared
            runner.run(test, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0


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


def check_finetune(names, **table):
    content = {
        "name": "toy",
        "backbones": names,
        "dataset": {"name": "folder", "root": "images"},
        "finetune": table,
    }
    api.check_names(build(content, where="x.toml"))


def test_a_backbone_that_is_no_part_of_the_experiment_is_not_fine_tuned():
    message = (
        r"x\.toml \[finetune\]: backbone 'efficientnet_lite' is not among the experiment's "
        r"backbones\. Did you mean 'efficientnet_lite0'\?"
    )
    with pytest.raises(bm.UsageError, match=message):
        check_finetune(["efficientnet_lite0", "random"], backbones=["efficientnet_lite"])
    # In the catalog, but not in the experiment.
    with pytest.raises(bm.UsageError, match=r"backbone 'random' is not among .* Known: effic"):
        check_finetune(["efficientnet_lite0"], backbones=["random"])


def test_a_backbone_without_weights_is_refused_by_name_with_those_that_can():
    message = (
        r"x\.toml \[finetune\]: backbone 'mean_color' has no weights and cannot be fine-tuned; "
        r"those that can: efficientnet_lite0, random$"
    )
    with pytest.raises(bm.UsageError, match=message):
        check_finetune(
            ["mean_color", "efficientnet_lite0", "random"],
            backbones=["efficientnet_lite0", "mean_color"],
        )
    with pytest.raises(bm.UsageError, match=r"'mean_color' has .*none of the .* backbones can$"):
        check_finetune(["mean_color"], backbones=["mean_color"])


def test_an_experiment_with_nothing_to_fine_tune_is_refused():
    message = (
        r"x\.toml \[finetune\]: there is nothing to fine-tune: mean_color, random have no weights "
        r"or belong to the floor; those that can: random\. Name one with backbones = "
    )
    with pytest.raises(bm.UsageError, match=message):
        check_finetune(["mean_color", "random"])
    with pytest.raises(bm.UsageError, match=r"none of the .* backbones can.*remove the table"):
        check_finetune(["mean_color"])


def test_what_can_be_fine_tuned_passes():
    check_finetune(["mean_color", "efficientnet_lite0"])
    check_finetune(["mean_color", "random"], backbones=["random"])
    check_finetune(["efficientnet_lite0", "random"], backbones=["random", "efficientnet_lite0"])


def test_mistakes_in_the_table_are_found_when_a_file_is_loaded(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(
        'name = "x"\nbackbones = ["mean_color"]\n[finetune]\n'
        '[dataset]\nname = "folder"\nroot = "images"\n'
    )
    with pytest.raises(bm.UsageError, match=r"x\.toml \[finetune\]: there is nothing to fine-tune"):
        bm.load(path)
