"""What one seed of each backbone took, frozen and fine-tuned, from the manifests of its cells.

Frozen is the embedding and the searches of all heads that read it; fine-tuned is the search of one
mode. Both are of the train set of the headline, or of all folds, and means over seeds. A figure
that a manifest lacks makes the sum unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmark.energy import joules_of
from benchmark.experiment.context import Context
from benchmark.methods import is_finetuned
from benchmark.prices import Prices
from benchmark.specs import Backbone
from benchmark.store.names import HEAD, WEIGHTS, current_name

Manifest = Mapping[str, Any]

COST_COLUMNS = (
    "backbone",
    "side",
    "device",
    "device-seconds",
    "energy, kJ",
    "peak memory, MiB",
    "of the GPU, MiB",
    "stored, MB",
    "price",
    "storage a month",
)
COST_CAPTION = (
    "One seed. Frozen: the embedding and the searches of all heads on it; fine-tuned: its search. "
    "Device-seconds are those of GPUs, or of cores without one. Energy is that of the GPU (NVML), "
    "or of sockets and memory (RAPL): these count for the whole machine, and a process is charged "
    "the part that its CPU time has in that of the machine. A dash: the device, an older version "
    "or the price file does not tell it. Peak memory is that of the largest process. Stored are "
    "the embeddings and fitted heads, or the fine-tuned weights."
)


class SideCost(NamedTuple):
    """What one seed of a backbone took on one side; None: not known."""

    backbone: str
    method: str
    """That of a fine-tuning; empty: frozen."""
    num_heads: int
    """Heads of the experiment on its embeddings that are complete."""
    devices: tuple[str, ...]
    device_seconds: float | None
    joules: float | None
    peak_memory_bytes: int | None
    peak_device_bytes: int | None
    storage_bytes: int | None
    price: float | None
    storage_price: float | None
    """Of a month."""
    currency: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**self._asdict(), "side": "fine-tuned" if self.method else "frozen"}


def wants_costs(context: Context) -> bool:
    """Return whether commands show the costs: sides are compared, or have prices."""
    return context.prices is not None or context.experiment.finetune is not None


def find_costs(context: Context, known: Mapping[str, Manifest] | None = None) -> list[SideCost]:
    """Return the costs of both sides of each backbone that has complete cells.

    Args:
        context: of the experiment.
        known: manifests that have been read, by the path of their artefact.

    Raises:
        CellError: a manifest is damaged, or the store cannot be read.
    """
    is_pooled = context.experiment.protocol.cross_validation is not None
    counted = {item.name for item in context.train_sets[: None if is_pooled else 1]}
    heads = {head.name for head in context.heads if head.reads_embeddings}
    embedded = {item.name: _embedding(context, item) for item in context.backbones}
    # By backbone and method (empty: frozen), then by seed.
    sides: dict[tuple[str, str], dict[int, list[_Work]]] = {}
    heads_of: dict[str, set[str]] = {}
    for cell in context.prediction_cells():
        backbone, method, seed = cell.backbone or "", cell.method or "", cell.seed or 0
        is_frozen = not is_finetuned(method)
        if cell.train_set not in counted or (
            is_frozen and (method not in heads or not embedded[backbone])
        ):
            continue
        manifest = (known or {}).get(cell.artefact.path)
        if manifest is None and cell.artefact.is_complete:
            manifest = cell.artefact.manifest()
        if manifest is None:
            continue
        if is_frozen:
            runs = sides.setdefault((backbone, ""), {})
            work = _Work(manifest, "cpu", HEAD)
            runs.setdefault(seed, list(embedded[backbone])).append(work)
            heads_of.setdefault(backbone, set()).add(method)
        else:
            runs = sides.setdefault((backbone, method), {})
            work = _Work(manifest, device_of(manifest), WEIGHTS)
            runs.setdefault(seed, []).append(work)
    found = []
    for backbone in embedded:
        for (name, method), runs in sides.items():
            if name == backbone:
                num_heads = 0 if method else len(heads_of[name])
                found.append(_cost(name, method, num_heads, list(runs.values()), context.prices))
    return found


def cost_rows(costs: Sequence[SideCost]) -> list[tuple[str | float | None, ...]]:
    """Return the rows of ``COST_COLUMNS``."""
    return [
        (
            cost.backbone,
            cost.method or f"frozen, {cost.num_heads} head{'' if cost.num_heads == 1 else 's'}",
            " + ".join(cost.devices) or None,
            cost.device_seconds,
            _per(1e3, cost.joules),
            _per(2**20, cost.peak_memory_bytes),
            _per(2**20, cost.peak_device_bytes),
            _per(1e6, cost.storage_bytes),
            _money(cost.price, cost.currency),
            _money(cost.storage_price, cost.currency),
        )
        for cost in costs
    ]


def device_of(manifest: Manifest) -> str | None:
    """Return the device of embeddings or of a fine-tuning: ``cpu``, or a GPU's model; None: none.

    Embeddings of older versions call any GPU ``cuda``.
    """
    found = manifest.get("device") or manifest.get("plan") or {}
    name = found.get("model") or found.get("device")
    return None if name in (None, "none") else str(name)


def peaks_of(manifest: Manifest) -> tuple[int | None, int | None]:
    """Return the peaks of the memory of a process and of its GPU (bytes); None: not known."""
    host, device = manifest.get("peak_memory_bytes"), manifest.get("peak_device_bytes")
    plan = manifest.get("plan", {}).get("device", "cpu")
    # Fine-tunings of older versions on a GPU kept its memory in place of the process's.
    if device is None and "energy" not in manifest and plan != "cpu":
        return None, host
    return host, device


class _Work(NamedTuple):
    """The manifest of an artefact, what it ran on, and the file to keep of it (empty: all)."""

    manifest: Manifest
    device: str | None
    keeps: str = ""

    @property
    def seconds(self) -> float | None:
        found = self.manifest.get("seconds", {}).get("device")
        return None if found is None else float(found)

    @property
    def num_bytes(self) -> int | None:
        sizes = self.manifest.get("bytes")
        if sizes is None:
            return None
        kept = [size for name, size in sizes.items() if self.keeps in ("", current_name(name))]
        return int(sum(kept))


def _embedding(context: Context, backbone: Backbone) -> list[_Work]:
    """Return the embeddings of a backbone and of its flips; none if some are not there."""
    artefacts = (context.embeddings(backbone), *context.flipped(backbone).values())
    if not all(artefact.is_complete for artefact in artefacts):
        return []
    manifests = [artefact.manifest() for artefact in artefacts]
    return [_Work(item, device_of(item)) for item in manifests]


def _cost(
    backbone: str,
    method: str,
    num_heads: int,
    runs: Sequence[Sequence[_Work]],
    prices: Prices | None,
) -> SideCost:
    """Return the mean over the runs of a side, one of each seed."""
    every = [work for run in runs for work in run]
    hosts, gpus = zip(*(peaks_of(work.manifest) for work in every), strict=True)
    joules = _mean(runs, lambda work: joules_of(work.manifest))
    stored = _mean(runs, lambda work: work.num_bytes)
    num_bytes = None if stored is None else round(stored)
    known_gpus = [peak for peak in gpus if peak is not None]
    return SideCost(
        backbone=backbone,
        method=method,
        num_heads=num_heads,
        devices=tuple(dict.fromkeys(work.device for work in every if work.device)),
        device_seconds=_mean(runs, lambda work: work.seconds),
        joules=joules,
        peak_memory_bytes=None if None in hosts else max(hosts),
        peak_device_bytes=max(known_gpus, default=None),
        storage_bytes=num_bytes,
        price=None
        if prices is None
        else _mean(runs, lambda work: prices.of_seconds(work.seconds, work.device)),
        storage_price=None if prices is None else prices.of_bytes(num_bytes),
        currency="" if prices is None else prices.currency,
    )


def _mean(
    runs: Sequence[Sequence[_Work]], value_of: Callable[[_Work], float | None]
) -> float | None:
    """Return the mean over runs of the sum of their work; None: a value is not known."""
    values = [value_of(work) for run in runs for work in run]
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(runs) if len(known) == len(values) else None


def _per(unit: float, value: float | None) -> float | None:
    return None if value is None else value / unit


def _money(value: float | None, currency: str) -> str | None:
    return None if value is None else f"{value:,.{2 if value >= 1 else 5}f} {currency}"
