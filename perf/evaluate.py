"""Scores, intervals and verdicts of 100 methods on 2,586 test patches, as ``evaluate`` makes them.

python -m perf.evaluate
"""

from __future__ import annotations

import time

import numpy as np

from benchmark.catalog.metrics import METRICS
from benchmark.peaks import peak_memory_bytes
from benchmark.statistics.counts import summarise
from benchmark.statistics.design import find_design
from benchmark.statistics.flips import flip_ranking
from benchmark.statistics.scores import Uncertainty
from benchmark.statistics.selection import optimism

NUM_METHODS = 100
SIZES = (66, 1992, 461, 24, 43)
"""The test patches of the study's classes."""


def main() -> None:
    """Print seconds and peak memory, with scenes and without."""
    rng = np.random.default_rng(0)
    y_true = np.repeat(np.arange(5), SIZES)
    for scenes in (None, rng.integers(0, 60, len(y_true)).astype(str)):
        design = find_design(y_true, scenes)
        began = time.perf_counter()
        rights = []
        for _ in range(NUM_METHODS):
            right = rng.random(len(y_true)) < 0.8
            y_pred = np.where(right, y_true, (y_true + 1) % 5)
            by_scene = summarise(
                y_true,
                y_pred,
                np.eye(5)[y_pred] * 0.7 + 0.06,
                num_classes=5,
                groups=design.scene_or_whole,
                num_groups=design.num_groups,
            )
            certainty = Uncertainty(by_scene, has_scenes=design.has_scenes, confidence=0.95)
            for metric in METRICS:
                metric.compute(by_scene.total())
                certainty.of(metric.name)
            rights.append(right.astype(float))
        scored_s = time.perf_counter() - began
        parts = np.stack([design.contributions(right) for right in rights], axis=1)
        flip_ranking(parts, design.unit_weights, int(parts.sum(axis=0).argmax()), alpha=0.05)
        optimism(parts, design.unit_weights, num_draws=1000, seed=0)
        whole_s = time.perf_counter() - began
        peak = peak_memory_bytes() / 2**30
        print(
            f"{design.num_units} {design.kind} units: {whole_s:.1f} s, of which scores and their "
            f"intervals {scored_s:.1f} s; peak memory {peak:.2f} GiB"
        )


if __name__ == "__main__":
    main()
