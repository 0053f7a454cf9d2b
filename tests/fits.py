"""Patches of train in memory, and what the fitted backbones learn from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from benchmark.networks.embedder import Preprocessing
from benchmark.specs import Backbone


class TrainRows:
    """Patches as a backbone is fed them: float32 (N, C, H, W), in uneven batches."""

    def __init__(self, pixels: np.ndarray, *, batch: int = 7) -> None:
        self._pixels = np.asarray(pixels, np.float32)
        self._batch = batch
        self.num_passes = 0

    @property
    def num_patches(self) -> int:
        return len(self._pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, c, h, w = self._pixels.shape
        return c, h, w

    def batches(self, first: int = 0) -> Iterator[np.ndarray]:
        self.num_passes += 1
        for start in range(first, len(self._pixels), self._batch):
            yield self._pixels[start : start + self._batch]


def fit_state(
    backbone: Backbone, bands: Sequence[str], pixels: np.ndarray
) -> dict[str, torch.Tensor] | None:
    """Return the state of a fitted backbone, from uint8 (N, C, H, W); None for any other."""
    if backbone.fit is None:
        return None
    fed = Preprocessing(backbone, bands)(torch.from_numpy(np.array(pixels)))
    return dict(backbone.fit(TrainRows(fed.numpy())).state)
