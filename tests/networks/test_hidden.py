"""Several layers and poolings of one network, read in one forward pass."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import timm
import torch

from benchmark.networks.hidden import HiddenModels, Layer
from benchmark.networks.pooling import GEM_FLOOR, HiddenModel, pool_positions

X = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
EXAMPLE = torch.linspace(-1, 1, 3 * 160**2).reshape(1, 3, 160, 160)


def seeded(model: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(model, num_classes=0).eval()


def count_calls(network: torch.nn.Module) -> list[int]:
    """Count how often the first convolution of a network runs."""
    calls = [0]
    first = next(item for item in network.modules() if isinstance(item, torch.nn.Conv2d))
    first.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    return calls


def layers_of(count: int, *, is_block: bool, poolings: tuple[Any, ...]) -> list[Layer | None]:
    at = (count - 1, 0, count - 2)
    return [Layer(i, item, i == count - 1, is_block) for i in at for item in poolings]


@pytest.mark.parametrize(
    ("model", "count", "is_block"),
    [
        ("test_vit", 6, True),
        ("test_vit2", 8, True),
        ("test_resnet", 5, False),
        ("test_convnext", 4, False),
        ("test_efficientnet", 5, False),
    ],
)
@pytest.mark.parametrize("takes_own", [False, True])
def test_one_pass_gives_what_each_reading_gives_alone(
    model: str, count: int, is_block: bool, takes_own: bool
) -> None:
    poolings = ("mean", "cls", "gem") if is_block else ("mean", "mean+std", "gem")
    layers = layers_of(count, is_block=is_block, poolings=poolings)
    network = seeded(model)
    expected = []
    for item in layers:
        assert item is not None
        alone = HiddenModel(
            copy.deepcopy(network), index=item.at, pooling=item.pooling, has_norm=item.is_last
        )
        expected.append(alone)
    chosen = [*layers, None] if takes_own else layers
    own = copy.deepcopy(network)
    found = HiddenModels(own, own, chosen, EXAMPLE).eval()
    calls = count_calls(found)
    with torch.inference_mode():
        wide = found(X)
        assert calls == [1]
        parts = [item(X) for item in expected] + ([network(X)] if takes_own else [])
    # Bit by bit: the last normalisation works on each token alone.
    assert torch.equal(wide, torch.cat(parts, dim=1))


def test_layers_after_the_last_one_are_dropped() -> None:
    network = seeded("test_vit")
    whole = sum(item.numel() for item in network.parameters())
    layers: list[Layer | None] = [Layer(i, "mean", False, True) for i in (0, 2)]
    found = HiddenModels(network, network, layers, EXAMPLE)
    assert sum(item.numel() for item in found.parameters()) < 0.7 * whole


class Odd(torch.nn.Module):
    """A network whose layers, asked for together, are others than alone."""

    def forward_intermediates(self, x: Any, indices: Any, **_: Any) -> list[Any]:
        return [x * (i + len(indices)) for i in indices]

    def prune_intermediate_layers(self, indices: Any, **_: Any) -> None:
        del indices


def test_a_network_whose_layers_differ_together_is_read_in_turn() -> None:
    layers: list[Layer | None] = [Layer(i, "mean", i == 1, False) for i in (0, 1)]
    found = HiddenModels(Odd(), Odd(), layers, EXAMPLE)
    mean = X.mean(dim=(2, 3))
    torch.testing.assert_close(found(X), torch.cat([mean, 2 * mean], dim=1))


def test_the_generalised_mean_is_that_of_its_source() -> None:
    state = torch.tensor([[[1.0, 2.0, 3.0], [-1.0, 0.0, 2.0]]]).transpose(1, 2)
    found = pool_positions(state, "gem", (1,))
    expected = [((1 + 8 + 27) / 3) ** (1 / 3), ((2 * GEM_FLOOR**3 + 8) / 3) ** (1 / 3)]
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_mean_and_deviation_stand_side_by_side() -> None:
    state = torch.tensor([[[1.0, 5.0], [3.0, 5.0]]])
    found = pool_positions(state, "mean+std", (1,))
    torch.testing.assert_close(found, torch.tensor([[2.0, 5.0, 1.0, 0.0]]))
    assert not math.isnan(float(found.sum()))
