"""The device path: patches as uint8 in, embeddings out, with one normalising wrapper.

Nothing here needs Ray: actors hold an ``Embedder``, and it can be timed alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmark.errors import CellError, one_line
from benchmark.networks.bands import input_indices
from benchmark.networks.classifier import EXAMPLE_SIZE, check_embeddings
from benchmark.networks.devices import Attention, DevicePlan, keep_compiled
from benchmark.networks.folding import fold_batch_norms
from benchmark.networks.freed import keep_freed_memory
from benchmark.networks.pointwise import choose_pointwise
from benchmark.networks.resizing import resize, rounded
from benchmark.networks.transfers import InputStats, Launched, Loaded, mark, to_host
from benchmark.specs import Backbone, Processor

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Preprocessing(torch.nn.Module):
    """The input of a backbone: its bands, resized and normalised in one place."""

    indices: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, backbone: Backbone, bands: Sequence[str]) -> None:
        """Prepare for patches of a data set with these bands."""
        super().__init__()
        indices = input_indices(backbone, bands)
        count = self.num_bands = len(indices)
        mean, std = (torch.tensor(values).expand(count) for values in (backbone.mean, backbone.std))
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
        self.processor = backbone.processor

    def forward(
        self,
        pixels: torch.Tensor,
        jitter: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Select bands, resize (antialiased), crop the centre and normalise.

        Args:
            pixels: uint8 (B, C, H, W), on the device; with a ``processor``, better on the host.
            jitter: changes the resized pixels (0...255) before normalisation.

        Returns: float32 (B, bands of the backbone, image_size, image_size).
        """
        if not self._takes_all:
            if self._takes_first is not None:
                pixels = pixels[:, : self._takes_first]
            else:
                pixels = pixels.index_select(1, self.indices.to(pixels.device))
        if self.processor is not None:
            return self._process(self.processor, pixels, jitter)
        x = self._crop(self._resize(pixels))
        if jitter is not None:
            x = jitter(x)
        return torch.addcmul(self.shift, x, self.scale)

    def _process(
        self,
        processor: Processor,
        pixels: torch.Tensor,
        jitter: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> torch.Tensor:
        if jitter is not None:
            pixels = rounded(jitter(pixels.to(torch.float32))).to(torch.uint8)
        x = torch.from_numpy(processor.prepare(pixels.cpu().numpy()))
        return x.to(self.scale.device, non_blocking=True)

    def _resize(self, pixels: torch.Tensor) -> torch.Tensor:
        size = self._resize_to
        if size is None or tuple(pixels.shape[-2:]) == (size, size):
            return pixels.to(torch.float32)
        return resize(pixels, size, self._interpolation, is_rounded=self._is_rounded)

    def _crop(self, x: torch.Tensor) -> torch.Tensor:
        size = self._image_size
        if size is None or size == self._resize_to:
            return x
        half = round if self._rounds_margin else math.floor
        top, left = (half((side - size) / 2) for side in x.shape[-2:])
        return x[..., top : top + size, left : left + size]


class Network(torch.nn.Module):
    """A backbone with its preprocessing."""

    def __init__(
        self,
        backbone: Backbone,
        bands: Sequence[str],
        state: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Build the backbone, with its weights, for a data set with these bands.

        Args:
            backbone: the backbone to build.
            bands: of the data set.
            state: the state learnt by the backbone's ``fit``, if it has one.

        Raises:
            UsageError: the data set lacks a band, or the weights are absent.
            CellError: the backbone needs a fitted state and ``state`` is None.
        """
        super().__init__()
        self.preprocess = Preprocessing(backbone, bands)
        self.num_bands = self.preprocess.num_bands
        self.backbone = backbone.build(self.num_bands)
        if backbone.fit is not None:
            if state is None:
                raise CellError(f"backbone '{backbone.name}' is not fitted on train yet")
            # Assigned, not copied: large tensors stay in pages that processes share.
            self.backbone.load_state_dict(dict(state), assign=True)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of patches: uint8 (B, C, H, W) to float32 (B, D)."""
        embeddings: torch.Tensor = self.backbone(self.preprocess(pixels))
        return embeddings.float()


def build_network(
    backbone: Backbone, bands: Sequence[str], state: Mapping[str, torch.Tensor] | None = None
) -> Network:
    """Build a backbone on the CPU, with its weights, for inference.

    Args:
        backbone: the backbone to build.
        bands: of the data set.
        state: the state learnt by the backbone's ``fit``, if it has one.

    Raises:
        UsageError: the data set lacks a band, or the weights are absent.
        CellError: the backbone needs a fitted state and ``state`` is None.
    """
    keep_compiled()
    network = Network(backbone, bands, state).eval()
    size = backbone.image_size or EXAMPLE_SIZE
    example = torch.linspace(-1, 1, network.num_bands * size**2)
    network.backbone = fold_batch_norms(
        network.backbone, example.reshape(1, network.num_bands, size, size)
    )
    return network


Pixels: TypeAlias = "NDArray[np.uint8 | np.float32]"


class Embedder:
    """One backbone on one device.

    ``load``, ``launch`` and ``fetch`` are the three steps of a call. Threads may load and fetch
    while one thread, always the same, launches. Patches are uint8 (N, C, H, W), or what the
    processor of the backbone has made of them, float32 (N, C, S, S).
    """

    def __init__(
        self,
        backbone: Backbone,
        bands: Sequence[str],
        plan: DevicePlan,
        state: Mapping[str, torch.Tensor] | None = None,
        network: Network | None = None,
    ) -> None:
        """Build and load the backbone.

        Args:
            backbone: the backbone to build.
            bands: of the data set.
            plan: how it runs.
            state: the state learnt by the backbone's ``fit``, if it has one.
            network: what ``build_network`` has returned for all these; None: build it here.

        Raises:
            UsageError: the data set lacks a band, or the weights are absent.
            CellError: the backbone needs a fitted state and ``state`` is None.
        """
        self.name = backbone.name
        self.dims = () if backbone.shared is None else backbone.shared.dims
        """Lengths of several embeddings side by side; empty: there is one."""
        torch.set_num_threads(plan.num_threads)
        if plan.device == "cpu":
            keep_freed_memory()
        network = network or build_network(backbone, bands, state)
        self._network = network.to(plan.device)
        self._model: Callable[[torch.Tensor], torch.Tensor] = self._network.backbone
        self._cast: torch.nn.Module | None = None
        self._mode: DevicePlan | None = None
        self._copies: torch.cuda.Stream | None = None
        if plan.device != "cpu":
            self._copies = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.adopt(plan)

    def adopt(self, plan: DevicePlan) -> bool:
        """Switch to ``plan``, on the same device; return whether the mode changed.

        If the mode is compiled, the next batch compiles the model.
        """
        self.plan = plan
        if plan.mode == self._mode:
            return False
        self._mode = plan.mode
        torch.set_num_threads(plan.num_threads)
        self._network.to(memory_format=_layout(plan))
        model = self._network.backbone
        choose_pointwise(model, is_fast=plan.fast_pointwise and not plan.is_compiled)
        if plan.is_cast:
            if self._cast is None:
                # A copy: calibration compares it with float32.
                self._cast = copy.deepcopy(model).to(torch.bfloat16)
            model = self._cast.to(memory_format=_layout(plan))
        self._model = model
        if plan.is_compiled:
            # Drop what the compiler keeps of another model.
            torch.compiler.reset()
            self._model = torch.compile(model, dynamic=False)
        return True

    def warm_up(self, pixels: Pixels) -> None:
        """Run one batch without keeping it: the first pass plans memory and kernels, or compiles.

        If compiling fails, run uncompiled and add the error to the plan's reason.
        """
        try:
            self.run_batch(pixels[: self.plan.batch_size])
        except Exception as error:  # the compiler raises many error types
            if not self.plan.is_compiled:
                raise
            reason = f"{self.plan.reason}; not compiled here: {one_line(error)}"
            self.adopt(replace(self.plan, is_compiled=False, reason=reason))
            self.run_batch(pixels[: self.plan.batch_size])

    def __call__(
        self, pixels: Pixels, on_batch: Callable[[int], None] | None = None
    ) -> tuple[NDArray[np.float32], InputStats]:
        """Embed patches in batches of the plan's size.

        Args:
            pixels: (N, C, H, W); may be read-only.
            on_batch: gets the number of patches so far; a GPU may still be at work on some.

        Returns: the embeddings, float32 (N, D), and the statistics of the backbone's input.

        Raises:
            CellError: an embedding is not finite.
        """
        return self.fetch(self.launch(self.load(pixels), on_batch))

    def load(self, pixels: Pixels) -> Loaded:
        """Begin to copy patches to a GPU, beside what it computes.

        Args:
            pixels: (N, C, H, W); may be a read-only view of shared memory.
        """
        if self._copies is None or self._network.preprocess.processor is not None:
            return Loaded(pixels)
        # Copied once, into pinned pages that the device reads while this process continues.
        pinned = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
        np.copyto(pinned.numpy(), pixels)
        with torch.cuda.stream(self._copies):
            return Loaded(pinned.to(self.plan.device, non_blocking=True), mark())

    def launch(self, loaded: Loaded, on_batch: Callable[[int], None] | None = None) -> Launched:
        """Queue all batches on the device; a CPU has computed them at the return.

        Args:
            loaded: the patches.
            on_batch: gets the number of patches so far; a GPU may still be at work on some.
        """
        stats = InputStats()
        size, pixels = self.plan.batch_size, loaded.pixels
        loaded.expect()
        parts = []
        for start in range(0, len(pixels), size):
            parts.append(self._forward(pixels[start : start + size], stats))
            if on_batch is not None:
                on_batch(min(start + size, len(pixels)))
        # Copied once, so that the device never waits for this process between two batches.
        embeddings = to_host(torch.cat(parts))
        stats.send()
        return Launched(embeddings, stats, None if self._copies is None else mark())

    def fetch(self, launched: Launched) -> tuple[NDArray[np.float32], InputStats]:
        """Wait for embeddings and check them; results as of a call.

        Raises:
            CellError: an embedding is not finite.
        """
        if launched.done is not None:
            launched.done.synchronize()
        embeddings: NDArray[np.float32] = launched.embeddings.numpy()
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            bad = int((~finite).sum())
            raise CellError(
                f"backbone '{self.name}': {bad} of {len(embeddings)} embeddings are not finite; "
                'check its weights, or set [embed] precision = "float32"'
            )
        return embeddings, launched.stats

    def run_batch(self, pixels: Pixels) -> NDArray[np.float32]:
        """Embed one batch, (B, C, H, W) to float32 (B, D), without checking the values."""
        return self.ready(pixels)()

    def ready(self, pixels: Pixels) -> Callable[[], NDArray[np.float32]]:
        """Return ``run_batch`` of a batch that is on the device already."""
        loaded = self.load(pixels)
        loaded.expect()

        def run() -> NDArray[np.float32]:
            embeddings: NDArray[np.float32] = (
                self._forward(loaded.pixels, InputStats()).cpu().numpy()
            )
            return embeddings

        return run

    def _forward(self, pixels: Pixels | torch.Tensor, stats: InputStats) -> torch.Tensor:
        plan = self.plan
        count = len(pixels)
        if isinstance(pixels, np.ndarray):
            pixels = torch.from_numpy(np.array(pixels))
        with torch.inference_mode():
            if pixels.is_floating_point():
                x = pixels.to(plan.device, non_blocking=True)
            else:
                x = self._network.preprocess(pixels)
            stats.add(x)
            if plan.is_compiled and count < plan.batch_size:
                # Another size would need another compilation.
                x = torch.cat([x, x[-1:].expand(plan.batch_size - count, -1, -1, -1)])
            if plan.is_cast:
                x = x.to(torch.bfloat16)
            x = x.contiguous(memory_format=_layout(plan))
            is_lowered = plan.precision == "bfloat16" and not plan.is_cast
            lowered = torch.autocast(plan.device, dtype=torch.bfloat16, enabled=is_lowered)
            with lowered, _kernels(plan.attention):
                embeddings = self._model(x)
            check_embeddings(embeddings, len(x), name=self.name)
            return embeddings[:count].float()


def _layout(plan: DevicePlan) -> torch.memory_format:
    return torch.channels_last if plan.channels_last else torch.contiguous_format


def _kernels(attention: Attention) -> AbstractContextManager[None]:
    """Prefer a kernel of scaled-dot-product attention; where it cannot, torch takes another."""
    if attention == "auto":
        return nullcontext()
    cudnn, efficient = SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION
    first = [cudnn, efficient] if attention == "cudnn" else [efficient, cudnn]
    rest = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel([*first, *rest], set_priority=True)
