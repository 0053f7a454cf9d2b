"""Figures of counts as heat tables: arrays in, matplotlib figures out, no files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from benchmark.page.scores import INK, PALETTE, new_figure, plain

ON_DARK, ON_LIGHT = "#fffffe", "#1d2734"
"""Ink on coloured cells, which is the same on a dark page."""


def plot_confusion(
    counts: ArrayLike, classes: Sequence[str], *, title: str = "", caption: str = ""
) -> Figure:
    """Plot a confusion matrix: numbers are counts, colours are shares of the true class.

    Args:
        counts: (K, K) rows true, columns predicted; an absent class (row of zeros) is grey.
        classes: K names.
        title: heading inside the figure.
        caption: small print.
    """
    matrix = np.asarray(counts, dtype=float)
    k = len(classes)
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)
    figure = new_figure(2.2 + min(0.5, 7.0 / k) * k, title=title, caption=caption)
    axes = figure.subplots()
    names = [
        plain(name, 24) + ("" if total[row, 0] else " (absent)") for row, name in enumerate(classes)
    ]
    _heat(
        axes, share, matrix, names, [plain(name, 24) for name in classes], norm=Normalize(0.0, 1.0)
    )
    axes.set_ylabel("true", color=INK)
    axes.set_xlabel("predicted", color=INK)
    return figure


def plot_class_counts(counts: pd.DataFrame, *, title: str = "", caption: str = "") -> Figure:
    """Plot patches per class as a heat table; the logarithmic scale keeps rare classes visible.

    Args:
        counts: one row per split and region (the index, plain or of several levels), one column
            per class.
        title: heading inside the figure.
        caption: small print.
    """
    matrix = counts.to_numpy(dtype=float)
    rows = [
        "  ·  ".join(plain(part, 26) for part in (key if isinstance(key, tuple) else (key,)))
        for key in counts.index
    ]
    names = [plain(name, 24) for name in counts.columns]
    figure = new_figure(2.2 + 0.32 * len(rows), title=title, caption=caption)
    axes = figure.subplots()
    norm = LogNorm(1, max(float(np.nanmax(matrix, initial=1)), 10.0))
    _heat(axes, np.where(matrix > 0, matrix, np.nan), matrix, rows, names, norm=norm)
    return figure


def plot_transfer(scores: pd.DataFrame, *, title: str = "", caption: str = "") -> Figure:
    """Plot the score of each train set in each region, one heat table per method.

    A cell without a score is grey.

    Args:
        scores: columns ``name`` of the method, ``train_set``, ``region``, ``value`` (0 to 1) and
            ``is_framed``.
        title: heading inside the figure.
        caption: small print.
    """
    names, train_sets, regions = (
        list(dict.fromkeys(scores[key])) for key in ("name", "train_set", "region")
    )
    num_rows = -(-len(names) // 2)
    height = 0.6 + num_rows * (1.5 + 0.34 * len(train_sets))
    figure = new_figure(height, title=title, caption=caption)
    panels = figure.subplots(num_rows, 2, squeeze=False, sharey=True).flat
    low, high = scores["value"].min(), scores["value"].max()
    norm = Normalize(low, max(high, low + 0.01))
    for name, axes in zip(names, panels, strict=False):
        mine = scores[scores["name"] == name]
        values, is_framed = (
            mine.pivot(index="train_set", columns="region", values=key).reindex(
                index=train_sets, columns=regions
            )
            for key in ("value", "is_framed")
        )
        matrix = values.to_numpy(dtype=float)
        _heat(
            axes, matrix, matrix, [plain(item, 24) for item in train_sets],
            [plain(item, 20) for item in regions], norm=norm, form="{:.2f}",
        )  # fmt: skip
        for row, column in np.argwhere(is_framed.fillna(False).to_numpy(dtype=bool)):
            corner = (column - 0.46, row - 0.46)
            frame = Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=PALETTE[1], linewidth=1.5)
            axes.add_patch(frame)
        axes.set_title(plain(name, 44), fontsize=9.5, color=INK, loc="left")
    for axes in list(panels):
        axes.set_visible(False)
    return figure


def _heat(
    axes: Axes,
    color: NDArray[np.float64],
    counts: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    norm: Normalize,
    form: str = "",
) -> None:
    """Draw a table whose cells are coloured by ``color`` (grey where NaN) and show counts.

    ``form`` is the format of numbers that are no counts.
    """
    axes.set_facecolor("#eceff1")
    # One pixel for each cell, which a browser enlarges.
    axes.imshow(color, cmap="Blues", norm=norm, aspect="auto", interpolation="none")
    depth = np.nan_to_num(np.asarray(norm(color), dtype=float))
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(colors=INK, labelsize=9 if len(columns) <= 12 else 8, length=0)
    axes.spines[:].set_visible(False)
    size = 9.5 if len(columns) <= 8 else 8 if len(columns) <= 14 else 6.5
    for (row, column), count in np.ndenumerate(counts):
        ink = ON_DARK if depth[row, column] > 0.55 else ON_LIGHT if count else "#7d8893"
        short = f"{count:,.0f}" if count < 10_000 or len(columns) <= 8 else f"{count / 1000:.0f}k"
        text = ("" if np.isnan(count) else form.format(count)) if form else short
        axes.text(
            column, row, text, ha="center", va="center", fontsize=size, color=ink,
            # Inside the axes: to measure each would take as long as to draw it.
            in_layout=False,
        )  # fmt: skip
