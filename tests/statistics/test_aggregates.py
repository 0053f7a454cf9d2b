from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from benchmark.statistics.aggregates import (
    interquartile_mean,
    mean_ranks,
    normalise,
    probability_of_improvement,
    stratified_interval,
)


def test_ranks_share_ties() -> None:
    values = np.array([[0.9, 0.8, 0.8], [0.5, 0.7, 0.6]])
    assert mean_ranks(values).tolist() == [2.0, 1.75, 2.25]


def test_scores_on_the_scale_of_each_data_set() -> None:
    values = np.array([[0.2, 0.9], [0.5, 0.6]])
    found = normalise(values, values.min(axis=1), values.max(axis=1))
    assert found.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match="gives no scale"):
        normalise(values, values.max(axis=1), values.max(axis=1))


def test_the_middle_half() -> None:
    assert interquartile_mean(np.array([[0.0, 1.0], [2.0, 100.0]])) == 1.5


def test_the_probability_of_improvement_is_that_of_mann_and_whitney() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.3, 1, (3, 7)).round(1), rng.normal(0, 1, (3, 5)).round(1)
    expected = np.mean([mannwhitneyu(a, b).statistic / 35 for a, b in zip(one, other, strict=True)])
    assert probability_of_improvement(one, other) == pytest.approx(expected)
    assert probability_of_improvement(one, one) == 0.5


def test_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(60):
        runs = rng.normal(0.8, 0.02, (6, 10))
        low, high = stratified_interval(interquartile_mean, [runs], num_draws=300, seed=seed)
        hits += low <= 0.8 <= high
    assert hits >= 51
    one_run = rng.normal(0.8, 0.02, (30, 1))
    low, high = stratified_interval(interquartile_mean, [one_run], num_draws=300)
    assert 0.78 < low < high < 0.82


def test_scores_of_several_data_sets_become_one_table() -> None:
    import pandas as pd

    import benchmark as bm

    rng = np.random.default_rng(0)

    def frame(level: float) -> pd.DataFrame:
        rows = [
            ("a", "mlp", seed, level + gain + rng.normal(0, 0.005))
            for gain, seed in [(0.1, s) for s in range(4)]
        ]
        rows += [("b", "mlp", seed, level + rng.normal(0, 0.005)) for seed in range(3)]
        rows += [("c", "knn", 0, level - 0.2)] * 3
        found = pd.DataFrame(rows, columns=["backbone", "method", "seed", "value"])
        return found.assign(metric="balanced_accuracy", split="test", train_set="all")

    table = bm.aggregate({"one": frame(0.6), "two": frame(0.8), "three": frame(0.3)})
    assert table.index.tolist() == [("a", "mlp"), ("b", "mlp"), ("c", "knn")]
    assert table["mean_rank"].tolist() == [1.0, 2.0, 3.0]
    assert table["beats_leader"].tolist() == [0.5, 0.0, 0.0]
    assert table["iqm"].iloc[0] == pytest.approx(1.0, abs=0.05)
    assert ((table["iqm_low"] <= table["iqm"]) & (table["iqm"] <= table["iqm_high"])).all()
    with pytest.raises(bm.BenchmarkError, match="1 data sets have 3 methods"):
        bm.aggregate({"one": frame(0.6)})
