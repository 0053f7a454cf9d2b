"""Checkpoints: the weights, optimiser, place and history of a training as one safetensors file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from benchmark.errors import CellError
from benchmark.store.artefacts import Artefact
from benchmark.store.checksums import checksum

CHECKSUM = "xxh3"
"""Where a checkpoint's checksum is in its metadata: it is read before its artefact is complete,
when no manifest holds one."""


@dataclass
class Place:
    """Progress of a training: completed epochs, and completed steps of the current epoch."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    """Sum over the patches seen in the current epoch."""
    num_seen: int = 0
    seconds: float = 0.0
    """Duration of the current epoch so far."""
    joules: float = 0.0
    """Energy of the current epoch so far, of all workers; NaN: not told by a device."""
    used: list[float] = field(default_factory=list)
    """Energy of each completed epoch, with its validation (J)."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """One row per completed epoch: the columns of ``tables.CURVES`` without the trial."""
    best_epoch: int = 0
    """Epoch (from 1) with the best val score, among equals with the lowest val loss; 0 before the
    first."""
    micro_batch: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def best_order(self) -> tuple[float, float]:
        """The best val score and minus its loss, which a better epoch must exceed."""
        if not self.best_epoch:
            return (-1.0, 0.0)
        row = self.curve[self.best_epoch - 1]
        return row["val_score"], -row["val_loss"]

    def joules_from(self, epoch: int) -> float:
        """Return the energy of the completed epochs after a number of them; NaN: not known."""
        is_known = len(self.used) == len(self.curve)
        return sum(self.used[epoch:]) if is_known else math.nan


def write_checkpoint(
    artefact: Artefact,
    name: str,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    place: Place,
) -> None:
    """Write everything that a training needs to resume, atomically as one file."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
    content = _serialise(tensors, {"place": json.dumps(asdict(place))})
    artefact.write_bytes(name, _with_checksum(content))


def read_checkpoint(
    artefact: Artefact, name: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Place:
    """Load weights and optimiser, and return the place.

    Raises:
        CellError: the file is damaged, or of another model.
    """
    content = artefact.read_bytes(name)
    tensors = _read(artefact, name, content)
    header, body = _split(content)
    # Checkpoints of older versions contain no checksum.
    wanted = header["__metadata__"].pop(CHECKSUM, None) if "__metadata__" in header else None
    if wanted is not None and wanted != _checksum(header, body):
        raise artefact.damage_of(name, "its checksum differs")
    try:
        # Checkpoints of older versions contain no energy.
        place = Place(**{"joules": math.nan, **json.loads(header["__metadata__"]["place"])})
        weights = _below("model.", tensors)
        # Check before loading: torch copies the tensors that fit before it raises.
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
    """Write only the weights of a model."""
    artefact.write_bytes(name, _serialise(model.state_dict(), {"format": "pt"}))


def read_weights(artefact: Artefact, name: str) -> dict[str, torch.Tensor]:
    """Return the weights of a file.

    Raises:
        CellError: the file is damaged or not a safetensors file.
    """
    return _read(artefact, name, artefact.read_verified(name))


def _serialise(tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    # Copies, because tied weights share memory, which the format does not support.
    plain = {key: value.detach().to("cpu").contiguous().clone() for key, value in tensors.items()}
    return save(plain, metadata=metadata)


def _with_checksum(content: bytes) -> bytes:
    """Return a safetensors file with a checksum in its header."""
    header, body = _split(content)
    header["__metadata__"][CHECKSUM] = _checksum(header, body)
    text = json.dumps(header).encode()
    # The format aligns the tensors to 8 bytes.
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, body))


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return the header of a sound safetensors file, and its tensors."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), memoryview(content)[end:]


def _checksum(header: Mapping[str, Any], body: memoryview) -> str:
    return checksum(json.dumps(header, sort_keys=True).encode()) + checksum(body)


def _read(artefact: Artefact, name: str, content: bytes) -> dict[str, torch.Tensor]:
    try:
        return dict(load(content))
    except (SafetensorError, ValueError) as error:
        raise artefact.damage_of(name, error) from None


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
