"""The kernel of 1 x 1 convolutions changes last bits alone, and can be chosen again."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from benchmark.networks.pointwise import choose_pointwise


def draw_network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=0).eval()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv2_100", "resnet26"])
def test_outputs_change_by_rounding_and_come_back(name: str) -> None:
    network, x = draw_network(name), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network(x)
        choose_pointwise(network, is_fast=True)
        found = network(x)
        choose_pointwise(network, is_fast=False)
        assert torch.equal(network(x), expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_gradients_change_by_rounding() -> None:
    network, x = draw_network("mobilenetv2_050"), torch.randn(2, 3, 32, 32)
    fast = copy.deepcopy(network)
    choose_pointwise(fast, is_fast=True)
    for one in (network, fast):
        one(x).square().sum().backward()
    for one, other in zip(network.parameters(), fast.parameters(), strict=True):
        assert float((one.grad - other.grad).norm()) <= 1e-4 * float(one.grad.norm())


def test_a_kernel_of_several_pixels_keeps_its_dilation() -> None:
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3, dilation=2), torch.nn.Conv2d(4, 4, 1)
    )
    choose_pointwise(layers, is_fast=True)
    assert [layer.dilation for layer in layers] == [(1, 1), (2, 2), (2, 2)]
    choose_pointwise(layers, is_fast=False)
    assert [layer.dilation for layer in layers] == [(1, 1), (2, 2), (1, 1)]
