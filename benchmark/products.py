"""The contract of embeddings that are read from files in place of a network's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class Product(Protocol):
    """Embeddings that were computed elsewhere: rows of an identifier and a vector. It pickles."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
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
