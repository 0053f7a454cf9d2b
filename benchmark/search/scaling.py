"""Fit the scalers before a classifier with one copy of the rows, to the bits of scikit-learn.

``StandardScaler.fit`` computes the variance of all columns at once, from a float64 copy and a mask:
2.25 times the memory of float32 rows. Columns do not depend on each other, so fitting some at a
time gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_COLUMNS = 64
"""Most columns that are fitted at once. A block of one column would be summed in another order."""


def fit_pipeline(
    model: Any,
    x: NDArray[np.float32],
    y: NDArray[np.int32],
    fit_unscaled: Callable[[Any, NDArray[np.float32], NDArray[np.int32]], None] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Fit an estimator in place, as ``model.fit(x, y)`` does.

    Args:
        model: a pipeline of scalers and a classifier, or any other estimator.
        x: rows (N, D).
        y: labels (N,).
        fit_unscaled: ``Head.fit_unscaled``.
        overwrite: whether ``x`` may be scaled in place, which saves its copy.
    """
    if fit_unscaled and len(model) == 1:
        fit_unscaled(model[-1], x, y)
    elif _is_scaled(model):
        model[-1].fit(fit_scalers(model, x, overwrite=overwrite), y)
    else:
        model.fit(x, y)


def fit_scalers(
    model: Any, x: NDArray[np.float32], *, overwrite: bool = False
) -> NDArray[np.float32]:
    """Fit the steps before the classifier and return the scaled rows (N, D).

    Args:
        model: a pipeline.
        x: rows (N, D).
        overwrite: whether ``x`` may be scaled in place, which saves its copy.
    """
    if len(model) == 1:
        return x
    if not _is_scaled(model):
        scaled: NDArray[np.float32] = model[:-1].fit_transform(x)
        return scaled
    for scaler in model[:-1]:
        _fit(scaler, x)
        x = scaler.transform(x, copy=not overwrite)
        overwrite = True
    return x


def _is_scaled(model: Any) -> bool:
    """Whether the steps before the classifier are scalers that this module can fit."""
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    return (
        type(model) is Pipeline
        and model.memory is None
        and all(type(step) in (StandardScaler, Normalizer) for step in model[:-1])
    )


def _fit(scaler: Any, x: NDArray[np.float32]) -> None:
    from sklearn.base import clone
    from sklearn.preprocessing import Normalizer

    num_blocks = math.ceil(x.shape[1] / BLOCK_COLUMNS)
    if isinstance(scaler, Normalizer) or num_blocks < 2:
        scaler.fit(x)
        return
    parts = [clone(scaler).fit(part) for part in np.array_split(x, num_blocks, axis=1)]
    if any(np.ndim(part.n_samples_seen_) for part in parts):
        # Values are missing: the counts differ between columns.
        scaler.fit(x)
        return
    vars(scaler).update(vars(parts[0]), n_features_in_=x.shape[1])
    for name in ("mean_", "var_", "scale_"):
        setattr(scaler, name, np.concatenate([getattr(part, name) for part in parts]))
