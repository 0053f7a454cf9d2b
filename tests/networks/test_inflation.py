"""More bands than the weights know: what the first convolution becomes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch

from benchmark.errors import UsageError
from benchmark.networks.inflation import inflate_first_convolution


def small() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)
    ).eval()


@pytest.mark.parametrize("num_bands", [4, 5, 13])
def test_where_all_bands_are_alike_the_output_is_the_same(num_bands: int) -> None:
    network = small()
    x = torch.randn(2, 1, 16, 16)
    expected = network(x.expand(-1, 3, -1, -1))
    inflate_first_convolution(network, num_bands)
    found = network(x.expand(-1, num_bands, -1, -1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_new_bands_start_as_the_mean_and_all_are_scaled() -> None:
    network = small()
    old = network[0].weight.detach().clone()
    bias = network[0].bias.detach().clone()
    assert inflate_first_convolution(network, 4) is network
    assert network[0].in_channels == 4
    torch.testing.assert_close(network[0].weight[:, :3], old * 0.75)
    torch.testing.assert_close(network[0].weight[:, 3], old.mean(dim=1) * 0.75)
    assert torch.equal(network[0].bias, bias)
    assert network[0].weight.requires_grad


def test_the_same_number_of_bands_changes_nothing() -> None:
    network = small()
    weight = network[0].weight
    assert inflate_first_convolution(network, 3)[0].weight is weight


def test_modules_that_announce_their_bands_are_corrected() -> None:
    class Patches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_channels = 3
            self.config = SimpleNamespace(num_channels=3)
            self.projection = torch.nn.Conv2d(3, 4, 2)
            self.other = torch.nn.Conv2d(3, 3, 1)

    network = torch.nn.Sequential(Patches())
    inflate_first_convolution(network, 4)
    assert network[0].num_channels == network[0].config.num_channels == 4
    assert network[0].other.in_channels == 3


def test_several_convolutions_on_the_bands_are_named() -> None:
    with torch.device("meta"):
        network = timm.create_model("mobileone_s0", num_classes=0).eval()
        names = network.pretrained_cfg["first_conv"]
        assert len(names) == 2
        inflate_first_convolution(network, 4, names=names)
        assert network(torch.zeros(1, 4, 64, 64)).shape == (1, 1024)


@pytest.mark.parametrize(
    ("network", "num_bands", "message"),
    [
        (small(), 2, r"weights of 3 bands cannot take 2; name 3 bands"),
        (torch.nn.Linear(3, 2), 4, r"Linear has no first convolution .*; leave out bands"),
        (torch.nn.Conv2d(3, 3, 1, groups=3), 4, r"Conv2d has no first convolution"),
    ],
)
def test_what_cannot_be_inflated_is_refused(
    network: torch.nn.Module, num_bands: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        inflate_first_convolution(network, num_bands)
