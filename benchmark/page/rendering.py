"""Figures as bytes: plots as SVG that follow a dark page, photographs as small WebP."""

from __future__ import annotations

import io
import re
from typing import Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from benchmark.page.scores import FLOOR, GREY, INK, MUTED, PALETTE, RULE, STRIPE, shade

Form = Literal["svg", "webp", "png"]

MEDIA_TYPES: dict[Form, str] = {
    "svg": "image/svg+xml",
    "webp": "image/webp",
    "png": "image/png",
}
MAX_CELLS = 20_000
"""Values of an image on a colour scale, such as a heat table; one with more is a picture."""
MAX_MARKS = 1500
"""Points, lines and texts of an SVG; a figure with more is smaller as pixels."""
PHOTO_DPI, PHOTO_QUALITY = 100, 75
"""Resolution (900 px wide) and WebP quality of pictures of patches."""
PLOT_DPI = 120
"""Resolution of plots that are drawn as pixels (1,080 px wide)."""


def _paler(color: str) -> str:
    red, green, blue = ((part + 1.2) / 2.2 for part in to_rgb(color))
    return to_hex((red, green, blue))


DARK = {
    INK: "#e6ebf0",
    MUTED: "#a5b0bc",
    RULE: "#36424e",
    STRIPE: "#1f2830",
    GREY: "#67727d",
    "#ffffff": "#161c23",
    PALETTE[0]: "#4aa8e8",
    PALETTE[6]: "#b98a5e",
    FLOOR: "#c9a96a",
    # The second round through the palette is darker on white, and paler on a dark page.
    **{to_hex(shade(len(PALETTE) + index)): _paler(color) for index, color in enumerate(PALETTE)},
}
"""Colours of a plot on a dark page; other colours are readable on both."""


class Drawing(NamedTuple):
    """A figure as the bytes of a file."""

    content: bytes
    form: Form


def draw(figure: Figure) -> Drawing:
    """Return a figure in the form that keeps a page light.

    Pictures of patches become lossy WebP, plots SVG, and plots of very many marks lossless WebP.
    """
    images = [item for axes in figure.axes for item in axes.images]
    sizes = [np.asarray(item.get_array()).shape for item in images]
    if any(len(size) == 3 or size[0] * size[1] > MAX_CELLS for size in sizes):
        return Drawing(to_webp(figure, dpi=PHOTO_DPI, quality=PHOTO_QUALITY), "webp")
    if count_marks(figure) > MAX_MARKS:
        return Drawing(to_webp(figure, dpi=PLOT_DPI), "webp")
    return Drawing(to_svg(figure), "svg")


def count_marks(figure: Figure) -> int:
    """Return the number of points, lines and texts inside the axes of a figure."""
    count = 0
    for axes in figure.axes:
        count += len(axes.texts)
        for item in axes.collections:
            points = item.get_offsets() if isinstance(item, PathCollection) else item.get_paths()
            count += len(np.asarray(points, dtype=object))
    return count


def to_svg(figure: Figure) -> bytes:
    """Return a figure as SVG without a background, whose colours follow a dark page.

    The same figure gives the same bytes.
    """
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "benchmark", "svg.fonttype": "path"}):
        figure.savefig(
            buffer, format="svg", facecolor="none", metadata={"Date": None, "Creator": None}
        )
    rules = "".join(
        f'[style*="{key}: {light}"]{{{key}:{dark}!important}}'
        for light, dark in DARK.items()
        for key in ("fill", "stroke")
    )
    # Black is not written: it is the colour of shapes without one.
    rules += f"svg{{fill:{DARK[INK]}}}"
    style = f"@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return _shorten(buffer.getvalue()).replace(b"</style>", style.encode(), 1)


_SHORTER = (
    (rb"<!--.*?-->", b""),
    (rb">\s+<", b"><"),
    # Nothing refers to the names of groups.
    (rb' id="[A-Za-z0-9.]+_\d+"', b""),
    (rb"DejaVuSans-", b"D"),
    # More than is seen; factors below 1 stay as they are.
    (rb"(?<![\w.#])(-?[1-9]\d*\.\d\d)\d+", rb"\1"),
)


def _shorten(svg: bytes) -> bytes:
    """Return an SVG of matplotlib with three quarters of its bytes, which looks the same."""
    for pattern, replacement in _SHORTER:
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    return svg


def to_webp(figure: Figure, *, dpi: int, quality: int | None = None) -> bytes:
    """Return a figure as WebP on white; without a quality (0 to 100), lossless."""
    buffer = io.BytesIO()
    lossy = {"lossless": True} if quality is None else {"quality": quality, "method": 4}
    figure.savefig(buffer, format="webp", dpi=dpi, facecolor="white", pil_kwargs=lossy)
    return buffer.getvalue()
