"""Figures of scores and costs: arrays in, matplotlib figures out, no files and no pyplot state.

Tables of counts are in ``heatmaps.py``, pictures of patches and embeddings in ``pictures.py``,
learning curves in ``curves.py``. Every figure is 900 px wide at 100 dots per inch, on a light
background, in colours that colour-blind readers can distinguish.
"""

from __future__ import annotations

import io
import math
import textwrap
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import ArrayLike, NDArray

from benchmark.page.directions import without_turns

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5230")
"""Okabe and Ito 2008, "Color Universal Design", without yellow, which is faint on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
INK, MUTED, RULE, FLOOR = "#1d2733", "#5b6875", "#dfe4e9", "#8a6d3b"
STRIPE, GREY = "#f4f6f8", "#b9c1c9"
WIDTH_INCHES = 9.0

Rows = list[dict[str, Any]]


def to_png(figure: Figure, *, dpi: int = 150) -> bytes:
    """Return the figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def plain(text: object, limit: int = 30) -> str:
    """Return text that a figure can show: one line, no math, known glyphs, the middle cut.

    A name from right to left does not turn what a figure writes after it.
    """
    line = " ".join(without_turns(str(text)).split())
    if len(line) > limit:
        tail = limit // 3
        line = f"{line[: limit - tail - 1]}…{line[-tail:]}"
    known = _glyphs()
    line = "".join(letter if ord(letter) in known else "\N{WHITE SQUARE}" for letter in line)
    if any(unicodedata.bidirectional(letter) in {"R", "AL"} for letter in line):
        line = f"\N{LEFT-TO-RIGHT MARK}{line}\N{LEFT-TO-RIGHT MARK}"
    # A leading underscore would hide a legend entry; a dollar would start math.
    return ("\N{ZERO WIDTH SPACE}" if line.startswith("_") else "") + line.replace("$", r"\$")


def new_figure(height_inches: float, *, title: str, caption: str) -> Figure:
    """Return an empty figure of the common width, with title and caption."""
    figure = Figure(figsize=(WIDTH_INCHES, max(height_inches, 1.8)), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    heading = "\n".join(textwrap.wrap(plain(title, 160), 84)) if title else None
    if heading:
        figure.suptitle(heading, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
    if caption:
        text = "\n".join(textwrap.wrap(plain(caption, 400), 125))
        figure.supxlabel(text, x=0.012, ha="left", fontsize=8.5, color=MUTED)
    return figure


def marks(index: int) -> dict[str, Any]:
    """Return the colour and marker of number ``index``; the first 70 pairs differ."""
    n = len(PALETTE)
    return {"color": PALETTE[index % n], "marker": MARKERS[(index % n + index // n) % len(MARKERS)]}


def plot_ranking(
    rows: pd.DataFrame,
    *,
    metric: str = "balanced accuracy",
    chance: float | None = None,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Plot one row per cell with its interval; floors have their own colour and marker.

    Args:
        rows: columns ``backbone``, ``method``, ``value``, ``ci_low``, ``ci_high`` (NaN or None
            if unknown) and ``is_floor``; optionally ``seed_values``, the sequence of each seed's
            value. Drawn from top to bottom in this order.
        metric: label of the axis.
        chance: score of random guessing, drawn as a line.
        title: heading inside the figure.
        caption: small print, e.g. ``synthetic scenes``.
    """
    cells = records(rows)
    figure = new_figure(1.3 + 0.27 * len(cells), title=title, caption=caption)
    axes = figure.subplots()
    for place, cell in enumerate(cells):
        is_floor = bool(cell["is_floor"])
        color = FLOOR if is_floor else PALETTE[0]
        values = cell.get("seed_values")
        values = [] if values is None or isinstance(values, float) else values
        seeds = np.asarray(values, dtype=float)
        below = np.full(len(seeds), place + 0.3)
        axes.scatter(seeds, below, s=8, color=MUTED, linewidths=0, zorder=4)
        _interval(axes, cell, place, color=color)
        axes.scatter(
            cell["value"], place, s=42, color="white" if is_floor else color, edgecolor=color,
            linewidth=1.6, marker="D" if is_floor else "o", zorder=3,
        )  # fmt: skip
    names = [
        f"{plain(cell['backbone'])}  ·  {plain(cell['method'], 24)}"
        + ("  (floor)" if cell["is_floor"] else "")
        for cell in cells
    ]
    rows_axis(axes, names, colors=[FLOOR if cell["is_floor"] else INK for cell in cells])
    handles = [
        Line2D([], [], marker="o", color=PALETTE[0], label="method, with interval"),
        Line2D([], [], marker="D", color=FLOOR, markerfacecolor="white", label="floor"),
        Line2D([], [], marker="o", color=MUTED, ls="", ms=3, label="one seed"),
    ]
    if chance is not None:
        axes.axvline(chance, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        handles.append(Line2D([], [], color=MUTED, ls=(0, (4, 3)), lw=1, label="chance"))
    axes.set_xlabel(plain(metric, 80), color=INK)
    legend_above(axes, handles)
    return figure


def plot_recalls(
    rows: pd.DataFrame, *, title: str = "", caption: str = "", metric: str = "recall"
) -> Figure:
    """Plot a metric per class with intervals, methods side by side.

    Args:
        rows: columns ``method`` (the label of a cell), ``label`` (name of a class), ``value``,
            ``ci_low``, ``ci_high``, and optionally ``num_patches`` of the class. Readable up to
            about six methods. A class without a value is drawn as absent.
        metric: label of the axis.
        title: heading inside the figure.
        caption: small print.
    """
    cells = records(rows)
    classes = list(dict.fromkeys(cell["label"] for cell in cells))
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    step = 0.8 / max(len(methods), 1)
    height = 1.4 + len(classes) * max(0.3, 0.13 * len(methods) + 0.1) + 0.22 * len(methods) / 3
    figure = new_figure(height, title=title, caption=caption)
    axes = figure.subplots()
    for cell in cells:
        which = methods.index(cell["method"])
        place = classes.index(cell["label"]) + (which - (len(methods) - 1) / 2) * step
        _interval(axes, cell, place, color=marks(which)["color"], linewidth=1.3)
        axes.scatter(cell["value"], place, s=26, zorder=3, **marks(which))
    counts = {cell["label"]: cell.get("num_patches") for cell in cells}
    defined = {cell["label"] for cell in cells if not _is_missing(cell["value"])}
    names = []
    for place, name in enumerate(classes):
        n = "" if _is_missing(counts[name]) else f"  (n = {counts[name]:,.0f})"
        names.append(plain(name) + (n if name in defined else "  (absent)"))
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color=STRIPE, zorder=0)
    rows_axis(axes, names, colors=[INK if name in defined else MUTED for name in classes])
    axes.set_xlabel(plain(metric, 80), color=INK)
    axes.set_xlim(-0.02, 1.02)
    handles = [
        Line2D([], [], label=plain(name, 46), **marks(which)) for which, name in enumerate(methods)
    ]
    legend_above(axes, handles, columns=2)
    return figure


def pareto_front(seconds: ArrayLike, values: ArrayLike) -> NDArray[np.bool_]:
    """Return which cells are on the Pareto front: no other dominates them in score and cost.

    Args:
        seconds: (N,) cost, lower is better.
        values: (N,) score, higher is better.

    Returns:
        (N,) true on the front; of equal cells, all or none are on it.
    """
    cost, value = np.asarray(seconds, float), np.asarray(values, float)
    no_worse = (cost[:, None] <= cost) & (value[:, None] >= value)
    better = (cost[:, None] < cost) | (value[:, None] > value)
    beaten: NDArray[np.bool_] = np.any(no_worse & better, axis=0)
    return ~beaten


def plot_cost(
    rows: pd.DataFrame,
    *,
    metric: str = "balanced accuracy",
    seconds: str = "seconds",
    title: str = "",
    caption: str = "",
) -> Figure:
    """Plot a score against its cost: filled markers and a stepped line are the Pareto front.

    Args:
        rows: columns ``backbone``, ``method``, ``value``, ``seconds`` (cells without a
            positive value are left out), optionally ``ci_low`` and ``ci_high``.
        metric: label of the vertical axis.
        seconds: label of the horizontal, logarithmic axis.
        title: heading inside the figure.
        caption: small print.
    """
    known = rows[(rows["seconds"] > 0) & rows["value"].notna()]
    known = known.sort_values(["seconds", "value"], ascending=[True, False], kind="stable")
    known = known.assign(is_front=pareto_front(known["seconds"], known["value"]))
    cells = records(known)
    front = [cell for cell in cells if cell["is_front"]]
    backbones = sorted(dict.fromkeys(cell["backbone"] for cell in cells))
    methods = sorted(dict.fromkeys(cell["method"] for cell in cells))
    num_lines = len(front) + len(backbones) + len(methods)
    figure = new_figure(max(4.6, 1.2 + 0.185 * num_lines), title=title, caption=caption)
    axes = figure.subplots()
    line: dict[str, Any] = {"color": INK, "linewidth": 1.4, "drawstyle": "steps-post"}
    axes.plot(
        [cell["seconds"] for cell in front], [cell["value"] for cell in front], zorder=2, **line
    )
    for cell in cells:
        color = shade(backbones.index(cell["backbone"]))
        marker = MARKERS[methods.index(cell["method"]) % len(MARKERS)]
        low, high = _bounds(cell)
        axes.vlines(cell["seconds"], low, high, color=color, alpha=0.35, linewidth=1.2, zorder=1)
        axes.scatter(
            cell["seconds"], cell["value"], s=46 if cell["is_front"] else 34, marker=marker,
            color=color if cell["is_front"] else "white", edgecolor=color, linewidth=1.5, zorder=3,
        )  # fmt: skip
    handles = [Line2D([], [], label="Pareto front (filled markers)", **line)]
    for number, cell in enumerate(front, start=1):
        axes.annotate(
            str(number), (cell["seconds"], cell["value"]), xytext=(0, 7), fontsize=8.5,
            textcoords="offset points", ha="center", fontweight="bold", color=INK, zorder=4,
        )  # fmt: skip
        name = f"{number}  {plain(cell['backbone'], 22)} · {plain(cell['method'], 20)}"
        handles.append(Line2D([], [], ls="", label=name))
    handles += [
        Line2D([], [], ls="", marker="s", color=shade(index), label=plain(name, 26))
        for index, name in enumerate(backbones)
    ]
    for index, name in enumerate(methods):
        marker = MARKERS[index % len(MARKERS)]
        handles.append(
            Line2D([], [], ls="", marker=marker, color=MUTED, mfc="white", label=plain(name, 26))
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(plain(seconds, 80), color=INK)
    axes.set_ylabel(plain(metric, 80), color=INK)
    axes.margins(0.06, 0.1)
    frame(axes, grid="both")
    figure.legend(
        handles=handles, loc="outside right upper", fontsize=8, frameon=False, handletextpad=0.4
    )
    return figure


def shade(index: int) -> Any:
    """Return the colour of number ``index``; each further round through the palette is darker."""
    color = np.array(to_rgb(PALETTE[index % len(PALETTE)]))
    return tuple((color * 0.55 ** (index // len(PALETTE))).tolist())


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def records(rows: pd.DataFrame) -> Rows:
    """Return the rows as mappings from column to value."""
    return [{str(key): item for key, item in row.items()} for row in rows.to_dict("records")]


def _is_missing(value: Any) -> bool:
    return value is None or math.isnan(value)


def _bounds(cell: dict[str, Any]) -> tuple[float, float]:
    low, high = cell.get("ci_low"), cell.get("ci_high")
    return (math.nan if low is None else low, math.nan if high is None else high)


def _interval(
    axes: Axes, cell: dict[str, Any], place: float, *, color: str, linewidth: float = 2.0
) -> None:
    low, high = _bounds(cell)
    axes.hlines(place, low, high, color=color, linewidth=linewidth, alpha=0.55, zorder=2)


def frame(axes: Axes, *, grid: Any) -> None:
    """Give axes the common look; ``grid`` is ``x``, ``y`` or ``both``."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(which="both", colors=INK, labelsize=9, length=0)
    axes.grid(axis=grid, color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)


def interval_lines(axes: Axes, places: ArrayLike, rows: pd.DataFrame, *, color: str) -> None:
    """Draw the intervals of the points of a curve, ``ci_low`` to ``ci_high``, at their places."""
    axes.vlines(
        places, rows["ci_low"], rows["ci_high"], color=color, alpha=0.45, linewidth=2, zorder=2
    )


def curves_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Put the legend of curves above the axes, in three columns."""
    figure.legend(
        handles=handles, loc="outside upper left", ncols=3, fontsize=8.5, frameon=False,
        handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip


def rows_axis(axes: Axes, names: Sequence[str], *, colors: Sequence[str]) -> None:
    """Label the rows 0...n-1 from top to bottom."""
    frame(axes, grid="x")
    axes.set_yticks(range(len(names)), names)
    for text, color in zip(axes.get_yticklabels(), colors, strict=True):
        text.set_color(color)
    axes.set_ylim(len(names) - 0.4, -0.6)


def legend_above(axes: Axes, handles: list[Line2D], *, columns: int = 4) -> None:
    """Put a legend between the axes and the heading."""
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, fontsize=8.5,
        frameon=False, handletextpad=0.5, columnspacing=1.4, borderaxespad=0.2,
    )  # fmt: skip
