"""The protocols of an opened data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from benchmark.contents import Found, Images

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class Source(Protocol):
    """An opened data set. It pickles, and its methods may run in different processes.

    Reading has two steps, so that labels decide which imagery is read: ``find`` lists the
    candidates of one unit (a scene or a group of files), ``read`` fetches pixels.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes; a label is an index into it."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the C bands, e.g. ``red``, ``green``, ``blue``, ``nir``."""
        ...

    @property
    def is_synthetic(self) -> bool:
        """Whether a program generated the images; every output that shows them says so."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the report must show, e.g. that the split is random."""
        ...

    def digest(self) -> str:
        """Return a hex digest of the names and contents of the source files."""
        ...

    def units(self) -> Sequence[str]:
        """Return the names of the units that ``find`` takes, sorted."""
        ...

    def find(self, unit: str) -> Found:
        """Return the candidates of one unit; an unreadable file is a Problem, not an error."""
        ...

    def read(self, candidates: pa.Table) -> Images:
        """Return the pixels of candidates of one unit, in the order of the rows given."""
        ...


@runtime_checkable
class LocatedSource(Protocol):
    """What a source has besides, if it knows the outlines of its patches on the ground."""

    def corners(self, patches: pa.Table) -> NDArray[np.float64]:
        """Return the corners of patches in degrees (EPSG:4326), (N, 4, 2); NaN: unknown.

        Each corner is longitude and latitude; they go around the patch.

        Args:
            patches: the columns ``patch_id``, ``scene``, ``row`` and ``col`` of patches.

        Raises:
            CellError: a scene cannot be read.
        """
        ...
