"""Properties of embeddings whose values are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.statistics.embeddings import (
    BLOCK_ROWS,
    MLE_NEIGHBOURS,
    add_nearest,
    dimension_mle,
    dimension_twonn,
    distinct_rows,
    duplicate_share,
    effective_rank,
    nearest_of_none,
    neighbour_distances,
    neighbour_precisions,
    norm_spread,
    row_digests,
    unit_rows,
)


def flat(num_rows: int, dim: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Return points (N, W) that fill a turned cube of some dimensions, far from the origin."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(width, dim)))[0]
    return (rng.random((num_rows, dim)) @ axes.T + 7).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 3, 8])
def test_equal_axes_have_their_number_as_effective_rank(dim: int) -> None:
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * dim)).reshape(dim, -1).T
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(20, dim)))[0]
    assert effective_rank(signs @ axes.T + 100) == pytest.approx(dim, rel=1e-5)


def test_the_effective_rank_is_the_entropy_of_singular_values() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 6)) * [1, 2, 3, 5, 8, 13]
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(rows) == pytest.approx(expected)
    # Fewer rows than columns: the other Gram matrix.
    assert effective_rank(rows[:4]) < 3.0001


def test_rows_that_do_not_differ_have_no_rank_dimension_or_spread() -> None:
    same = np.full((50, 3), 0.1, np.float32)
    assert math.isnan(effective_rank(same))
    distances = neighbour_distances(distinct_rows(same), 20)
    assert math.isnan(dimension_twonn(distances))
    assert math.isnan(dimension_mle(distances))
    assert math.isnan(norm_spread(np.zeros(5)))


@pytest.mark.parametrize(("dim", "tolerance"), [(1, 0.1), (2, 0.1), (5, 0.1), (8, 0.15)])
def test_the_dimension_of_a_turned_cube_is_found(dim: int, tolerance: float) -> None:
    distances = neighbour_distances(flat(2000, dim, 40), MLE_NEIGHBOURS[1])
    assert dimension_twonn(distances) == pytest.approx(dim, rel=tolerance)
    assert dimension_mle(distances) == pytest.approx(dim, rel=tolerance)


def test_a_sphere_has_one_dimension_less_than_its_space() -> None:
    rows = unit_rows(np.random.default_rng(0).normal(size=(2000, 4)))
    distances = neighbour_distances(rows, MLE_NEIGHBOURS[1])
    assert dimension_twonn(distances) == pytest.approx(3, rel=0.1)
    assert dimension_mle(distances) == pytest.approx(3, rel=0.1)


def test_duplicates_change_no_dimension() -> None:
    rows = flat(600, 3, 10)
    twice = np.concatenate([rows, rows[:300]])
    alone, found = (neighbour_distances(distinct_rows(item), 20) for item in (rows, twice))
    assert dimension_twonn(found) == pytest.approx(dimension_twonn(alone))


def test_too_few_neighbours_have_no_estimate() -> None:
    assert math.isnan(dimension_mle(neighbour_distances(flat(15, 2, 5), 20)))
    assert math.isnan(dimension_twonn(neighbour_distances(flat(2, 2, 5), 20)))
    assert neighbour_distances(flat(1, 2, 5), 20).shape == (1, 0)


def test_the_share_of_duplicates_counts_all_but_the_first() -> None:
    rows = np.array([[1, 2], [3, 4], [1, 2], [1, 2], [0.0, 1]], np.float32)
    assert duplicate_share(row_digests(rows)) == pytest.approx(2 / 5)
    signs = np.array([[0.0, 1], [-0.0, 1]], np.float32)
    assert duplicate_share(row_digests(signs)) == pytest.approx(1 / 2)


def test_the_spread_of_norms_is_relative() -> None:
    assert norm_spread(np.array([1.0, 3.0])) == pytest.approx(0.5)
    assert norm_spread(np.array([10.0, 30.0])) == pytest.approx(0.5)


def test_neighbours_found_in_pieces_are_those_of_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(BLOCK_ROWS + 500, 16)), rng.integers(0, 3, BLOCK_ROWS + 500)
    asked, classes = rng.normal(size=(50, 16)), rng.integers(0, 2, 50)
    nearest = nearest_of_none(len(asked))
    for piece in (slice(0, 7), slice(7, None)):
        nearest = add_nearest(nearest, unit_rows(asked), unit_rows(rows[piece]), labels[piece], 10)
    search = NearestNeighbors(n_neighbors=10, metric="cosine").fit(rows)
    expected = np.sort(labels[search.kneighbors(asked)[1]], axis=1)
    np.testing.assert_array_equal(np.sort(nearest.labels, axis=1), expected)
    found = neighbour_precisions(nearest, classes, 3)
    shares = (expected == classes[:, None]).mean(axis=1)
    assert found[1] == pytest.approx(shares[classes == 1].mean())
    assert math.isnan(found[2])


def test_without_train_rows_there_is_no_precision() -> None:
    assert np.isnan(neighbour_precisions(nearest_of_none(3), np.array([0, 1, 1]), 2)).all()
