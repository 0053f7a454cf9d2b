"""``describe`` and ``footprints``: files where they are asked for, results on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest

from benchmark import api
from benchmark.cli.commands import invoke
from tests.finetuned import draw_scores, write_embeddings, write_head

HEADS = ["knn", "mlp"]


@pytest.fixture(scope="module")
def toml(new_store, experiment_content, tmp_path_factory) -> Path:
    """A file of the small experiment, whose patches are in its store."""
    content = {**experiment_content, "heads": HEADS, "store": str(new_store())}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(content[key])}" for key in content if key not in tables]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    path = tmp_path_factory.mktemp("cli") / "small.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert invoke([str(item) for item in arguments]) == 0
        return capsys.readouterr().out

    return run


def test_describe_writes_a_page_and_its_json(toml, call, tmp_path):
    out = call("describe", toml, "--out", "cards")
    assert out == "cards/small-data-card.html\n"
    assert {item.name for item in (tmp_path / "cards").iterdir()} == {
        "small-data-card.html",
        "small-data-card.json",
    }
    document = json.loads(call("describe", toml, "--json"))
    assert document == json.loads((tmp_path / "small-data-card.json").read_text())
    assert document["num_patches"] == 240


def test_describe_into_a_file_is_one_line(toml, call, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert invoke(["describe", str(toml), "--out", "file"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("benchmark: file/small-data-card.html cannot be written: ")


def test_footprints_before_a_run_say_so(toml, call):
    first, path = call("footprints", toml, "--out", "map.parquet").splitlines()
    assert first.startswith("240 patches as polygons, without predictions: the experiment is not")
    assert path == "map.parquet"
    assert len(gpd.read_parquet("map.parquet")) == 240
    document = json.loads(call("footprints", toml, "--out", "map.parquet", "--json"))
    assert (document["cell"], document["hardest"]) == (None, None)


def test_footprints_refuse_another_ending_before_they_begin(toml, call, tmp_path, capsys):
    assert invoke(["footprints", str(toml), "--out", "map.gpkg"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "benchmark: footprints: 'map.gpkg' is no name of a file *.parquet; give one"
    assert list(tmp_path.iterdir()) == []


def test_footprints_after_a_run_rank_the_hardest_scenes(toml, call):
    experiment = api.load(toml)
    with api.open_context(experiment) as context:
        table = context.patches.read_table(columns=["patch_id", "split", "label"]).to_pandas()
        rows = table[table["split"] != "train"]
        write_embeddings(context, context.backbones[0], seconds=1.0)
        for head, accuracy in zip(context.heads, (0.6, 0.3), strict=True):
            scores = draw_scores(rows["label"].to_numpy(), 5, accuracy=accuracy)
            cell = context.predictions(context.backbones[0], head, 0)
            write_head(cell, rows["patch_id"].to_numpy(), scores, val_score=accuracy)
    api.run_stage("evaluate", experiment)
    out = call("footprints", toml, "--out", "map.parquet")
    assert "Hardest scenes of test for mean_color/knn/seed0" in out
    assert "Hardest regions of test for mean_color/knn/seed0" in out
    assert out.splitlines()[-3:] == [
        "240 patches as polygons, with predictions of mean_color/knn/seed0",
        "map-hardest.csv",
        "map.parquet",
    ]
    frame = gpd.read_parquet("map.parquet")
    test = frame[frame["split"] == "test"]
    ranked = pd.read_csv("map-hardest.csv").set_index("name")
    errors = test.groupby("scene")["is_error"].sum()
    assert ranked.loc[errors.index, "num_errors"].tolist() == errors.tolist()
    assert ranked.loc["pennsylvania", "num_errors"] == errors.sum() > 0
    other = json.loads(
        call("footprints", toml, "--out", "b.parquet", "--cell", "mean_color/mlp", "--json")
    )
    assert other["cell"] == "mean_color/mlp/seed0"
    assert {row["name"] for row in other["ranking"]} == set(ranked.index)
