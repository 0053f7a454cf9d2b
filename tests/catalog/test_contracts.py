"""Entries that break a contract fail the check that says so; `benchmark check` shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import benchmark as bm
from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.contracts.datasets import CHECKS as DATASET_CHECKS
from benchmark.catalog.contracts.datasets import Case as DatasetCase
from benchmark.catalog.datasets import DATASETS
from benchmark.cli.commands import invoke
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from tests.strangers import FILES, write, write_arrays

NETS = """
import torch


class Net(torch.nn.Module):
    def __init__(self, num_bands, width=8):
        super().__init__()
        self.conv = torch.nn.Conv2d(num_bands, width, 3)

    def forward(self, x):
        return self.conv(x).mean(dim=(2, 3))


class Squared(Net):
    def forward(self, x):
        return self.conv(x)


class Double(Net):
    def forward(self, x):
        return super().forward(x).double()


class Whole(Net):
    def forward(self, x):
        return super().forward(x).long()


class NotFinite(Net):
    def forward(self, x):
        return super().forward(x) / 0


class Random(Net):
    def forward(self, x):
        return super().forward(x) + torch.rand(1)


class Leaky(Net):
    def forward(self, x):
        found = super().forward(x)
        return found - found.mean(dim=0)


class Constant(Net):
    def forward(self, x):
        return torch.ones(len(x), 8)


class Detached(Net):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class Failing(Net):
    def forward(self, x):
        raise KeyError("no layer")


class Pair(Net):
    def forward(self, x):
        return super().forward(x), x
"""

HEADS = """
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class Base(ClassifierMixin, BaseEstimator):
    def __init__(self, random_state=None):
        self.random_state = random_state

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, x):
        return self.classes_[self.predict_proba(x).argmax(axis=1)]

    def predict_proba(self, x):
        return np.full((len(x), len(self.classes_)), 1 / len(self.classes_))


class Unscaled(Base):
    def predict_proba(self, x):
        return np.full((len(x), len(self.classes_)), 2.0)


class Narrow(Base):
    def predict_proba(self, x):
        return np.ones((len(x), 1))


class Unseeded(Base):
    def predict_proba(self, x):
        scores = np.random.default_rng().random((len(x), len(self.classes_)))
        return scores / scores.sum(axis=1, keepdims=True)


class Classless(Base):
    def fit(self, x, y):
        self.k = len(np.unique(y))
        return self

    def predict_proba(self, x):
        return np.full((len(x), self.k), 1 / self.k)
"""

METRICS = """
import numpy as np


def good(counts):
    return counts.trace() / counts.sum()


def wrong_way(counts):
    return 1 - counts.trace() / counts.sum()


def vector(counts):
    return np.diag(counts)


def failing(counts):
    return counts[7, 7]
"""


@pytest.fixture
def folder(own_folder: Path) -> Path:
    files = {"nets.py": NETS, "ownheads.py": HEADS, "ownmetrics.py": METRICS}
    write(own_folder, {**files, **FILES})
    return own_folder


def failures(name: str, kind: Any = None, **settings: Any) -> dict[str, str]:
    found = bm.check(name, kind=kind, settings=settings)
    return {item.name: item.reason for item in found if not item.is_ok}


@pytest.mark.parametrize(
    ("name", "check", "reason"),
    [
        ("Squared", "returns float32", r"returned torch\.float32 of shape \(5, 8, 62, 62\)"),
        ("Double", "returns float32", r"it returned torch\.float64; return torch\.float32"),
        ("Whole", "is finite and of its length", r"returned torch\.int64 of shape \(4, 8\)"),
        ("NotFinite", "is finite and of its length", r"5 of 5 embeddings are not finite"),
        ("Random", "is the same twice", r"two passes differ"),
        ("Leaky", "does not depend on the batch", r"an embedding changes by"),
        ("Constant", "tells patches apart", r"different patches have equal embeddings"),
        ("Detached", "can be trained", r"does not require grad|no gradient reaches its weights"),
        ("Failing", "is the same twice", r"nets\.py, line \d+: KeyError: 'no layer'"),
        ("Pair", "returns float32", r"returned a tuple; return a tensor \(B, D\)"),
    ],
)
def test_a_broken_backbone_fails_its_check(
    folder: Path, name: str, check: str, reason: str
) -> None:
    found = failures(f"nets:{name}")
    assert check in found, found
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found[check])


@pytest.mark.parametrize(
    ("name", "check", "reason"),
    [
        ("Unscaled", "scores are probabilities", r"they do not sum to 1"),
        ("Narrow", "scores are probabilities", r"shape \(90, 1\), not \(90, 2\)"),
        ("Unseeded", "is the same with the same seed", r"take the parameter random_state"),
        ("Classless", "knows its classes", r"classes_ = None; it saw 0, 1, 2"),
    ],
)
def test_a_broken_head_fails_its_check(folder: Path, name: str, check: str, reason: str) -> None:
    assert failures("ownheads:Base") == {}
    found = failures(f"ownheads:{name}")
    assert check in found, found
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found[check])


@pytest.mark.parametrize(
    ("name", "check", "reason"),
    [
        (
            "wrong_way",
            "is better in its direction",
            r"direction = higher, but it is 0\.0 for right",
        ),
        (
            "vector",
            "is one number for each set",
            r"returned an array of shape \(5,\); return one n",
        ),
        (
            "failing",
            "is a number",
            r"ownmetrics\.py, line 17: IndexError: index 7 is out of bounds",
        ),
    ],
)
def test_a_broken_metric_fails_its_check(folder: Path, name: str, check: str, reason: str) -> None:
    assert failures("ownmetrics:good") == {}
    found = failures(f"ownmetrics:{name}")
    assert check in found, found
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found[check])


def test_a_broken_reader_fails_its_check(folder: Path) -> None:
    write_arrays(folder / "images")
    given = {"root": "images", "patch_size": 32}
    assert failures("stranger.data:open_arrays", **given) == {}
    found = failures("stranger.data:open_arrays", **{**given, "patch_size": 16})
    assert "(3, 32, 32); return uint8 (3, 16, 16)" in found["reads uint8"]
    with pytest.raises(UsageError, match="a data set needs its folder: --set root=DIR"):
        bm.check("stranger.data:open_arrays")


@pytest.mark.parametrize("check", DATASET_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["chesapeake", "folder"])
def test_built_in_data_sets_keep_the_contract(
    name: str, check: Any, scenes: Path, tmp_path: Path
) -> None:
    root, settings = scenes, {"patch_size": 32}
    if name == "folder":
        root = tmp_path
        for number in range(12):
            folder = tmp_path / ("water" if number % 2 else "trees")
            folder.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (20 * number, 9, 9)).save(folder / f"{number}.png")
    config = DatasetConfig(name=name, root=str(root), **settings)
    check(DatasetCase(DATASETS.get(name), config))


def test_built_in_entries_and_entries_of_python_are_checked(own_folder: Path) -> None:
    assert all(item.is_ok for item in bm.check("accuracy"))
    wrong = replace(BACKBONES.get("mean_color"), name="other", num_parameters=3)
    bm.register(wrong)
    assert [item.is_ok for item in bm.check("other")].count(False) == 1
    (failed,) = [item for item in bm.check(wrong) if not item.is_ok]
    assert failed.reason == "the entry says 3 parameters, the network has 0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nets:Nett"], r"'nets:Nett': the module 'nets' .* has no 'Nett'\. Did you mean 'Net'\?"),
        (["nets:Net", "--kind", "backbon"], r"unknown kind 'backbon'\. Did you mean 'backbone'"),
        (["nets:Net", "--set", "widht=3"], r"unknown setting 'widht'\. Did you mean 'width'"),
        (
            ["stranger.heads:suggest_Forest"],
            r"add --kind backbone\|head\|metric\|dataset: its code",
        ),
        (
            ["nothing"],
            r"check: 'nothing' is unknown; own code is written package\.module:attribute",
        ),
        (["nets:Net", "--set", "image_size=1"], r"'image_size' = 1: should be greater than or eq"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(err)


def test_the_command_prints_one_line_for_each_check(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["check", "ownmetrics:good"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(line.startswith("ok      ") for line in lines)
    assert invoke(["check", "ownmetrics:wrong_way"]) == 1
    out, err = capsys.readouterr()
    assert "failed  is better in its direction: direction = higher" in out
    assert err == "benchmark: 1 of 7 checks of 'ownmetrics:wrong_way' failed\n"
    assert invoke(["check", "nets:Net", "--set", "width=4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["entry"] == "nets:Net"
    assert {item["ok"] for item in document["checks"]} == {True}
