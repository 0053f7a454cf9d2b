"""Properties of a set of embeddings: rank, intrinsic dimension, duplicates, neighbours.

Rows are patches: vectors are (N, D). What cannot be computed from so few rows is NaN.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MLE_NEIGHBOURS = (10, 20)
"""The numbers of neighbours over which Levina and Bickel (2004) average their estimates."""
TWONN_KEPT = 0.9
"""The share of points that the fit of Facco et al. (2017) keeps: those with the smallest ratios."""
SMALLEST_SQUARE = 1e-14
"""Eigenvalues below this share of the largest are rounding."""
BLOCK_ROWS = 4096
"""Rows compared at once: memory does not grow with the number of rows."""


class Nearest(NamedTuple):
    """The nearest rows of each query that were found so far."""

    similarities: NDArray[np.float32]
    """Cosines (Q, k), in no order."""
    labels: NDArray[np.int64]
    """The classes (Q, k) of those rows."""


def effective_rank(vectors: NDArray[np.floating]) -> float:
    """Return the effective rank of vectors (N, D) after their mean is subtracted.

    It is the exponential of the entropy of the singular values, divided by their sum (Roy and
    Vetterli 2007, The effective rank): D if all directions vary equally, 1 if one alone does. The
    mean is subtracted because an offset that all rows share tells none apart. NaN: no row differs.
    """
    n, d = vectors.shape
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    # Squares of singular values: twenty times as fast as these, and exact to a ten-millionth of
    # the largest one, below which a value adds nothing to the entropy.
    squares = np.linalg.eigvalsh(centred.T @ centred if d <= n else centred @ centred.T)
    largest = squares.max(initial=0.0)
    values = np.sqrt(squares[squares > SMALLEST_SQUARE * largest])
    total = values.sum()
    # Rows that are equal differ from their mean by its rounding alone.
    if not total > np.finfo(np.float32).eps * np.abs(vectors).max(initial=0.0):
        return math.nan
    shares = values / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def distinct_rows(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return each different row (N, D) once."""
    return np.unique(vectors, axis=0)


def row_digests(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return a digest (N,) of each row (N, D): equal rows have equal ones."""
    # Adding zero turns -0.0 into 0.0, which is equal and has other bytes.
    rows = np.ascontiguousarray(vectors + np.float32(0.0))
    digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, np.uint64)


def duplicate_share(digests: NDArray[np.uint64]) -> float:
    """Return the share of rows that repeat another one, of the digests (N,) of all rows."""
    return 1.0 - len(np.unique(digests)) / len(digests) if len(digests) else math.nan


def norm_spread(norms: NDArray[np.floating]) -> float:
    """Return the standard deviation of norms (N,) over their mean; NaN: all are 0."""
    mean = norms.mean(dtype=np.float64) if len(norms) else 0.0
    return float(norms.std(dtype=np.float64) / mean) if mean > 0 else math.nan


def neighbour_distances(vectors: NDArray[np.floating], count: int) -> NDArray[np.float64]:
    """Return the Euclidean distances (N, count) of each row (N, D) to its nearest others, sorted.

    Rows must differ; there are fewer columns if there are fewer rows.
    """
    from sklearn.neighbors import NearestNeighbors

    count = min(count, len(vectors) - 1)
    if count < 1:
        return np.empty((len(vectors), 0))
    # Centred: differences of large numbers lose digits.
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(centred)
    distances: NDArray[np.float64] = search.kneighbors()[0]
    return distances[distances[:, 0] > 0]


def dimension_twonn(distances: NDArray[np.float64]) -> float:
    """Return the intrinsic dimension by the ratios of the two smallest distances (N, 2 or more).

    The fit through the origin of Facco, d'Errico, Rodriguez and Laio (2017, Estimating the
    intrinsic dimension of datasets by a minimal neighborhood information), without the tenth of
    points with the largest ratios. NaN: too few rows.
    """
    if distances.shape[1] < 2 or len(distances) < 2:
        return math.nan
    ratios = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    kept = int(TWONN_KEPT * len(ratios))
    x = ratios[:kept]
    y = -np.log1p(-np.arange(1, kept + 1) / len(ratios))
    squares = float(x @ x)
    return float(x @ y) / squares if squares > 0 else math.nan


def dimension_mle(distances: NDArray[np.float64]) -> float:
    """Return the intrinsic dimension by maximum likelihood, of sorted distances (N, 20 or more).

    The mean over points, and over 10 to 20 neighbours, of the estimate of Levina and Bickel (2004,
    Maximum likelihood estimation of intrinsic dimension, equations 8 to 10). NaN: too few rows.
    """
    first, last = MLE_NEIGHBOURS
    if distances.shape[1] < last or not len(distances):
        return math.nan
    logs = np.log(distances[:, :last])
    found = []
    for count in range(first, last + 1):
        means = (logs[:, count - 1 : count] - logs[:, : count - 1]).mean(axis=1)
        # Rows whose neighbours are all equally far, as on a grid, estimate nothing.
        found.append((1.0 / means[means > 0]).mean() if (means > 0).any() else math.nan)
    return float(np.mean(found))


def unit_rows(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows (N, D) scaled to length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def nearest_of_none(num_queries: int) -> Nearest:
    """Return the nearest rows of queries before any row was added."""
    return Nearest(np.empty((num_queries, 0), np.float32), np.empty((num_queries, 0), np.int64))


def add_nearest(
    nearest: Nearest,
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    labels: NDArray[np.integer],
    count: int,
) -> Nearest:
    """Return the nearest ``count`` rows of each query among those found so far and more rows.

    Args:
        nearest: of the rows before.
        queries: unit rows (Q, D).
        vectors: unit rows (N, D).
        labels: classes (N,) of those rows.
        count: of neighbours to keep.
    """
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        cosines = np.hstack([nearest.similarities, queries @ vectors[block].T])
        classes = np.hstack(
            [nearest.labels, np.broadcast_to(labels[block], (len(queries), len(labels[block])))]
        )
        if cosines.shape[1] > count:
            kept = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
            cosines = np.take_along_axis(cosines, kept, axis=1)
            classes = np.take_along_axis(classes, kept, axis=1)
        nearest = Nearest(cosines, classes)
    return nearest


def neighbour_precisions(
    nearest: Nearest, labels: NDArray[np.integer], num_classes: int
) -> NDArray[np.float64]:
    """Return the share (K,) of neighbours that have the class of their query, by that class.

    Args:
        nearest: of the queries.
        labels: classes (Q,) of the queries.
        num_classes: K. A class without a query is NaN.
    """
    if not nearest.labels.shape[1]:
        return np.full(num_classes, np.nan)
    shares = (nearest.labels == labels[:, None]).mean(axis=1)
    return np.array(
        [shares[labels == k].mean() if (labels == k).any() else np.nan for k in range(num_classes)]
    )
