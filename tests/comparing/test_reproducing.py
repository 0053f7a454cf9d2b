"""A run is repeated from its page or manifest; what changed since is named, scores are compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import benchmark as bm
from benchmark.cli.commands import invoke
from benchmark.comparing.reproducing import claim, conclude, find_changes, read_recipe, rebuild
from benchmark.comparing.runs import run_of
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.experiment.recipe import embed_recipe, extract_recipe, make_recipe
from benchmark.store.artefacts import Store
from tests.comparing.toy_runs import named, write_run
from tests.scenes import SMALLEST

Opener = Callable[..., Context]
Texts = pytest.CaptureFixture[str]


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> Path:
    """Return the data of this test alone."""
    return shutil.copytree(scenes, tmp_path / "data")


@pytest.fixture
def run(open_small: Opener, data: Path) -> Context:
    context = open_small(heads=named("knn", "mlp"), seeds=[0, 1], dataset={"root": str(data)})
    return write_run(context, {"knn": 0.9, "mlp": 0.6})


def manifest_of(context: Context) -> Path:
    return Path(context.scores().path) / "_manifest.json"


def page_of(context: Context, path: Path, **changes: Any) -> Path:
    recipe = json.loads(json.dumps(make_recipe(context)))
    path.write_text(embed_recipe("<html><body>page</body></html>", recipe | changes))
    return path


def test_a_page_holds_any_text_and_gives_it_back() -> None:
    recipe = {"toml": "</script><script>alert(1)</script>\n'\"\u05d0\u2028&lt;", "scores": [None]}
    page = embed_recipe("<html><body>x</body></html>", recipe)
    assert page.startswith('<html><body>x<script type="application/json" id="benchmark-recipe">')
    assert page.count("</script>") == 1
    assert extract_recipe(page) == recipe
    assert extract_recipe(embed_recipe("no body", recipe)) == recipe
    assert extract_recipe("<html></html>") is None


def test_page_and_manifest_hold_the_same_recipe(run: Context, tmp_path: Path) -> None:
    page = read_recipe(str(page_of(run, tmp_path / "page.html")))
    manifest = read_recipe(str(manifest_of(run)))
    assert page._replace(source="") == manifest._replace(source="")
    assert len(page.scores) == 4
    experiment = rebuild(page)
    assert experiment.seeds == run.experiment.seeds
    assert experiment.dataset == run.experiment.dataset
    assert find_changes(page, run) == []


def test_what_changed_since_is_named(run: Context, tmp_path: Path) -> None:
    recipe = read_recipe(str(manifest_of(run)))
    versions = {**recipe.provenance["versions"], "numpy": "1.0", "gone": "3"}
    older = recipe._replace(
        provenance={"versions": versions, "code": "0123456"},
        inputs={"dataset_digest": "f" * 32, "weights": {"mean_color": "abc"}},
    )
    found = {change.what: change for change in find_changes(older, run)}
    root = run.experiment.dataset.root
    assert list(found) == [
        f"the data 'chesapeake' in '{root}' (digest)",
        "weights of mean_color",
        "gone",
        "numpy",
        "git commit of the benchmark",
    ]
    assert str(found["gone"]) == "gone: 3 then, missing now"
    assert found["numpy"].was == "1.0"


def test_a_run_whose_data_changed_is_not_repeated(
    run: Context, data: Path, tmp_path: Path, capsys: Texts
) -> None:
    raster = next(data.rglob("*_lc.tif"))
    raster.write_bytes(raster.read_bytes() + b"\0")
    store = tmp_path / "fresh"
    command = ["reproduce", str(manifest_of(run)), "--store", str(store)]
    assert invoke(command) == 1
    out = capsys.readouterr().out
    assert f"the data 'chesapeake' in '{data}' (digest): " in out
    assert "not run: data or weights differ; --anyway runs nevertheless" in out
    assert not store.exists()
    assert invoke([*command, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["reproduced"] is found["has_run"] is False
    assert [change["kind"] for change in found["changes"]] == ["data"]
    shutil.rmtree(data)
    assert invoke(command) == 2
    assert str(data) in capsys.readouterr().err


def test_scores_are_compared_one_by_one(run: Context, tmp_path: Path) -> None:
    recipe = read_recipe(str(manifest_of(run)))
    same = conclude(recipe, [], run_of(run), store="x")
    assert same.is_reproduced
    assert same.sentence == "reproduced: all 4 scores are equal"
    assert same.content["same_fingerprint"]
    first, *others = recipe.scores
    moved = recipe._replace(scores=[[*first[:4], first[4] + 1e-3], *others])
    found = conclude(moved, [], run_of(run), store="x")
    assert not found.is_reproduced
    assert found.sentence == "not reproduced: 1 scores differ"
    assert [row[-1] for row in found.table().rows] == ["differs"]
    assert conclude(moved, [], run_of(run), store="x", tolerance=0.01).is_reproduced
    # A cell that only one of both has is a difference, however large the tolerance.
    fewer = conclude(recipe._replace(scores=others), [], run_of(run), store="x", tolerance=1.0)
    assert not fewer.is_reproduced
    unknown = recipe._replace(scores=[[*first[:4], None], *others])
    assert not conclude(unknown, [], run_of(run), store="x", tolerance=1.0).is_reproduced


def test_a_store_that_holds_another_run_is_refused(run: Context, tmp_path: Path) -> None:
    recipe = read_recipe(str(manifest_of(run)))
    with pytest.raises(UsageError, match="is not fresh: what it holds would be taken for comp"):
        claim(run.store, recipe)
    fresh = Store(str(tmp_path / "fresh"))
    claim(fresh, recipe)
    fresh.artefact("patches", "a", "0" * 16).commit({})
    # The same repetition goes on, another does not.
    claim(fresh, recipe)
    with pytest.raises(UsageError, match="is not fresh"):
        claim(fresh, recipe._replace(fingerprint="f" * 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": 2}, "its recipe has version 2, this program reads 1"),
        ({"scores": []}, "it has no experiment or no scores"),
        ({"scores": [["all", "a", "b", "c", 1.0]]}, "its recipe is damaged: "),
        ({"experiment": None}, "its recipe is damaged: "),
        ({"provenance": 7}, "its recipe is damaged: "),
    ],
)
def test_damaged_recipes_are_refused(
    changes: dict[str, Any], message: str, run: Context, tmp_path: Path, capsys: Texts
) -> None:
    page = page_of(run, tmp_path / "page.html", **changes)
    assert invoke(["reproduce", str(page), "--store", str(tmp_path / "fresh")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_files_that_hold_no_recipe_are_refused(run: Context, tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    other.write_text("<html></html>")
    binary = tmp_path / "binary.html"
    binary.write_bytes(b"\xff\xfe")
    broken = tmp_path / "broken.html"
    broken.write_text('<script type="application/json" id="benchmark-recipe">{</script>')
    setting = tmp_path / "setting.html"
    page_of(run, setting, experiment={"toml": "nam = 1", "dataset_digest": "", "weights": {}})
    for path, message in [
        (other, "holds no recipe: it is no page of `benchmark report`, or one of an earlier"),
        (binary, "codec can't decode"),
        (broken, "its recipe is no JSON"),
        (setting, "unknown setting 'nam'"),
        (tmp_path, "it is a directory"),
        (tmp_path / "none.html", "No such file"),
        (Path(run.patches.path) / "_manifest.json", "is no manifest of scores; give STORE/eval"),
    ]:
        with pytest.raises(UsageError, match=message):
            bm.reproduce(path, store=tmp_path / "fresh", progress=False)
    with pytest.raises(UsageError, match="tolerance = 2: give a number from 0 to 1"):
        bm.reproduce(other, store=tmp_path / "fresh", tolerance=2)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_is_repeated_from_its_page_and_a_changed_score_is_found(
    data: Path, tmp_path: Path, capsys: Texts
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALLEST.format(root=data))
    result = bm.run(bm.load(path), store=tmp_path / "runs", progress=False)
    assert result.report
    moved = data.rename(tmp_path / "moved")
    found = bm.reproduce(result.report, store=tmp_path / "fresh", root=moved, progress=False)
    assert found.is_reproduced
    assert found.content["same_fingerprint"]
    assert found.content["num_equal"] == 1
    assert "<table>" in found._repr_html_()
    # The page tells another score than the run has.
    text = Path(result.report).read_text(encoding="utf-8")
    recipe = extract_recipe(text)
    recipe["scores"][0][4] += 0.01
    page = tmp_path / "page.html"
    page.write_text(embed_recipe("<body></body>", recipe))
    command = ["reproduce", str(page), "--store", str(tmp_path / "fresh"), "--root", str(moved)]
    assert invoke(command) == 1
    assert "not reproduced: 1 scores differ" in capsys.readouterr().out
