"""Figure of label efficiency: scores over the number of labels; arrays in, no files."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmark.page.scores import (
    FLOOR,
    INK,
    curves_legend,
    frame,
    interval_lines,
    marks,
    new_figure,
    plain,
)


def plot_labels(rows: pd.DataFrame, *, title: str = "", caption: str = "") -> Figure:
    """Plot the score of each method over the number of labels, with intervals.

    Fine-tuned methods have full markers, frozen ones empty markers; floors are brown and dotted.

    Args:
        rows: columns ``backbone``, ``method``, ``is_finetuned``, ``is_floor``, ``num_train``,
            ``value``, ``ci_low`` and ``ci_high``.
        title: heading inside the figure.
        caption: small print.
    """
    methods = list(dict.fromkeys(zip(rows["backbone"], rows["method"], strict=True)))
    height = 3.9 + 0.2 * -(-len(methods) // 3)
    figure = new_figure(height, title=title, caption=caption)
    axes = figure.subplots()
    handles = []
    numbers = sorted(set(rows["num_train"]))
    nearest = min((later / one for one, later in pairwise(numbers)), default=2.0)
    step = min(0.012, 0.4 * (nearest - 1) / len(methods))
    for index, (backbone, method) in enumerate(methods):
        mine = rows[(rows["backbone"] == backbone) & (rows["method"] == method)]
        one = mine.sort_values("num_train")
        first = one.iloc[0]
        style = {**marks(index), "markersize": 5, "linewidth": 1.5}
        if first["is_floor"]:
            style |= {"color": FLOOR, "linestyle": ":"}
        if not first["is_finetuned"]:
            style["markerfacecolor"] = "white"
        # Beside one another: intervals of several methods at one place would hide each other.
        beside = one["num_train"] * (1 + step * (index - (len(methods) - 1) / 2))
        axes.plot(beside, one["value"], zorder=3, **style)
        interval_lines(axes, beside, one, color=style["color"])
        name = f"{plain(backbone, 22)} · {plain(method, 20)}"
        handles.append(Line2D([], [], label=name, **style))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(numbers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("labels in train (val has the same share of its own)", color=INK)
    axes.set_ylabel("balanced accuracy", color=INK)
    axes.margins(y=0.08)
    frame(axes, grid="both")
    curves_legend(figure, handles)
    return figure
