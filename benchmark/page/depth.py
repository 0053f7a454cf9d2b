"""Figure of scores by layer of a network; arrays in, no files."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from benchmark.page.scores import (
    INK,
    curves_legend,
    frame,
    interval_lines,
    marks,
    new_figure,
    plain,
)


def plot_depth(rows: pd.DataFrame, *, title: str = "", caption: str = "") -> Figure:
    """Plot the score of each pooling and head over the layer, with intervals.

    Args:
        rows: columns ``pooling``, ``method``, ``layer`` (from the end, below 0), ``value``,
            ``ci_low`` and ``ci_high``.
        title: heading inside the figure.
        caption: small print.
    """
    curves = list(dict.fromkeys(zip(rows["pooling"], rows["method"], strict=True)))
    figure = new_figure(3.9 + 0.2 * -(-len(curves) // 3), title=title, caption=caption)
    axes = figure.subplots()
    handles = []
    for index, (pooling, method) in enumerate(curves):
        mine = rows[(rows["pooling"] == pooling) & (rows["method"] == method)]
        one = mine.sort_values("layer")
        style = {**marks(index), "markersize": 5, "linewidth": 1.5}
        # Beside one another: intervals of several curves at one place would hide each other.
        beside = one["layer"] + min(0.06, 0.4 / len(curves)) * (index - (len(curves) - 1) / 2)
        axes.plot(beside, one["value"], zorder=3, **style)
        interval_lines(axes, beside, one, color=style["color"])
        name = f"{plain(pooling or 'own pooling', 18)} · {plain(method, 20)}"
        handles.append(Line2D([], [], label=name, **style))
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(rows["layer"]))))
    axes.set_xlabel("layer, from the end (-1 is the last)", color=INK)
    axes.set_ylabel("balanced accuracy", color=INK)
    axes.margins(y=0.08)
    frame(axes, grid="both")
    curves_legend(figure, handles)
    return figure
