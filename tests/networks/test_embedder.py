"""The device path: its three steps, the modes that it switches between, and what it counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmark.errors import CellError
from benchmark.networks.calibration import MAX_DISTANCE, cosine_distance
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder, build_network
from benchmark.networks.transfers import InputStats
from benchmark.specs import Backbone
from tests.toys import _Pooled, build_not_finite, toy

BANDS = ("red", "green", "blue")
PLAN = plan_device(device="cpu", precision="float32", batch_size=4)
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 3, 16, 16), dtype=np.uint8)


class _Attending(_Pooled):
    """Pixels attend to each other; counts how often its weights are copied."""

    copies = 0

    def __deepcopy__(self, memo: dict[int, object]) -> _Attending:
        type(self).copies += 1
        copied = _Attending(3)
        copied.load_state_dict(self.state_dict())
        return copied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2).unsqueeze(1)
        attended = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return attended.mean(dim=(1, 2))


@pytest.fixture
def backbone() -> Backbone:
    return toy("attending", _Attending)


def test_load_launch_and_fetch_are_a_call(backbone: Backbone) -> None:
    embedder = Embedder(backbone, BANDS, PLAN)
    expected, stats = embedder(PIXELS)
    counts: list[int] = []
    found, other = embedder.fetch(embedder.launch(embedder.load(PIXELS), counts.append))
    np.testing.assert_array_equal(found, expected)
    assert counts == [4, 8, 10]
    assert stats.summary() == other.summary()
    assert stats.summary()["count"] == PIXELS.size
    np.testing.assert_array_equal(embedder.ready(PIXELS[:4])(), expected[:4])


def test_a_network_that_was_built_before_gives_the_same(backbone: Backbone) -> None:
    expected, _ = Embedder(backbone, BANDS, PLAN)(PIXELS)
    built = Embedder(backbone, BANDS, PLAN, network=build_network(backbone, BANDS))
    np.testing.assert_array_equal(built(PIXELS)[0], expected)


def test_weights_are_cast_once_and_float32_stays_what_it_was(backbone: Backbone) -> None:
    _Attending.copies = 0
    embedder = Embedder(backbone, BANDS, PLAN)
    expected, _ = embedder(PIXELS)
    cast = replace(PLAN, precision="bfloat16", is_cast=True)
    for size in (4, 2):
        assert embedder.adopt(replace(cast, batch_size=size))
        found, _ = embedder(PIXELS)
        assert found.dtype == np.float32
        assert 0 < cosine_distance(found, expected) < MAX_DISTANCE
    assert _Attending.copies == 1
    embedder.adopt(PLAN)
    np.testing.assert_array_equal(embedder(PIXELS)[0], expected)


@pytest.mark.parametrize("attention", ["cudnn", "efficient"])
def test_an_attention_that_a_device_lacks_gives_way_to_another(
    backbone: Backbone, attention: str
) -> None:
    embedder = Embedder(backbone, BANDS, PLAN)
    expected, _ = embedder(PIXELS)
    embedder.adopt(replace(PLAN, attention=attention))
    np.testing.assert_allclose(embedder(PIXELS)[0], expected, rtol=1e-5)


def test_embeddings_that_are_not_finite_are_refused() -> None:
    embedder = Embedder(toy("nan", build_not_finite), BANDS, PLAN)
    launched = embedder.launch(embedder.load(PIXELS))
    with pytest.raises(CellError, match="10 of 10 embeddings are not finite"):
        embedder.fetch(launched)


def test_the_statistics_of_no_input() -> None:
    stats = InputStats()
    stats.send()
    assert stats.summary() == {"min": np.inf, "mean": 0.0, "max": -np.inf, "count": 0.0}
