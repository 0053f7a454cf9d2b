"""Names of the page: short ones of backbones, and one for what depends on none."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from benchmark.experiment.cells import Cell
from benchmark.options import ANY_BACKBONE

ROUNDING = 1e-12
"""Difference of scores that is rounding."""


class Naming:
    """Replaces names of backbones by those of the page, in tables, cells and sentences.

    Rows and cells of a head that does not read embeddings are the same for every backbone: those
    of one backbone are kept, and named ``ANY_BACKBONE``.

    Attributes:
        short: name of the page by name of the experiment.
        kept: the backbone whose cells are kept, by head that does not read embeddings.
    """

    def __init__(
        self, short: Mapping[str, str], heads: Collection[str], ranking: pd.DataFrame
    ) -> None:
        """Choose the kept cells.

        Args:
            short: name of the page by name of the experiment.
            heads: that do not read embeddings.
            ranking: with ``backbone``, ``method``, ``value``, ``num_seeds`` and ``train_set``.
        """
        self.short = dict(short)
        self.kept = {
            head: found for head in heads if (found := _first_backbone(ranking, head)) is not None
        }

    def table(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the page, with its names in the column ``backbone``."""
        if "backbone" not in rows:
            return rows
        names = rows["backbone"].map(self.short).fillna(rows["backbone"])
        if "method" not in rows:
            return rows.assign(backbone=names)
        kept = rows["method"].map(self.kept)
        is_shown = kept.isna() | (kept == rows["backbone"])
        return rows.assign(backbone=names.mask(kept.notna(), ANY_BACKBONE))[is_shown]

    def cell(self, cell: Cell) -> Cell | None:
        """Return the cell with the name of the page; None: the page shows another in its place."""
        kept = self.kept.get(cell.method or "")
        if kept is None:
            return self.named(cell)
        return replace(cell, backbone=ANY_BACKBONE) if cell.backbone == kept else None

    def named(self, cell: Cell) -> Cell:
        """Return the cell with the short name of its backbone."""
        return replace(cell, backbone=self.short.get(cell.backbone or "", cell.backbone))

    def sentence(self, text: str) -> str:
        """Return a sentence of the store with the names of the page."""
        names = sorted(self.short, key=len, reverse=True)
        return re.sub("|".join(map(_mentions, names)), lambda found: self.short[found[0]], text)


def _mentions(name: str) -> str:
    """Return a pattern of a backbone's name in a sentence."""
    whole = re.escape(name)
    if ":" in name:
        return whole
    # A plain name may be a word of the sentence: only where a backbone is named.
    return (
        rf"(?<=[Ww]ith ){whole}(?=,)|(?<=fine-tuned ){whole}(?![\w-])|(?<!\S){whole}(?= / | with )"
    )


def _first_backbone(ranking: pd.DataFrame, head: str) -> str | None:
    """Return the first backbone with most seeds; None: none, or the scores depend on it."""
    rows = ranking[ranking["method"] == head]
    if rows.empty:
        return None
    groups = ["num_seeds", *({"train_set"} & set(rows))]
    if (rows.groupby(groups)["value"].agg(np.ptp) > ROUNDING).any():
        return None
    return str(rows.groupby("backbone", sort=False)["num_seeds"].sum().idxmax())
