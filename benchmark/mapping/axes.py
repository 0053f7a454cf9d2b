"""Where patches lie along the sides of a scene, and which of them cover each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Axis:
    """The n patches along one side of a scene; places in px from its upper or left edge.

    A patch is read from ``starts`` on, and counts for the pixels from ``firsts`` to ``ends``. If
    the last one would leave the scene, it is moved inside, and counts only for the pixels that no
    other patch covers.
    """

    starts: NDArray[np.int64]
    firsts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, length: int, *, patch_size: int, stride: int) -> Axis:
        """Place patches every ``stride`` px along a side of ``length`` px, all in px.

        ``length`` is at least ``patch_size``, and that at least ``stride``.
        """
        starts = np.arange(0, length - patch_size + 1, stride)
        firsts, ends = starts, starts + patch_size
        if ends[-1] < length:
            starts = np.append(starts, length - patch_size)
            firsts, ends = np.append(firsts, ends[-1]), np.append(ends, length)
        return cls(starts, firsts, ends)

    @classmethod
    def regular(cls, length: int, *, patch_size: int, stride: int) -> Axis:
        """Place patches every ``stride`` px, and none at the end that would leave the side."""
        starts = np.arange(0, length - patch_size + 1, stride)
        return cls(starts, starts, starts + patch_size)

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def cuts(self) -> NDArray[np.int64]:
        """The borders (m + 1,) of the m spans whose pixels are covered by the same patches."""
        return np.unique(np.concatenate([self.firsts, self.ends]))

    @cached_property
    def widths(self) -> NDArray[np.int64]:
        """The length of each span, (m,)."""
        return np.diff(self.cuts)

    @cached_property
    def covers(self) -> NDArray[np.intp]:
        """The patches that cover each span, (m, 2): the first, and the one after the last."""
        left = self.cuts[:-1]
        low = np.searchsorted(self.ends, left, side="right")
        return np.stack([low, np.searchsorted(self.firsts, left, side="right")], axis=1)

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum over the patches that cover each span: (n, ...) to (m, ...)."""
        padded = np.concatenate([values, np.zeros_like(values[:1])])
        found: NDArray[np.float64] = np.add.reduceat(padded, self.covers.ravel(), axis=0)[::2]
        return found


class Grid(NamedTuple):
    """The patches of a scene, row by row."""

    rows: Axis
    columns: Axis
    patch_size: int
    shape: tuple[int, int]
    """Of the scene, (H, W) px."""

    @classmethod
    def of(cls, shape: tuple[int, int], *, patch_size: int, stride: int) -> Grid:
        """Place patches every ``stride`` px in a scene of ``shape`` (H, W), all in px."""
        rows, columns = (Axis.of(side, patch_size=patch_size, stride=stride) for side in shape)
        return cls(rows, columns, patch_size, (shape[0], shape[1]))

    @property
    def num_patches(self) -> int:
        """Patches of the scene, those without data among them."""
        return len(self.rows) * len(self.columns)

    def lines(self, row: int) -> tuple[int, int]:
        """Return the lines of pixels that are written after a row of patches: first, and end.

        They begin where its patches first count, and end where those of the next row do.
        """
        firsts = self.rows.firsts
        end = int(firsts[row + 1]) if row + 1 < len(firsts) else self.shape[0]
        return int(firsts[row]), end
