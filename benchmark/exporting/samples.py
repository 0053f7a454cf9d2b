"""A few patches of test with their stored predictions, to compare an exported folder with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.store.artefacts import Artefact
from benchmark.tables import find_rows, images_array, vectors_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNT = 16
"""Patches to compare."""
NUM_PARTS = 4
"""Parts of the table ``patches`` to read them from."""


class Samples(NamedTuple):
    """Patches and their stored probabilities."""

    pixels: NDArray[np.uint8]
    """(n, C, H, W), the bands of the data set."""
    scores: NDArray[np.float32]
    """(n, K)."""


def read_samples(context: Context, predictions: Artefact) -> Samples:
    """Return patches of test, or of val if there are none, from a few parts of the store.

    Args:
        context: the experiment; its patches are complete.
        predictions: of the cell.

    Raises:
        UsageError: there are no patches of test or val.
        CellError: the tables cannot be read, or do not belong together.
    """
    manifest = context.patches.manifest()
    shape = len(manifest["bands"]), manifest["patch_size"], manifest["patch_size"]
    table = predictions.read_table(columns=["patch_id", "y_score"])
    ids, scores = table["patch_id"].to_numpy().astype(np.str_), vectors_array(table["y_score"])
    for split in ("test", "val"):
        names: list[NDArray[np.str_]] = []
        images: list[NDArray[np.uint8]] = []
        for part in context.patches.tables("part-"):
            rows = context.patches.read_table(
                names=[part], splits=[split], columns=["patch_id", "image"]
            )
            if not rows.num_rows:
                continue
            taken = rows.take(_spread(rows.num_rows))
            names.append(taken["patch_id"].to_numpy().astype(np.str_))
            images.append(images_array(taken["image"], shape))
            if len(names) == NUM_PARTS:
                break
        if names:
            at = _spread(sum(map(len, names)))
            found = find_rows(ids, np.concatenate(names)[at], what=predictions.uri)
            return Samples(np.concatenate(images)[at], scores[found])
    raise UsageError(
        f"{context.patches.uri} holds no patches of test or val to compare the export with; run "
        "`benchmark run` with more data"
    )


def _spread(count: int) -> NDArray[np.intp]:
    """Return at most ``COUNT`` places among ``count``, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, COUNT).astype(np.intp))
