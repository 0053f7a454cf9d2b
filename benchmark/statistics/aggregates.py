"""Scores of methods on several data sets or regions, summarised with intervals.

Agarwal, Schwarzer, Castro, Courville and Bellemare 2021, "Deep Reinforcement Learning at the Edge
of the Statistical Precipice": interquartile means of normalised scores, the probability that one
method beats another, and stratified bootstrap intervals, in which the runs (seeds) of each data set
are resampled. With one run for each data set, the data sets themselves are resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.intervals import Interval

Array = NDArray[np.float64]


def normalise(values: Array, floor: Array, best: Array) -> Array:
    """Return scores on the scale of each data set: 0 for its floor, 1 for its best.

    Args:
        values: (D, ...) scores; the first axis is that of the data sets.
        floor: (D,) score of the floor.
        best: (D,) score of the best method.

    Raises:
        ValueError: on one data set nothing is better than the floor.
    """
    if not (best > floor).all():
        raise ValueError("a data set whose best score is its floor gives no scale")
    shape = (-1, *(1,) * (values.ndim - 1))
    return (values - floor.reshape(shape)) / (best - floor).reshape(shape)


def mean_ranks(values: Array) -> Array:
    """Return the mean rank of each method over the data sets, 1 for the best; ties share ranks.

    Args:
        values: (D, M) scores, higher is better.
    """
    from scipy import stats

    ranks: Array = stats.rankdata(-values, axis=1).mean(axis=0)
    return ranks


def interquartile_mean(values: Array) -> float:
    """Return the mean of the middle half of all values."""
    from scipy import stats

    return float(stats.trim_mean(values.ravel(), 0.25))


def probability_of_improvement(one: Array, other: Array) -> float:
    """Return how likely a run of one method beats one of another, on a data set drawn at random.

    The mean over data sets of Mann and Whitney's U over the number of pairs; ties count half.

    Args:
        one: (D, R) scores of R runs on each data set.
        other: (D, Q) scores of another method.
    """
    gaps = one[:, :, None] - other[:, None, :]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean(axis=(1, 2)).mean())


def summarise_sets(
    runs: Sequence[Array], *, confidence: float, seed: int
) -> list[dict[str, float]]:
    """Return the summary of each method over the data sets.

    Scores are normalised: 0 is the worst method of a data set, 1 its best.

    Args:
        runs: for each method, (D, R) scores of R runs on each data set.
        confidence: of the intervals.
        seed: of the draws.

    Returns: mean rank, interquartile mean with interval, and the chance to beat the best method.

    Raises:
        ValueError: on one data set all methods score the same.
    """
    means = np.stack([sample.mean(axis=1) for sample in runs], axis=1)
    ranks = mean_ranks(means)
    scaled = [normalise(sample, means.min(axis=1), means.max(axis=1)) for sample in runs]
    leader = runs[int(np.argmin(ranks))]
    found = []
    for rank, sample, normal in zip(ranks, runs, scaled, strict=True):
        low, high = stratified_interval(
            interquartile_mean, [normal], confidence=confidence, seed=seed
        )
        beats = stratified_interval(
            probability_of_improvement, [sample, leader], confidence=confidence, seed=seed
        )
        found.append(
            {
                "mean_rank": float(rank),
                "iqm": interquartile_mean(normal),
                "iqm_low": low,
                "iqm_high": high,
                "beats_leader": probability_of_improvement(sample, leader),
                "beats_leader_low": beats.low,
                "beats_leader_high": beats.high,
            }
        )
    return found


def stratified_interval(
    statistic: Callable[..., float],
    samples: Sequence[Array],
    *,
    confidence: float = 0.95,
    num_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a statistic of runs on data sets.

    Args:
        statistic: of the samples.
        samples: (D, R) scores of each method, on the same data sets.
        confidence: of the interval.
        num_draws: bootstrap draws.
        seed: of the PCG64 generator.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    num_sets = len(samples[0])
    has_runs = all(sample.shape[1] > 1 for sample in samples)
    values = []
    for _ in range(num_draws):
        if has_runs:
            drawn = [
                np.take_along_axis(sample, rng.integers(0, sample.shape[1], sample.shape), axis=1)
                for sample in samples
            ]
        else:
            rows = rng.integers(0, num_sets, num_sets)
            drawn = [sample[rows] for sample in samples]
        values.append(statistic(*drawn))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return Interval(float(low), float(high))
