"""Figures of patches and embeddings: arrays in, matplotlib figures out, no files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from benchmark.page.scores import INK, MUTED, frame, marks, new_figure, plain

_GAP_SHARE = 0.05
ROUNDING = 1e-12
"""Share of all squared spreads below which one is rounding."""


class Projection(NamedTuple):
    """Points in the plane (N, 2) and the share of the variance on each axis (2,)."""

    points: NDArray[np.float64]
    explained: NDArray[np.float64]


class Components(NamedTuple):
    """The first two principal components of embeddings.

    Attributes:
        centre: (D,)
        axes: (2, D), zeros where there are fewer components.
        explained: (2,) share of the variance on each.
    """

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    explained: NDArray[np.float64]

    def project(self, embeddings: ArrayLike) -> Projection:
        """Project embeddings (N, D); raise ValueError if a value is not finite."""
        points = (_finite(embeddings) - self.centre) @ self.axes.T
        return Projection(points, self.explained)


def project(embeddings: ArrayLike, is_train: ArrayLike | None = None) -> Projection:
    """Project embeddings (N, D) onto their own components, as ``find_components`` finds them."""
    return find_components(embeddings, is_train).project(embeddings)


def find_components(embeddings: ArrayLike, is_train: ArrayLike | None = None) -> Components:
    """Return the first two principal components of embeddings (N, D).

    Args:
        embeddings: (N, D), N >= 2.
        is_train: (N,) rows to fit the components on; None: all.

    Raises:
        ValueError: fewer than two rows to fit on, or a value is not finite.
    """
    matrix = _finite(embeddings)
    rows = np.ones(len(matrix), bool) if is_train is None else np.asarray(is_train, bool)
    if rows.sum() < 2:
        raise ValueError(f"a projection needs at least two rows to fit on, got {rows.sum()}")
    centre = matrix[rows].mean(axis=0)
    found = min(2, rows.sum(), matrix.shape[1])
    axes, spread, total = _find_axes(matrix[rows] - centre, found)
    # Signs of singular vectors are arbitrary: make the largest entry positive.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    whole, explained = np.zeros((2, matrix.shape[1])), np.zeros(2)
    whole[:found] = axes * np.where(largest < 0, -1.0, 1.0)
    explained[:found] = spread / max(total, 1e-300)
    return Components(centre, whole, explained)


def _finite(embeddings: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(embeddings, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise ValueError("embeddings hold values that are not finite")
    return matrix


def _find_axes(
    centred: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return the first principal axes (count, D), their squared spreads and the sum of all."""
    from scipy.linalg import eigh

    is_wide = centred.shape[0] < centred.shape[1]
    gram = centred @ centred.T if is_wide else centred.T @ centred
    # Many times faster than all singular vectors.
    spread, vectors = eigh(gram, subset_by_index=[len(gram) - count, len(gram) - 1])
    spread, axes, total = spread[::-1], vectors[:, ::-1].T, float(np.trace(gram))
    # Rounding, where the rows lie on a line or a point.
    spread = np.where(spread > ROUNDING * total, spread, 0.0)
    if is_wide:
        lengths = np.sqrt(np.where(spread > 0, spread, np.inf))
        axes = axes @ centred / lengths[:, None]
    return axes, spread, total


def plot_examples(
    images: Sequence[NDArray[np.uint8]],
    classes: Sequence[str],
    *,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Plot example patches in RGB, one row per class.

    Args:
        images: K arrays uint8 (n, H, W, 3) of one H and W; n may differ and be 0.
        classes: K names.
        title: heading inside the figure.
        caption: small print.
    """
    return _plot_grid([np.asarray(row) for row in images], classes, title, caption)


def plot_embeddings(
    embeddings: Sequence[NDArray[np.floating]],
    classes: Sequence[str],
    *,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Plot embeddings reshaped to rectangles, one row per class, on one colour scale.

    The sides of a rectangle are the divisors of D nearest to a square; the scale spans the 1st
    to the 99th percentile of all values shown.

    Args:
        embeddings: K arrays (n, D); n may differ and be 0.
        classes: K names.
        title: heading inside the figure.
        caption: small print.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in embeddings]
    values = np.concatenate([row.reshape(-1) for row in rows] or [np.zeros(1)])
    values = values[np.isfinite(values)]
    limits = np.percentile(values, [1, 99]) if values.size else (0.0, 1.0)
    shaped = []
    for row in rows:
        n, d = row.shape
        height = max(side for side in range(1, math.isqrt(max(d, 1)) + 1) if d % side == 0)
        shaped.append(row.reshape(n, height, d // height if d else 0))
    return _plot_grid(shaped, classes, title, caption, limits=(limits[0], limits[1]))


def plot_pairs(
    left: Sequence[NDArray[np.uint8]],
    right: Sequence[NDArray[np.uint8]],
    classes: Sequence[str],
    *,
    names: tuple[str, str],
    title: str = "",
    caption: str = "",
) -> Figure:
    """Plot pairs of pictures side by side, one row per class.

    Args:
        left: K arrays uint8 (n, H, W, 3) of one H and W; n may differ and be 0.
        right: arrays of the same shapes.
        classes: K names.
        names: labels of the two sides, above the first pair.
        title: heading inside the figure.
        caption: small print.
    """
    pairs = []
    for one, other in zip(left, right, strict=True):
        n, h, w, _ = one.shape
        line = np.full((n, h, max(1, w // 64), 3), 255, np.uint8)
        pairs.append(np.concatenate([one, line, other], axis=2))
    figure = _plot_grid(pairs, classes, title, caption, widest=2.3)
    (axes,) = figure.axes
    middle = left[0].shape[2]
    for name, place, side in ((names[0], middle, "right"), (names[1], middle, "left")):
        axes.annotate(
            name, (place, 0), xytext=(-4 if side == "right" else 4, 4), fontsize=8.5,
            textcoords="offset points", ha=side, va="bottom", color=MUTED,
        )  # fmt: skip
    return figure


def plot_projection(
    points: ArrayLike,
    labels: ArrayLike,
    splits: ArrayLike,
    classes: Sequence[str],
    *,
    explained: ArrayLike | None = None,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Plot embeddings in the plane, coloured by class, with test patches emphasised.

    Args:
        points: (N, 2), e.g. from ``project``.
        labels: (N,) indices into ``classes``.
        splits: (N,) ``train``, ``val`` or ``test``.
        classes: K names.
        explained: (2,) share of the variance on each axis, shown in the axis labels.
        title: heading inside the figure.
        caption: small print.
    """
    place, label, split = np.asarray(points, float), np.asarray(labels), np.asarray(splits)
    figure = new_figure(max(5.0, 1.6 + 0.2 * len(classes)), title=title, caption=caption)
    axes = figure.subplots()
    is_test = split == "test"
    # A dense cloud needs small, faint points.
    size = float(np.clip(18000 / max(len(place), 1), 8, 34))
    for index in range(len(classes)):
        style = marks(index)
        for rows, settings in (
            (~is_test, {"alpha": 0.3, "linewidths": 0.0, "zorder": 2}),
            (is_test, {"alpha": 0.9, "linewidths": 0.5, "edgecolors": "white", "zorder": 3}),
        ):
            chosen = place[rows & (label == index)]
            axes.scatter(
                chosen[:, 0], chosen[:, 1], s=size * (1.6 if rows is is_test else 1.0),
                **style, **settings,
            )  # fmt: skip
    handles = [
        Line2D([], [], ls="", label=plain(name, 28), **marks(index))
        for index, name in enumerate(classes)
    ]
    handles += [
        Line2D([], [], ls="", marker="o", color=MUTED, label="test (strong)"),
        Line2D([], [], ls="", marker="o", color=MUTED, alpha=0.35, label="train, val (faint)"),
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8.5, frameon=False)
    shares = ["", ""]
    if explained is not None:
        shares = [f" ({share:.0%} of the variance)" for share in np.asarray(explained, float)]
    axes.set_xlabel(f"1st principal component{shares[0]}", color=INK)
    axes.set_ylabel(f"2nd principal component{shares[1]}", color=INK)
    frame(axes, grid="both")
    axes.tick_params(colors=MUTED, labelsize=8)
    axes.grid(linewidth=0.7)
    return figure


def _plot_grid(
    rows: Sequence[NDArray[np.generic]],
    classes: Sequence[str],
    title: str,
    caption: str,
    limits: tuple[float, float] | None = None,
    *,
    widest: float = 1.15,
) -> Figure:
    """Plot K rows of pictures (n, H, W) or (n, H, W, 3) as one mosaic; many axes would be slow."""
    columns = max([1, *(len(row) for row in rows)])
    shapes = {row.shape[1:3] for row in rows if len(row)}
    if len(shapes) > 1:
        raise ValueError(f"the pictures have different sizes: {sorted(shapes)}")
    h, w = shapes.pop() if shapes else (1, 1)
    gap = max(1, round(_GAP_SHARE * max(h, w)))
    tail = (3,) if limits is None else ()
    mosaic = np.full((len(rows) * (h + gap), columns * (w + gap), *tail), np.nan)
    for number, row in enumerate(rows):
        for column, picture in enumerate(row):
            top, left = number * (h + gap), column * (w + gap)
            mosaic[top : top + h, left : left + w] = picture
    mosaic = mosaic[: -gap or None, : -gap or None]
    # The labels leave 7 inches; a picture is at most ``widest`` inches wide.
    wide = min(7.0 / columns, widest)
    figure = new_figure(
        0.9 + len(rows) * wide * (h + gap) / (w + gap), title=title, caption=caption
    )
    axes = figure.subplots()
    if limits is None:
        axes.imshow(np.where(np.isnan(mosaic), 1.0, mosaic / 255.0), interpolation="antialiased")
    else:
        image = axes.imshow(
            mosaic, cmap="cividis", vmin=limits[0], vmax=limits[1], interpolation="none"
        )
        bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 4.0 / max(len(rows), 1)), pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=MUTED, length=0)
    _name_rows(axes, [plain(name, 26) for name in classes], h, gap, [len(row) for row in rows])
    return figure


def _name_rows(axes: Axes, names: list[str], height: int, gap: int, counts: list[int]) -> None:
    middles = [number * (height + gap) + (height - 1) / 2 for number in range(len(names))]
    shown = [name if n else f"{name} (none)" for name, n in zip(names, counts, strict=True)]
    axes.set_xticks([])
    axes.set_yticks(middles, shown)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    axes.set_anchor("W")
