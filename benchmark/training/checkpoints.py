"""The state of a training as one safetensors file: weights, optimiser, place and history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from benchmark.errors import CellError
from benchmark.store.artefacts import Artefact


@dataclass
class Place:
    """Where a training stands: the epochs behind it and the steps of the one it is in."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    """Of the epoch so far, over the patches seen in it."""
    num_seen: int = 0
    seconds: float = 0.0
    """Of the epoch so far."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """One row for each epoch behind: the columns of ``tables.CURVES`` without the trial."""
    best_epoch: int = 0
    """The epoch, from one, with the best val score, and of equals the lowest val loss; 0 before
    the first."""
    micro_batch: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def best_order(self) -> tuple[float, float]:
        """What a better epoch must exceed: the best val score, and minus its loss."""
        if not self.best_epoch:
            return (-1.0, 0.0)
        row = self.curve[self.best_epoch - 1]
        return row["val_score"], -row["val_loss"]


def write_checkpoint(
    artefact: Artefact,
    name: str,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    place: Place,
) -> None:
    """Write everything from which a training goes on, as one file: all of it, or nothing."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
    _write(artefact, name, tensors, {"place": json.dumps(asdict(place))})


def read_checkpoint(
    artefact: Artefact, name: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Place:
    """Load weights and optimiser, and return the place.

    Raises:
        CellError: the file is torn, or of another model.
    """
    content = artefact.read_bytes(name)
    tensors = _read(artefact, name, content)
    try:
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        place = Place(**json.loads(metadata["__metadata__"]["place"]))
        weights = _below("model.", tensors)
        # Before anything is loaded: torch copies what fits and complains afterwards.
        _check_shapes(weights, model)
        model.load_state_dict(weights)
        state: dict[int, dict[str, Any]] = {}
        for key, value in _below("optimizer.", tensors).items():
            index, _, entry = key.partition(".")
            state.setdefault(int(index), {})[entry] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise CellError(f"{artefact.file_uri(name)} does not fit this training: {first}") from None
    return place


def write_weights(artefact: Artefact, name: str, model: torch.nn.Module) -> None:
    """Write the weights of a model alone."""
    _write(artefact, name, model.state_dict(), {"format": "pt"})


def read_weights(artefact: Artefact, name: str) -> dict[str, torch.Tensor]:
    """Return the weights of a file.

    Raises:
        CellError: the file is torn or no safetensors file.
    """
    return _read(artefact, name, artefact.read_bytes(name))


def _write(
    artefact: Artefact, name: str, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]
) -> None:
    # A copy of each, since tied weights share memory, which the format does not know.
    plain = {key: value.detach().to("cpu").contiguous().clone() for key, value in tensors.items()}
    artefact.write_bytes(name, save(plain, metadata=metadata))


def _read(artefact: Artefact, name: str, content: bytes) -> dict[str, torch.Tensor]:
    try:
        return dict(load(content))
    except (SafetensorError, ValueError) as error:
        raise CellError(
            f"{artefact.file_uri(name)} is torn or no safetensors file: {error}"
        ) from None


def _check_shapes(weights: Mapping[str, torch.Tensor], model: torch.nn.Module) -> None:
    expected = {key: value.shape for key, value in model.state_dict().items()}
    found = {key: value.shape for key, value in weights.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise ValueError(f"'{key}' is {found.get(key)}, not {expected.get(key)}")


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
