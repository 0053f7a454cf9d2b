"""Every backbone of ``experiments/backbones.toml`` can be built, without its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.catalog.backbones import BACKBONES, find_backbone
from benchmark.catalog.efficientnet import build_untrained
from benchmark.catalog.options import feed
from benchmark.catalog.references import resolve_reference
from benchmark.catalog.timm.models import describe as describe_timm
from benchmark.catalog.timm.names import full_name
from benchmark.catalog.torchgeo.models import describe as describe_torchgeo
from benchmark.catalog.torchgeo.models import find_weights
from benchmark.config import load
from benchmark.methods import finetunings
from benchmark.networks.bands import band_indices
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder
from benchmark.specs import Backbone
from benchmark.stages.report.figures import MAX_PROJECTIONS
from tests.tiny_models import write_tiny

EXPERIMENT = load(Path(__file__).resolve().parents[1] / "experiments/backbones.toml")
BANDS = ("red", "green", "blue", "nir")

ARTICLE = load(Path(__file__).resolve().parents[1] / "experiments/article.toml")

FAMILIES = {
    "facebook/convnext-base-224-22k": "convnext",
    "facebook/convnext-tiny-224": "convnext",
    "facebook/convnextv2-tiny-22k-224": "convnextv2",
    "facebook/dinov2-base": "dinov2",
    "facebook/dinov2-small": "dinov2",
    "google/mobilenet_v2_1.0_224": "mobilenet_v2",
    "google/siglip-base-patch16-224": "siglip",
    "google/vit-base-patch16-224-in21k": "vit",
    "microsoft/beit-base-patch16-224-pt22k-ft22k": "beit",
    "microsoft/resnet-50": "resnet",
    "microsoft/swin-tiny-patch4-window7-224": "swin",
    "openai/clip-vit-large-patch14": "clip",
}
"""Family of the model in each repository of the hub."""

HERE = [name for name in EXPERIMENT.backbones if not name.startswith("hf:")]
OF_HUB = [name for name in EXPERIMENT.backbones if name.startswith("hf:")]


def entry_of(name: str) -> Backbone:
    """Return the entry of a backbone, with a build that needs no weights."""
    source, _, given = name.partition(":")
    if source == "timm":
        return describe_timm(name, full_name(given, name), name)
    if source == "torchgeo" and given != "rcf":
        weights = find_weights(given, name)
        return describe_torchgeo(name, given.partition("/")[0], str(weights), name)
    if name == "efficientnet_lite0":
        return replace(BACKBONES.get(name), build=lambda bands: build_untrained(0, bands))
    return find_backbone(name)


def test_there_are_many_backbones_of_different_families() -> None:
    assert len(EXPERIMENT.backbones) >= 24
    families = {entry_of(name).family for name in HERE} | set(FAMILIES.values())
    assert len(families) >= 15
    assert set(FAMILIES) == {name.removeprefix("hf:") for name in OF_HUB}


@pytest.mark.parametrize("name", HERE)
def test_a_network_of_its_size_gives_the_embedding_that_is_declared(name: str) -> None:
    entry = entry_of(name)
    band_indices(entry, BANDS)
    num_bands = len(entry.bands or BANDS)
    size = entry.image_size or 64
    # Without memory: a large network costs as little as a small one.
    with torch.device("meta"), torch.inference_mode():
        network = entry.build(num_bands)
        found = network(torch.zeros(2, num_bands, size, size))
    assert found.shape == (2, entry.dim or 2 * num_bands)
    assert sum(item.numel() for item in network.parameters()) == entry.num_parameters


@pytest.mark.parametrize("name", OF_HUB)
def test_a_tiny_model_of_its_family_embeds_patches(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    family = FAMILIES[name.removeprefix("hf:")]
    folder = write_tiny(tmp_path_factory.getbasetemp() / f"tiny-{family}", family)
    options = EXPERIMENT.backbone.get(name)
    backbone = find_backbone(f"hf:{folder}", options=options)
    plan = plan_device(precision="float32", batch_size=2, num_threads=1, device="cpu")
    patches = np.random.default_rng(0).integers(0, 256, (3, 4, 64, 64), np.uint8)
    embeddings, _ = Embedder(backbone, BANDS, plan)(patches)
    assert embeddings.shape == (3, backbone.dim)
    assert len(np.unique(embeddings, axis=0)) == 3


def test_the_options_of_the_experiment_fit_its_backbones() -> None:
    for name, options in EXPERIMENT.backbone.items():
        if not name.startswith("hf:"):
            entry = feed(entry_of(name), options, where="")
            assert band_indices(entry, BANDS) == (0, 1, 2, 3)


def test_the_article_runs_what_the_study_published_and_draws_its_figures() -> None:
    reference = resolve_reference(ARTICLE)
    assert reference is not None and reference.dataset == ARTICLE.dataset.name
    assert ARTICLE.finetune is not None and len(ARTICLE.seeds) == 5
    methods = {*ARTICLE.heads, *finetunings(ARTICLE.finetune)}
    for row in reference.rows:
        assert row.backbone in ARTICLE.backbones and row.method in methods
    here = {name: find_backbone(name) for name in ARTICLE.backbones if not name.startswith("hf:")}
    # Pictures of reconstructions and of histograms; projections and rectangles are of the first.
    assert {name for name, item in here.items() if item.depict} == {"pca_3000", "hog"}
    assert len(ARTICLE.backbones) <= MAX_PROJECTIONS
    assert ARTICLE.finetune.backbones is None
    tuned = [name for name, item in here.items() if item.is_trainable and not item.is_floor]
    assert tuned == []
