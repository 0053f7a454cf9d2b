"""What one seed of each backbone took, frozen and fine-tuned, from the manifests of its cells.

Frozen is the embedding and the searches of all heads that read it; fine-tuned is the search of one
mode. Both are of the train set of the headline, or of all folds, and means over seeds; methods that
are not complete for all seeds are left out. A figure that a manifest lacks makes the sum unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmark.energy import joules_of
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.methods import is_finetuned
from benchmark.prices import Prices
from benchmark.specs import Backbone
from benchmark.store.names import HEAD, WEIGHTS, current_name

Manifest = Mapping[str, Any]

_OPTIONAL = ("of the GPU, MiB", "price", "storage a month")
"""Columns that are left out where no row has a value."""

COST_NOTE = (
    "Of methods that are complete for all seeds; a dash: the device does not tell it. "
    "docs/RESULTS.md explains the columns."
)
COST_CAPTION = (
    "One seed, of methods that are complete for all. Frozen: the embedding and the searches of all "
    "heads on it; fine-tuned: its search. "
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
    """Heads on its embeddings."""
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
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in context.prediction_cells():
        if cell.train_set in counted and (is_finetuned(cell.method) or cell.method in heads):
            cells.setdefault((cell.backbone or "", cell.method or ""), []).append(cell)
    num_seeds = len(context.experiment.seeds)
    found = []
    for backbone in context.backbones:
        embedded = _embedding(context, backbone)
        frozen: list[_Work] = []
        tuned: dict[str, list[_Work]] = {}
        num_heads = 0
        for (name, method), mine in cells.items():
            if name != backbone.name or (not is_finetuned(method) and not embedded):
                continue
            manifests = _read(mine, known or {})
            if is_finetuned(method):
                tuned[method] = [_Work(item, device_of(item), WEIGHTS) for item in manifests]
            elif manifests:
                num_heads += 1
                frozen += [_Work(item, "cpu", HEAD) for item in manifests]
        if frozen:
            tuned = {"": [*(embedded * num_seeds), *frozen], **tuned}
        found += [
            _cost(
                backbone.name, method, 0 if method else num_heads, works, num_seeds, context.prices
            )
            for method, works in tuned.items()
            if works
        ]
    return found


def _read(cells: Sequence[Cell], known: Mapping[str, Manifest]) -> list[Manifest]:
    """Return the manifests of the cells of a method; none unless all are complete."""
    if not all(cell.artefact.path in known or cell.artefact.is_complete for cell in cells):
        return []
    return [known.get(cell.artefact.path) or cell.artefact.manifest() for cell in cells]


def tabulate(
    costs: Sequence[SideCost],
) -> tuple[tuple[str, ...], list[tuple[str | float | None, ...]]]:
    """Return the columns and the rows of a table of costs; the first two columns name the row."""
    heads = [f"{cost.num_heads} head{'' if cost.num_heads == 1 else 's'}" for cost in costs]
    columns: dict[str, list[Any]] = {
        "backbone": [cost.backbone for cost in costs],
        "side": [
            cost.method or f"frozen, {words}" for cost, words in zip(costs, heads, strict=True)
        ],
        "device": [" + ".join(cost.devices) or None for cost in costs],
        "device-seconds": [cost.device_seconds for cost in costs],
        "energy, kJ": [_per(1e3, cost.joules) for cost in costs],
        "peak memory, MiB": [mebibytes(cost.peak_memory_bytes) for cost in costs],
        "of the GPU, MiB": [mebibytes(cost.peak_device_bytes) for cost in costs],
        "stored, MB": [_per(1e6, cost.storage_bytes) for cost in costs],
        "price": [_money(cost.price, cost.currency) for cost in costs],
        "storage a month": [_money(cost.storage_price, cost.currency) for cost in costs],
    }
    for name in _OPTIONAL:
        if not any(columns[name]):
            del columns[name]
    return tuple(columns), list(zip(*columns.values(), strict=True))


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
    works: Sequence[_Work],
    num_seeds: int,
    prices: Prices | None,
) -> SideCost:
    """Return what one of the seeds of a side took."""

    def mean(values: Iterable[float | None]) -> float | None:
        total = sum(math.nan if value is None else value for value in values)
        return None if math.isnan(total) else total / num_seeds

    hosts, gpus = zip(*(peaks_of(work.manifest) for work in works), strict=True)
    stored = mean(work.num_bytes for work in works)
    return SideCost(
        backbone=backbone,
        method=method,
        num_heads=num_heads,
        devices=tuple(dict.fromkeys(work.device for work in works if work.device)),
        device_seconds=mean(work.seconds for work in works),
        joules=mean(joules_of(work.manifest) for work in works),
        peak_memory_bytes=None if None in hosts else max(hosts),
        peak_device_bytes=max((peak for peak in gpus if peak is not None), default=None),
        storage_bytes=None if stored is None else round(stored),
        price=None
        if prices is None
        else mean(prices.of_seconds(work.seconds, work.device) for work in works),
        storage_price=None if prices is None else prices.of_bytes(stored),
        currency="" if prices is None else prices.currency,
    )


def _per(unit: float, value: float | None) -> float | None:
    return None if value is None else value / unit


def mebibytes(value: int | None) -> int | None:
    """Return bytes as whole MiB."""
    return None if value is None else round(value / 2**20)


def _money(value: float | None, currency: str) -> str | None:
    return None if value is None else f"{value:{',.2f' if value >= 1 else '.3g'}} {currency}"
