"""The contract of embeddings that are read from files in place of a network's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@runtime_checkable
class Product(Protocol):
    """Embeddings that were computed elsewhere: rows of an identifier and a vector. It pickles."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def drops_missing(self) -> bool:
        """Whether patches that it lacks are left out; otherwise they end the run."""
        ...

    @property
    def join(self) -> str | None:
        """How rows are joined by place, ``centre`` or ``area``; None: by identifiers."""
        ...

    @property
    def crs(self) -> str:
        """Coordinate reference system of the shapes; empty where rows are not joined by place."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Its entry in the manifest, as JSON: files and columns."""
        ...

    def pieces(self) -> Sequence[Any]:
        """Return the pieces of its files that are read at once, each from one end to the other.

        Raises:
            UsageError: a file is damaged, or lacks a column.
        """
        ...

    def identifiers(self, piece: Any) -> Iterator[pa.Array]:
        """Yield the identifiers of a piece in batches of texts, in the order of its rows.

        Where rows are joined by place: its shapes, as well-known binary.

        Raises:
            UsageError: the file is damaged.
        """
        ...

    def vectors(self, piece: Any, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors (n, D) of sorted rows of a piece in batches, in their order.

        Raises:
            UsageError: the file is damaged, or a vector is not finite or of another length.
        """
        ...


class SampleRequest(Protocol):
    """Footprints whose vectors one task takes. It pickles."""

    @property
    def patches(self) -> NDArray[np.int64]:
        """Numbers of the footprints, (n,)."""
        ...

    def choose(self, is_chosen: NDArray[np.bool_]) -> SampleRequest:
        """Return the same with some of the footprints, (n,)."""
        ...


class Sampler(Protocol):
    """Takes the vectors of footprints from files whose headers are known. It pickles."""

    def requests(self, corners: NDArray[np.float64]) -> Sequence[SampleRequest]:
        """Return the tasks that sample footprints.

        Footprints that no file touches are in none.

        Args:
            corners: in degrees (EPSG:4326), (N, M, 2); M = 1: points.

        Raises:
            UsageError: no file touches a footprint, or files of two years do.
        """
        ...

    def middles(self) -> NDArray[np.float64]:
        """Return a small footprint in the middle of each file, as ``corners``."""
        ...

    def sample(self, request: Any) -> NDArray[np.float32]:
        """Return vectors with the share of pixels without data behind each, (n, D + 1).

        The vector of a footprint without a valid pixel is NaN.

        Raises:
            UsageError: a file is damaged, or its values cannot be used.
        """
        ...


@runtime_checkable
class PlacedProduct(Protocol):
    """Embeddings that were computed elsewhere, for places on the ground. It pickles."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def words(self) -> str:
        """How a footprint becomes a vector, for users."""
        ...

    @property
    def drops_missing(self) -> bool:
        """Whether patches that it lacks are left out; otherwise they end the run."""
        ...

    @property
    def needs_outlines(self) -> bool:
        """Whether the centre of a patch is not enough."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Its entry in the manifest, as JSON: files and rule."""
        ...

    def open(self) -> Sampler:
        """Read the headers of its files.

        Raises:
            UsageError: a file is damaged, or differs from the others.
        """
        ...
