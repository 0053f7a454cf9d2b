"""Fit scikit-learn's logistic regression to rows that are not scaled in fewer iterations.

The penalised loss and the tolerance are scikit-learn's; the columns count from their means, and
L-BFGS searches ``V`` with ``W = L^-T V``, where ``L L^T = G / K + (penalty + damping) I``
approximates the Hessian at zero and ``G`` is the covariance of the columns. The loss then curves
equally along all directions of large variance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_COLUMNS = 4096
"""Wider rows are left to scikit-learn: the covariance would take 134 MB and more."""
FEWEST_ROWS = 2
"""In multiples of the columns: with fewer, a hyperplane tends to separate any labels (Cover, 1965),
scikit-learn needs few iterations, and the covariance would cost more than they do."""
COVARIANCE_ROWS = 4
"""Rows of which the covariance is estimated, as a multiple of the columns: it sets coordinates
alone."""
DAMPING = 10.0
"""In multiples of the median variance / K. With less, fits that do not converge (large C) lean on
directions of small variance and lose up to 12 points on val."""
GRADIENT = 5e-6
"""Largest component of the gradient by ``V`` at which a fit ends that has not yet reached
scikit-learn's tolerance, e.g. because some columns are very large."""
DECREASE = 1e-9
"""Relative decrease of the loss at which a fit ends: below it, float32 adds only noise."""
BLOCK = 1024
"""Rows whose products are summed at once."""


def fit_preconditioned(model: Any, x: NDArray[np.float32], y: NDArray[np.int32]) -> None:
    """Fit ``LogisticRegression`` (L2, intercept, L-BFGS) in place, on rows (N, D), labels (N,).

    Args:
        model: unfitted; afterwards as after its own ``fit``.
        x: float32.
        y: of two classes or more; scikit-learn's own ``fit`` refuses one.
    """
    from scipy.linalg import solve_triangular
    from scipy.optimize import minimize
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.validation import validate_data

    classes, codes = np.unique(y, return_inverse=True)
    num_rows, dim = x.shape
    if len(classes) < 2 or dim > MOST_COLUMNS or num_rows < FEWEST_ROWS * dim:
        model.fit(x, y)
        return
    x = validate_data(model, x, dtype=np.float32)
    weights = compute_sample_weight(model.class_weight, y)
    penalty = 1.0 / (model.C * weights.sum())
    weights = (weights / weights.sum()).astype(np.float32)
    loss = _Loss(x, codes, weights, penalty)
    factor = _factor(x, weights, loss.mean, len(classes), penalty)
    # The Hessian of an intercept is about 1 / K.
    unit = np.float32(len(classes) ** 0.5)

    def of(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        v = flat.reshape(-1, loss.num_outputs).astype(np.float32)
        w = solve_triangular(factor, v[:-1], lower=True, trans="T", check_finite=False)
        value, by_w, by_b = loss.at(w, unit * v[-1])
        by_v = solve_triangular(factor, by_w, lower=True, check_finite=False)
        return value, np.vstack([by_v, unit * by_b]).ravel().astype(np.float64)

    def stop_when_flat(flat: NDArray[np.float64]) -> None:
        del flat
        if loss.steepest <= model.tol:
            raise StopIteration

    found = minimize(
        of,
        np.zeros((dim + 1) * loss.num_outputs),
        jac=True,
        method="L-BFGS-B",
        callback=stop_when_flat,
        options={"maxiter": model.max_iter, "maxls": 50, "gtol": GRADIENT, "ftol": DECREASE},
    )
    v = found.x.reshape(-1, loss.num_outputs)
    w = solve_triangular(factor, v[:-1], lower=True, trans="T", check_finite=False)
    model.classes_ = classes
    model.coef_ = np.ascontiguousarray(w.T, dtype=np.float32)
    model.intercept_ = (unit * v[-1] - loss.mean @ w).astype(np.float32)
    model.n_iter_ = np.array([found.nit], dtype=np.int32)


class _Loss:
    """scikit-learn's objective: the weighted mean of the log loss, and the L2 penalty."""

    def __init__(
        self,
        x: NDArray[np.float32],
        codes: NDArray[np.int64],
        weights: NDArray[np.float32],
        penalty: float,
    ) -> None:
        """Keep rows (N, D), class numbers (N,), and weights (N,) that sum to 1."""
        self._x, self._codes, self._weights, self._penalty = x, codes, weights, penalty
        self._rows = np.arange(len(codes))
        num_classes = int(codes.max()) + 1
        # As in scikit-learn, two classes share one weight vector.
        self.num_outputs = num_classes if num_classes > 2 else 1
        self.mean: NDArray[np.float32] = weights @ x
        self.steepest = np.inf
        """Largest component of the last gradient by ``w`` and ``b``."""

    def at(
        self, w: NDArray[np.float32], b: NDArray[np.float32]
    ) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
        """Return the loss and its gradients by ``w`` (D, J) and ``b`` (J,).

        The columns count from their means, which only changes what the intercept ``b`` means.
        """
        z = self._x @ w + (b - self.mean @ w)
        if self.num_outputs == 1:
            z = np.hstack([np.zeros_like(z), z])
        z -= z.max(axis=1, keepdims=True)
        own = z[self._rows, self._codes]
        np.exp(z, out=z)
        sums = z.sum(axis=1)
        losses = np.log(sums, dtype=np.float64) - own
        z /= sums[:, None]
        z[self._rows, self._codes] -= 1
        z *= self._weights[:, None]
        z = z[:, -self.num_outputs :]
        by_b = z.sum(axis=0)
        by_w = (z.T @ self._x).T - np.outer(self.mean, by_b) + np.float32(self._penalty) * w
        self.steepest = float(max(np.abs(by_w).max(), np.abs(by_b).max()))
        value = self._weights @ losses + self._penalty / 2 * np.sum(w * w, dtype=np.float64)
        return float(value), by_w, by_b


def _factor(
    x: NDArray[np.float32],
    weights: NDArray[np.float32],
    mean: NDArray[np.float32],
    num_classes: int,
    penalty: float,
) -> NDArray[np.float32]:
    """Return the lower Cholesky factor (D, D) of the damped Hessian at zero."""
    from scipy.linalg import cholesky

    dim = x.shape[1]
    step = max(1, len(x) // (COVARIANCE_ROWS * dim))
    some, share = x[::step], np.sqrt(weights[::step])[:, None]
    hessian = np.zeros((dim, dim))
    for first in range(0, len(some), BLOCK):
        part = share[first : first + BLOCK] * (some[first : first + BLOCK] - mean)
        hessian += part.T @ part
    hessian /= num_classes * float(np.sum(share**2))
    variance = np.diag(hessian).copy()
    # Where most columns are constant, their median is 0.
    damping = DAMPING * max(float(np.median(variance)), 1e-3 * float(variance.mean()))
    hessian.flat[:: dim + 1] += penalty + damping
    found: NDArray[np.float32] = cholesky(hessian, lower=True, overwrite_a=True).astype(np.float32)
    return found
