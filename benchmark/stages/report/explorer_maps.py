"""Maps of embeddings for the section "Explorer"."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.page.pictures import project
from benchmark.stages.report.figures import MAX_POINTS
from benchmark.stages.report.patches import EXAMPLE_SEED
from benchmark.stages.report.results import Results
from benchmark.tables import find_common, vectors_array

MAX_MAPS = 4


def map_embeddings(results: Results, ids: NDArray[Any]) -> list[dict[str, Any]]:
    """Return the map of each backbone of the best rows, as values of JSON.

    The components are those of the figure "Principal components": fitted on the same rows.

    Args:
        results: complete.
        ids: (N,) patches to show; the place of one without an embedding is None.
    """
    labelled = results.context.patches.read_table(columns=["patch_id", "split"])
    names = [name for name in dict.fromkeys(results.ranking["backbone"]) if name in results.embed]
    found = []
    for name in names[:MAX_MAPS]:
        table = results.context.embeddings(results.backbones[name]).read_table()
        known, vectors = table["patch_id"].to_numpy(), vectors_array(table["embedding"])
        at, _ = find_common(labelled["patch_id"].to_numpy(), known)
        few = np.sort(np.random.default_rng(EXAMPLE_SEED).permutation(len(vectors))[:MAX_POINTS])
        is_train = labelled["split"].to_numpy()[at][few] == "train"
        rows, which = find_common(known, ids)
        projection = project(
            vectors[np.concatenate([few, rows])],
            np.concatenate([is_train, np.zeros(len(rows), bool)]),
        )
        places: NDArray[Any] = np.full((len(ids), 2), None, object)
        places[which] = [
            [float(f"{value:.4g}") for value in point] for point in projection.points[len(few) :]
        ]
        first, second = (f"{share:.0%}" for share in projection.explained)
        found.append(
            {
                "name": name,
                "axes": [
                    f"first component, {first} of the variance",
                    f"second component, {second}",
                ],
                "x": places[:, 0].tolist(),
                "y": places[:, 1].tolist(),
            }
        )
    return found
