"""Embeddings of flipped patches, over which a head's predictions are averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmark.experiment.flipped import FlippedPatches
from benchmark.flipping import mean_scores
from benchmark.stages.tune.vectors import read_vectors
from benchmark.store.artefacts import Artefact
from benchmark.tables import check_found, find_common

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FlippedRows(NamedTuple):
    """The embeddings of one flip of the patches of some splits."""

    flip: str
    ids: NDArray[np.str_]
    """(N,), sorted."""
    x: NDArray[np.float32]
    """(N, D)."""


def load_flipped(patches: Artefact, flipped: FlippedPatches, embeddings: Artefact) -> FlippedRows:
    """Read the embeddings of a flip.

    Raises:
        CellError: a patch has no embedding, or a table is damaged.
    """
    table = patches.read_table(columns=["patch_id", "split"], splits=flipped.splits)
    ids = table["patch_id"].to_numpy().astype(np.str_)
    return FlippedRows(flipped.flip, ids, read_vectors(embeddings, {"all": ids})["all"])


def average_flips(
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    plain: NDArray[np.float32],
    ids: NDArray[np.str_],
    flipped: Sequence[FlippedRows],
) -> NDArray[np.float32]:
    """Return the mean probabilities (N, K) of patches and of their flips.

    Args:
        predict: returns the probabilities (N, K) of embeddings (N, D).
        plain: probabilities of the patches as they are (N, K).
        ids: their identities (N,).
        flipped: of each flip the embeddings, of several splits perhaps.

    Raises:
        CellError: a patch has no embedding of a flip.
    """
    versions = [plain]
    for flip in dict.fromkeys(rows.flip for rows in flipped):
        mine = [rows for rows in flipped if rows.flip == flip]
        versions.append(predict(_take(mine, ids)))
    return mean_scores(versions)


def _take(groups: Sequence[FlippedRows], ids: NDArray[np.str_]) -> NDArray[np.float32]:
    """Return the embeddings (N, D) of patches, each in one of the groups."""
    found = np.empty((len(ids), groups[0].x.shape[1]), np.float32)
    is_there = np.zeros(len(ids), np.bool_)
    for rows in groups:
        at, which = find_common(rows.ids, ids)
        found[which], is_there[which] = rows.x[at], True
    check_found(ids, is_there, what=f"the embeddings of flipped patches ({groups[0].flip})")
    return found
