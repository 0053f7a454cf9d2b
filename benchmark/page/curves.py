"""Figures of fine-tuning: its gains and learning curves; arrays in, no files."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmark.page.scores import (
    FLOOR,
    GREY,
    INK,
    MUTED,
    PALETTE,
    curves_legend,
    frame,
    legend_above,
    marks,
    new_figure,
    plain,
    records,
    rows_axis,
)

_ROUND = ("-", "--", ":", "-.")
_PANELS = (("val_score", "balanced accuracy on val"), ("train_loss", "loss on train"))


def plot_gains(rows: pd.DataFrame, *, title: str = "", caption: str = "") -> Figure:
    """Plot fine-tuned minus frozen with its interval, one row per backbone.

    Args:
        rows: columns ``backbone``, ``head`` (of the frozen side), ``gain``, ``gain_low``,
            ``gain_high`` (in balanced accuracy, 0...1, drawn in points) and ``is_detectable``.
            Drawn from top to bottom in this order.
        title: heading inside the figure.
        caption: small print.
    """
    cells = records(rows)
    figure = new_figure(1.3 + 0.36 * len(cells), title=title, caption=caption)
    axes = figure.subplots()
    axes.axvline(0.0, color=INK, linewidth=1, zorder=1)
    for place, cell in enumerate(cells):
        color = _verdict_color(cell)
        low, gain, high = (100 * cell[key] for key in ("gain_low", "gain", "gain_high"))
        axes.hlines(place, low, high, color=color, linewidth=2, zorder=2)
        axes.vlines([low, high], place - 0.13, place + 0.13, color=color, linewidth=2, zorder=2)
        axes.scatter(
            gain, place, s=48, color=color if cell["is_detectable"] else "white",
            edgecolor=color, linewidth=1.6, zorder=3,
        )  # fmt: skip
    names = [f"{plain(cell['backbone'])}  ·  {plain(cell['head'], 24)}" for cell in cells]
    rows_axis(axes, names, colors=[INK] * len(names))
    # Keep zero inside the axis, away from its edges.
    left, right = axes.get_xlim()
    span = max(right, 0.0) - min(left, 0.0)
    axes.set_xlim(min(left, -0.08 * span), max(right, 0.08 * span))
    axes.set_xlabel(
        "points of balanced accuracy, fine-tuned minus frozen with that head", color=INK
    )
    kinds = {
        "fine-tuning gains": {"gain": 1, "is_detectable": True},
        "fine-tuning loses": {"gain": -1, "is_detectable": True},
        "no detectable difference": {"gain": 0, "is_detectable": False},
    }
    handles = []
    for name, kind in kinds.items():
        color = _verdict_color(kind)
        fill = color if kind["is_detectable"] else "white"
        handles.append(Line2D([], [], marker="o", color=color, mfc=fill, label=name))
    legend_above(axes, handles)
    return figure


def plot_curves(rows: pd.DataFrame, *, title: str = "", caption: str = "") -> Figure:
    """Plot the val score and the training loss of every epoch of fine-tunings.

    The best trial of each backbone and seed has the backbone's colour; other trials are grey.

    Args:
        rows: columns ``backbone``, ``seed``, ``trial``, ``epoch``, ``val_score``,
            ``train_loss``, ``is_best`` (row of the best trial) and ``is_chosen`` (row of the
            epoch kept from it).
        title: heading inside the figure.
        caption: small print.
    """
    backbones = list(dict.fromkeys(rows["backbone"]))
    height = 3.6 + 0.22 * -(-len(backbones) // 2)
    figure = new_figure(height, title=title, caption=caption)
    for axes, (column, label) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        for (backbone, _, _), one in rows.groupby(["backbone", "seed", "trial"], sort=False):
            _curve(axes, one.sort_values("epoch"), column, backbones.index(backbone))
        frame(axes, grid="both")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, rows["epoch"].max() + 0.5)
        axes.margins(y=0.08)
        axes.set_xlabel("epoch", color=INK)
        axes.set_ylabel(label, color=INK)
    handles = [
        Line2D([], [], label=plain(name, 30), markersize=4, **_style(index))
        for index, name in enumerate(backbones)
    ]
    handles.append(
        Line2D([], [], ls="", marker="o", ms=9, color=INK, mfc="none", label="epoch kept")
    )
    if not rows["is_best"].all():
        handles.append(Line2D([], [], color=GREY, linewidth=0.9, label="other trials"))
    curves_legend(figure, handles)
    return figure


def _curve(axes: Axes, one: pd.DataFrame, column: str, index: int) -> None:
    if not one["is_best"].all():
        # Dots as well: a curve of one epoch has no line.
        axes.plot(one["epoch"], one[column], color=GREY, linewidth=0.9, zorder=1)
        axes.scatter(one["epoch"], one[column], color=GREY, s=4, zorder=1)
        return
    style = _style(index)
    axes.plot(one["epoch"], one[column], markersize=4, zorder=3, **style)
    kept = one[one["is_chosen"]]
    axes.scatter(
        kept["epoch"], kept[column], s=80, facecolors="none", edgecolors=style["color"],
        linewidths=1.4, zorder=4,
    )  # fmt: skip


def _style(index: int) -> dict[str, Any]:
    return {**marks(index), "linestyle": _ROUND[index // len(PALETTE) % len(_ROUND)]}


def _verdict_color(cell: dict[str, Any]) -> str:
    if not cell["is_detectable"]:
        return MUTED
    return PALETTE[0] if cell["gain"] > 0 else FLOOR
