"""Networks of transformers and timm as ONNX: ONNX Runtime computes what torch computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.heads import HEADS
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.exporting import onnx
from benchmark.exporting.folder import export
from benchmark.exporting.running import open_model
from tests.exporting.cells import write_cell
from tests.exporting.test_folder import write_finetuned
from tests.exporting.test_onnx import write_patches_again, write_predictions
from tests.tiny_models import cache_timm, write_tiny
from tests.toys import toy

Open = Callable[..., Context]
pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in onnx.PACKAGES), reason="the extra onnx is not installed"
)


@pytest.fixture
def name(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny network with random weights: ``hf:FAMILY`` or ``timm:MODEL``."""
    kind, _, family = request.param.partition(":")
    if kind == "hf":
        return f"hf:{write_tiny(tmp_path / family, family)}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache_timm(tmp_path / "hub", family)
    return str(request.param)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["hf:vit", "hf:beit", "timm:test_convnext.r160_in1k"], indirect=True
)
def test_a_frozen_network_with_its_head(open_small: Open, tmp_path: Path, name: str) -> None:
    backbone = find_backbone(name)
    context = open_small(backbones=[backbone], heads=[HEADS.get("logistic_regression")])
    cell = write_cell(context)
    out = tmp_path / "out"
    export(
        context, backbone=name, method="logistic_regression", seed=0, out=out, format="onnx"
    )  # fmt: skip
    described = json.loads((out / "benchmark.json").read_text())
    assert described["kind"] == "onnx" and described["takes_batches"]
    np.testing.assert_allclose(open_model(out).predict(cell.pixels), cell.scores, atol=1e-4)
    assert np.ptp(cell.scores, axis=0).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hf:convnext"], indirect=True)
def test_a_finetuned_network(open_small: Open, tmp_path: Path, name: str) -> None:
    backbone = find_backbone(name)
    context = open_small(backbones=[backbone], finetune={})
    scores = write_predictions(context, write_finetuned(context, backbone))
    out = tmp_path / "out"
    export(context, backbone=name, method="finetune", seed=0, out=out, format="onnx")
    pixels, _ = write_patches_again(context)
    np.testing.assert_allclose(open_model(out).predict(pixels), scores, atol=1e-4)


class Decomposed(torch.nn.Module):
    """Uses an operator for which ONNX has nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean(dim=(2, 3))
        return torch.linalg.eigvalsh(means[:, :, None] * means[:, None, :])


class Guarded(torch.nn.Module):
    """Decides by the values of its input, which no program can."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean(dim=(2, 3))
        return means if float(means.sum()) > 0 else -means


@pytest.mark.parametrize(
    ("network", "reason"),
    [(Decomposed, "linalg_eig"), (Guarded, "torch.export cannot export it")],
)
def test_what_has_no_graph_is_refused_in_one_line(
    open_small: Open, tmp_path: Path, network: type[torch.nn.Module], reason: str
) -> None:
    backbone = replace(toy("toy"), build=lambda _: network())
    context = open_small(backbones=[backbone])
    write_cell(context)
    with pytest.raises(
        UsageError, match=rf"torch cannot write 'toy' as ONNX \(.*{reason}"
    ) as error:
        export(
            context,
            backbone="toy",
            method="logistic_regression",
            seed=0,
            out=tmp_path / "out",
            format="onnx",
        )
    assert len(str(error.value)) < 400 and str(error.value).endswith("without --format onnx")
    assert not (tmp_path / "out").exists()
