"""Figures of where patches lie and how pure they are: arrays in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from benchmark.page.scores import INK, MUTED, frame, marks, new_figure, plain

MAX_POINTS = 20_000
"""Points of a map; more would hide each other."""
WIDTH, MIN_HEIGHT, MAX_HEIGHT = 6.5, 2.2, 6.0
"""Inches of the maps of a row without the legend, and of one map."""
MAX_COLUMNS = 3


class Map(NamedTuple):
    """Points of one map: (N,) degrees of longitude and latitude, and indices of groups; N >= 1."""

    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    groups: NDArray[np.int64]
    title: str = ""


def plot_maps(
    found: Sequence[Map], names: Sequence[str], *, title: str = "", caption: str = ""
) -> Figure:
    """Plot maps without a background, side by side, coloured by group; rare groups on top.

    Args:
        found: at least one map; of one with more than ``MAX_POINTS`` points, some are drawn.
        names: of the groups.
        title: heading inside the figure.
        caption: small print.
    """
    num_columns = min(len(found), MAX_COLUMNS)
    num_rows = -(-len(found) // num_columns)
    ratio = float(np.median([_height_ratio(item) for item in found]))
    height = float(np.clip(WIDTH / num_columns * ratio, MIN_HEIGHT, MAX_HEIGHT)) * num_rows
    figure = new_figure(max(height + 0.8, 0.6 + 0.19 * len(names)), title=title, caption=caption)
    every = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes in every[len(found) :]:
        axes.set_visible(False)
    for axes, item in zip(every, found, strict=False):
        _draw_map(axes, item, len(names))
        if num_columns > 1:
            axes.locator_params(nbins=3)
    every[0].set_ylabel("latitude, degrees", color=INK, fontsize=9)
    every[0].set_xlabel("longitude, degrees", color=INK, fontsize=9)
    counts = np.bincount(np.concatenate([item.groups for item in found]), minlength=len(names))
    handles = [
        Line2D([], [], ls="", label=f"{plain(name, 26)} ({counts[index]:,})", **marks(index))
        for index, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8.5, frameon=False)
    return figure


def _draw_map(axes: Axes, item: Map, num_groups: int) -> None:
    rows = np.random.default_rng(0).permutation(len(item.lon))[:MAX_POINTS]
    x, y, groups = item.lon[rows], item.lat[rows], item.groups[rows]
    size = float(np.clip(12_000 / len(x), 12, 40))
    for index in np.argsort(-np.bincount(groups, minlength=num_groups), kind="stable"):
        of_group = groups == index
        axes.scatter(
            x[of_group], y[of_group], s=size, alpha=0.8, linewidths=0.2, edgecolors="white",
            **marks(int(index)),
        )  # fmt: skip
    axes.set_aspect(_stretch(item), adjustable="datalim")
    axes.ticklabel_format(useOffset=False)
    axes.set_title(plain(item.title, 30), fontsize=9, color=MUTED)
    frame(axes, grid="both")
    axes.tick_params(colors=MUTED, labelsize=7.5)
    axes.grid(linewidth=0.7)


def _stretch(item: Map) -> float:
    """Return the length of a degree of latitude, in degrees of longitude."""
    return 1 / max(float(np.cos(np.radians(item.lat.mean()))), 0.05)


def _height_ratio(item: Map) -> float:
    return float(np.ptp(item.lat)) * _stretch(item) / max(float(np.ptp(item.lon)), 1e-9)


def plot_histogram(
    edges: ArrayLike,
    counts: Mapping[str, NDArray[np.int64]],
    *,
    label: str,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Plot a histogram with one stacked colour for each group.

    Args:
        edges: (n + 1,) of the bins.
        counts: patches in each bin, (n,), by group.
        label: of the horizontal axis.
        title: heading inside the figure.
        caption: small print.
    """
    sides = np.asarray(edges, float)
    figure = new_figure(3.4, title=title, caption=caption)
    axes = figure.subplots()
    base = np.zeros(len(sides) - 1)
    for index, (name, values) in enumerate(counts.items()):
        axes.bar(
            sides[:-1], values, np.diff(sides), base, align="edge", label=plain(name, 26),
            color=marks(index)["color"], edgecolor="white", linewidth=0.4,
        )  # fmt: skip
        base += values
    figure.legend(loc="outside right upper", fontsize=8.5, frameon=False)
    axes.set_xlabel(plain(label, 80), color=INK)
    axes.set_ylabel("patches", color=INK)
    frame(axes, grid="y")
    axes.tick_params(colors=MUTED, labelsize=8)
    return figure
