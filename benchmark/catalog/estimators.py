"""Classifiers that scikit-learn has without probabilities, or not at all.

Saved heads hold these classes by their full name: it must stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, NDArray

HOLD_OUT = 5
"""One row of five of each class is held out to find the scale of the decision values."""
LOG_SCALES = (-6.0, 6.0)
"""Base-10 logarithms between which the scale is searched."""


class DecisionSoftmax(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Probabilities of a classifier that has only decision values.

    They are ``softmax(scale * decision)``. The scale is fitted by maximum likelihood on rows that a
    first fit did not see (temperature scaling: Guo et al., ICML 2017), so the most probable class
    is that of the largest decision value. Rows are held out by their position, without chance.
    """

    def __init__(self, estimator: Any, finds_scale: bool = True) -> None:
        """Wrap an unfitted estimator with ``decision_function``.

        Args:
            estimator: unfitted.
            finds_scale: whether to find the scale, which takes a second fit; otherwise it is 1,
                and the most probable classes are the same.
        """
        self.estimator = estimator
        self.finds_scale = finds_scale

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Find the scale, then fit the estimator on all rows (N, D) and labels (N,)."""
        rows, labels = np.asarray(X), np.asarray(y)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        self.scale_ = 1.0
        if self.finds_scale and (held := _held_out(codes)).any():
            part = clone(self.estimator).fit(rows[~held], labels[~held])
            self.scale_ = _fit_scale(_two_sided(part.decision_function(rows[held])), codes[held])
        self.estimator_ = clone(self.estimator).fit(rows, labels)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the scaled decision values float64 (N, K), for two classes as well."""
        return self.scale_ * _two_sided(self.estimator_.decision_function(X))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return probabilities float64 (N, K)."""
        found: NDArray[np.float64] = softmax(self.decision_function(X), axis=1)
        return found

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the labels (N,) of the largest decision values."""
        found: NDArray[Any] = self.classes_[self.decision_function(X).argmax(axis=1)]
        return found


class EqualPriorLDA(LinearDiscriminantAnalysis):  # type: ignore[misc]
    """Linear discriminant analysis for which all classes are equally frequent."""

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on rows (N, D) and labels (N,)."""
        num_classes = len(np.unique(np.asarray(y)))
        self.priors = np.full(num_classes, 1 / num_classes)
        super().fit(X, y)
        return self


class CosineCentroids(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Cosine between a row and the mean of each class, for rows of unit length.

    scikit-learn's ``NearestCentroid`` predicts by distance and gives probabilities that can favour
    another class.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on rows (N, D) of unit length and labels (N,)."""
        rows, labels = np.asarray(X), np.asarray(y)
        self.classes_ = np.unique(labels)
        means = np.stack(
            [rows[labels == label].mean(axis=0, dtype=np.float64) for label in self.classes_]
        )
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        self.coef_ = means / np.where(lengths == 0, 1.0, lengths)
        self.intercept_ = np.zeros(len(self.classes_))
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the cosines float64 (N, K)."""
        found: NDArray[np.float64] = np.asarray(X) @ self.coef_.T
        return found

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the labels (N,) of the largest cosines."""
        found: NDArray[Any] = self.classes_[self.decision_function(X).argmax(axis=1)]
        return found


def _held_out(codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask (N,) of every fifth row of each class, in the order of the rows."""
    order = np.argsort(codes, kind="stable")
    first = np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 1))
    place = np.empty(len(codes), np.int64)
    place[order] = np.arange(len(codes)) - first[codes[order]]
    return np.asarray(place % HOLD_OUT == HOLD_OUT - 1)


def _fit_scale(decision: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Return the scale with the smallest mean negative log-likelihood."""
    rows = np.arange(len(codes))

    def loss(exponent: float) -> float:
        return -float(log_softmax(10.0**exponent * decision, axis=1)[rows, codes].mean())

    return float(10.0 ** minimize_scalar(loss, bounds=LOG_SCALES, method="bounded").x)


def _two_sided(decision: NDArray[Any]) -> NDArray[np.float64]:
    """Return decision values (N, K); scikit-learn gives one value per row for two classes."""
    found = np.asarray(decision, dtype=np.float64)
    return found if found.ndim == 2 else np.column_stack([np.zeros_like(found), found])
