"""Scalers of embeddings, which stand before the classifier of a head."""

from __future__ import annotations

from typing import Any

SCALERS = ("none", "standard", "l2")
"""None, zero mean and unit variance of each column, and unit length of each row."""


def behind_scaler(scaler: str, model: Any) -> Any:
    """Return a pipeline of a scaler (one of ``SCALERS``) and an unfitted classifier."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    steps = {"standard": [StandardScaler()], "l2": [Normalizer()]}.get(scaler, [])
    return make_pipeline(*steps, model)
