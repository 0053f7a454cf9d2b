"""The embedding of an exported folder: that of the experiment, whatever the folder is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from benchmark.catalog.backbones import BACKBONES, find_backbone
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.exporting.embedding import read_backbone
from benchmark.exporting.folder import export
from benchmark.exporting.running import write_description
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder, Preprocessing
from benchmark.networks.fitted import read_fitted
from benchmark.options import BackboneOptions
from benchmark.specs import Backbone
from tests.exporting.cells import RGB, draw, write_cell
from tests.exporting.test_folder import write_finetuned, write_patches
from tests.exporting.test_frozen import Open, alone, exported
from tests.tiny_models import write_tiny

PIXELS, _ = draw(7, seed=3)


def embed(folder: Path) -> np.ndarray:
    found = read_backbone(folder)
    assert found.bands == RGB and found.patch_size == 32
    plan = plan_device(num_threads=1, device="cpu", channels_last=not found.needs_cpu)
    return Embedder(found.backbone, found.bands, plan)(PIXELS)[0]


def check(folder: Path, backbone: Backbone, state: Any = None) -> None:
    """Compare the embeddings of a folder with those that the stage computes."""
    plan = plan_device(num_threads=1, device="cpu")
    wanted = Embedder(backbone, RGB, plan, state)(PIXELS)[0]
    assert len(np.unique(wanted, axis=0)) == len(PIXELS)
    np.testing.assert_allclose(embed(folder), wanted, atol=1e-5, rtol=1e-4)


def tiny(folder: Path, family: str, **options: Any) -> Backbone:
    path = write_tiny(folder / family, family)
    return find_backbone(f"hf:{path}", options=BackboneOptions(**options))


@pytest.mark.parametrize(
    ("family", "pooling", "kind"),
    [
        ("vit", "cls", "pipeline"),
        ("vit", "mean", "program"),
        ("beit", "pooler", "pipeline"),
        ("resnet", "mean", "pipeline"),
    ],
)
def test_a_frozen_network_of_transformers_keeps_its_pooling(
    family: str, pooling: str, kind: str, open_small: Open, tmp_path: Path
) -> None:
    backbone = tiny(tmp_path, family, pooling=pooling)
    context = alone(open_small, backbone)
    write_cell(context)
    assert exported(context, tmp_path / "out")["kind"] == kind
    check(tmp_path / "out", backbone)
    if kind == "pipeline":
        description = tmp_path / "out/benchmark.json"
        text = description.read_text().replace('"pooling"', '"unknown"')
        description.write_text(text)
        with pytest.raises(UsageError, match="does not tell how its embedding is pooled"):
            read_backbone(tmp_path / "out")


@pytest.mark.parametrize("kind", ["program", "package"])
def test_what_was_fitted_on_train_is_part_of_the_folder(
    kind: str, open_small: Open, tmp_path: Path
) -> None:
    context = alone(open_small, BACKBONES.get("pca"))
    write_cell(context, model=make_pipeline(GaussianNB()) if kind == "package" else None)
    assert exported(context, tmp_path / "out")["kind"] == kind
    backbone = context.backbones[0]
    check(tmp_path / "out", backbone, read_fitted(context.embeddings(backbone)))


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_the_embedding_of_a_fine_tuned_network_is_what_its_last_layer_reads(
    family: str, open_small: Callable[..., Context], tmp_path: Path
) -> None:
    backbone = tiny(tmp_path, family)
    context = open_small(backbones=[backbone], finetune={})
    write_patches(context)
    network = write_finetuned(context, backbone)
    state = network.state_dict()
    out = tmp_path / "out"
    export(context, backbone=backbone.name, method="finetune", seed=0, out=out)
    with torch.inference_mode():
        logits = network(Preprocessing(backbone, RGB)(torch.from_numpy(PIXELS))).numpy()
    names = [name for name in state if "classifier" in name]
    weight, bias = (next(state[n] for n in names if n.endswith(end)) for end in ("weight", "bias"))
    found = embed(out)
    assert found.shape == (len(PIXELS), weight.shape[1])
    np.testing.assert_allclose(found @ weight.numpy().T + bias.numpy(), logits, atol=1e-4)


def test_a_folder_without_the_embedding_is_one_line(open_small: Open, tmp_path: Path) -> None:
    context = alone(open_small, BACKBONES.get("mean_color"))
    write_cell(context)
    out = tmp_path / "out"
    exported(context, out)
    assert read_backbone(out).method == "logistic_regression"
    (out / "program.pt2").write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"was not exported by you .*--trust-code"):
        read_backbone(out)
    backbone = read_backbone(out, trust_code=True).backbone
    with pytest.raises(UsageError, match=r"program.pt2: cannot be opened .*; export it again"):
        backbone.build(len(RGB))
    (out / "program.pt2").unlink()
    with pytest.raises(UsageError, match=r"cannot be opened .*; export it again"):
        read_backbone(out)
    write_description(out, {"kind": "onnx"})
    with pytest.raises(UsageError, match=r"has one output, probabilities, and no embedding"):
        read_backbone(out)
