"""Figure of scores by the size of the embedding: arrays in, no files."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmark.page.scores import INK, frame, marks, new_figure, plain, records

_WHOLE = "whole"


def plot_sizes(rows: pd.DataFrame, *, title: str = "", caption: str = "") -> Figure:
    """Plot a score with its interval against the bytes of one embedding.

    Variants that are detectably behind the whole embedding have hollow markers; the dotted line
    is the score of the whole one.

    Args:
        rows: columns ``full`` (backbone of the whole embedding, one colour each), ``backbone``,
            ``bytes``, ``value``, ``ci_low``, ``ci_high`` and ``verdict`` (``whole``, ``behind``
            or another).
        title: heading inside the figure.
        caption: small print.
    """
    figure = new_figure(max(4.2, 1.2 + 0.185 * len(rows)), title=title, caption=caption)
    axes = figure.subplots()
    handles = []
    for index, (full, family) in enumerate(rows.groupby("full", sort=False)):
        style = marks(index)
        color = style["color"]
        for cell in records(family):
            is_behind = cell["verdict"] == "behind"
            axes.vlines(
                cell["bytes"], cell["ci_low"], cell["ci_high"], color=color, alpha=0.4,
                linewidth=1.4, zorder=1,
            )  # fmt: skip
            axes.scatter(
                cell["bytes"], cell["value"], s=48, color="white" if is_behind else color,
                marker=style["marker"], edgecolor=color, linewidth=1.5, zorder=3,
            )  # fmt: skip
            if cell["verdict"] == _WHOLE:
                axes.axhline(cell["value"], color=color, linewidth=1, linestyle=":", zorder=0)
                continue
            axes.annotate(
                plain(cell["backbone"], 18), (cell["bytes"], cell["value"]), xytext=(5, 5),
                fontsize=8, textcoords="offset points", color=INK, zorder=4,
            )  # fmt: skip
        label = plain(f"{full} (dotted) and its variants", 60)
        handles.append(Line2D([], [], ls="", label=label, **style))
    handles.append(
        Line2D([], [], ls="", marker="o", color=INK, mfc="white", label="detectably behind")
    )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bytes per patch", color=INK)
    axes.set_ylabel("balanced accuracy", color=INK)
    axes.margins(0.1, 0.1)
    frame(axes, grid="both")
    figure.legend(
        handles=handles, loc="outside upper left", ncols=3, fontsize=8.5, frameon=False,
        handletextpad=0.4,
    )  # fmt: skip
    return figure
