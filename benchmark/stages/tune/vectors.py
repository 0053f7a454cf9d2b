"""Read embeddings of some patches from an artefact, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.store.artefacts import Artefact
from benchmark.store.damage import MISSING
from benchmark.tables import check_found, find_common, vectors_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

PART = "part-"
"""The beginning of the names of an artefact's tables."""


def read_vectors(
    embeddings: Artefact, wanted: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float32]]:
    """Return the embeddings (N, D) of patches by split, in the order of their sorted identities.

    Raises:
        CellError: a patch has no embedding, or a table is damaged.
    """
    found: dict[str, NDArray[np.float32]] = {}
    is_read = {split: np.zeros(len(ids), np.bool_) for split, ids in wanted.items()}
    for part in embeddings.tables(PART):
        table = embeddings.read_table(columns=["patch_id", "embedding"], names=[part])
        ids, vectors = table["patch_id"].to_numpy(), vectors_array(table["embedding"])
        dim = vectors.shape[1]
        if not found:
            found = {
                split: np.empty((len(mine), dim), np.float32) for split, mine in wanted.items()
            }
        for split, mine in wanted.items():
            if found[split].shape[1] != dim:
                raise embeddings.damage_of(part, "its embeddings have another length")
            at, rows = find_common(mine, ids)
            found[split][at], is_read[split][at] = vectors[rows], True
    if not found:
        raise embeddings.damage_of(f"{PART}*", MISSING)
    for split, mine in wanted.items():
        check_found(mine, is_read[split], what=embeddings.uri)
    return found
