"""The device path: patches as uint8 in, embeddings out, with one normalising wrapper.

Nothing here needs Ray: ``Embedder`` is what an actor holds, and what can be timed alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from benchmark.bands import band_indices
from benchmark.errors import CellError
from benchmark.folding import fold_batch_norms
from benchmark.specs import Backbone

if TYPE_CHECKING:
    from numpy.typing import NDArray

Precision = Literal["float32", "bfloat16"]

CPU_BATCH = 4
"""Largest batch whose activations stay in a core's cache: measured in docs/PERFORMANCE.md."""
GPU_BATCH = 128
EXAMPLE_SIZE = 64
"""Side of the picture on which folding is checked, for backbones that take any size."""


class Preprocessing(torch.nn.Module):
    """What a backbone is fed: its bands, resized and normalised, so that none can be forgotten."""

    indices: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, backbone: Backbone, bands: Sequence[str]) -> None:
        """Prepare for patches of a data set of these bands."""
        super().__init__()
        indices = band_indices(backbone, bands)
        count = self.num_bands = len(indices)
        mean = torch.tensor(backbone.mean).expand(count) if len(backbone.mean) == 1 else None
        mean = torch.tensor(backbone.mean) if mean is None else mean
        std = torch.tensor(backbone.std)
        std = std.expand(count) if len(backbone.std) == 1 else std
        # (x / 255 - mean) / std as one multiplication and one addition.
        self.register_buffer("scale", (1.0 / (255.0 * std)).reshape(1, count, 1, 1))
        self.register_buffer("shift", (-mean / std).reshape(1, count, 1, 1))
        self.register_buffer("indices", torch.tensor(indices))
        self._takes_all = indices == tuple(range(len(bands)))
        self._takes_first = count if indices == tuple(range(count)) else None
        self._image_size = backbone.image_size
        self._resize_to = backbone.resize_to or backbone.image_size
        self._interpolation = backbone.interpolation
        self._is_rounded = backbone.is_rounded
        self._rounds_margin = backbone.crops_like_torchvision

    def forward(
        self,
        pixels: torch.Tensor,
        jitter: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Select bands, resize (antialiased), cut out the centre and normalise.

        Args:
            pixels: uint8 (B, C, H, W), on the device.
            jitter: changes the colours (0...255, resized) before they are normalised.

        Returns: float32 (B, bands of the backbone, image_size, image_size).
        """
        if not self._takes_all:
            if self._takes_first is not None:
                pixels = pixels[:, : self._takes_first]
            else:
                pixels = pixels.index_select(1, self.indices)
        x = pixels.to(torch.float32)
        x = self._crop(self._resize(x))
        if jitter is not None:
            x = jitter(x)
        return torch.addcmul(self.shift, x, self.scale)

    def _resize(self, x: torch.Tensor) -> torch.Tensor:
        size = self._resize_to
        if size is None or tuple(x.shape[-2:]) == (size, size):
            return x
        # Antialiasing only matters, and only costs, when an image shrinks. Of the bicubic
        # kernels, the antialiased one alone is that of PIL (a = -0.5; the other has -0.75).
        antialias = self._interpolation == "bicubic" or max(x.shape[-2:]) > size
        x = F.interpolate(
            x,
            size=(size, size),
            mode=self._interpolation,
            align_corners=False,
            antialias=antialias,
        )
        if self._is_rounded:
            # A bicubic kernel overshoots at edges.
            x = x.round().clamp(0, 255)
        return x

    def _crop(self, x: torch.Tensor) -> torch.Tensor:
        size = self._image_size
        if size is None or size == self._resize_to:
            return x
        half = round if self._rounds_margin else math.floor
        top, left = (half((side - size) / 2) for side in x.shape[-2:])
        return x[..., top : top + size, left : left + size]


class Network(torch.nn.Module):
    """A backbone behind its own preprocessing."""

    def __init__(
        self,
        backbone: Backbone,
        bands: Sequence[str],
        state: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Build the backbone, with its weights, for a data set of these bands.

        Args:
            backbone: what is built.
            bands: of the data set.
            state: what the backbone's ``fit`` learnt, where it has one.

        Raises:
            UsageError: the data set lacks a band, or the weights are absent.
            CellError: the backbone is fitted, and there is no state.
        """
        super().__init__()
        self.preprocess = Preprocessing(backbone, bands)
        self.num_bands = self.preprocess.num_bands
        self.backbone = backbone.build(self.num_bands)
        if backbone.fit is not None:
            if state is None:
                raise CellError(f"backbone '{backbone.name}' is not fitted on train yet")
            # Assigned and not copied: large tensors stay in pages that processes share.
            self.backbone.load_state_dict(dict(state), assign=True)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of patches: uint8 (B, C, H, W) to float32 (B, D)."""
        embeddings: torch.Tensor = self.backbone(self.preprocess(pixels))
        return embeddings.float()


@dataclass(frozen=True, kw_only=True)
class DevicePlan:
    """How a network runs: may change the last bits of an embedding, never its meaning."""

    device: str
    precision: Precision
    channels_last: bool
    batch_size: int
    num_threads: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, for the plan and the manifest of an artefact."""
        return asdict(self)


def plan_device(
    *,
    precision: Precision,
    batch_size: int | None,
    num_threads: int,
    device: str | None = None,
) -> DevicePlan:
    """Choose device, layout and batch size, and say why.

    Args:
        precision: of the forward pass; an explicit setting, since it changes results.
        batch_size: as the user asked; None chooses.
        num_threads: torch threads of this process.
        device: ``cpu`` or ``cuda``; None takes a GPU where there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        reason = "CPU: channels-last and small batches that stay in a core's cache"
        return DevicePlan(
            device=device,
            precision=precision,
            channels_last=True,
            batch_size=batch_size or CPU_BATCH,
            num_threads=num_threads,
            reason=reason,
        )
    return DevicePlan(
        device=device,
        precision=precision,
        channels_last=True,
        batch_size=batch_size or GPU_BATCH,
        num_threads=num_threads,
        reason="GPU: channels-last, batches that fill it",
    )


class InputStats:
    """Running minimum, mean and maximum of the tensor that a backbone was fed."""

    def __init__(self) -> None:
        self._low = float("inf")
        self._high = float("-inf")
        self._sum = 0.0
        self._count = 0

    def add(self, x: torch.Tensor) -> None:
        """Count one batch."""
        low, high = torch.aminmax(x)
        self._low = min(self._low, float(low))
        self._high = max(self._high, float(high))
        self._sum += float(x.mean()) * x.numel()
        self._count += x.numel()

    def summary(self) -> dict[str, float]:
        """Return ``min``, ``mean``, ``max`` and ``count`` (of values)."""
        mean = self._sum / max(1, self._count)
        return {"min": self._low, "mean": mean, "max": self._high, "count": float(self._count)}


class Embedder:
    """One backbone on one device."""

    def __init__(
        self,
        backbone: Backbone,
        bands: Sequence[str],
        plan: DevicePlan,
        state: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Build and load the backbone.

        Args:
            backbone: what is built.
            bands: of the data set.
            plan: how it runs.
            state: what the backbone's ``fit`` learnt, where it has one.

        Raises:
            UsageError: the data set lacks a band, or the weights are absent.
            CellError: the backbone is fitted, and there is no state.
        """
        self.name = backbone.name
        self.plan = plan
        torch.set_num_threads(plan.num_threads)
        network = Network(backbone, bands, state).eval()
        size = backbone.image_size or EXAMPLE_SIZE
        example = torch.linspace(-1, 1, network.num_bands * size**2)
        network.backbone = fold_batch_norms(
            network.backbone, example.reshape(1, network.num_bands, size, size)
        )
        network = network.to(plan.device)
        if plan.channels_last:
            network = network.to(memory_format=torch.channels_last)
        self._network = network
        self._dtype = torch.bfloat16 if plan.precision == "bfloat16" else None

    def warm_up(self, pixels: NDArray[np.uint8]) -> None:
        """Run one batch and forget it: the first pass plans memory and kernels."""
        self._forward(pixels[: self.plan.batch_size], InputStats())

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], InputStats]:
        """Embed patches in batches of the plan.

        Args:
            pixels: uint8 (N, C, H, W); may be read-only.

        Returns: the embeddings, float32 (N, D), and the statistics of the backbone's input.

        Raises:
            CellError: an embedding is not finite; names the backbone.
        """
        stats = InputStats()
        size = self.plan.batch_size
        parts = [self._forward(pixels[i : i + size], stats) for i in range(0, len(pixels), size)]
        embeddings = np.concatenate(parts)
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            bad = int((~finite).sum())
            raise CellError(
                f"backbone '{self.name}': {bad} of {len(embeddings)} embeddings are not finite; "
                'check its weights, or set [embed] precision = "float32"'
            )
        return embeddings, stats

    def _forward(self, pixels: NDArray[np.uint8], stats: InputStats) -> NDArray[np.float32]:
        layout = torch.channels_last if self.plan.channels_last else torch.contiguous_format
        on_gpu = self.plan.device != "cpu"
        with torch.inference_mode():
            # The batch is a view of shared memory that must not be written; a copy of it is
            # what goes to the device.
            batch = torch.from_numpy(np.array(pixels))
            if on_gpu:
                batch = batch.pin_memory().to(self.plan.device, non_blocking=True)
            x = self._network.preprocess(batch).contiguous(memory_format=layout)
            stats.add(x)
            with torch.autocast(
                self.plan.device, dtype=self._dtype, enabled=self._dtype is not None
            ):
                embeddings = self._network.backbone(x)
            result: NDArray[np.float32] = embeddings.float().cpu().numpy()
        return result
