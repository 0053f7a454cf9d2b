"""Take the vectors of a product of tables, row group by row group.

The first pass reads identifiers alone and finds the row of each patch. The second reads vectors of
the row groups that hold such rows, and keeps these rows alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.catalog.products.joining import WantedPlaces
from benchmark.catalog.products.matching import Wanted
from benchmark.errors import UsageError
from benchmark.products import Product
from benchmark.stages.embed.taking import Taken, Tasks, answer


class Request(NamedTuple):
    """The rows of a piece whose vectors are wanted."""

    piece: Any
    rows: NDArray[np.int64]
    """Sorted."""
    places: NDArray[np.int64]
    """Where their vectors belong among those of the pass."""


class FindRows:
    """Compares the identifiers or shapes of a piece with patches (a Ray Data read task)."""

    def __init__(self, product: Product, wanted: Wanted | WantedPlaces, where: str) -> None:
        self._product = product
        self._wanted = wanted
        self._where = where

    def __call__(self, item: tuple[int, Any]) -> pa.Table:
        """Return one row: the matches, int64 (M, 4), as bytes."""
        number, piece = item
        return answer(number, partial(self._find, number, piece))

    def _find(self, number: int, piece: Any) -> NDArray[np.int64]:
        try:
            found = self._wanted.find(self._product.identifiers(piece))
        except ValueError as error:
            raise UsageError(f"{self._where}: '{piece.path}': {error}; correct it") from None
        return np.column_stack([found, np.full(len(found), number)])


class TakeRows:
    """Reads the vectors of some rows of a piece (a Ray Data read task)."""

    def __init__(self, product: Product) -> None:
        self._product = product

    def __call__(self, item: tuple[int, Request]) -> pa.Table:
        """Return one row: the vectors, float32 (n, D), as bytes."""
        number, request = item
        return answer(number, partial(self._take, request))

    def _take(self, request: Request) -> NDArray[np.float32]:
        none = np.empty((0, self._product.dim), np.float32)
        return np.concatenate([none, *self._product.vectors(request.piece, request.rows)])


class RowTaker:
    """Takes rows by their identifiers or places (``taking.Taker``)."""

    def __init__(
        self, product: Product, wanted: Wanted | WantedPlaces, tasks: Tasks, where: str
    ) -> None:
        """Find the rows of each patch.

        Args:
            product: of tables.
            wanted: the patches.
            tasks: run the reading.
            where: start of each message.

        Raises:
            UsageError: the product is damaged, or does not hold a row for each patch.
        """
        self._product, self._tasks, self._where = product, tasks, where
        self._pieces = product.pieces()
        found, read = [np.empty((0, 4), np.int64)], FindRows(product, wanted, where)
        for _, content in tasks.run(read, list(enumerate(self._pieces))):
            found.append(np.frombuffer(content, np.int64).reshape(-1, 4))
        self._matched = wanted.choose(
            np.concatenate(found), where, self._example, drops_missing=product.drops_missing
        )

    @property
    def rule(self) -> str:
        """How rows are compared with patches (see ``Taker``)."""
        return self._matched.rule

    def take(self, patches: NDArray[np.int64]) -> Taken:
        """Return the vectors of patches (see ``Taker``)."""
        matched = self._matched
        place_of = np.full(1 + max(patches.max(initial=-1), matched.patches.max(initial=-1)), -1)
        place_of[patches] = np.arange(len(patches))
        mine = np.flatnonzero(place_of[matched.patches] >= 0)
        where, rows = matched.pieces[mine], matched.rows[mine]
        requests = []
        for number in np.unique(where):
            places = np.flatnonzero(where == number)
            places = places[np.argsort(rows[places], kind="stable")]
            requests.append(Request(self._pieces[number], rows[places], places))
        found = np.empty((len(mine), self._product.dim), np.float32)
        for number, content in self._tasks.run(TakeRows(self._product), list(enumerate(requests))):
            vectors = np.frombuffer(content, np.float32).reshape(-1, self._product.dim)
            if len(vectors) != len(requests[number].rows):
                raise UsageError(
                    f"{self._where}: its files changed while they were read; run again"
                )
            found[requests[number].places] = vectors
        vectors = np.full((len(patches), self._product.dim), np.nan, np.float32)
        places = place_of[matched.patches[mine]]
        if matched.weights is None:
            vectors[places] = found
        elif len(mine):
            # The rows of a patch follow one another.
            starts = np.flatnonzero(np.diff(places, prepend=-1))
            weights = matched.weights[mine]
            sums = np.add.reduceat(found * weights[:, None], starts)
            vectors[places[starts]] = sums / np.add.reduceat(weights, starts)[:, None]
        return Taken(vectors)

    def _example(self) -> str | None:
        pieces = self._pieces
        ids = (batch[0].as_py() for piece in pieces for batch in self._product.identifiers(piece))
        return next(ids, None)
