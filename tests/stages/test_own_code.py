"""Own code in Ray's workers: what it raises is shown as its own error, and what it saves loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmark as bm
from benchmark.catalog.backbones import BACKBONES, find_backbone
from benchmark.catalog.heads import HEADS
from benchmark.catalog.own import loading
from benchmark.catalog.own.lookup import find_entry
from benchmark.errors import UsageError
from benchmark.exporting.saved import load_head
from benchmark.networks.classifier import build_classifier
from benchmark.stages.embed import EmbedStage
from benchmark.stages.tune import TuneStage
from tests.strangers import FILES, write

NETS = """
import torch


class Net(torch.nn.Module):
    def __init__(self, num_bands):
        super().__init__()
        self.conv = torch.nn.Conv2d(num_bands, 8, 3)

    def forward(self, x):
        return self.conv(x).mean(dim=(2, 3))


class Failing(Net):
    def forward(self, x):
        raise KeyError("no layer")


class Squared(Net):
    def forward(self, x):
        return self.conv(x)
"""

HEADS_TEXT = """
from sklearn.ensemble import RandomForestClassifier


class Forest(RandomForestClassifier):
    pass


class Failing(Forest):
    def fit(self, x, y):
        return x["no column"]


class Late(Forest):
    @property
    def predict_proba(self):
        if not hasattr(self, "classes_"):
            return super().predict_proba
        raise AttributeError("lost it")
"""


@pytest.fixture
def own(own_folder: Path) -> Path:
    write(own_folder, {**FILES, "nets.py": NETS, "ownheads.py": HEADS_TEXT})
    return own_folder


def local_backbone() -> Any:
    """A network of a function that no module holds, as in a notebook."""
    scale = 3.0

    def build(num_bands: int) -> torch.nn.Module:
        class Scaled(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return scale * x.mean(dim=(2, 3))

        return Scaled()

    return replace(BACKBONES.get("mean_color"), name="scaled", build=build, is_floor=False)


def local_head() -> Any:
    def build(params: Any, seed: int) -> Any:
        raise TypeError("of a notebook")

    return bm.Head(
        name="notebook", description="", suggest=lambda trial: {}, build=build, is_searched=False
    )


def test_own_errors_of_workers_are_named_and_what_works_is_saved_and_loads(
    own: Path, open_small: Callable[..., Any], new_store: Callable[[], Path]
) -> None:
    bm.register(local_backbone())
    bm.register(local_head())
    names = ("nets:Net", "nets:Failing", "nets:Squared", "scaled")
    heads = ("ownheads:Forest", "ownheads:Failing", "ownheads:Late", "notebook")
    context = open_small(
        store=new_store(),
        backbones=[find_backbone(name) for name in names],
        heads=[find_entry(HEADS, name) for name in heads],
        tune={"num_trials": 1},
    )
    embedded = {item.cell.backbone: item for item in EmbedStage().run(context).cells}
    assert {name: item.status for name, item in embedded.items()} == {
        "nets:Net": "complete",
        "nets:Failing": "failed",
        "nets:Squared": "failed",
        "scaled": "complete",
    }
    assert embedded["nets:Failing"].reason == "nets.py, line 15: KeyError: 'no layer'"
    assert "backbone 'nets:Squared' returned torch.float32 of shape (" in (
        embedded["nets:Squared"].reason
    )
    context.backbones = tuple(item for item in context.backbones if item.name == "nets:Net")
    tuned = {item.cell.method: item for item in TuneStage().run(context).cells}
    assert tuned["ownheads:Forest"].reason == ""
    assert "ownheads.py, line 10: IndexError: only integers" in tuned["ownheads:Failing"].reason
    assert tuned["ownheads:Late"].reason.endswith("ownheads.py, line 18: AttributeError: lost it")
    assert "test_own_code.py, line" in tuned["notebook"].reason
    assert tuned["notebook"].reason.endswith("TypeError: of a notebook")

    folder = tuned["ownheads:Forest"].cell.artefact.uri
    assert type(load_head(folder)).__name__ == "Forest"
    loading._USED.clear()
    with pytest.raises(UsageError, match=r"types that are not trusted: ownheads\.Forest; if "):
        load_head(folder)
    for trusted in ("ownheads", "ownheads:Forest"):
        assert load_head(folder, trusted=[trusted]).predict_proba is not None


@pytest.mark.parametrize("name", ["stranger.nets:build", "nets:Net"])
def test_an_own_backbone_gets_a_classifier_of_the_length_that_it_has(own: Path, name: str) -> None:
    model = build_classifier(find_backbone(name), 4, 3)
    assert model(torch.zeros(2, 4, 32, 32)).shape == (2, 3)
    assert model.training
