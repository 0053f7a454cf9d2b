"""Maps of embeddings for the section "Explorer"."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.errors import one_line
from benchmark.page.pictures import project
from benchmark.stages.report.figures import find_components
from benchmark.stages.report.patches import EXAMPLE_SEED
from benchmark.stages.report.results import Results
from benchmark.tables import find_common, find_rows, vectors_array

MAX_MAPS = 4
MAX_REGIONS = 20
"""Regions with a colour of their own."""
MAX_NEIGHBOURS, MIN_NEIGHBOURS = 1000, 100
"""Patches of a map that keeps neighbours: more take too long, fewer show no groups."""
NUM_COMPONENTS = 50
"""Principal components that such a map is made from."""
TSNE_STEPS, TSNE_PERPLEXITY = 500, 30
"""Iterations, and neighbours that count."""
UMAP_STEPS, UMAP_NEIGHBOURS = 500, 15
TSNE, UMAP = "t-SNE", "UMAP"


def map_embeddings(results: Results, ids: NDArray[Any]) -> tuple[list[dict[str, Any]], str]:
    """Return the maps of each backbone of the best rows, as values of JSON, and what some tell.

    The components are those of the figure "Principal components": fitted on the same rows. Maps by
    t-SNE and by UMAP, where the experiment asks for them, come next, and last where the patches
    lie. Of maps that keep neighbours the text says what they mean, and why one is left out.

    Args:
        results: complete.
        ids: (N,) patches to show; the place of one without an embedding is None.
    """
    columns = ["patch_id", "split", "lon", "lat"]
    labelled = results.context.patches.read_table(columns=columns)
    names = [name for name in dict.fromkeys(results.ranking["backbone"]) if name in results.embed]
    settings = results.context.experiment.report
    asked = [kind for kind, is_on in ((TSNE, settings.tsne), (UMAP, settings.umap)) if is_on]
    others: dict[str, list[dict[str, Any]]] = {kind: [] for kind in asked}
    found, failures = [], {}
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
        few = np.random.default_rng(EXAMPLE_SEED).permutation(len(rows))[:MAX_NEIGHBOURS]
        for kind in asked if len(few) >= MIN_NEIGHBOURS else []:
            if kind in failures:
                continue
            try:
                points = PLACERS[kind](vectors[rows[few]])
            # Compilers and their caches raise anything, and no fault of theirs may lose a page.
            except Exception as error:
                failures[kind] = one_line(error)
                continue
            axes = [f"{kind}: only neighbourhoods mean something", "no unit"]
            others[kind].append(_as_map(f"{name} ({kind})", axes, points, which[few], len(ids)))
    maps = [*found, *(item for kind in asked for item in others[kind])]
    drawn = {kind: len(items) for kind, items in others.items()}
    return [*maps, *place_patches(labelled, ids)], describe_neighbours(drawn, failures)


def place_patches(patches: pa.Table, ids: NDArray[Any]) -> list[dict[str, Any]]:
    """Return the map of where the patches lie; nothing if that is unknown or one place."""
    at = find_rows(patches["patch_id"].to_numpy(), ids, what="the table of patches")
    places = np.column_stack([patches[key].to_numpy()[at] for key in ("lon", "lat")]).astype(float)
    which = np.flatnonzero(np.isfinite(places).all(axis=1))
    if len(np.unique(places[which], axis=0)) < 2:
        return []
    axes = ["longitude, degrees", "latitude, degrees"]
    return [_as_map("Where patches lie", axes, places[which], which, len(ids), digits=7)]


def describe_neighbours(drawn: Mapping[str, int], failures: Mapping[str, str]) -> str:
    """Return what maps that keep neighbours can tell, and which are left out.

    Args:
        drawn: number of maps of each kind that the experiment asks for.
        failures: why a kind has no (further) map.
    """
    sentences = []
    if kinds := [kind for kind, number in drawn.items() if number]:
        sentences.append(
            f"Maps by {' and by '.join(kinds)} show up to {MAX_NEIGHBOURS:,} of the patches, drawn "
            "with a fixed seed. Patches that are near each other there have similar embeddings; "
            "distances between groups and sizes of groups mean little, the axes mean nothing, and "
            "another seed gives another map."
        )
    for kind, number in drawn.items():
        if kind in failures:
            which = "Further maps" if number else "Maps"
            sentences.append(f"{which} by {kind} are left out: {failures[kind].rstrip('.')}.")
        elif not number:
            sentences.append(f"Maps by {kind} need {MIN_NEIGHBOURS} patches with a picture.")
    return " ".join(sentences)


def place_by_tsne(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return places (N, 2) that keep neighbours, by t-SNE; the same on any number of threads.

    Args:
        vectors: (N, D), N >= ``MIN_NEIGHBOURS``.
    """
    from sklearn import manifold
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        vectors, began = _reduce(vectors)
        points: NDArray[np.float64] = manifold.TSNE(
            perplexity=TSNE_PERPLEXITY,
            max_iter=TSNE_STEPS,
            init=(1e-4 * began).astype(np.float32),
            random_state=EXAMPLE_SEED,
            n_jobs=1,
        ).fit_transform(vectors)
    return points


def place_by_umap(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return places (N, 2) that keep neighbours, by UMAP; the same on any number of threads.

    Args:
        vectors: (N, D), N >= ``MIN_NEIGHBOURS``.
    """
    from sklearn.metrics import euclidean_distances
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings():
        # Of packages that it could use, and of distances that are given.
        warnings.simplefilter("ignore")
        import numba
        import umap

        # Kept on disk, as the packages keep others: else each process compiles them anew.
        for name, function in vars(umap.umap_).items():
            if not name.startswith("_") and hasattr(function, "enable_caching"):
                function.enable_caching()
        num_threads = numba.get_num_threads()
        # Its sums would depend on their number.
        numba.set_num_threads(1)
        try:
            with threadpool_limits(1):
                vectors, began = _reduce(vectors)
                # Points on one line, or in one place, would be divided by 0.
                began += np.random.default_rng(EXAMPLE_SEED).normal(scale=1e-4, size=began.shape)
                points: NDArray[np.float64] = umap.UMAP(
                    n_neighbors=UMAP_NEIGHBOURS,
                    n_epochs=UMAP_STEPS,
                    metric="precomputed",
                    init=began.astype(np.float32),
                    random_state=EXAMPLE_SEED,
                    n_jobs=1,
                ).fit_transform(euclidean_distances(vectors))
        finally:
            numba.set_num_threads(num_threads)
    if not np.isfinite(points).all():
        raise ValueError("UMAP gave places that are not finite")
    return points


PLACERS: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.float64]]] = {
    TSNE: place_by_tsne,
    UMAP: place_by_umap,
}


def _reduce(vectors: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the first ``NUM_COMPONENTS`` components (N, C), and places (N, 2) to begin with.

    These are the first two, divided by the standard deviation of the first.
    """
    from sklearn.decomposition import PCA

    began = project(vectors).points
    # Of equal embeddings, all points are one.
    began = began / max(float(began[:, 0].std()), 1e-300)
    if min(vectors.shape) <= NUM_COMPONENTS:
        return vectors, began
    reduction = PCA(NUM_COMPONENTS, svd_solver="covariance_eigh")
    return reduction.fit_transform(vectors.astype(np.float64)), began


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
