"""How long work took on this machine, kept in the user's cache, to estimate what is left.

After each stage, a run reads the manifests of what it computed. A rate belongs to a machine (its
processor and number of cores), to the cluster that the run was on, to a stage, and to what was
computed: a data set, backbone or head. Nothing is guessed: what was not measured is not known.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from benchmark.experiment.label_sets import epoch_factor
from benchmark.experiment.usage import StageUsage
from benchmark.methods import FINETUNE, finetunings
from benchmark.specs import Backbone
from benchmark.store import provenance
from benchmark.store.cache import cache_folder

if TYPE_CHECKING:
    from benchmark.experiment.cells import Cell
    from benchmark.experiment.context import Context

logger = logging.getLogger("benchmark")

FILE = "rates.json"
LOCK_TIMEOUT_S = 1.0
MUCH_LARGER = 10
"""A rate of so many times more items is not replaced: small measurements consist of start-up."""
START = "start"
"""Name of the seconds of a stage in which its slots do not work yet, or no more."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One measurement: ``seconds`` of one slot for ``num_items`` items."""

    seconds: float
    num_items: float
    num_slots: int = 1
    """Items in parallel."""
    setup_s: float = 0.0
    """Seconds before the first item, whatever their number."""
    num_patches: int = 0
    """Patches of the data set, or of train, with which it was measured."""
    num_bytes: int = 0
    """Size of the artefact in the store."""
    written: str = ""
    """When it was measured (UTC)."""

    def wall_s(self, num_items: float) -> float:
        """Return the seconds for a number of items."""
        return self.setup_s + num_items * self.seconds / self.num_items / self.num_slots


class Rates:
    """The rates of one machine on one cluster."""

    def __init__(self, place: str, path: Path | None = None) -> None:
        """Read the rates.

        Args:
            place: ``local``, or the address of the cluster.
            path: of the file; None: in the user's cache.
        """
        self._where = f"{provenance.machine()} | {place}"
        self._path = path
        self._found = self._read().get(self._where, {})

    def find(self, *names: str) -> Rate | None:
        """Return the rate of a stage and of what it computes, or None if it is not known."""
        row: Any = self._found.get(_key(names))
        try:
            rate = Rate(**row)
            is_usable = rate.num_items > 0 and rate.num_slots > 0 and rate.seconds >= 0
        except TypeError:
            # Not known, or written by another version.
            return None
        return rate if is_usable else None

    def add(self, rates: Mapping[tuple[str, ...], Rate]) -> None:
        """Keep rates in the file; those of far fewer items than are known are left out."""
        kept = {}
        for names, rate in rates.items():
            known = self.find(*names)
            if known is None or known.num_items <= MUCH_LARGER * rate.num_items:
                kept[_key(names)] = asdict(rate)
        if not kept:
            return
        try:
            path = self._path or cache_folder() / FILE
            with filelock.FileLock(path.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S):
                content = self._read()
                self._found = {**content.get(self._where, {}), **kept}
                content[self._where] = self._found
                target = path.with_suffix(f".{os.getpid()}.tmp")
                target.write_text(json.dumps(content, indent=1))
                target.replace(path)
        except (OSError, filelock.Timeout) as error:
            logger.debug("the rates are not kept: %s", error)

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads((self._path or cache_folder() / FILE).read_bytes())
        except (OSError, ValueError):
            return {}
        is_valid = isinstance(content, dict) and all(isinstance(v, dict) for v in content.values())
        return content if is_valid else {}


def _key(names: Sequence[str]) -> str:
    return " | ".join(names)


# --- what a rate belongs to ---


def patches_key(context: Context) -> tuple[str, ...]:
    """Return the names of the rate of sampling."""
    return ("patches", context.dataset.name, f"{context.experiment.dataset.patch_size} px")


def embed_key(context: Context, backbone: Backbone) -> tuple[str, ...]:
    """Return the names of the rate of embedding with a backbone."""
    return ("embed", backbone.name, _side(context, backbone))


def tune_key(head: str) -> tuple[str, ...]:
    """Return the names of the rate of a head; its items are trials times patches of train."""
    return ("tune", head)


def finetune_key(context: Context, backbone: Backbone, method: str | None) -> tuple[str, ...]:
    """Return the names of the rate of training; its items are patches, in every epoch."""
    config = finetunings(context.experiment.finetune)[method or FINETUNE]
    return ("finetune", backbone.name, config.mode or "", _side(context, backbone))


def _side(context: Context, backbone: Backbone) -> str:
    return f"{backbone.image_size or context.experiment.dataset.patch_size} px"


# --- what a run learns ---


def learn(
    context: Context, stage: str, cells: Sequence[Cell], usages: Sequence[StageUsage]
) -> None:
    """Keep the rates of the cells that a stage has just computed; a failure is only logged.

    Args:
        context: of the run.
        stage: the stage's name.
        cells: the cells that it was to compute.
        usages: what it reported; empty if it computed nothing.
    """
    try:
        found = _measure(context, stage, cells, usages)
        Rates(context.cluster.place).add(found)
    except Exception as error:  # no manifest of another version may fail a run
        logger.debug("no rates of %s: %s", stage, error)


def _measure(
    context: Context, stage: str, cells: Sequence[Cell], usages: Sequence[StageUsage]
) -> dict[tuple[str, ...], Rate]:
    measure = MEASURES.get(stage)
    found: dict[tuple[str, ...], Rate] = {}
    if not usages:
        return found
    usage = usages[-1]
    if measure is None:
        num_cells = len(context.prediction_cells())
        seconds = usage.wall_s
        if all(cell.artefact.is_complete for cell in cells):
            num_bytes = sum(_bytes(cell.artefact.manifest()) for cell in cells)
            found[stage,] = _rate(seconds, num_cells, num_bytes=num_bytes)
        return found
    # One cell of each backbone and method is enough, and reading few manifests is quick: the first
    # of its train sets is the fullest.
    first = {
        (cell.backbone, cell.method): cell for cell in reversed(cells) if cell.artefact.is_complete
    }
    for cell in first.values():
        found |= measure(context, cell, usage)
    is_alone = not any(
        other.stage != stage and other.ended_s > usage.began_s for other in context.usages
    )
    if first and usage.busy_s is not None and is_alone:
        idle_s = max(0.0, usage.wall_s - usage.busy_s / max(1, usage.num_slots))
        found[stage, START] = _rate(idle_s, 1)
    return found


def _of_patches(context: Context, cell: Cell, usage: StageUsage) -> dict[tuple[str, ...], Rate]:
    del usage
    manifest = cell.artefact.manifest()
    seconds, number = manifest["seconds"], manifest["num_patches"]
    rate = _rate(
        seconds["read"],
        number,
        setup_s=seconds["find"],
        num_patches=number,
        num_bytes=_bytes(manifest),
    )
    return {patches_key(context): rate}


def _of_embed(context: Context, cell: Cell, usage: StageUsage) -> dict[tuple[str, ...], Rate]:
    (backbone,) = (item for item in context.backbones if item.name == cell.backbone)
    manifest = cell.artefact.manifest()
    seconds = manifest["seconds"]
    fit_s = manifest.get("fitted", {}).get("seconds", 0.0)
    # ``device`` counts a fit by core, if on cores: only what embedded is left.
    threads = manifest.get("fitted", {}).get("num_threads", 1)
    is_on_cores = manifest["device"]["device"] == "cpu"
    work_s = seconds["device"] - seconds["setup"] - (fit_s * threads if is_on_cores else 0.0)
    # Of embeddings made from stored ones, without these.
    work_s = seconds.get("own", work_s)
    slots = usage.num_slots
    rate = _rate(
        work_s,
        manifest["num_patches"],
        num_slots=slots,
        setup_s=fit_s + seconds["setup"] / slots,
        num_patches=manifest["num_patches"],
        num_bytes=_bytes(manifest),
    )
    return {embed_key(context, backbone): rate}


def _of_tune(context: Context, cell: Cell, usage: StageUsage) -> dict[tuple[str, ...], Rate]:
    manifest = cell.artefact.manifest()
    num_train = context.rows_of(cell).num_train
    items = manifest["num_trials"] * num_train
    rate = _rate(
        manifest["seconds"]["device"],
        items,
        num_slots=usage.num_slots,
        num_patches=num_train,
        num_bytes=_bytes(manifest),
    )
    return {tune_key(manifest["head"]): rate}


def _of_finetune(context: Context, cell: Cell, usage: StageUsage) -> dict[tuple[str, ...], Rate]:
    config = context.experiment.finetune
    if config is None:
        return {}
    (backbone,) = (item for item in context.backbones if item.name == cell.backbone)
    manifest = cell.artefact.manifest()
    num_train = context.rows_of(cell).num_train
    num_epochs = config.num_epochs * epoch_factor(context.rows_of(cell))
    items = manifest["num_trials"] * num_epochs * num_train
    rate = _rate(
        manifest["seconds"]["device"],
        items,
        num_slots=usage.num_slots,
        num_patches=num_train,
        num_bytes=_bytes(manifest),
    )
    return {finetune_key(context, backbone, cell.method): rate}


MEASURES: Mapping[str, Callable[[Context, Cell, StageUsage], dict[tuple[str, ...], Rate]]] = {
    "patches": _of_patches,
    "embed": _of_embed,
    "tune": _of_tune,
    "finetune": _of_finetune,
}
"""Stages whose cells differ; of the others only the whole stage is measured."""


def _rate(seconds: float, num_items: float, **more: Any) -> Rate:
    return Rate(
        seconds=max(0.0, round(seconds, 4)), num_items=num_items, written=provenance.now(), **more
    )


def _bytes(manifest: Mapping[str, Any]) -> int:
    return sum(manifest.get("bytes", {}).values())
