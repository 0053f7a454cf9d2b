"""How a network runs on a device: the settings, their defaults, and the reasons."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmark.energy import GpuMeter, Meter, processor_meter
from benchmark.peaks import peak_memory_bytes, reset_peak
from benchmark.store.cache import cache_folder

Precision = Literal["float32", "bfloat16"]
Attention = Literal["auto", "cudnn", "efficient"]
"""The kernel of scaled-dot-product attention that is preferred; ``auto``: torch's own choice."""

CPU_BATCH = 4
"""Largest batch whose activations stay in a core's cache: measured in docs/PERFORMANCE.md."""
GPU_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class DevicePlan:
    """How a network runs; it may change the last bits of an embedding, never its meaning."""

    device: str
    precision: Precision
    channels_last: bool
    batch_size: int
    num_threads: int
    is_compiled: bool = False
    is_cast: bool = False
    """Whether bfloat16 weights are made once; else autocast makes them anew in each batch."""
    attention: Attention = "auto"
    fast_pointwise: bool = False
    """Whether a CPU computes 1 x 1 convolutions in oneDNN for the smallest batches too."""
    reason: str = ""

    @property
    def mode(self) -> DevicePlan:
        """The plan without its reason, for comparing and caching."""
        return replace(self, reason="")

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the plan and the manifest of an artefact."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The user's settings of a plan; None: chosen automatically."""

    precision: Precision | None = None
    channels_last: bool | None = None
    batch_size: int | None = None
    num_threads: int | None = None
    is_compiled: bool | None = None


def plan_device(
    *,
    precision: Precision | Literal["auto"] | None = None,
    batch_size: int | None = None,
    num_threads: int = 1,
    device: str | None = None,
    channels_last: bool | None = None,
    is_compiled: bool | None = None,
) -> DevicePlan:
    """Choose the settings that the user left open, without a measurement, and give the reason.

    Args:
        precision: of the forward pass; None or ``auto``: bfloat16 on a GPU that supports it.
        batch_size: patches per forward pass.
        num_threads: torch threads of this process.
        device: ``cpu`` or ``cuda``; None: a GPU if there is one.
        channels_last: the memory layout.
        is_compiled: whether to use ``torch.compile``.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device != "cpu"
    if precision is None or precision == "auto":
        has_it = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if has_it else "float32"
    reason = (
        "GPU: channels-last and large batches"
        if on_gpu
        else "CPU: channels-last and small batches that stay in a core's cache"
    )
    return DevicePlan(
        device=device,
        precision=precision,
        channels_last=True if channels_last is None else channels_last,
        batch_size=batch_size or (GPU_BATCH if on_gpu else CPU_BATCH),
        num_threads=num_threads,
        is_compiled=bool(is_compiled),
        fast_pointwise=not on_gpu,
        reason=reason,
    )


def device_name(device: str) -> str:
    """Return the model of a GPU, e.g. ``NVIDIA H100 80GB HBM3``, or of the processor."""
    import torch

    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else 'CPU'}, {len(names) or os.cpu_count()} cores, {capability}"


@cache
def open_meter(device: str, share: float = 1.0) -> Meter:
    """Return the meter of the energy of a device: ``cpu``, or a GPU, of which a share is booked."""
    import torch

    if device == "cpu":
        return processor_meter()
    return GpuMeter(f"GPU-{torch.cuda.get_device_properties(device).uuid}", min(1.0, share))


def reset_peaks(device: str) -> None:
    """Let the peaks of the memory of this process and of its GPU begin anew."""
    import torch

    reset_peak()
    if device != "cpu":
        # Before, there are no statistics to reset, and torch fails.
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)


def peaks(device: str) -> dict[str, int]:
    """Return the peaks of the memory of this process, and of its GPU (0: none), in bytes."""
    import torch

    on_gpu = 0 if device == "cpu" else torch.cuda.max_memory_allocated(device)
    return {"peak_memory_bytes": peak_memory_bytes(), "peak_device_bytes": on_gpu}


def has_fast_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 matrices in hardware."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def keep_compiled() -> None:
    """Keep the cache of torch's compiler in this user's cache folder, between runs.

    Call it before building a model: building imports the compiler, which then chooses a folder
    shared by all users.
    """
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        with suppress(OSError):  # a home folder that cannot be written
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder("compiled"))
