"""The reliability of scores: how often a method is right that says it is sure; arrays in."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from benchmark.page.scores import INK, MUTED, PALETTE, frame, new_figure, plain


def plot_reliability(rows: pd.DataFrame, *, title: str = "", caption: str = "") -> Figure:
    """Plot accuracy against the largest score, one panel for each method, with intervals.

    Args:
        rows: columns ``method``, ``confidence``, ``accuracy``, ``ci_low``, ``ci_high`` and
            ``num_patches`` of each filled bin. The area of a marker is the share of its patches.
            A method ``backbone / head`` has two lines.
        title: heading inside the figure.
        caption: small print.
    """
    methods = list(dict.fromkeys(rows["method"]))
    figure = new_figure(3.1, title=title, caption=caption)
    panels = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    for axes, method in zip(panels, methods, strict=True):
        one = rows[rows["method"] == method].sort_values("confidence")
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, zorder=1)
        axes.vlines(
            one["confidence"], one["ci_low"], one["ci_high"], color=PALETTE[0], linewidth=1.6
        )
        share = one["num_patches"] / one["num_patches"].sum()
        axes.scatter(
            one["confidence"],
            one["accuracy"],
            s=18 + 160 * share,
            color=PALETTE[0],
            clip_on=False,
            zorder=3,
        )
        heading = "\n".join(plain(part, 26) for part in method.split(" / ", 1))
        axes.set_title(heading, fontsize=9, color=INK)
        axes.set_xlabel("largest score", color=INK)
        axes.set_xlim(0, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_aspect("equal")
        frame(axes, grid="both")
    panels[0].set_ylabel("accuracy", color=INK)
    return figure
