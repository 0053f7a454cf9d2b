"""How few bytes are enough: embeddings shortened or packed beside the whole one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from benchmark.derived import describe_made
from benchmark.page.html import Picture, Table
from benchmark.page.sizes import plot_sizes
from benchmark.stages.report.content_tables import p_text
from benchmark.stages.report.figures import picture
from benchmark.stages.report.results import Results

TITLE = "Score by the bytes of an embedding"
MAX_FAMILIES = 6
"""Whole embeddings that one figure shows."""


def size_tables(results: Results) -> tuple[Table, ...]:
    """Return a table of the variants of each whole embedding."""
    return tuple(
        Table(
            title=f"Variants of {family['full']} by size",
            columns=(
                *("backbone", "recipe", "head", "dimension", "bytes per patch"),
                *("balanced accuracy", "low", "high", "points from the whole", "from", "to"),
                *("p", "verdict"),
            ),
            rows=tuple(_cells(row) for row in family["rows"]),
            caption=(
                f"{family['sentence']} Heads are those best on val. The paired test is the flip "
                "test of the other tables, corrected for all variants; a difference that it does "
                "not detect may be as large as the interval allows. Bytes are those of the packed "
                "values, without the scales and components that all patches share."
            ),
        )
        for family in _families(results)
    )


def size_pictures(results: Results) -> list[Picture]:
    """Return the score against the bytes, with intervals."""
    rows = [
        {"full": family["full"], **row}
        for family in _families(results)[:MAX_FAMILIES]
        for row in family["rows"]
    ]
    if not rows:
        return []
    return [picture(results, "cost", TITLE, plot_sizes, pd.DataFrame(rows))]


def made_notes(results: Results) -> list[str]:
    """Return a sentence on backbones made from stored embeddings; or nothing."""
    context = results.context
    is_finetuning = context.experiment.finetune is not None
    sentence = describe_made(context.backbones, is_finetuning=is_finetuning)
    return [sentence] if sentence else []


def _families(results: Results) -> Sequence[dict[str, Any]]:
    # Scores of older versions do not hold them.
    found: Sequence[dict[str, Any]] = results.evaluated.get("sizes", ())
    short = results.naming.short
    return [
        {
            **family,
            "full": short[family["full"]],
            "rows": [row | {"backbone": short[row["backbone"]]} for row in family["rows"]],
            "sentence": results.naming.sentence(family["sentence"]),
        }
        for family in found
    ]


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    points = [row[key] for key in ("difference", "difference_low", "difference_high")]
    return (
        *(row["backbone"], row["recipe"] or None, row["method"], row["dim"], row["bytes"]),
        *(row["value"], row["ci_low"], row["ci_high"]),
        *(None if value is None else 100 * value for value in points),
        *(p_text(row["p_value"]), row["verdict"]),
    )
