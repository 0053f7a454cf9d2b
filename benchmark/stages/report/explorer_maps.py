"""Maps of embeddings for the section "Explorer"."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.page.pictures import project
from benchmark.stages.report.figures import find_components
from benchmark.stages.report.patches import EXAMPLE_SEED
from benchmark.stages.report.results import Results
from benchmark.tables import find_common, find_rows, vectors_array

MAX_MAPS = 4
MAX_REGIONS = 20
"""Regions with a colour of their own."""
MAX_NEIGHBOURS, MIN_NEIGHBOURS = 1000, 100
"""Patches of a map by t-SNE: more take too long, fewer show no groups."""
TSNE_STEPS, TSNE_PERPLEXITY, TSNE_COMPONENTS = 500, 30, 50
"""Iterations, neighbours that count, and principal components that it begins with."""


def map_embeddings(results: Results, ids: NDArray[Any]) -> list[dict[str, Any]]:
    """Return the maps of each backbone of the best rows, as values of JSON.

    The components are those of the figure "Principal components": fitted on the same rows. Maps by
    t-SNE, where the experiment asks for them, come next, and last where the patches lie.

    Args:
        results: complete.
        ids: (N,) patches to show; the place of one without an embedding is None.
    """
    columns = ["patch_id", "split", "lon", "lat"]
    labelled = results.context.patches.read_table(columns=columns)
    names = [name for name in dict.fromkeys(results.ranking["backbone"]) if name in results.embed]
    found, others = [], []
    for name in names[:MAX_MAPS]:
        table = results.context.embeddings(results.backbones[name]).read_table()
        known, vectors = table["patch_id"].to_numpy(), vectors_array(table["embedding"])
        at, _ = find_common(labelled["patch_id"].to_numpy(), known)
        is_train = labelled["split"].to_numpy()[at] == "train"
        rows, which = find_common(known, ids)
        projection = find_components(results, name, vectors, is_train).project(vectors[rows])
        first, second = (f"{share:.0%}" for share in projection.explained)
        axes = [f"first component, {first} of the variance", f"second component, {second}"]
        found.append(_as_map(name, axes, projection.points, which, len(ids)))
        if results.context.experiment.report.tsne and len(rows) >= MIN_NEIGHBOURS:
            few = np.random.default_rng(EXAMPLE_SEED).permutation(len(rows))[:MAX_NEIGHBOURS]
            points = place_neighbours(vectors[rows[few]])
            axes = ["t-SNE: only neighbourhoods mean something", "no unit"]
            others.append(_as_map(f"{name} (t-SNE)", axes, points, which[few], len(ids)))
    return [*found, *others, *place_patches(labelled, ids)]


def place_patches(patches: pa.Table, ids: NDArray[Any]) -> list[dict[str, Any]]:
    """Return the map of where the patches lie; nothing if that is unknown or one place."""
    at = find_rows(patches["patch_id"].to_numpy(), ids, what="the table of patches")
    places = np.column_stack([patches[key].to_numpy()[at] for key in ("lon", "lat")]).astype(float)
    which = np.flatnonzero(np.isfinite(places).all(axis=1))
    if len(np.unique(places[which], axis=0)) < 2:
        return []
    axes = ["longitude, degrees", "latitude, degrees"]
    return [_as_map("Where patches lie", axes, places[which], which, len(ids), digits=7)]


def describe_tsne(maps: list[dict[str, Any]]) -> str:
    """Return what maps by t-SNE can tell; empty: there are none."""
    if not any(item["name"].endswith(" (t-SNE)") for item in maps):
        return ""
    return (
        f"Maps by t-SNE show up to {MAX_NEIGHBOURS:,} of the patches, drawn with a fixed seed. "
        "Patches that are near each other there have similar embeddings; distances between groups, "
        "their sizes and the axes mean nothing, and another seed gives another map."
    )


def place_neighbours(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return places (N, 2) that keep neighbours, by t-SNE; the same on any number of threads.

    Args:
        vectors: (N, D), N >= ``MIN_NEIGHBOURS``.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    began = project(vectors).points
    # Of equal embeddings, all points are one.
    began = 1e-4 * began / max(float(began[:, 0].std()), 1e-300)
    with threadpool_limits(1):
        if min(vectors.shape) > TSNE_COMPONENTS:
            reduction = PCA(TSNE_COMPONENTS, svd_solver="covariance_eigh")
            vectors = reduction.fit_transform(vectors.astype(np.float64))
        points: NDArray[np.float64] = TSNE(
            perplexity=TSNE_PERPLEXITY,
            max_iter=TSNE_STEPS,
            init=began.astype(np.float32),
            random_state=EXAMPLE_SEED,
            n_jobs=1,
        ).fit_transform(vectors)
    return points


def name_regions(regions: NDArray[Any]) -> dict[str, list[Any]]:
    """Return the values of JSON that colour patches by region; empty ones of a single region.

    Args:
        regions: (N,) names, None where unknown; rare ones beyond ``MAX_REGIONS`` become one.
    """
    counts = Counter(name for name in regions if name is not None)
    names = sorted(name for name, _ in counts.most_common(MAX_REGIONS))
    if len(names) < 2:
        return {"regions": [], "regionNames": []}
    number = {name: index for index, name in enumerate(names)}
    other = len(names)
    found = [other + 1 if name is None else number.get(name, other) for name in regions]
    return {"regions": found, "regionNames": [*names, "other regions", "unknown"]}


def _as_map(
    name: str,
    axes: list[str],
    points: NDArray[Any],
    which: NDArray[np.intp],
    count: int,
    *,
    digits: int = 4,
) -> dict[str, Any]:
    """Return points (n, 2) of the patches ``which`` of ``count``, rounded to so many digits."""
    places: NDArray[Any] = np.full((count, 2), None, object)
    places[which] = [[float(f"{value:.{digits}g}") for value in point] for point in points]
    return {"name": name, "axes": axes, "x": places[:, 0].tolist(), "y": places[:, 1].tolist()}
