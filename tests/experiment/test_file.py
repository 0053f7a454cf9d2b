"""A run keeps its experiment, whole, and reports later changes of the file.

A whole run whose file is edited meanwhile is in tests/stages/test_watching.py, one of a kept
experiment in tests/cli/test_upkeep.py.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark import api, config
from benchmark.config import Experiment, build
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.experiment.file import MAX_ORIGINAL, describe_change, keep, read_runs
from benchmark.store.artefacts import Store
from tests.scenes import SMALLEST
from tests.tiny_models import write_tiny

TEXT = SMALLEST + "# of mine\n"


@pytest.fixture
def path(tmp_path: Path, scenes: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TEXT.format(root=scenes))
    return path


def open_context(experiment: Experiment, store: Path | str | None = None) -> Any:
    return api.open_context(experiment, store=None if store is None else str(store))


def kept(experiment: Experiment, store: Path) -> Path:
    with open_context(experiment, store) as context:
        return store / keep(context)


def folders(context: Context) -> list[str]:
    """Return the artefacts of an experiment, by which nothing is computed again."""
    found = [cell.artefact.folder for cell in context.prediction_cells()]
    embeddings = [context.embeddings(item).folder for item in context.backbones]
    return [context.patches.folder, *embeddings, *found, context.scores().folder]


def test_what_is_kept_has_every_setting_and_the_given_text(path: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    experiment = api.load(path, ["seeds=[3]", 'report.title="two\nlines"'])
    copy = kept(experiment, store)
    settings = tomllib.loads(copy.read_text())
    assert settings["seeds"] == [3]
    # A text over two lines is no value of TOML, and so a text as it is.
    assert settings["report"] == {
        **{"num_examples": 6, "tsne": False, "umap": False},
        "title": '"two\nlines"',
    }
    assert settings["heads"] == ["majority"]
    assert settings["evaluate"]["confidence"] == 0.95  # A default, which may change.
    assert settings["store"] == str(store)
    assert "val_fraction" not in settings["dataset"]
    assert "# # of mine" in copy.read_text()
    assert '# --set report.title="two lines"' in copy.read_text()
    again = api.load(copy)
    with open_context(experiment, store) as one, open_context(again) as two:
        assert folders(one) == folders(two)


def test_it_is_kept_once_and_so_is_what_is_loaded_from_it(path: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    copy = kept(api.load(path), store)
    written = copy.stat().st_mtime_ns
    record = copy.with_suffix(".json").read_text()
    path.write_text("# a comment\n" + path.read_text())
    for experiment in (api.load(path), api.load(copy)):
        assert kept(experiment, store) == copy
    assert copy.stat().st_mtime_ns == written
    assert copy.with_suffix(".json").read_text() == record
    other = kept(api.load(copy, ["seeds=[1]"]), store)
    assert other != copy
    text = other.read_text()
    # What was given comes once, however often a kept file is changed.
    assert text.count("of mine") == 1
    assert "# --set seeds=[1]" in text
    assert "# #" in text and "# # #" not in text


def test_paths_are_absolute_so_that_it_runs_from_any_folder(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "here"
    place.mkdir()
    (place / "data").symlink_to(scenes)
    write_tiny(place / "nets" / "tiny", "vit")
    (place / "small.toml").write_text(
        TEXT.format(root="data").replace('"mean_color"', '"hf:nets/tiny", "late"')
        + '[backbone."late"]\nmodel = "hf:nets/tiny"\nlayer = -2\n'
    )
    monkeypatch.chdir(place)
    experiment = api.load("small.toml")
    with open_context(experiment) as context:
        wanted = folders(context)
        copy = place / "runs" / keep(context)
    settings = tomllib.loads(copy.read_text())
    assert settings["dataset"]["root"] == str(place / "data")
    assert settings["backbones"] == ["hf:nets/tiny", "late"]
    assert settings["backbone"] == {
        "hf:nets/tiny": {"model": f"hf:{place}/nets/tiny"},
        "late": {"model": f"hf:{place}/nets/tiny", "layer": -2},
    }
    monkeypatch.chdir(tmp_path)
    with open_context(api.load(copy)) as context:
        # Scores and report are the same, too: a backbone's name is part of them.
        assert folders(context) == wanted
        assert keep(context) == f"experiments/{copy.name}"


def test_labels_are_kept_with_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    rows = ["path,label"]
    for number in range(8):
        Image.new("RGB", (32, 32), (number, 40, 90)).save(tmp_path / f"images/{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    dataset = {"name": "folder", "root": "images", "labels": "labels.csv", "patch_size": 32}
    experiment = api.build(name="x", backbones=["mean_color"], dataset=dataset)
    copy = kept(experiment, tmp_path / "runs")
    settings = tomllib.loads(copy.read_text())["dataset"]
    assert settings["labels"] == str(tmp_path / "labels.csv")
    # Regions that nobody set would be taken for a split.
    assert not settings.keys() & {"val_regions", "test_regions", "purity"}
    monkeypatch.chdir("/")
    with open_context(experiment.model_copy(update={"dataset": api.load(copy).dataset})) as one:
        assert one.patches.folder.startswith("patches/folder-")


def test_experiments_of_python_are_kept(
    open_small: Callable[..., Context], path: Path, tmp_path: Path
) -> None:
    context = open_small(evaluate={"num_resamples": 7})
    copy = Path(context.store.root) / keep(context)
    assert tomllib.loads(copy.read_text())["evaluate"]["num_resamples"] == 7
    assert "as it was given" not in copy.read_text()
    changed = api.load(path).model_copy(update={"seeds": (8, 9)})
    assert tomllib.loads(kept(changed, tmp_path / "runs").read_text())["seeds"] == [8, 9]


def test_arrays_in_memory_run_again_without_python(tmp_path: Path) -> None:
    import numpy as np

    import benchmark as bm

    pixels = np.random.default_rng(0).integers(0, 255, (12, 3, 32, 32), np.uint8)
    arrays = bm.from_arrays(pixels, ["a", "b"] * 6)
    store = tmp_path / "runs"
    experiment = bm.build(dataset=arrays, backbones=["mean_color"], store=str(store))
    copy = kept(experiment, store)
    with open_context(experiment) as one, open_context(api.load(copy)) as two:
        assert folders(one) == folders(two)
    moved = tmp_path / "elsewhere"
    store.rename(moved)
    with open_context(api.load(moved / "experiments" / copy.name)) as context:
        assert context.store.root == str(moved)
        assert context.experiment.dataset.root.startswith(f"{moved}/arrays/")
        assert (moved / keep(context)).name != copy.name  # Its data lie elsewhere.


def test_a_store_that_moved_is_used_where_it_lies(path: Path, tmp_path: Path) -> None:
    copy = kept(api.load(path), tmp_path / "runs")
    shutil.copytree(tmp_path / "runs", tmp_path / "mounted")
    other = tmp_path / "mounted" / "experiments" / copy.name
    assert api.load(other).store == str(tmp_path / "mounted")
    assert api.load(copy).store == str(tmp_path / "runs")
    assert api.load(other, [f"store={tmp_path}/third"]).store == f"{tmp_path}/third"
    assert kept(api.load(other), tmp_path / "mounted") == other
    # A file of the user's own is what it says, wherever it lies.
    (tmp_path / "experiments").mkdir()
    mine = shutil.copy(path, tmp_path / "experiments" / "mine.toml")
    assert api.load(mine).store == "runs"
    # So is a copy that was taken out of its store.
    taken = shutil.copy(copy, tmp_path / "experiments" / copy.name)
    assert api.load(taken).store == str(tmp_path / "runs")


def test_versions_data_and_weights_of_each_run_are_beside_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.experiment import file

    store = tmp_path / "runs"
    experiment = api.load(path, ['backbones=["efficientnet_lite0"]'])
    copy = kept(experiment, store)
    name = f"experiments/{copy.stem}.json"
    (run,) = read_runs(Store(str(store)), name)
    with open_context(experiment, store) as context:
        assert run["dataset_digest"] == context.dataset_digest
        assert run["weights"] == {"efficientnet_lite0": context.backbones[0].revision()}
    assert {"python", "torch", "peft", "pillow", "backbone-benchmark"} <= run["versions"].keys()
    assert {"code", "machine", "written"} <= run.keys()
    monkeypatch.setattr(file, "record", lambda: {"versions": {"torch": "9"}, "code": "abc"})
    kept(experiment, store)
    kept(experiment, store)
    assert [item["versions"] for item in read_runs(Store(str(store)), name)] == [
        run["versions"],
        {"torch": "9"},
    ]
    for damaged in ("{", "[]", '{"runs": 3}', '{"runs": [3]}'):
        (store / name).write_text(damaged)
        kept(experiment, store)
        assert len(json.loads((store / name).read_text())["runs"]) == 1


def test_a_run_without_data_keeps_nothing(tmp_path: Path) -> None:
    content = {
        "name": "x",
        "backbones": ["mean_color"],
        "dataset": {"name": "folder", "root": "/no"},
    }
    with pytest.raises(UsageError, match="/no"):
        kept(build(content), tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
    assert describe_change(build(content)) == ""


def test_a_long_text_is_left_out(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text() + "# x\n" * (MAX_ORIGINAL // 4))
    copy = kept(api.load(path), tmp_path / "runs")
    assert len(copy.read_text()) < 3000
    assert "characters, left out" in copy.read_text()
    assert api.load(copy).name == "small"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_text(path.read_text() + "\n"), "has changed"),
        (lambda path: path.unlink(), "is gone"),
        (lambda path: path.write_bytes(b"\xff"), "cannot be read any more"),
        (lambda path: path.touch(), ""),
    ],
)
def test_a_change_is_told(path: Path, change, message: str) -> None:
    experiment = config.load(path)
    change(path)
    end = "since this run began: its results are of the earlier content"
    assert describe_change(experiment) == (f"{path} {message} {end}" if message else "")
