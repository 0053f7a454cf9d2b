"""Estimate what is left of an experiment: patches, trials, minutes and bytes; start nothing.

Minutes come from rates that earlier runs measured on this machine (``experiment.rates``). What was
not measured is not known, and is said to be so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmark.derived import describe_made
from benchmark.experiment.cells import Cell, CellResult, TextTable, count_flips
from benchmark.experiment.context import Context
from benchmark.experiment.label_sets import epoch_factor
from benchmark.experiment.rates import (
    START,
    Rate,
    Rates,
    embed_key,
    finetune_key,
    patches_key,
    tune_key,
)
from benchmark.methods import with_mode
from benchmark.specs import Backbone
from benchmark.stages.base import check_train_sets, listed_patches
from benchmark.stages.running import LAST
from benchmark.store.artefacts import LEFT_OUT

FAR = 10
"""A rate measured with so many times fewer or more patches is noted."""
NEAR = 2
"""The size of a cell is known if its rate was measured with at most so many times fewer or more
patches of train: some heads grow with them, and others do not."""
FLOAT_BYTES = 4
UNKNOWN = "not known yet"


@dataclass(frozen=True)
class PatchCounts:
    """The patches of an experiment; None: unknown until they are found."""

    num_patches: int | None = None
    num_train: int | None = None
    source: str = "unknown until found"


@dataclass
class StageEstimate:
    """What is left of one stage."""

    stage: str
    unit: str
    num_cells: int = 0
    num_items: int | None = 0
    """None: unknown until the patches are found."""
    seconds: float = 0.0
    """Of the cells whose rates are known."""
    num_bytes: float = 0.0
    """Of the cells whose sizes are known."""
    no_rate: set[str] = field(default_factory=set)
    """Backbones or heads whose rate is not known."""
    no_size: set[str] = field(default_factory=set)
    far: set[str] = field(default_factory=set)
    """Backbones or heads whose rate was measured with far fewer or more patches."""

    @property
    def minutes(self) -> float | None:
        """Minutes; None if a rate is not known."""
        return None if self.no_rate else self.seconds / 60

    @property
    def gigabytes(self) -> float | None:
        """Size in the store, in GB (10^9 bytes); None if a size is not known."""
        return None if self.no_size else self.num_bytes / 1e9

    def to_json(self) -> dict[str, Any]:
        """Return the record that ``--json`` prints."""
        return {
            "stage": self.stage,
            "cells": self.num_cells,
            "items": self.num_items,
            "unit": self.unit,
            "minutes": _rounded(self.minutes),
            "gigabytes": _rounded(self.gigabytes),
            "not_known": sorted(self.no_rate),
            "far": sorted(self.far),
        }


@dataclass(frozen=True)
class Estimate:
    """What is left of an experiment, by stage; stages without work are left out."""

    patches: PatchCounts
    stages: tuple[StageEstimate, ...]
    prices: tuple[str, ...] = ()
    """What the backbones cost whose image processor runs on the CPU, in sentences."""
    made: str = ""
    """Which backbones are made from stored embeddings, as a sentence; or nothing."""

    @property
    def minutes(self) -> float | None:
        """Minutes of all stages in turn; None if one is not known."""
        return _total(item.minutes for item in self.stages)

    @property
    def known_minutes(self) -> float:
        """Minutes of what is known."""
        return sum(item.seconds for item in self.stages) / 60

    @property
    def gigabytes(self) -> float | None:
        """GB that the store grows by; None if one is not known."""
        return _total(item.gigabytes for item in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` prints; null: not known."""
        trials = [item.num_items for item in self.stages if item.unit == "trials"]
        return {
            "patches": self.patches.num_patches,
            "patches_are": self.patches.source,
            "cells": sum(item.num_cells for item in self.stages),
            "trials": sum(number or 0 for number in trials),
            "minutes": _rounded(self.minutes),
            "minutes_at_least": _rounded(self.known_minutes),
            "gigabytes": _rounded(self.gigabytes),
            "stages": [item.to_json() for item in self.stages],
            "prices": list(self.prices),
        }

    def table(self) -> TextTable:
        """Return a table to print."""
        rows = [
            (
                item.stage,
                str(item.num_cells),
                self.patches.source if item.num_items is None else f"{item.num_items:,}",
                item.unit,
                _shown(item.minutes, item.seconds / 60),
                _shown(item.gigabytes, item.num_bytes / 1e9),
            )
            for item in self.stages
        ]
        known_gb = sum(item.num_bytes for item in self.stages) / 1e9
        total = (
            *("all", "", "", ""),
            _shown(self.minutes, self.known_minutes),
            _shown(self.gigabytes, known_gb),
        )
        return TextTable(
            title="Left to compute",
            columns=("stage", "cells", "items", "unit", "minutes", "GB"),
            rows=[*rows, total] if len(rows) > 1 else rows,
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterable[str]:
        yield f"{_describe(self.patches)}."
        yield from self.prices
        if self.made:
            yield self.made
        unknown = [f"{item.stage}{_named(item.no_rate)}" for item in self.stages if item.no_rate]
        if unknown:
            yield (
                f"Minutes {UNKNOWN}, because this machine has not computed it: "
                f"{'; '.join(unknown)}."
            )
        if any(not item.no_rate for item in self.stages):
            yield "Minutes are from rates that earlier runs measured here, one stage at a time."
        far = [f"{item.stage}{_named(item.far)}" for item in self.stages if item.far]
        if far:
            yield (
                f"Measured with more than {FAR} times fewer or more patches, so a rough guess: "
                f"{'; '.join(far)}."
            )


def estimate(
    context: Context, results: Sequence[CellResult], rates: Rates, *, stage: str | None = None
) -> Estimate:
    """Estimate the incomplete cells.

    Args:
        context: of the experiment.
        results: the status of every cell.
        rates: of this machine.
        stage: only of this stage.

    Raises:
        UsageError: the known patches cannot be divided into the train sets.
    """
    check_train_sets(context)
    left = [
        item.cell
        for item in results
        if item.status not in ("complete", LEFT_OUT) and stage in (None, item.cell.stage)
    ]
    patches = count_patches(context) if left else PatchCounts()
    ledger = _Ledger(context, patches, rates)
    for cell in left:
        ledger.add(cell)
    used = {cell.backbone for cell in left if cell.stage in ("embed", "finetune")}
    prices = tuple(
        f"Backbone '{item.name}': {item.processor.price}."
        for item in context.backbones
        if item.processor is not None and item.name in used
    )
    is_finetuning = context.experiment.finetune is not None
    made = describe_made(context.backbones, is_finetuning=is_finetuning)
    return Estimate(patches, tuple(ledger.stages.values()), prices, made)


def count_patches(context: Context) -> PatchCounts:
    """Return the number of patches, if the store has it or counting them reads no file."""
    if context.patches.is_complete:
        number = context.patches.manifest()["num_patches"]
        return PatchCounts(number, context.num_train, "in the store")
    chosen = listed_patches(context)
    if chosen is None:
        return PatchCounts()
    num_train = chosen["split"].to_pylist().count("train")
    return PatchCounts(chosen.num_rows, num_train, "counted")


@dataclass
class _Ledger:
    """The sums of each stage."""

    context: Context
    patches: PatchCounts
    rates: Rates
    stages: dict[str, StageEstimate] = field(default_factory=dict)

    def add(self, cell: Cell) -> None:
        """Add what is left of one cell."""
        units = {"tune": "trials", "finetune": "trials", **dict.fromkeys(LAST, "cells")}
        if cell.stage not in self.stages:
            found = StageEstimate(cell.stage, units.get(cell.stage, "patches"))
            self.stages[cell.stage] = found
            start = self.rates.find(cell.stage, START)
            found.seconds += start.seconds if start else 0.0
        found = self.stages[cell.stage]
        found.num_cells += 1
        add: Callable[[StageEstimate, Cell], None] = {
            "patches": self._add_patches,
            "embed": self._add_embed,
            "tune": self._add_tune,
            "finetune": self._add_finetune,
        }.get(cell.stage, self._add_whole)
        add(found, cell)

    def _add_patches(self, found: StageEstimate, cell: Cell) -> None:
        number = self.patches.num_patches
        rate = self.rates.find(*patches_key(self.context))
        found.num_items = number
        self._add_time(found, cell.dataset, rate, number, number)
        if rate is not None and number is not None:
            found.num_bytes += rate.num_bytes * number / rate.num_patches
        elif number is not None:
            size = self.context.experiment.dataset.patch_size
            found.num_bytes += number * len(self.context.source.bands) * size**2
        else:
            found.no_size.add(cell.dataset)

    def _add_embed(self, found: StageEstimate, cell: Cell) -> None:
        backbone = self._backbone(cell)
        number = self._not_embedded(cell)
        rate = self.rates.find(*embed_key(self.context, backbone))
        _count(found, number)
        self._add_time(found, backbone.name, rate, number, number)
        if number is not None and rate is not None:
            found.num_bytes += rate.num_bytes * number / rate.num_patches
        elif number is not None and backbone.dim is not None:
            found.num_bytes += number * backbone.dim * FLOAT_BYTES
        else:
            found.no_size.add(backbone.name)

    def _add_tune(self, found: StageEstimate, cell: Cell) -> None:
        (head,) = (item for item in self.context.heads if item.name == cell.method)
        trials = self.context.experiment.tune.num_trials if head.is_searched else 1
        number = self._num_train(cell)
        rate = self.rates.find(*tune_key(head.name))
        _count(found, trials)
        self._add_time(found, head.name, rate, _times(trials, number), number)
        if rate is not None and number is not None and not _is_far(rate, number, NEAR):
            found.num_bytes += rate.num_bytes
        else:
            found.no_size.add(head.name)

    def _add_finetune(self, found: StageEstimate, cell: Cell) -> None:
        config = self.context.experiment.finetune
        if config is None:
            return
        backbone = self._backbone(cell)
        number = self._num_train(cell)
        rate = self.rates.find(*finetune_key(self.context, backbone, cell.method))
        _count(found, config.num_trials)
        num_epochs = config.num_epochs
        if self.context.patches.is_complete:
            num_epochs *= epoch_factor(self.context.rows_of(cell))
        items = _times(config.num_trials * num_epochs, number)
        self._add_time(found, with_mode(backbone.name, cell.method), rate, items, number)
        found.num_bytes += backbone.num_parameters * FLOAT_BYTES

    def _num_train(self, cell: Cell) -> int | None:
        """Return the train patches of a cell; at most those of the data until all are known."""
        if self.context.patches.is_complete:
            return self.context.rows_of(cell).num_train
        return self.patches.num_train

    def _add_whole(self, found: StageEstimate, cell: Cell) -> None:
        number = len(self.context.prediction_cells())
        rate = self.rates.find(cell.stage)
        _count(found, number)
        self._add_time(found, "", rate, number, None)
        if rate is None:
            found.no_size.add("")
        else:
            found.num_bytes += rate.num_bytes

    def _add_time(
        self,
        found: StageEstimate,
        name: str,
        rate: Rate | None,
        num_items: float | None,
        num_patches: int | None,
    ) -> None:
        if rate is None or num_items is None:
            found.no_rate.add(name)
            return
        found.seconds += rate.wall_s(num_items)
        if num_patches is not None and _is_far(rate, num_patches, FAR):
            found.far.add(name)

    def _backbone(self, cell: Cell) -> Backbone:
        (backbone,) = (item for item in self.context.backbones if item.name == cell.backbone)
        return backbone

    def _not_embedded(self, cell: Cell) -> int | None:
        """Return the patches of the parts that an earlier run has not embedded."""
        if cell.flipped is not None:
            return count_flips(cell, self.patches.num_patches, self.patches.num_train)
        if not self.context.patches.is_complete:
            return self.patches.num_patches
        done = set(cell.artefact.files("part-"))
        parts = self.context.patches.manifest()["parts"]
        return sum(int(part["num_rows"]) for part in parts if part["name"] not in done)


def _count(found: StageEstimate, number: int | None) -> None:
    known = found.num_items
    found.num_items = None if known is None or number is None else known + number


def _times(number: int, patches: int | None) -> int | None:
    return None if patches is None else number * patches


def _is_far(rate: Rate, num_patches: int, factor: float) -> bool:
    return not rate.num_patches / factor <= num_patches <= rate.num_patches * factor


def _total(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else sum(value or 0.0 for value in found)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _shown(value: float | None, known: float) -> str:
    """Return a number, or the part of it that is known."""
    if value is None:
        return f"more than {_digits(known)}" if known >= 0.001 else UNKNOWN
    return _digits(value)


def _digits(value: float) -> str:
    if 0 < value < 0.001:
        return "< 0.001"
    return f"{value:.{0 if value >= 10 else 1 if value >= 1 else 2 if value >= 0.1 else 3}f}"


def _describe(patches: PatchCounts) -> str:
    if patches.num_patches is None:
        return f"The number of patches is {patches.source}"
    return f"{patches.num_patches:,} patches ({patches.source}), {patches.num_train:,} of train"


def _named(names: Iterable[str]) -> str:
    listed = sorted(name for name in names if name)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return f" of {', '.join(listed[:5])}{more}" if listed else ""
