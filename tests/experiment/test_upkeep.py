"""What experiments of a store use is known from their kept files; what none uses is waste."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmark as bm
from benchmark import api
from benchmark.config import Experiment
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.experiment.file import keep
from benchmark.experiment.upkeep import Stock, check_labels, find_waste, look_through, older
from benchmark.store.artefacts import Store
from benchmark.store.inventory import delete_entries
from tests.object_store import KEYS, serve_objects
from tests.scenes import SMALLEST
from tests.tiny_models import write_tiny

NOW_S = 1e11
"""Long after every file was written."""


@pytest.fixture
def root(tmp_path: Path, scenes: Path) -> Path:
    """Return the data of this test alone."""
    return shutil.copytree(scenes, tmp_path / "data")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


def load(root: Path, store: Store, *settings: str, backbones: str = "mean_color") -> Experiment:
    path = Path(store.root).with_name("small.toml")
    path.write_text(SMALLEST.format(root=root).replace("mean_color", backbones))
    return api.load(path, [f"store={store.root}", *settings])


def artefacts(context: Context) -> list[Any]:
    """Return an experiment's artefacts in the order of the stages; complete those before."""
    found = [context.patches, *map(context.embeddings, context.backbones)]
    found += [cell.artefact for cell in context.prediction_cells()]
    for item in found:
        if not item.is_complete:
            item.commit({})
    return [*found, context.scores(), context.report()]


def pretend(experiment: Experiment) -> tuple[str, list[str]]:
    """Keep an experiment and complete all that it uses; return its label and the folders."""
    with api.open_context(experiment) as context:
        label = Path(keep(context)).stem
        found = artefacts(context)
        for item in found[-2:]:
            item.commit({})
        return label, [item.folder for item in found]


def look(store: Store) -> Stock:
    return look_through(store, lambda item: api.open_readable(item, store=store.uri))


def waste(store: Store, *forgotten: str, now_s: float = NOW_S) -> dict[str, str]:
    found = find_waste(store, look(store), forgotten=forgotten, now_s=now_s)
    return {item.entry.path: item.reason for item in found}


def test_artefacts_are_counted_for_every_experiment_that_uses_them(
    root: Path, store: Store
) -> None:
    one, folders = pretend(load(root, store))
    two, others = pretend(load(root, store, "seeds=[1]"))
    stock = look(store)
    users = {item.path: {user.label for user in stock.users(item)} for item in stock.counted}
    assert users.keys() == {*folders, *others}
    assert users[folders[0]] == users[folders[1]] == {one, two}
    assert [users[path] for path in folders[2:]] == [{one}] * 3
    assert [users[path] for path in others[2:]] == [{two}] * 3
    assert all(item.num_bytes > 100 for item in stock.counted)
    assert waste(store) == {}


def test_what_no_experiment_uses_and_older_scores_are_waste(root: Path, store: Store) -> None:
    _, folders = pretend(load(root, store))
    for name in ("evaluate/small", "report/small", "tune/a-b-knn-seed0", "report/gone"):
        stage, _, name = name.partition("/")
        store.artefact(stage, name, "0" * 16).commit({})
    store.artefact("finetune", "a-b-finetune-seed0", "1" * 16).begin({"plan": 1})
    store.artefact("embed", "a-b", "2" * 16).fail("no memory")
    store.write("usage/small.json", b"{}")
    store.write("usage/gone.json", b"{}")
    temporary = f"{folders[0]}/x.tmp-{'0' * 32}"
    store.write(temporary, b"12")
    assert waste(store) == {
        f"evaluate/small-{'0' * 16}": "older scores of 'small'",
        f"report/small-{'0' * 16}": "older report of 'small'",
        f"report/gone-{'0' * 16}": "no experiment uses it",
        f"tune/a-b-knn-seed0-{'0' * 16}": "no experiment uses it",
        f"finetune/a-b-finetune-seed0-{'1' * 16}": "no experiment uses it",
        f"embed/a-b-{'2' * 16}": "no experiment uses it",
        "usage/gone.json": "times of an experiment that is not in the store",
        temporary: "temporary file",
    }
    assert temporary not in waste(store, now_s=Path(store.root, temporary).stat().st_mtime + 9)


def test_what_is_interrupted_or_failed_but_used_is_kept(root: Path, store: Store) -> None:
    experiment = load(root, store, "finetune.num_epochs=1", backbones="efficientnet_lite0")
    with api.open_context(experiment) as context:
        keep(context)
        head, finetuned = (cell.artefact for cell in context.prediction_cells())
        finetuned.begin({"plan": 1})
        finetuned.write_bytes("trial-000-last.safetensors", b"x")
        # It is what status and report tell of the cell.
        head.fail("no memory")
    assert waste(store) == {}


def test_experiments_can_be_forgotten(root: Path, store: Store) -> None:
    one, folders = pretend(load(root, store))
    two, _ = pretend(load(root, store, "tune.refit=train+val"))
    stock = look(store)
    assert check_labels(stock, [f"experiments/{one}.toml", two]) == {one, two}
    with pytest.raises(UsageError, match=f"--forget {one}x: .* Did you mean '{one}'"):
        check_labels(stock, [f"{one}x"])
    assert waste(store, one) == {
        **dict.fromkeys(folders[2:3], "no experiment uses it"),
        folders[3]: "older scores of 'small'",
        folders[4]: "older report of 'small'",
        f"experiments/{one}": "the experiment itself",
    }
    # One that nothing is left of has no name any more.
    assert waste(store, one, two)[folders[3]] == "no experiment uses it"


def test_what_ran_last_is_kept_of_one_name(
    root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.store import provenance

    experiments = [load(root, store, f"seeds=[{seed}]") for seed in (0, 1)]
    labels = []
    for hour, number in enumerate((0, 1, 0)):
        monkeypatch.setattr(provenance, "now", lambda hour=hour: f"2026-01-01T0{hour}:00:00+00:00")
        labels.append(pretend(experiments[number])[0])
    other, _ = pretend(load(root, store, "name=other"))
    assert older(look(store)) == {labels[1]}
    assert other not in older(look(store))


def test_data_that_are_gone_or_changed_are_those_of_the_last_run(root: Path, store: Store) -> None:
    pretend(load(root, store))
    index = root / "spatial_index.geojson"
    index.write_text(index.read_text().replace("pa-train", "pa-other"))
    assert waste(store) == {}
    shutil.rmtree(root)
    assert waste(store) == {}
    assert not any(item.problem for item in look(store).experiments)


def test_all_that_may_be_of_an_experiment_without_weights_is_kept(
    root: Path, store: Store, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "tiny", "vit")
    pretend(load(root, store, backbones=f"hf:{folder}"))
    shutil.rmtree(folder)
    for name in ("tune/chesapeake-x", "tune/folder-x", "evaluate/small", "evaluate/other"):
        stage, _, name = name.partition("/")
        store.artefact(stage, name, "0" * 16).commit({})
    (kept,) = look(store).experiments
    assert f"there is no folder {folder}" in kept.problem
    assert set(waste(store)) == {f"tune/folder-x-{'0' * 16}", f"evaluate/other-{'0' * 16}"}


@pytest.mark.parametrize("content", [b"name = ", b"\xff", b"name = 'x'\n"])
def test_all_is_kept_for_a_file_that_is_no_experiment(
    root: Path, store: Store, content: bytes
) -> None:
    pretend(load(root, store))
    store.write("experiments/strange-0.toml", content)
    store.artefact("tune", "a-b", "0" * 16).commit({})
    store.artefact("report", "gone", "0" * 16).commit({})
    assert set(waste(store)) == {f"report/gone-{'0' * 16}"}


def test_experiments_that_older_versions_kept_are_read(
    root: Path, store: Store, open_small: Callable[..., Context]
) -> None:
    experiment = load(root, store, "seeds=[4]")
    pretend(experiment)
    kept = Path(store.root) / "experiments"
    for path in kept.iterdir():
        path.unlink()
    text = SMALLEST.format(root=root)
    (kept / "small-0.toml").write_text(f"{text}# --set mine\n\n# --set seeds=[4]\n")
    assert waste(store) == {}
    assert [item.label for item in look(store).experiments] == ["small-0"]


def test_arrays_are_used_or_waste(store: Store) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 3, 32, 32), np.uint8)
    for name in ("one", "two"):
        arrays = bm.from_arrays(pixels, ["a", "b"] * 6, name=name)
        experiment = bm.build(dataset=arrays, backbones=["mean_color"], store=store.root)
        if name == "one":
            with api.open_context(experiment) as context:
                keep(context)
    (path,) = waste(store)
    assert path.startswith("arrays/two-")
    assert waste(store)[path] == "no experiment uses these arrays"
    # They may have been made for a run that is about to begin.
    changed_s = next(item.changed_s for item in look(store).counted if item.path == path)
    assert waste(store, now_s=changed_s + 10) == {}
    # The same store somewhere else: the arrays in it are still the experiment's.
    moved = Path(store.root).rename(Path(store.root).with_name("moved"))
    assert list(waste(Store(str(moved)))) == [path]


def test_a_store_in_a_bucket_is_looked_through_alike(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with serve_objects() as objects:
        store = Store(objects.uri("stores/runs"))
        path = tmp_path / "small.toml"
        path.write_text(SMALLEST.format(root=root))
        label, folders = pretend(api.load(path, [f'store="{store.uri}"']))
        store.artefact("report", "small", "0" * 16).commit({})
        store.artefact("tune", "a-b", "0" * 16).commit({})
        stock = look(store)
        assert [item.label for item in stock.experiments] == [label]
        assert stock.experiments[0].folders == set(folders)
        found = find_waste(store, stock, forgotten=(), now_s=NOW_S)
        assert len(found) == 2
        assert len(list(delete_entries(store, [item.entry for item in found]))) == 2
        assert {item.path for item in look(store).counted} == set(folders)
        assert waste(store) == {}


def test_a_store_without_experiments_is_left(root: Path, store: Store) -> None:
    pretend(load(root, store))
    shutil.rmtree(Path(store.root) / "experiments")
    with pytest.raises(UsageError, match=r"there is no experiment in '.*/experiments'"):
        waste(store)


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"is no store: it holds neither artefacts nor"):
            look(Store(str(path)))
    (tmp_path / "x.toml").write_text("")
    with pytest.raises(UsageError, match="it is a file, not a folder"):
        look(Store(str(tmp_path / "x.toml")))
