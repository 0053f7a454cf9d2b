"""Figure of published scores beside those of a run: arrays in, no files."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.page.scores import (
    INK,
    STRIPE,
    legend_above,
    marks,
    new_figure,
    plain,
    records,
    rows_axis,
)

SIDES = (("published", -0.15, 1), ("run", 0.15, 0))
"""Prefix of the columns, place from the middle of the row, and number of the colour."""


def plot_beside(
    rows: pd.DataFrame, *, metric: str = "balanced accuracy", title: str = "", caption: str = ""
) -> Figure:
    """Plot each published score above that of its counterpart, both with their intervals.

    Args:
        rows: columns ``name``, and ``published``, ``published_low``, ``published_high``, ``run``,
            ``run_low`` and ``run_high`` (NaN if unknown). Drawn from top to bottom in this order.
        metric: label of the axis.
        title: heading inside the figure.
        caption: small print.
    """
    cells = records(rows)
    figure = new_figure(1.5 + 0.42 * len(cells), title=title, caption=caption)
    axes = figure.subplots()
    for place, cell in enumerate(cells):
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color=STRIPE, zorder=0)
        for side, shift, number in SIDES:
            style = marks(number)
            axes.hlines(
                place + shift, cell[f"{side}_low"], cell[f"{side}_high"], color=style["color"],
                linewidth=2.0, alpha=0.55, zorder=2,
            )  # fmt: skip
            axes.scatter(cell[side], place + shift, s=36, zorder=3, **style)
    rows_axis(axes, [plain(cell["name"], 40) for cell in cells], colors=[INK] * len(cells))
    axes.set_xlabel(plain(metric, 80), color=INK)
    labels = {"published": "published, with interval", "run": "this run, with interval"}
    legend_above(
        axes, [Line2D([], [], label=labels[side], **marks(number)) for side, _, number in SIDES]
    )
    return figure
