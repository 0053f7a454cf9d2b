"""Copies between the host and a GPU that run beside what the GPU computes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def mark() -> torch.cuda.Event:
    """Return an event behind all that the current stream has to do."""
    # Blocking: a thread that waits for it needs no core.
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def to_host(x: torch.Tensor) -> torch.Tensor:
    """Return a copy that is complete once the device has done what is queued; a CPU's is ``x``."""
    if x.device.type == "cpu":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


class InputStats:
    """Running minimum, mean and maximum of the input tensors of a backbone.

    The values stay on the device until ``send``: reading a number waits for the device.
    """

    def __init__(self) -> None:
        self._low: list[torch.Tensor] = []
        self._high: list[torch.Tensor] = []
        self._sums: list[torch.Tensor] = []
        self._count = 0
        self._totals: torch.Tensor | None = None

    def add(self, x: torch.Tensor) -> None:
        """Add one batch."""
        low, high = torch.aminmax(x)
        self._low.append(low)
        self._high.append(high)
        self._sums.append(x.mean().double() * x.numel())
        self._count += x.numel()

    def send(self) -> None:
        """Copy the totals to the host as soon as the device has computed them; no more ``add``."""
        if self._count:
            low, high = torch.stack(self._low).min(), torch.stack(self._high).max()
            totals = [low.double(), torch.stack(self._sums).sum(), high.double()]
            self._totals = to_host(torch.stack(totals))

    def summary(self) -> dict[str, float]:
        """Return ``min``, ``mean``, ``max`` and ``count`` (of values), once they are here."""
        if self._totals is None:
            return {"min": math.inf, "mean": 0.0, "max": -math.inf, "count": 0.0}
        low, total, high = self._totals.tolist()
        mean = total / self._count
        return {"min": low, "mean": mean, "max": high, "count": float(self._count)}


@dataclass(frozen=True)
class Loaded:
    """Patches, (N, C, H, W), on a GPU or on their way to it; for a CPU still as given."""

    pixels: NDArray[np.uint8 | np.float32] | torch.Tensor
    arrived: torch.cuda.Event | None = None

    def expect(self) -> None:
        """Let what the device does next wait for them; their memory is kept until it is done."""
        if self.arrived is not None and isinstance(self.pixels, torch.Tensor):
            stream = torch.cuda.current_stream()
            stream.wait_event(self.arrived)
            self.pixels.record_stream(stream)


@dataclass(frozen=True)
class Launched:
    """Embeddings, float32 (N, D), in the memory of the host once the device is done with them."""

    embeddings: torch.Tensor
    stats: InputStats
    done: torch.cuda.Event | None = None
