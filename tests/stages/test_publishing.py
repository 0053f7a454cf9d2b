"""Figures and tables for papers: three forms of each, with any text in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark import api
from benchmark.cli.commands import invoke
from benchmark.config import build
from benchmark.stages.publishing import to_latex, to_markdown

NAMES = ("<b>bold</b> & co", "50%_$x$ ~^{}\\#", "quo\"te'|`*", "\u05d0\u05d1\u05d2")

NASTY = pd.DataFrame(
    {
        "class_name": [*NAMES, "line\nbreak \\end{table}", None],
        "recall %": [0.5, 1.0, float("nan"), 0.25, 0.125, 0.0],
        "n": [1, 2, 3, 4, 5, 6],
    },
    dtype=object,
)


def test_latex_escapes_every_text() -> None:
    text = to_latex(NASTY, title="Recall of 100% & more_", decimals=2, label="table-01")
    assert text.startswith("% \\usepackage{booktabs}\n\\begin{table}[htbp]\n\\centering\n")
    assert r"\caption{Recall of 100\% \& more\_}" in text
    assert r"\begin{tabular}{lrr}" in text
    assert r"class\_name & recall \% & n \\" in text
    assert r"<b>bold</b> \& co & 0.50 & 1 \\" in text
    assert r"50\%\_\$x\$" in text
    assert "\u05d0\u05d1\u05d2 & 0.25 & 4" in text
    # A line break ends nothing, and a command in a name is none.
    assert "line break " in text
    assert text.count("\\end{table}") == 1
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    # Every row has as many cells as there are columns.
    body = text.split("\\toprule\n")[1].split("\\bottomrule")[0].replace("\\midrule\n", "")
    cells = [re.sub(r"\\.", "", line).count("&") for line in body.strip().splitlines()]
    assert cells == [2] * 7


def test_markdown_escapes_every_text() -> None:
    text = to_markdown(NASTY, title="a|b", decimals=2)
    lines = text.splitlines()
    assert lines[0] == r"**a\|b**"
    assert lines[3] == "| --- | --- | --- |"
    assert len(lines) == 4 + len(NASTY)
    assert lines[4] == r"| \<b\>bold\</b\> & co | 0.50 | 1 |"
    assert lines[6] == "| quo\"te'\\|\\`\\* | \N{EN DASH} | 3 |"
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:]} == {4}


def test_columns_of_one_name_are_kept() -> None:
    frame = pd.DataFrame([[1, 2.0]], columns=["a", "a"], dtype=object)
    assert "1 & 2.0 \\\\" in to_latex(frame, title="", decimals=1, label="x")
    assert "| 1 | 2.0 |" in to_markdown(frame, title="", decimals=1)


@pytest.fixture
def finished(tmp_path: Path, experiment_content: dict[str, Any]) -> tuple[Path, Path]:
    """Return the file and the store of a run whose classes have difficult names."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        folder = tmp_path / "images" / name.replace("/", "\N{DIVISION SLASH}")
        folder.mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 80, (20, 20, 3)) + 50 * number
            Image.fromarray(pixels.astype("uint8")).save(folder / f"{index:02d}.png")
    dataset = {"name": "folder", "root": str(tmp_path / "images"), "patch_size": 16}
    content = {**experiment_content, "heads": ["knn", "majority"], "dataset": dataset}
    store = tmp_path / "runs"
    result = api.run(build(content), store=str(store))
    assert not result.failed
    (kept,) = (store / "experiments").glob("*.toml")
    return kept, store


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_becomes_figures_and_tables_in_three_forms(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, store = finished
    out = tmp_path / "new" / "figures"
    command = ["figures", str(kept), "--store", str(store), "--out", str(out), "--json"]
    assert invoke(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(found["files"]) == sorted(path.name for path in out.iterdir())
    by_ending: dict[str, list[Path]] = {}
    for path in sorted(out.iterdir()):
        by_ending.setdefault(path.suffix, []).append(path)
    counts = {ending: len(paths) for ending, paths in by_ending.items()}
    assert counts[".pdf"] == counts[".svg"] == counts[".png"] >= 8
    assert counts[".md"] == counts[".tex"] == counts[".csv"] >= 8
    for path in by_ending[".pdf"]:
        assert path.read_bytes().startswith(b"%PDF-")
    for path in by_ending[".svg"]:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    for path in by_ending[".png"]:
        with Image.open(path) as image:
            assert image.size[0] == 2700
    recall = next(path for path in by_ending[".csv"] if "recall" in path.name)
    names = {name.replace("/", "\N{DIVISION SLASH}") for name in NAMES}
    assert names <= {*pd.read_csv(recall).to_numpy().ravel(), *pd.read_csv(recall).columns}
    assert pd.read_csv(out / "table-01-ranking.csv")["method"].tolist() == ["knn", "majority"]
    # The same results are the same bytes.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert invoke(command) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    out.joinpath("file").write_text("")
    capsys.readouterr()
    assert invoke([*command[:-2], str(out / "file")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err


def test_an_experiment_without_scores_has_no_figures(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.scenes import SMALLEST

    path = tmp_path / "small.toml"
    path.write_text(SMALLEST.format(root=scenes))
    command = ["figures", str(path), "--store", str(tmp_path / "runs"), "--out", str(tmp_path)]
    assert invoke(command) == 2
    assert "there are no complete scores in" in capsys.readouterr().err
