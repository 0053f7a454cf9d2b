"""An exported model, and the command that maps with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.catalog.backbones import BACKBONES
from benchmark.cli.commands import invoke
from benchmark.experiment.context import Context
from benchmark.exporting.folder import export
from tests.exporting.cells import write_cell


@pytest.fixture
def model(open_small: Callable[..., Context], tmp_path: Path) -> Path:
    """An exported folder: a head on the mean colours, as a program."""
    context = open_small(backbones=[BACKBONES.get("mean_color")])
    write_cell(context)
    out = tmp_path / "model"
    return export(context, backbone="mean_color", method="logistic_regression", seed=0, out=out)


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[Any]]]:
    """Run the command; return its exit code and the maps of its document."""

    def predict(*arguments: object) -> tuple[int, list[Any]]:
        code = invoke(["predict", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)["maps"]

    return predict
