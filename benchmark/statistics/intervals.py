"""Intervals of scores from counts of right patches per class, with and without scenes.

A balanced accuracy is the mean of K proportions, an accuracy or a recall is one proportion. Their
interval is the score interval of Martin Andres, Alvarez Hernandez and Herranz Tejedor (2011),
"Inferences about a linear combination of proportions", Statistical Methods in Medical Research 20:
all values that a score test at this level does not reject. With one proportion it is Wilson's.
Patches of one scene are alike: with scenes, the counts are divided by a design effect, and
Student's t with (scenes - 1) degrees of freedom takes the place of the normal quantile.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

NUM_STEPS = 60
"""Bisections of the multiplier on a logarithmic scale: its relative error ends below 1e-13."""


PRIOR_WEIGHT = 0.05
PRIOR_WITHIN, PRIOR_BETWEEN = 0.5, 0.15
"""Correlations within and between classes of a scene that a test set of few errors is taken to
have: all right everywhere, it cannot show them. The weight is in patches' variance times scenes, so
that they matter where errors are rare and scenes few."""

FEW = 3.0
"""Right (or wrong) patches up to which a Poisson count bounds the interval."""


class Interval(NamedTuple):
    """Lower and upper end; NaN where the score is undefined."""

    low: float
    high: float


def quantile_of(confidence: float, num_units: int | None = None) -> float:
    """Return the two-sided quantile: Student's t for a number of scenes, else the normal one.

    One scene gives no degree of freedom: the quantile is infinite.
    """
    from scipy import stats

    level = 0.5 + confidence / 2.0
    if num_units is None:
        return float(stats.norm.ppf(level))
    return float(stats.t.ppf(level, num_units - 1)) if num_units > 1 else float("inf")


def score_interval(right: ArrayLike, total: ArrayLike, quantile: float) -> Interval:
    """Return the score interval of the mean of K proportions.

    The values of p_k that fit the counts best under a given mean theta solve
    x_k - n_k p_k = lambda w p_k (1 - p_k), with w = 1 / K. On this path
    theta_hat - theta = lambda V, where V = w^2 sum p_k (1 - p_k) / n_k, so the ends of the
    interval, where (theta_hat - theta)^2 = z^2 V, are where lambda^2 V = z^2: one equation in
    lambda.

    Args:
        right: (K,) counts x_k, which need not be whole numbers.
        total: (K,) counts n_k; classes with 0 are left out.
        quantile: z, or that of Student's t.
    """
    x, n = (np.asarray(values, dtype=np.float64) for values in (right, total))
    x, n = x[n > 0], n[n > 0]
    if not len(n):
        return Interval(float("nan"), float("nan"))
    # K - 1 proportions stay free under a given mean, which makes the variance too small.
    quantile *= np.sqrt(n.sum() / max(n.sum() - len(n) + 1.0, 1e-9))
    return Interval(_lower(x, n, quantile), 1.0 - _lower(n - x, n, quantile))


def _lower(x: Array, n: Array, quantile: float) -> float:
    """Return the lower end; that of the other side is 1 minus the one of the counts n - x.

    Score intervals miss too often where few patches are right: there the end is not above that of a
    Poisson count (Brown, Cai and DasGupta 2001, "Interval Estimation for a Binomial Proportion").
    """
    if not np.isfinite(quantile) or not (x > 0).any():
        return 0.0
    w = 1.0 / len(n)
    low, high = np.log(1e-12), np.log(1e-12)

    def excess(log_multiplier: float) -> tuple[float, Array]:
        multiplier = np.exp(log_multiplier)
        b = n + multiplier * w
        p = 2.0 * x / (b + np.sqrt(np.maximum(b * b - 4.0 * multiplier * w * x, 0.0)))
        p = np.clip(p, 0.0, 1.0)
        variance = w * w * float((p * (1.0 - p) / n).sum())
        return multiplier * multiplier * variance - quantile * quantile, p

    while excess(high)[0] < 0.0:
        low, high = high, high + 4.0
    for _ in range(NUM_STEPS):
        middle = (low + high) / 2.0
        if excess(middle)[0] < 0.0:
            low = middle
        else:
            high = middle
    return min(float(excess(high)[1].mean()), _few(x, n, quantile))


def _few(x: Array, n: Array, quantile: float) -> float:
    """Return the lower end for a Poisson count of right patches; 1 if there are more than few."""
    count = float(x.sum())
    return float((x / n).mean() * _poisson_share(np.array([count]), quantile)[0])


def _poisson_share(count: Array, quantile: float) -> Array:
    """Return the lower end of a Poisson mean over its few counts; huge for more, or none."""
    from scipy import stats

    is_few = (count > 0.0) & (count <= FEW)
    safe = np.where(is_few, count, 1.0)
    share = stats.gamma.ppf(2.0 * stats.norm.sf(quantile), safe) / safe
    # Beyond any share, and finite: none of no patches stays none.
    found: Array = np.where(is_few, share, 1e9)
    return found


def wilson(right: ArrayLike, total: ArrayLike, quantile: float) -> tuple[Array, Array]:
    """Return Wilson's interval (1927) of each proportion: (...,) and (...,), NaN for no patches.

    Where few patches are right, or wrong, it is widened as in ``score_interval``.
    """
    x, n = (np.asarray(values, dtype=np.float64) for values in (right, total))
    if not np.isfinite(quantile):
        low, high = np.zeros(n.shape), np.ones(n.shape)
    else:
        z2 = quantile * quantile
        safe = np.where(n > 0, n, 1.0)
        p = np.clip(x / safe, 0.0, 1.0)
        centre = (x + z2 / 2.0) / (safe + z2)
        half = quantile * np.sqrt(safe * p * (1.0 - p) + z2 / 4.0) / (safe + z2)
        low, high = np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
        # As in ``score_interval``.
        low = np.minimum(low, p * _poisson_share(x, quantile))
        high = np.maximum(high, 1.0 - (1.0 - p) * _poisson_share(n - x, quantile))
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def effective_sizes(right: Array, total: Array) -> Array:
    """Return the class sizes that carry as much information as the patches of the scenes.

    The design effect of a class is 1 + rho (sum_s n_sk^2 / n_k - 1) (Kish 1965), with an
    intra-scene correlation rho pooled over the classes (analysis of variance; Donner 1986). A
    class's variance is never taken smaller than its own cluster-robust one, corrected for few
    clusters (CR2: Bell and McCaffrey 2002), nor that of the mean smaller than its own.

    Args:
        right: (S, K) right patches of each scene and class.
        total: (S, K) patches.

    Returns: (K,) sizes, at most the number of patches.
    """
    n = total.sum(axis=0)
    present = n > 0
    x, t, n = right[:, present], total[:, present], n[present]
    p = x.sum(axis=0) / n
    spread = p * (1.0 - p)
    mean_size = (t * t).sum(axis=0) / n
    effect = 1.0 + pooled_correlation(x, t) * (mean_size - 1.0)
    # A scene's share in its class, for the correction of its residual.
    share = t / n
    residual = (x - t * p) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        own = ((residual / np.sqrt(1.0 - share)) ** 2).sum(axis=0) / (spread / n)
    effect = np.maximum(effect, np.where(np.isfinite(own), own, 0.0))
    variance = (spread / n * effect).sum()
    together = variance + _shared_variance(residual, spread, t, n)
    leverage = share.mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = ((residual.sum(axis=1) / np.sqrt(1.0 - leverage)) ** 2).sum()
    if np.isfinite(whole):
        together = max(together, whole)
    if variance > 0.0:
        effect = effect * max(1.0, together / variance)
    sizes = np.zeros(total.shape[1])
    sizes[present] = n / np.maximum(effect, 1.0)
    return sizes


def _shared_variance(residual: Array, spread: Array, total: Array, n: Array) -> float:
    """Return what classes that are right together add to the variance of K times the mean.

    It is the covariance within scenes of standardised residuals of different classes, pooled over
    their pairs.

    Args:
        residual: (S, K) right patches beyond the expected ones, over n.
        spread: (K,) p (1 - p).
        total: (S, K) patches.
        n: (K,) patches.
    """
    num_scenes = len(total)
    if num_scenes < 2 or total.shape[1] < 2:
        return 0.0
    deviation = np.sqrt(spread)
    with np.errstate(divide="ignore", invalid="ignore"):
        standard = np.where(deviation > 0, residual * n / deviation, 0.0)
    counted = np.where(deviation > 0, total, 0.0)
    products = (standard.sum(axis=1) ** 2 - (standard**2).sum(axis=1)).sum()
    pairs = (counted.sum(axis=1) ** 2 - (counted**2).sum(axis=1)).sum()
    found = products / pairs * num_scenes / (num_scenes - 1) if pairs > 0.0 else 0.0
    information = (num_scenes - 1) * float(spread.mean())
    correlation = _shrunk(found * information, information, PRIOR_BETWEEN)
    # One patch more, half right: a class that is all right shares the fate of its scenes as well.
    smooth = np.sqrt((spread * n + 0.25) / (n + 1.0))
    scaled = total * smooth / n
    return correlation * float((scaled.sum(axis=1) ** 2 - (scaled**2).sum(axis=1)).sum())


def _shrunk(moment: float, information: float, prior: float) -> float:
    """Return a correlation, moved towards a prior one where there is little information."""
    value = (moment + PRIOR_WEIGHT * prior) / (information + PRIOR_WEIGHT)
    return float(np.clip(value, 0.0, 1.0))


def pooled_correlation(right: Array, total: Array) -> float:
    """Return the intra-scene correlation of being right, pooled over classes: 0...1.

    Between- and within-scene variance of each class come from the analysis of variance, weighted by
    scenes, with a weak prior. A class in one scene, or with one patch in each, tells nothing.

    Args:
        right: (S, K) right patches of each scene and class.
        total: (S, K) patches.
    """
    n = total.sum(axis=0)
    num_scenes = (total > 0).sum(axis=0)
    usable = (num_scenes > 1) & (n > num_scenes)
    if not usable.any():
        return PRIOR_WITHIN
    x, t, n, s = right[:, usable], total[:, usable], n[usable], num_scenes[usable]
    safe = np.where(t > 0, t, 1.0)
    p = x.sum(axis=0) / n
    within = (x * (1.0 - x / safe)).sum(axis=0) / (n - s)
    between = (t * (x / safe - p) ** 2).sum(axis=0) / (s - 1)
    size = (n - (t * t).sum(axis=0) / n) / (s - 1)
    of_scenes = (between - within) / size
    moment = float(((s - 1) * of_scenes).sum())
    information = float(((s - 1) * np.maximum(of_scenes + within, 0.0)).sum())
    return _shrunk(moment, information, PRIOR_WITHIN)
