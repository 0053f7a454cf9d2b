"""The mode selects the trained weights, and all others stay unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmark.errors import UsageError
from benchmark.finetune_settings import FinetuneConfig
from benchmark.networks.classifier import build_classifier
from benchmark.specs import Backbone
from benchmark.training.adaptation import (
    drop_unreached,
    find_blocks,
    merge_lora,
    select_parts,
    train_mode,
)
from tests.toys import build_blocks, build_exact, build_normalised, build_pooler, toy

BLOCKS = toy("blocks", build_blocks)
CONVOLUTION = toy("convolution", build_exact)


def classifier(backbone: Backbone) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_classifier(backbone, 3, 5)


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def names(group: list[tuple[str, torch.nn.Parameter]]) -> set[str]:
    return {name for name, _ in group}


HEAD = {"head.weight", "head.bias"}


@pytest.mark.parametrize("mode", ["full", "linear_then_full"])
def test_the_whole_network_is_trained(mode: Any) -> None:
    model = classifier(BLOCKS)
    parts = select_parts(model, FinetuneConfig(mode=mode), name="blocks")
    assert names(parts.head) == HEAD
    assert names(parts.body) == {name for name, _ in model.named_parameters()} - HEAD
    assert trained(model) == HEAD | names(parts.body)
    assert parts.num_trained == sum(item.numel() for item in model.parameters())


@pytest.mark.parametrize("num_blocks", [1, 2, 3])
def test_the_last_blocks_are_trained_with_what_follows_them(num_blocks: int) -> None:
    model = classifier(BLOCKS)
    config = FinetuneConfig(mode="last_blocks", num_blocks=num_blocks)
    parts = select_parts(model, config, name="blocks")
    expected = {
        f"body.blocks.{number}.{layer}.{kind}"
        for number in range(3 - num_blocks, 3)
        for layer in ("first", "second")
        for kind in ("weight", "bias")
    }
    assert names(parts.body) == expected | {"body.norm.weight", "body.norm.bias"}
    assert names(parts.head) == HEAD
    assert trained(model) == names(parts.body) | HEAD


def test_more_blocks_than_there_are_are_refused_with_their_number() -> None:
    config = FinetuneConfig(mode="last_blocks", num_blocks=4)
    message = r"num_blocks = 4: backbone 'blocks' has 3 blocks; set num_blocks to 3 at most$"
    with pytest.raises(UsageError, match=message):
        select_parts(classifier(BLOCKS), config, name="blocks")


def test_a_network_without_blocks_is_refused_with_another_mode() -> None:
    config = FinetuneConfig(mode="last_blocks")
    with pytest.raises(UsageError, match=r"'convolution' has 0 blocks; use mode = \"full\""):
        select_parts(classifier(CONVOLUTION), config, name="convolution")


def test_lora_trains_small_additions_and_the_head() -> None:
    model = classifier(BLOCKS)
    parts = select_parts(model, FinetuneConfig(mode="lora", lora_rank=2), name="blocks")
    assert names(parts.head) == HEAD
    assert len(parts.body) == 3 * 2 * 2
    assert all(".lora_" in name for name in names(parts.body))
    assert trained(model) == names(parts.body) | HEAD
    assert {tuple(item.shape) for _, item in parts.body} == {(2, 16), (32, 2), (2, 32), (16, 2)}


def test_lora_begins_as_the_network_that_it_adds_to() -> None:
    model, x = classifier(BLOCKS), torch.randn(4, 3, 16, 16)
    before = model(x)
    select_parts(model, FinetuneConfig(mode="lora"), name="blocks")
    assert torch.equal(model(x), before)


def test_lora_without_linear_layers_is_refused_with_other_modes() -> None:
    with pytest.raises(UsageError, match=r"'convolution' has no linear layers.*\"full\""):
        select_parts(classifier(CONVOLUTION), FinetuneConfig(mode="lora"), name="convolution")


def test_merged_lora_is_the_same_function_with_the_keys_of_the_classifier() -> None:
    keys = list(classifier(BLOCKS).state_dict())
    model, x = classifier(BLOCKS).double(), torch.randn(4, 3, 16, 16).double()
    untouched = model(x)
    parts = select_parts(model, FinetuneConfig(mode="lora"), name="blocks")
    model.double()
    with torch.no_grad():
        for _, parameter in parts.body:
            parameter.normal_()
    before = model(x)
    assert not torch.allclose(before, untouched, atol=1e-3)
    merge_lora(model)
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)
    assert list(model.state_dict()) == keys
    classifier(BLOCKS).load_state_dict(model.state_dict())


def test_merging_a_network_without_lora_changes_nothing() -> None:
    model = classifier(BLOCKS)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    merge_lora(model)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_what_no_gradient_reaches_is_left_out_and_frozen() -> None:
    model = classifier(toy("pooler", build_pooler))
    parts = select_parts(model, FinetuneConfig(), name="pooler")
    assert "body.pooler.weight" in names(parts.body)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    kept = drop_unreached(parts)
    assert names(kept.body) == {"body.conv.weight", "body.conv.bias"}
    assert names(kept.head) == HEAD
    assert trained(model) == names(kept.body) | HEAD
    assert kept.num_trained == parts.num_trained - 16 * 17


def test_batch_normalisation_keeps_its_statistics_while_the_rest_trains() -> None:
    model = classifier(toy("norm", build_normalised))
    train_mode(model)
    assert model.training
    assert model.body.training
    assert not model.body.norm.training
    before = model.body.norm.running_mean.clone()
    x = torch.randn(8, 3, 16, 16)
    together = model(x)
    assert torch.equal(model.body.norm.running_mean, before)
    # A patch does not depend on the others of its batch.
    torch.testing.assert_close(torch.cat([model(x[:3]), model(x[3:])]), together)
    torch.testing.assert_close(model.eval()(x), together)


def tiny_vit() -> torch.nn.Module:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**TINY, num_hidden_layers=3))


def tiny_beit() -> torch.nn.Module:
    from transformers import BeitConfig, BeitForImageClassification

    return BeitForImageClassification(BeitConfig(**TINY, num_hidden_layers=4))


def tiny_convnext() -> torch.nn.Module:
    from transformers import ConvNextConfig, ConvNextModel

    return ConvNextModel(ConvNextConfig(hidden_sizes=[4, 8, 8, 8], depths=[1, 2, 3, 1]))


def tiny_mobilenet() -> torch.nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2Model

    return MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.1, image_size=32))


def lite0() -> torch.nn.Module:
    import timm

    return timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)


TINY = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


@pytest.mark.parametrize(
    ("build", "count", "last"),
    [
        (tiny_vit, 3, r"layer.*\.2"),
        (tiny_beit, 4, r"layer.*\.3"),
        (tiny_convnext, 7, r"stages\.3\.layers\.0"),
        # The first of its 17 bottlenecks is part of transformers' stem.
        (tiny_mobilenet, 16, r"layer\.15"),
        (lite0, 16, r"blocks\.6\.0"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_the_blocks_of_known_networks_are_found(
    build: Callable[[], torch.nn.Module], count: int, last: str
) -> None:
    import re

    model = build()
    blocks = find_blocks(model)
    assert len(blocks) == count, blocks
    assert re.search(f"{last}$", blocks[-1])
    modules = dict(model.named_modules())
    assert all(name in modules for name in blocks)
    # No block is inside another.
    assert not any(one != two and two.startswith(f"{one}.") for one in blocks for two in blocks)
