"""What a data set gives when it is searched and read: candidates, pixels, problems and remarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class Problem(NamedTuple):
    """An input file that could not be used, and the reason."""

    path: str
    reason: str


class Remark(NamedTuple):
    """A count for the notes of the report; equal texts are summed over the data set."""

    text: str
    num: int = 1
    patch_id: str = ""
    """The patch that it tells of, which was read, or left out on purpose."""


class Found(NamedTuple):
    """Content of one unit of a source.

    ``candidates`` has the columns of ``tables.CANDIDATES``; ``num_examined`` counts the
    windows or images examined.
    """

    candidates: pa.Table
    num_examined: int
    problems: tuple[Problem, ...] = ()
    remarks: tuple[Remark, ...] = ()


class Images(NamedTuple):
    """Pixels of candidates, uint8 (N, C, H, W), and the rows of those that were read.

    A row that is left out has a Problem of its file, or a Remark.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    problems: tuple[Problem, ...] = ()
    remarks: tuple[Remark, ...] = ()
