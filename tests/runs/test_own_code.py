"""The recipes of docs/OWN_CODE.md run as they stand, and a change in one is noticed."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import benchmark as bm
from benchmark.cli.commands import invoke
from tests.strangers import write_arrays

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/OWN_CODE.md").read_text()
MAX_RECIPE_LINES = 15

RECIPES = {
    name: f"{text.strip()}\n"
    for name, text in re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", DOCUMENT, re.DOTALL)
}
CHECKS = {
    "mypackage.nets:build": ("width=16",),
    "mypackage.heads:Nearest": ("", "--kind", "head"),
    "mypackage.metrics:worst_recall": (),
    "mypackage.data:open_arrays": ("root=arrays", "patch_size=32"),
}


def write_recipes(folder: Path) -> None:
    for name, text in RECIPES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    write_arrays(folder / "arrays", num_scenes=12)


def test_there_are_four_short_recipes_and_an_experiment() -> None:
    modules = [name for name in RECIPES if name.endswith(".py")]
    assert modules == [f"mypackage/{name}.py" for name in ("nets", "heads", "metrics", "data")]
    assert set(RECIPES) - set(modules) == {"mine.toml"}
    for name in modules:
        ast.parse(RECIPES[name])
        assert len(RECIPES[name].splitlines()) <= MAX_RECIPE_LINES, name


@pytest.mark.parametrize("name", CHECKS)
def test_every_recipe_keeps_its_contract(
    own_folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipes(own_folder)
    settings = [item for item in CHECKS[name] if "=" in item]
    options = [item for value in settings for item in ("--set", value)]
    options += ["--kind", "head"] if "--kind" in CHECKS[name] else []
    assert invoke(["check", name, *options]) == 0, capsys.readouterr().out


def fingerprints(cells: list[Any]) -> dict[tuple[str, str | None, str | None], str]:
    return {
        (item.cell.stage, item.cell.backbone, item.cell.method): item.cell.artefact.fingerprint
        for item in cells
    }


@pytest.mark.slow
def test_the_recipes_run_and_a_changed_network_is_computed_again_alone(
    own_folder: Path, ray_session: None
) -> None:
    write_recipes(own_folder)
    settings = ["tune.num_trials=1", "embed.num_actors=1", "evaluate.num_resamples=20"]
    experiment = bm.load("mine.toml", settings)
    first = bm.run(experiment)
    assert [item.reason for item in first.failed] == []
    scores = bm.scores(experiment).reset_index()
    assert {
        "mypackage.metrics:worst_recall",
        "sklearn.metrics:cohen_kappa_score",
    } <= set(scores["metric"])
    assert set(scores["dataset"]) == {"mypackage.data:open_arrays"}
    own = scores[(scores["metric"] == "mypackage.metrics:worst_recall")]
    assert own["value"].notna().all()
    assert own["ci_low"].notna().any()
    for cell in first.cells:
        model = bm.load_head(cell.cell.artefact.uri)
        assert hasattr(model, "predict_proba")

    # As long as before, so that only the content tells.
    path = own_folder / "mypackage/nets.py"
    path.write_text(path.read_text().replace("num_bands, width, 3,", "num_bands, width, 9,"))
    second = bm.run(experiment)
    assert [item.reason for item in second.failed] == []
    before, after = fingerprints(first.stage_cells), fingerprints(second.stage_cells)
    changed = {key for key in after if after[key] != before.get(key)}
    heads = experiment.heads
    assert changed == {
        ("embed", "mypackage.nets:build", None),
        *(("tune", "mypackage.nets:build", head) for head in heads),
        ("evaluate", None, None),
        ("report", None, None),
    }
    again = bm.scores(experiment).reset_index()
    key = ["backbone", "method", "seed", "split", "metric"]
    both = scores.merge(again, on=key, suffixes=("", "_again"))
    differs = both["value"] != both["value_again"]
    assert set(both[differs]["backbone"]) == {"mypackage.nets:build"}
