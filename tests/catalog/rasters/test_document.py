"""The example of docs/RASTERS.md runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmark.catalog.rasters.opening import open_rasters
from benchmark.config import load

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/RASTERS.md"


def test_the_example_gives_patches_of_every_class_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = dict(re.findall(r"```(python|toml)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks["python"], "write_scenes.py", "exec"), {})
    Path("scenes.toml").write_text(blocks["toml"])
    source = open_rasters(load("scenes.toml").dataset)
    found = [source.find(unit) for unit in source.units()]
    assert not any(item.problems for item in found)
    rows = [row for item in found for row in item.candidates.to_pylist()]
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert {row["label"] for row in rows if row["split"] == "train"} == {0, 1, 2}
