"""Comparison of each fine-tuning of a backbone with the same one frozen, on the same test patches.

A gain is always fine-tuned minus frozen: above zero, fine-tuning is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.config import EvaluateConfig
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.flipped import embedding_seconds
from benchmark.methods import FINETUNE, is_finetuned, with_mode
from benchmark.stages.evaluate.schemas import COMPARISON
from benchmark.statistics.design import Design
from benchmark.statistics.flips import NO_DIFFERENCE, TOO_LITTLE, flip_table
from benchmark.statistics.intervals import Interval, quantile_of
from benchmark.tables import check_table


@dataclass(frozen=True, eq=False)
class Group:
    """All seeds of one method of one backbone, on test.

    Attributes:
        cells: one per seed.
        values: (seeds,) the headline metric.
        interval: of the mean over seeds, on other scenes.
        right: (N,) share of seeds that classify a patch correctly.
    """

    cells: tuple[Cell, ...]
    values: NDArray[np.float64]
    interval: Interval
    right: NDArray[np.float64]

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        return self.cells[0].backbone or ""

    @property
    def method(self) -> str:
        """A head's name, or that of a fine-tuning."""
        return self.cells[0].method or ""

    @property
    def is_finetuned(self) -> bool:
        """Whether the backbone itself was trained."""
        return is_finetuned(self.method)

    @property
    def value(self) -> float:
        """The mean over seeds."""
        return float(self.values.mean())

    @property
    def seed_std(self) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else None

    def expected_interval(self, confidence: float) -> Interval:
        """Return the interval of the expected score of the method, over seeds and scenes.

        The squares of the half widths of both are added; NaN for one seed.
        """
        if self.seed_std is None:
            return Interval(float("nan"), float("nan"))
        num = len(self.values)
        of_seeds = quantile_of(confidence, num) * self.seed_std / num**0.5
        below = float(np.hypot(self.value - self.interval.low, of_seeds))
        above = float(np.hypot(self.interval.high - self.value, of_seeds))
        return Interval(max(self.value - below, 0.0), min(self.value + above, 1.0))


class Cost(NamedTuple):
    """Val score and device time of one cell.

    ``seconds``: device-seconds, including those of the embeddings of a head; None: unknown.
    """

    val_score: float
    seconds: float | None
    device: str | None


def read_costs(context: Context, cells: Mapping[Cell, Sequence[Cell]]) -> dict[Cell, Cost]:
    """Read the costs of complete cells of predictions from their manifests.

    Each cell that uses embeddings is charged their full cost, as if it were the only one.

    Args:
        context: of the experiment.
        cells: the cells whose predictions each scored one holds: itself, or those of its folds.
    """
    embedded: dict[str, tuple[dict[str, Any], float | None]] = {}
    for backbone in context.backbones:
        artefact = context.embeddings(backbone)
        if artefact.is_complete:
            first = artefact.manifest()
            seconds = embedding_seconds(first, context.flipped(backbone).values())
            embedded[backbone.name] = (first, seconds)
    found = {}
    for cell, parts in cells.items():
        manifests = [part.artefact.manifest() for part in parts]
        manifest = manifests[0]
        val_score = _total([_number(item, "val_score") for item in manifests])
        seconds = _total([_number(item, "seconds", "device") for item in manifests])
        if is_finetuned(cell.method):
            device = manifest.get("plan", {}).get("device")
        else:
            # The time of embeddings that have been deleted is unknown.
            first, embed_s = embedded.get(cell.backbone or "", ({}, None))
            device = first.get("device", {})
            seconds = None if seconds is None or embed_s is None else embed_s + seconds
            device = device.get("device")
        score = -np.inf if val_score is None else val_score / len(parts)
        found[cell] = Cost(score, seconds, None if device is None else str(device))
    return found


def compare(
    groups: Sequence[Group],
    *,
    design: Design,
    costs: Mapping[Cell, Cost],
    floors: set[str],
    settings: EvaluateConfig,
) -> pa.Table:
    """Compare every fine-tuning with the same backbone frozen.

    The frozen side is the head with the best val score, mean over its seeds. The choice does not
    depend on test.

    Args:
        groups: scored on the same patches.
        design: of test.
        costs: of every cell of ``groups``.
        floors: names of heads that are never the frozen side.
        settings: confidence and seed.

    Returns:
        Rows of ``COMPARISON`` in the order of ``groups``; none if no backbone has both.
    """
    pairs: list[tuple[Group, Group]] = []
    for tuned in groups:
        frozen_group = find_frozen(groups, tuned.backbone, costs, floors)
        if tuned.is_finetuned and frozen_group:
            pairs.append((frozen_group, tuned))
    rows: list[dict[str, Any]] = []
    if pairs:
        flips = flip_table(
            np.stack([design.contributions(b.right - a.right) for a, b in pairs], axis=1),
            design.unit_weights,
            alpha=1.0 - settings.confidence,
            seed=settings.seed,
            folds=design.folds,
        )
        for number, (frozen_side, tuned) in enumerate(pairs):
            row = _row(frozen_side, tuned, costs)
            low, high = flips.intervals[number]
            verdict = NO_DIFFERENCE
            if flips.is_too_little:
                verdict = TOO_LITTLE
            elif flips.is_detected[number]:
                verdict = "gains" if row["gain"] > 0 else "loses"
            rows.append(
                row
                | {
                    "gain_low": low,
                    "gain_high": high,
                    "is_detectable": bool(flips.is_detected[number]),
                    "verdict": verdict,
                    "p_value": float(flips.p_values[number]),
                    "sentence": write_sentence(
                        row["gain"], low, high, row["ratio"], verdict, tuned.method
                    ),
                }
            )
    return check_table(pa.Table.from_pylist(rows, schema=COMPARISON), COMPARISON, what="comparison")


def find_frozen(
    groups: Sequence[Group], backbone: str, costs: Mapping[Cell, Cost], floors: set[str]
) -> Group | None:
    """Return the head of a backbone with the best val score; None: all its heads are floors."""
    found = [
        group
        for group in groups
        if group.backbone == backbone and not group.is_finetuned and group.method not in floors
    ]
    return max(found, key=lambda group: _val_score(group, costs), default=None)


def _row(frozen: Group, tuned: Group, costs: Mapping[Cell, Cost]) -> dict[str, Any]:
    frozen_s, tuned_s = mean_seconds(frozen, costs), mean_seconds(tuned, costs)
    return {
        "train_set": tuned.cells[0].train_set,
        "backbone": tuned.backbone,
        "method": tuned.method,
        "head": frozen.method,
        "head_val_score": _val_score(frozen, costs),
        "frozen_value": frozen.value,
        "finetuned_value": tuned.value,
        "gain": tuned.value - frozen.value,
        "frozen_seeds": len(frozen.cells),
        "finetuned_seeds": len(tuned.cells),
        "frozen_seconds": frozen_s,
        "finetuned_seconds": tuned_s,
        "ratio": tuned_s / frozen_s if frozen_s and tuned_s is not None else None,
        "frozen_device": costs[frozen.cells[0]].device,
        "finetuned_device": costs[tuned.cells[0]].device,
    }


def write_sentence(
    gain: float,
    low: float,
    high: float,
    ratio: float | None,
    verdict: str,
    method: str = FINETUNE,
) -> str:
    """Return a sentence on the gain and cost of fine-tuning, without a full stop.

    Args:
        gain: balanced accuracy, fine-tuned minus frozen.
        low: lower end of its interval.
        high: its upper end.
        ratio: device-seconds, fine-tuned over frozen; None: unknown.
        verdict: ``gains``, ``loses``, ``no detectable difference`` or ``too little data to tell``.
        method: of the fine-tuned side.
    """
    who = with_mode("fine-tuning", method)
    points = [100 * gain, 100 * low, 100 * high]
    is_gain, is_loss = verdict == "gains", verdict == "loses"
    # A detectable difference must not look as if its interval began at zero.
    is_small = (is_gain or is_loss) and min(abs(points[1]), abs(points[2])) < 0.05
    digits = 2 if is_small else 1
    if is_loss:
        points = [-points[0], -points[2], -points[1]]
    # Adding zero turns the minus zero that rounding may leave into zero.
    middle, begin, end = (f"{round(value, digits) + 0.0:.{digits}f}" for value in points)
    if verdict == TOO_LITTLE:
        text = f"there is {TOO_LITTLE} what {who} changes ({float(middle):+.{digits}f} points)"
    elif is_gain or is_loss:
        verb = "gains" if is_gain else "loses"
        text = f"{who} {verb} {middle} points [{begin}, {end}]"
    else:
        sign = "+" if float(middle) > 0 else ""
        change = f"{sign}{middle} points [{begin}, {end}]"
        text = f"{who} makes no detectable difference ({change})"
    cost = cost_words(ratio)
    return f"{text} {'for' if is_gain else 'at'} {cost}" if cost else text


def cost_words(ratio: float | None) -> str:
    """Return device-seconds in words, e.g. ``38 times the device-seconds``; empty: unknown."""
    if ratio is None:
        return ""
    if ratio >= 9.95:
        return f"{ratio:,.0f} times the device-seconds"
    if ratio >= 1.05:
        return f"{ratio:.1f} times the device-seconds"
    if ratio > 0.95:
        return "about the same device-seconds"
    if ratio >= 0.01:
        return f"{100 * ratio:.0f} % of the device-seconds"
    return "less than 1 % of the device-seconds"


def unlike_devices(comparison: pa.Table) -> list[str]:
    """Return a note for every row whose two sides ran on different kinds of device."""
    return [
        f"{row['backbone']}: {with_mode('fine-tuning', row['method'])} ran on "
        f"{row['finetuned_device']}, its embeddings on {row['frozen_device']}; their "
        "device-seconds are not comparable."
        for row in comparison.to_pylist()
        if are_unlike((row["frozen_device"], row["finetuned_device"]))
    ]


def are_unlike(devices: Sequence[str | None]) -> bool:
    """Return whether some devices are CPUs and others GPUs; None: unknown."""
    # One manifest has the model of a GPU, the other "cuda".
    return len({device == "cpu" for device in devices if device is not None}) > 1


def _val_score(group: Group, costs: Mapping[Cell, Cost]) -> float:
    return float(np.mean([costs[cell].val_score for cell in group.cells]))


def mean_seconds(group: Group, costs: Mapping[Cell, Cost]) -> float | None:
    """Return the device-seconds of one seed, the mean over seeds; None: unknown."""
    known = [costs[cell].seconds for cell in group.cells]
    found = [value for value in known if value is not None]
    return float(np.mean(found)) if len(found) == len(known) else None


def _total(values: Sequence[float | None]) -> float | None:
    """Return the sum of numbers; None if one is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _number(manifest: Mapping[str, Any], *keys: str) -> float | None:
    value: Any = manifest
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else float(value)
