"""A checkpoint restores everything, and one that does not fit changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from benchmark.errors import CellError
from benchmark.store.artefacts import Artefact, Store
from benchmark.training.checkpoints import (
    Place,
    read_checkpoint,
    read_weights,
    write_checkpoint,
    write_weights,
)

NAME = "last.safetensors"
ROW = {"epoch": 1, "train_loss": 1 / 3, "val_score": 0.7, "val_loss": 0.1 + 0.2, "seconds": 1e-9}


class Tied(torch.nn.Module):
    """Two layers that share a weight, a convolution in another layout, and a buffer."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, size, 3)
        self.one = torch.nn.Linear(size, size, bias=False)
        self.two = torch.nn.Linear(size, size, bias=False)
        self.two.weight = self.one.weight
        self.norm = torch.nn.BatchNorm1d(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).mean(dim=(2, 3))
        return self.norm(self.two(torch.relu(self.one(x))))


def build(size: int = 4, seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Tied(size).to(memory_format=torch.channels_last)
    groups = [
        {"params": [model.conv.weight], "peak": 0.1},
        {"params": [model.conv.bias, model.one.weight], "peak": 0.01, "weight_decay": 0.0},
    ]
    return model, torch.optim.AdamW(groups, lr=1e-2)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    model(x).pow(2).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def states(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def is_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture
def artefact(tmp_path: Path) -> Artefact:
    return Store(str(tmp_path)).artefact("finetune", "toy", "0")


def test_a_training_goes_on_as_if_it_had_not_been_written(artefact: Artefact) -> None:
    model, optimizer = build()
    for seed in range(3):
        step(model, optimizer, seed)
    write_checkpoint(artefact, NAME, model, optimizer, Place(epoch=1, step=2))
    for seed in range(3, 6):
        step(model, optimizer, seed)
    other, again = build(seed=1)
    assert read_checkpoint(artefact, NAME, other, again) == Place(epoch=1, step=2)
    for seed in range(3, 6):
        step(other, again, seed)
    assert is_same(states(model), states(other))


def test_a_place_comes_back_to_the_last_bit(artefact: Artefact) -> None:
    place = Place(
        epoch=2,
        step=3,
        loss_sum=0.1 + 0.2,
        num_seen=7,
        seconds=1 / 3,
        curve=[ROW, {**ROW, "epoch": 2, "val_score": 0.9}],
        best_epoch=2,
        micro_batch=4,
        notes=["a note", "ein Vermerk über Größe"],
    )
    model, optimizer = build()
    write_checkpoint(artefact, NAME, model, optimizer, place)
    assert read_checkpoint(artefact, NAME, *build()) == place


def test_a_curve_without_val_scores_comes_back(artefact: Artefact) -> None:
    place = Place(epoch=1, curve=[{**ROW, "val_score": math.nan}])
    write_checkpoint(artefact, NAME, *build(), place)
    (row,) = read_checkpoint(artefact, NAME, *build()).curve
    assert math.isnan(row["val_score"])
    assert row["train_loss"] == ROW["train_loss"]


def test_the_order_of_epochs_is_the_score_and_then_the_loss() -> None:
    place = Place()
    assert place.best_order < (0.0, -1e9)
    place.curve.append(ROW)
    place.best_epoch = 1
    assert place.best_order == (ROW["val_score"], -ROW["val_loss"])


def test_weights_come_back_with_those_that_share_memory(artefact: Artefact) -> None:
    model, _ = build()
    write_weights(artefact, "best.safetensors", model)
    found = read_weights(artefact, "best.safetensors")
    assert is_same(dict(sorted(states(model).items())), dict(sorted(found.items())))
    other, _ = build(seed=1)
    other.load_state_dict(found)
    assert is_same(states(model), states(other))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_torn_file_is_named_and_changes_nothing(artefact: Artefact, share: float) -> None:
    model, optimizer = build()
    step(model, optimizer, 0)
    write_checkpoint(artefact, NAME, model, optimizer, Place(epoch=1))
    content = artefact.read_bytes(NAME)
    artefact.write_bytes(NAME, content[: int(share * len(content))])
    other, again = build(seed=1)
    before = states(other)
    with pytest.raises(CellError, match=r"finetune/toy-0/last\.safetensors is damaged"):
        read_checkpoint(artefact, NAME, other, again)
    with pytest.raises(CellError, match=r"last\.safetensors is damaged .Error while des"):
        read_weights(artefact, NAME)
    assert is_same(states(other), before)
    assert not again.state_dict()["state"]


@pytest.mark.parametrize("place", [-1, -40, -90])
def test_a_flipped_bit_is_noticed(artefact: Artefact, place: int) -> None:
    model, optimizer = build()
    step(model, optimizer, 0)
    write_checkpoint(artefact, NAME, model, optimizer, Place(epoch=1))
    content = bytearray(artefact.read_bytes(NAME))
    content[place] ^= 1
    artefact.write_bytes(NAME, bytes(content))
    other, again = build(seed=1)
    before = states(other)
    with pytest.raises(CellError, match=r"last\.safetensors is damaged .its checksum differs"):
        read_checkpoint(artefact, NAME, other, again)
    assert is_same(states(other), before)


def test_a_flipped_place_is_noticed(artefact: Artefact) -> None:
    write_checkpoint(artefact, NAME, *build(), Place(epoch=1, step=2))
    content = artefact.read_bytes(NAME)
    assert content.count(b'"step\\": 2') == 1
    artefact.write_bytes(NAME, content.replace(b'"step\\": 2', b'"step\\": 3'))
    with pytest.raises(CellError, match="its checksum differs"):
        read_checkpoint(artefact, NAME, *build())


def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(artefact: Artefact) -> None:
    write_checkpoint(artefact, NAME, *build(), Place(epoch=1))
    for model, optimizer in (build(5), deeper()):
        before = states(model)
        with pytest.raises(CellError, match=r"last\.safetensors does not fit this training: "):
            read_checkpoint(artefact, NAME, model, optimizer)
        assert is_same(states(model), before)
        assert not optimizer.state_dict()["state"]


def deeper() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model, optimizer = build(seed=1)
    model.add_module("more", torch.nn.Linear(2, 2))
    return model, optimizer


def test_weights_alone_are_no_checkpoint(artefact: Artefact) -> None:
    model, _ = build()
    write_weights(artefact, NAME, model)
    other, optimizer = build(seed=1)
    before = states(other)
    with pytest.raises(CellError, match="does not fit this training: "):
        read_checkpoint(artefact, NAME, other, optimizer)
    assert is_same(states(other), before)


def test_a_place_of_another_version_is_refused_and_changes_nothing(artefact: Artefact) -> None:
    from safetensors.torch import load, save

    write_checkpoint(artefact, NAME, *build(), Place())
    tensors = load(artefact.read_bytes(NAME))
    place = json.dumps({"epoch": 1, "unknown": 2})
    artefact.write_bytes(NAME, save(tensors, metadata={"place": place}))
    other, optimizer = build(seed=1)
    before = states(other)
    with pytest.raises(CellError, match=r"does not fit this training: .*'unknown'"):
        read_checkpoint(artefact, NAME, other, optimizer)
    assert is_same(states(other), before)
