"""``layer`` and ``pooling`` of networks of timm, torchvision and the package."""

from __future__ import annotations

import dataclasses
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.efficientnet import build_untrained as build_lite
from benchmark.catalog.timm.layers import read_layer
from benchmark.catalog.timm.models import describe
from benchmark.catalog.timm.networks import build_untrained
from benchmark.catalog.torchgeo import models as torchgeo
from benchmark.config import BackboneOptions
from benchmark.errors import UsageError
from benchmark.finetune_settings import FinetuneConfig
from benchmark.networks.classifier import build_classifier
from benchmark.specs import Backbone, Publication
from benchmark.training.adaptation import select_parts

X = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
NETWORKS = ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"]
"""timm's own tiny networks: blocks or stages are 6, 5, 4 and 5."""


def seeded(model: str, num_bands: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_untrained(model, num_bands)


def read(model: str, **options: Any) -> Backbone:
    """Return a network whose weights are drawn with a seed, read in a chosen way."""
    entry = dataclasses.replace(
        describe("net", f"{model}.r160_in1k", "x"), build=partial(seeded, model)
    )
    given = BackboneOptions(**options)
    return read_layer(entry, given, partial(build_untrained, model), where="x.toml")


def embed(backbone: Backbone, x: torch.Tensor = X) -> torch.Tensor:
    network = pickle.loads(pickle.dumps(backbone)).build(x.shape[1])
    assert sum(item.numel() for item in network.parameters()) == backbone.num_parameters
    with torch.inference_mode():
        found: torch.Tensor = network(x)
    assert found.shape == (len(x), backbone.dim)
    return found


def blocks_of_vit(count: int) -> torch.Tensor:
    """Return the tokens (B, 1 + T, D) after the first blocks, by hand."""
    network: Any = seeded("test_vit", 3).eval()
    with torch.inference_mode():
        state = network.norm_pre(network._pos_embed(network.patch_embed(X)))
        for block in network.blocks[:count]:
            state = block(state)
        return network.norm(state) if count == len(network.blocks) else state


@pytest.mark.parametrize("layer", [-1, -2, -6])
def test_blocks_of_a_transformer_are_counted_from_the_end(layer: int) -> None:
    state = blocks_of_vit(7 + layer)
    cls, mean = state[:, 0], state[:, 1:].mean(dim=1)
    chosen = {} if layer == -1 else {"layer": layer}
    torch.testing.assert_close(embed(read("test_vit", pooling="mean", **chosen)), mean)
    torch.testing.assert_close(embed(read("test_vit", pooling="cls", **chosen)), cls)
    torch.testing.assert_close(embed(read("test_vit", pooling="patches", **chosen)), mean)
    both = read("test_vit", pooling="cls+mean", **chosen)
    torch.testing.assert_close(embed(both), torch.cat([cls, mean], dim=1))
    assert dict(both.options) == {"pooling": "cls+mean", **chosen}
    assert f"class token of block {7 + layer} of 6, then the mean" in both.description
    assert "pooled features" not in both.description


def test_stages_of_a_residual_network_are_counted_from_the_end() -> None:
    network: Any = seeded("test_resnet", 3).eval()
    with torch.inference_mode():
        x = network.maxpool(network.act1(network.bn1(network.conv1(X))))
        expected = network.layer3(network.layer2(network.layer1(x))).mean(dim=(2, 3))
    backbone = read("test_resnet", layer=-2)
    torch.testing.assert_close(embed(backbone), expected)
    assert backbone.options == (("layer", -2),)
    assert "mean of stage 4 of 5 over positions" in backbone.description


@pytest.mark.parametrize("model", ["test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("layer", [-2, -4])
def test_stages_are_those_that_timm_lists(model: str, layer: int) -> None:
    network: Any = seeded(model, 3).eval()
    with torch.inference_mode():
        expected = network.forward_intermediates(X, intermediates_only=True)[layer]
    torch.testing.assert_close(embed(read(model, layer=layer)), expected.mean(dim=(2, 3)))


@pytest.mark.parametrize("model", NETWORKS)
def test_the_default_is_the_networks_own_pooling(model: str) -> None:
    plain = read(model)
    assert (plain.options, plain.build.func) == ((), seeded)
    explicit = read(model, layer=-1, pooling="mean")
    if model == "test_vit":
        # Its own embedding is the class token.
        assert explicit.options == (("pooling", "mean"),)
    else:
        assert (explicit.options, explicit.build.func) == ((), seeded)


def test_entries_of_the_package_have_stages() -> None:
    x = torch.randn(1, 3, 64, 64)
    backbone = find_backbone("random", options=BackboneOptions(layer=-2, image_size=64))
    assert dict(backbone.options) == {"layer": -2, "image_size": 64}
    assert (backbone.dim, "mean of stage 4 of 5" in backbone.description) == (112, True)
    network: Any = find_backbone("random").build(3).eval()
    with torch.inference_mode():
        expected = network.forward_intermediates(x, intermediates_only=True)[-2]
    torch.testing.assert_close(embed(backbone, x), expected.mean(dim=(2, 3)))
    lite = find_backbone("efficientnet_lite4", options=BackboneOptions(layer=-2))
    assert lite.dim == timm.create_model("tf_efficientnet_lite4").feature_info[-2]["num_chs"]
    own = BackboneOptions(pooling="mean", layer=-1)
    assert find_backbone("efficientnet_lite0", options=own) == find_backbone("efficientnet_lite0")


def test_stages_of_a_network_of_torchvision() -> None:
    weights = "Swin_V2_T_Weights.SENTINEL2_MI_RGB_SATLAS"
    entry = torchgeo.describe("net", "swin_v2_t", weights, "x")
    torch.manual_seed(0)
    network: Any = torchgeo.build_untrained(torchgeo.Model("swin_v2_t", weights, 3), 3)
    untrained = partial(torchgeo.build_untrained, torchgeo.Model("swin_v2_t", weights, 3))
    backbone = read_layer(entry, BackboneOptions(layer=-3), untrained, where="x.toml")
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network.features[:4](x).mean(dim=(1, 2))
        found = dataclasses.replace(
            backbone,
            build=partial(backbone.build.func, lambda _: network, *backbone.build.args[1:]),
        ).build(3)(x)
    torch.testing.assert_close(found, expected)
    assert "mean of stage 2 of 4" in backbone.description


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("test_vit", {"layer": -7}, r"'layer' = -7: this network has 6 layers \(blocks\); set -1 "),
        ("test_resnet", {"layer": -6}, r"'layer' = -6: .* 5 layers \(stages\); set -1 to -5"),
        ("test_resnet", {"pooling": "cls"}, r"'pooling' = 'cls': this network has no class token"),
        ("test_convnext", {"pooling": "cls+mean", "layer": -2}, r"'cls\+mean': .* no class token"),
        ("test_vit", {"pooling": "pooler"}, r"'pooler' does not apply: .* own pooling; remove"),
    ],
)
def test_what_a_network_lacks_is_one_line(
    model: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(model, **options)
    assert str(caught.value).startswith('x.toml [backbone."net"]: ')
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dofa_base_patch16_224/DOFABase16_Weights.DOFA_MAE"])
def test_a_network_that_gives_no_hidden_layers_is_one_line(name: str) -> None:
    model, _, weights = name.partition("/")
    entry = torchgeo.describe("net", model, weights, "x")
    untrained = partial(
        torchgeo.build_untrained, torchgeo.Model(model, weights, 3, bands=entry.bands or ())
    )
    with pytest.raises(UsageError, match=r"do not apply: the library gives no .* its DOFA; remove"):
        read_layer(entry, BackboneOptions(layer=-2), untrained, where="x.toml")
    assert read_layer(entry, BackboneOptions(pooling="mean"), untrained, where="") == entry


@pytest.mark.parametrize("model", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("mode", ["full", "last_blocks"])
def test_a_chosen_layer_is_fine_tuned_by_a_linear_layer(model: str, mode: Any) -> None:
    backbone = read(model, layer=-2)
    classifier = build_classifier(backbone, 3, 4)
    parts = select_parts(classifier, FinetuneConfig(mode=mode), name="net")
    classifier(X).sum().backward()
    assert parts.body
    assert all(item.grad is not None for _, item in (*parts.head, *parts.body))
    publication = Publication(backbone, Path("out"), classifier.state_dict(), ("a", "b", "c", "d"))
    entry = dataclasses.replace(backbone, publish=describe_publish(model))
    assert entry.publish is not None
    with pytest.raises(UsageError, match=r"of transformers does not support layer = -2; export"):
        entry.publish(publication)


def describe_publish(model: str) -> Any:
    from benchmark.catalog.timm.networks import publish_network

    return partial(publish_network, model, ())


def test_four_bands_reach_a_hidden_layer() -> None:
    options = BackboneOptions(layer=-3, bands=("red", "green", "blue", "nir"), image_size=64)
    backbone = find_backbone("random", options=options)
    found = embed(backbone, torch.randn(1, 4, 64, 64))
    network: Any = build_lite(0, 3)
    assert found.shape[1] == network.feature_info[-3]["num_chs"]
