"""The result of an experiment in a few plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmark.methods import is_finetuned, with_mode
from benchmark.options import ANY_BACKBONE
from benchmark.page.html import Verdict
from benchmark.page.leaderboard import RankingRow


def name_method(backbone: str, method: str) -> str:
    """Return a cell's name for a sentence: ``a with mlp``, or ``fine-tuned a (lora)``.

    What depends on no backbone has the name of its method alone.
    """
    if backbone == ANY_BACKBONE:
        return method
    if is_finetuned(method):
        return with_mode(f"fine-tuned {backbone}", method)
    return f"{backbone} with {method}"


def join_first(items: Sequence[str], limit: int, *, separator: str = ", ") -> str:
    """Return the first items in one text, e.g. ``a, b, c and 2 more``."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more


def write_headline(
    ranking: Sequence[RankingRow],
    *,
    metric: str = "balanced accuracy",
    split: str = "test",
    confidence: float = 0.95,
    ties: Sequence[str] | None = None,
    verdicts: Sequence[Verdict] = (),
    is_too_little: bool = False,
) -> str:
    """Return the result in a few plain sentences.

    Args:
        ranking: best first.
        metric: name of the metric.
        split: name of the split.
        confidence: of the intervals.
        ties: names of the other cells that no test tells from the leader; None:
            differences were not computed.
        verdicts: effects of fine-tuning; the one of the best backbone is appended.
        is_too_little: whether test is too small for any verdict.
    """
    if not ranking:
        return "No cell has a score yet."
    best = ranking[0]
    floor = next((row for row in ranking if row.is_floor), None)
    score = f"{best.value:.3f} {metric} on {split}{_interval_text(best, confidence)}"
    name = name_method(best.backbone, best.method)
    if best.is_floor:
        sentence = f"Nothing beats the trivial floor: {name} leads with {score}."
    elif floor is None:
        sentence = f"{_begin(name)} leads with {score}; there is no floor to compare with."
    else:
        gap = 100 * (best.value - floor.value)
        floor_name = name_method(floor.backbone, floor.method)
        sentence = (
            f"{_begin(name)} leads with {score}; the best floor, {floor_name}, "
            f"is {gap:.1f} points below at {floor.value:.3f}."
        )
    if is_too_little:
        sentence += " There is too little data to tell any row from another."
    elif ties:
        sentence += f" No detectable difference from the leader: {join_first(ties, 3)}."
    elif ties is not None and len(ranking) > 1:
        sentence += " Its lead over every other row is detectable."
    by_backbone = {verdict.backbone: verdict for verdict in verdicts}
    verdict = next(
        (by_backbone[row.backbone] for row in ranking if row.backbone in by_backbone), None
    )
    if verdict:
        sentence += f" With {verdict.backbone}, {verdict.sentence}."
    return sentence


def _begin(name: str) -> str:
    # Capitalise the first word of the sentence, but never a backbone's name.
    return name.replace("fine-tuned", "Fine-tuned", 1) if name.startswith("fine-tuned ") else name


def _interval_text(row: RankingRow, confidence: float) -> str:
    low, high = row.ci_low, row.ci_high
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return " (no interval)"
    return f" ({confidence * 100:g} % interval {low:.3f} to {high:.3f})"
