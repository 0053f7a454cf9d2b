"""The contract of an embedding product: one finite vector for each identifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.catalog.contracts.checks import Check, expect, pickles
from benchmark.products import PlacedProduct, Product


def has_equal_columns(product: Product) -> None:
    """All files can be read and hold the same columns."""
    expect(len(product.pieces()) > 0, "it has no rows")


def has_unique_identifiers(product: Product) -> None:
    """No identifier is empty or in two rows; shapes may be."""
    if product.join:
        return
    seen: set[str | None] = set()
    for piece in product.pieces():
        for batch in product.identifiers(piece):
            for name in batch.to_pylist():
                expect(bool(name), "a row has no identifier")
                expect(name not in seen, f"the identifier {name!r} is in two rows")
                seen.add(name)


def has_finite_vectors(product: Product) -> None:
    """All vectors are finite and of the same length."""
    for piece in product.pieces():
        count = sum(len(batch) for batch in product.identifiers(piece))
        for _ in product.vectors(piece, np.arange(count)):
            pass


def pickles_for_workers(product: Product | PlacedProduct) -> None:
    """The product reaches another process."""
    expect(pickles(product).dim == product.dim, "it differs in another process")


CHECKS: Sequence[Check[Product]] = (
    has_equal_columns,
    has_unique_identifiers,
    has_finite_vectors,
    pickles_for_workers,
)


def has_equal_rasters(product: PlacedProduct) -> None:
    """All files can be opened and hold the same bands."""
    product.open()


def has_usable_middles(product: PlacedProduct) -> None:
    """The middle of every file can be read, and its values can be used."""
    sampler = product.open()
    for request in sampler.requests(sampler.middles()):
        sampler.sample(request)


PLACED_CHECKS: Sequence[Check[PlacedProduct]] = (
    has_equal_rasters,
    has_usable_middles,
    pickles_for_workers,
)
