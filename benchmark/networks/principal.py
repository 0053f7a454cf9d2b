"""Principal components of pixels that exceed the memory, from blocks of rows.

N rows of D values (65,536 for 128 x 128 x 4 px) have no covariance that fits (D x D is 17 GB), and
incremental updates (Ross et al. 2008, scikit-learn's ``IncrementalPCA``) decompose a
(k + block) x D matrix for each block of rows: with k = 3,000 components, one block costs about as
much as all blocks cost here. Two algorithms are feasible, and ``is_exact_better`` picks one:

- Few rows: the eigenvectors u of the N x N matrix X X' of inner products (float64) give the
  components X' u / s exactly, where s is the singular value (Turk and Pentland 1991). N^2 D / 2
  multiplications, and an eigendecomposition whose time grows with N^3.
- Many rows: subspace iteration (Halko, Martinsson and Tropp 2011, sections 4.5 and 5.4): random
  directions are multiplied by X'X ``NUM_ITERATIONS`` times, made orthonormal after each, and
  X'X is then solved inside their span (Rayleigh and Ritz). Memory is two matrices a little larger
  than the result, independent of N.

Every pass reads the rows again. Rows and large products are float32; sums over rows, inner
products and decompositions are float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from benchmark.errors import CellError
from benchmark.specs import TrainPatches

BLOCK_BYTES = 256 * 2**20
"""Size of a block of float32 rows; the exact algorithm holds two blocks."""
CHUNK_BYTES = 64 * 2**20
"""Size of the columns of a large matrix that are converted to float64 at once."""
OVERSAMPLING = 1.25
"""Directions to iterate per component; at least ten are added (Halko et al. 2011, section
4.2)."""
NUM_ITERATIONS = 3
"""Multiplications by X'X. With this and OVERSAMPLING, 64 and 200 components of 2,500 crops of UC
Merced explained 0.4 and 0.2 % less than the best possible (0.5 % with only ten directions added;
1.0 and 0.7 % after two multiplications)."""
EXACT_ROWS = 12_000
"""Most rows for the exact algorithm: their inner products take 1.2 GB."""
EXACT_RATIO = 8
"""Rows per direction up to which the exact algorithm is faster; beyond, its N^3 decomposition costs
more than the passes of the iteration (measured on two cores)."""
RANK_TOLERANCE = 1e-6
"""Variance, relative to that of the first component, below which float32 sums are noise."""
SEED = 0


class Components(NamedTuple):
    """Principal components, by descending variance."""

    mean: torch.Tensor
    """float32 (D,)."""
    axes: torch.Tensor
    """float32 (k, D), orthonormal rows; the largest entry of each is positive."""
    variance: torch.Tensor
    """float64 (k,), with N - 1 in the denominator."""
    total_variance: float
    """Of all D directions."""
    way: str
    """``exact`` or ``subspace iteration``."""

    @property
    def explained(self) -> float:
        """The share of the variance in the components."""
        return float(self.variance.sum()) / max(self.total_variance, 1e-300)


def fit_components(
    patches: TrainPatches,
    *,
    num_components: int,
    kept_variance: float | None = None,
    is_exact: bool | None = None,
) -> Components:
    """Fit the principal components of patches, each a row of D = C H W values.

    Args:
        patches: at least two.
        num_components: largest number of components; the rank of the rows may give fewer.
        kept_variance: stop at the first component that reaches this share of the variance;
            None: return ``num_components``.
        is_exact: which algorithm to use; None: ``is_exact_better`` decides.

    Raises:
        CellError: there are fewer than two patches, or all are the same.
    """
    n, d = patches.num_patches, int(np.prod(patches.shape))
    if n < 2:
        raise CellError(f"principal components need two patches of train or more; train has {n}")
    mean, total = _moments(patches)
    if total <= 1e-12 * d:
        raise CellError("principal components need patches that differ; all of train are equal")
    most = min(num_components, n - 1, d)
    rows = _Rows(patches, mean)
    if is_exact is None:
        is_exact = is_exact_better(n, num_components)
    values, basis = _solve_exactly(rows, most) if is_exact else _solve_by_iteration(rows, most)
    kept = int((values > RANK_TOLERANCE * values[0]).sum())
    if kept_variance is not None:
        reached = torch.cumsum(values, 0) >= kept_variance * total * (1 - 1e-12)
        kept = min(kept, int(reached.nonzero()[0]) + 1) if bool(reached.any()) else kept
    axes = basis(kept)
    _fix_signs(axes)
    return Components(
        mean=torch.from_numpy(mean),
        axes=axes,
        variance=values[:kept] / (n - 1),
        total_variance=total / (n - 1),
        way="exact" if is_exact else "subspace iteration",
    )


def is_exact_better(num_rows: int, num_components: int) -> bool:
    """Return whether the exact algorithm fits into memory and is faster."""
    return num_rows <= min(EXACT_ROWS, EXACT_RATIO * _width(num_components))


def _width(num_components: int) -> int:
    """Return the number of directions to iterate."""
    return max(num_components + 10, int(OVERSAMPLING * num_components))


class _Rows:
    """The centred patches as blocks of rows."""

    def __init__(self, patches: TrainPatches, mean: np.ndarray) -> None:
        self.num = patches.num_patches
        self.dim = len(mean)
        self._patches = patches
        self._mean = mean
        self.block = max(1, min(self.num, BLOCK_BYTES // (4 * self.dim)))

    def blocks(self, first: int = 0) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (index of the first row, float32 (rows, D)); each block overwrites the last.

        Every block but the last has ``block`` rows.
        """
        buffer = np.empty((self.block, self.dim), np.float32)
        filled = 0
        for batch in self._patches.batches(first):
            flat = batch.reshape(len(batch), -1)
            while len(flat):
                taken = flat[: self.block - filled]
                np.subtract(taken, self._mean, out=buffer[filled : filled + len(taken)])
                filled += len(taken)
                flat = flat[len(taken) :]
                if filled == self.block:
                    yield first, torch.from_numpy(buffer)
                    first, filled = first + filled, 0
        if filled:
            yield first, torch.from_numpy(buffer[:filled])


def _moments(patches: TrainPatches) -> tuple[np.ndarray, float]:
    """Return the mean, float32 (D,), and the sum of squared distances from it."""
    d = int(np.prod(patches.shape))
    total, squares, count = np.zeros(d), np.zeros(d), 0
    for batch in patches.batches():
        flat = batch.reshape(len(batch), d)
        total += flat.sum(axis=0, dtype=np.float64)
        squares += np.einsum("nd,nd->d", flat, flat, dtype=np.float64)
        count += len(batch)
    if count != patches.num_patches:
        raise CellError(f"read {count} patches of train, expected {patches.num_patches}")
    mean = total / count
    return mean.astype(np.float32), float(np.maximum(squares - count * mean**2, 0.0).sum())


class _ExactBasis:
    """Computes components from the eigenvectors of the inner products, in one more pass."""

    def __init__(self, rows: _Rows, vectors: torch.Tensor) -> None:
        self._rows = rows
        self._vectors = vectors

    def __call__(self, count: int) -> torch.Tensor:
        axes = torch.zeros(count, self._rows.dim)
        for first, block in self._rows.blocks():
            weights = self._vectors[first : first + len(block), :count].float()
            axes.addmm_(weights.T, block)
        axes /= torch.linalg.vector_norm(axes, dim=1, keepdim=True)
        return axes


def _solve_exactly(rows: _Rows, count: int) -> tuple[torch.Tensor, _ExactBasis]:
    """Return the eigenvalues of X'X, float64 (count,), descending, and their directions."""
    from scipy.linalg import eigh

    n = rows.num
    inner = np.zeros((n, n))
    for start in range(0, n, rows.block):
        left: torch.Tensor | None = None
        for first, block in rows.blocks(start):
            if left is None:
                # The next block overwrites this one.
                left = block.clone()
            products = (left @ block.T).double().numpy()
            inner[start : start + len(left), first : first + len(block)] = products
    # The upper blocks are filled; the transpose has them as lower triangle, in LAPACK's order.
    values, vectors = eigh(
        inner.T, subset_by_index=[n - count, n - 1], overwrite_a=True, check_finite=False
    )
    descending = np.ascontiguousarray(vectors[:, ::-1])
    return torch.from_numpy(values[::-1].copy()).clamp(min=0), _ExactBasis(
        rows, torch.from_numpy(descending)
    )


class _SpanBasis:
    """Computes components from an orthonormal basis, and overwrites the basis with them."""

    def __init__(self, basis: torch.Tensor, weights: torch.Tensor) -> None:
        self._basis = basis
        self._weights = weights

    def __call__(self, count: int) -> torch.Tensor:
        _combine(self._weights[:count], self._basis)
        # A copy frees the memory of the rest.
        return self._basis[:count].clone() if count < len(self._basis) else self._basis


def _solve_by_iteration(rows: _Rows, count: int) -> tuple[torch.Tensor, _SpanBasis]:
    """Return the largest eigenvalues of X'X, float64, descending, and their directions."""
    width = min(_width(count), rows.num - 1, rows.dim)
    generator = torch.Generator().manual_seed(SEED)
    basis = torch.randn(width, rows.dim, generator=generator)
    image = torch.zeros_like(basis)
    for _ in range(NUM_ITERATIONS):
        image.zero_()
        for _, block in rows.blocks():
            image.addmm_((block @ basis.T).T, block)
        basis, image = _orthonormal(image), basis[: len(image)]
        image = image[: len(basis)]
    ritz = torch.zeros(len(basis), len(basis), dtype=torch.float64)
    for _, block in rows.blocks():
        scores = (block @ basis.T).double()
        ritz.addmm_(scores.T, scores)
    values, vectors = torch.linalg.eigh(ritz)
    order = values.argsort(descending=True)[:count]
    return values[order].clamp(min=0), _SpanBasis(basis, vectors[:, order].T.contiguous())


def _orthonormal(rows: torch.Tensor) -> torch.Tensor:
    """Make rows (r, D) orthonormal in place, by descending weight; drop dependent directions.

    It uses the eigenvectors of the inner products in float64, chunk by chunk. Unlike a QR
    decomposition, it needs no second matrix of the size of ``rows``.
    """
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    rows /= norms.clamp(min=1e-30)
    inner = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for part in _chunks(rows):
        wide = part.double()
        inner.addmm_(wide, wide.T)
    values, vectors = torch.linalg.eigh(inner)
    order = [i for i in range(len(values) - 1, -1, -1) if values[i] > 1e-13 * values[-1]]
    _combine((vectors[:, order] / values[order].sqrt()).T, rows)
    return rows[: len(order)]


def _combine(weights: torch.Tensor, rows: torch.Tensor) -> None:
    """Overwrite the first m of ``rows`` (r, D) with ``weights`` (m, r), float64, times rows."""
    for part in _chunks(rows):
        part[: len(weights)] = (weights @ part.double()).float()


def _chunks(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield views of consecutive columns of ``rows``."""
    step = max(1, CHUNK_BYTES // (8 * len(rows)))
    for start in range(0, rows.shape[1], step):
        yield rows[:, start : start + step]


def _fix_signs(axes: torch.Tensor) -> None:
    """Make the largest entry of each row positive: signs of eigenvectors are arbitrary."""
    for axis in axes:
        if axis[axis.abs().argmax()] < 0:
            axis.neg_()
