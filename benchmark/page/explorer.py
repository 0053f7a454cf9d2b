"""Patches behind the scores, for the section "Explorer": arrays in, plain values out."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLUMNS = 16
"""Patches in a row of a sheet."""
QUALITY = 60
"""WebP quality of a sheet."""
MOST_SHOWN = 60
"""Patches of a list on the page."""


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """The section "Explorer".

    Attributes:
        sentences: which patches are on the page, and why not more.
        methods: names, best first.
        maps: names of the backbones whose embeddings are shown as points.
        sheets: the pictures of each class as WebP, ``COLUMNS`` in a row; empty: no patch.
        data: what the script reads, as values of JSON. ``ids``, ``labels`` and ``splits`` have an
            entry for each patch with a picture, those of test first; a sheet has them in this
            order.
    """

    sentences: tuple[str, ...]
    methods: tuple[str, ...]
    maps: tuple[str, ...] = ()
    sheets: tuple[bytes, ...] = ()
    data: Mapping[str, Any]

    @property
    def columns(self) -> int:
        """Return the number of patches in a row of a sheet."""
        return COLUMNS

    @property
    def urls(self) -> list[str]:
        """Return the sheets as ``data:`` URLs."""
        return [
            f"data:image/webp;base64,{base64.b64encode(sheet).decode('ascii')}" if sheet else ""
            for sheet in self.sheets
        ]


def draw_sheets(
    images: NDArray[np.uint8], labels: NDArray[np.integer[Any]], num_classes: int
) -> tuple[bytes, ...]:
    """Return one WebP per class with its pictures in rows of ``COLUMNS``.

    Args:
        images: uint8 (N, S, S, 3).
        labels: (N,) class of each.
        num_classes: K, the number of sheets.
    """
    return tuple(_draw_sheet(images[labels == k]) for k in range(num_classes))


def _draw_sheet(images: NDArray[np.uint8]) -> bytes:
    n, side, _, bands = images.shape
    if not n:
        return b""
    rows = -(-n // COLUMNS)
    cells = np.zeros((rows * COLUMNS, side, side, bands), np.uint8)
    cells[:n] = images
    sheet = cells.reshape(rows, COLUMNS, side, side, bands).transpose(0, 2, 1, 3, 4)
    buffer = io.BytesIO()
    picture = Image.fromarray(sheet.reshape(rows * side, COLUMNS * side, bands))
    picture.save(buffer, format="webp", quality=QUALITY, method=4)
    return buffer.getvalue()


def weigh(sheets: Sequence[bytes]) -> int:
    """Return the bytes of sheets in a page."""
    return sum(4 * -(-len(sheet) // 3) for sheet in sheets)
