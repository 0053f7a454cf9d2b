"""Intervals of scores from counts of right patches per class, with and without scenes.

A balanced accuracy is the mean of K proportions, an accuracy or a recall is one proportion. Their
interval is the score interval of Martin Andres, Alvarez Hernandez and Herranz Tejedor (2011),
"Inferences about a linear combination of proportions", Statistical Methods in Medical Research 20:
all values that a score test at this level does not reject. With one proportion it is Wilson's.
Patches of one scene are alike: with scenes, the counts are divided by a design effect, and
Student's t takes the place of the normal quantile, with the degrees of freedom of each variance.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

PRIOR_WEIGHT = 0.05
PRIOR_WITHIN, PRIOR_BETWEEN = 0.5, 0.2
"""Correlations within and between classes of a scene that a test set of few errors is taken to
have: all right everywhere, it cannot show them. The weight is in patches' variance times scenes, so
that they matter where errors are rare and scenes few."""

FEW = 3.0
"""Right (or wrong) patches up to which a Poisson count bounds the interval."""


class Interval(NamedTuple):
    """Lower and upper end; NaN where the score is undefined."""

    low: float
    high: float


@functools.cache
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
    from scipy.optimize import brentq

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
    found = float(brentq(lambda value: excess(value)[0], low, high, xtol=1e-13))
    return min(float(excess(found)[1].mean()), _few(x, n, quantile))


def _few(x: Array, n: Array, quantile: float) -> float:
    """Return the lower end for a Poisson count of right patches; 1 if there are more than few."""
    count = float(x.sum())
    return float((x / n).mean() * _poisson_share(np.array([count]), quantile)[0])


def _poisson_share(count: Array, quantile: float) -> Array:
    """Return the lower end of a Poisson mean over its few counts; huge for more, or none."""
    from scipy import special

    is_few = (count > 0.0) & (count <= FEW)
    safe = np.where(is_few, count, 1.0)
    share = special.gammaincinv(safe, 2.0 * special.ndtr(-quantile)) / safe
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


def scene_interval(right: Array, total: Array, confidence: float) -> Interval:
    """Return the score interval of the mean of K proportions of patches that come in scenes.

    It is as wide as the larger of two variances asks for: that of ``scene_effects``, and that of
    scenes as wholes, with (scenes - 1) degrees of freedom.

    Args:
        right: (S, K) right patches of each scene and class.
        total: (S, K) patches.
        confidence: of the interval.
    """
    found = _Variances.of(right, total)
    if found is None:
        return Interval(float("nan"), float("nan"))
    outer = quantile_of(confidence, found.num_scenes)
    effect, quantile = at_least(*found.effects(confidence), found.of_patch, found.whole, outer)
    sizes = found.num_patches / effect
    return score_interval(found.share * sizes, sizes, quantile)


def scene_effects(right: Array, total: Array, confidence: float) -> tuple[Array, float]:
    """Return the design effects of a mean over classes, and the quantile that goes with them.

    Each variance has the quantile of Student's t for what estimates it (Satterthwaite 1946, "An
    Approximate Distribution of Estimates of Variance Components"): the correlation within classes
    is pooled over them and has (scenes - 1) degrees of freedom of each class, what classes add that
    are right together in a scene has (scenes - 1). The squares of the half widths are added.

    Args:
        right: (S, K) right patches of each scene and class.
        total: (S, K) patches.
        confidence: of the interval.

    Returns: (K,) effects, without the classes that have no patch; and the quantile.
    """
    found = _Variances.of(right, total)
    return (np.zeros(0), float("nan")) if found is None else found.effects(confidence)


def at_least(
    effect: Array, quantile: float, of_patch: Array, variance: float, outer: float
) -> tuple[Array, float]:
    """Return design effects and a quantile whose interval is not narrower than another one's.

    Args:
        effect: (K,) design effects.
        quantile: that goes with them.
        of_patch: (K,) variances of the classes if patches were independent.
        variance: of the sum over classes by another estimate.
        outer: quantile that goes with it.
    """
    own = float((of_patch * effect).sum())
    if own > 0.0 and np.isfinite(outer) and outer**2 * variance > quantile**2 * own:
        return effect * (variance / own), outer
    return effect, quantile


def effective_sizes(right: Array, total: Array) -> Array:
    """Return the class sizes that carry as much information as the patches of the scenes.

    A class's variance is never taken smaller than its own cluster-robust one, nor that of the mean
    smaller than that of scenes as wholes.

    Args:
        right: (S, K) right patches of each scene and class.
        total: (S, K) patches.

    Returns: (K,) sizes, at most the number of patches.
    """
    sizes = np.zeros(total.shape[1])
    found = _Variances.of(right, total)
    if found is None:
        return sizes
    effect = np.maximum(found.pooled, found.own)
    variance = (found.of_patch * effect).sum()
    if variance > 0.0:
        effect = effect * max(1.0, max(variance + found.shared, found.whole) / variance)
    sizes[total.sum(axis=0) > 0] = found.num_patches / np.maximum(effect, 1.0)
    return sizes


class _Variances(NamedTuple):
    """Estimates of the variance of class scores, and of K times their mean, over scenes.

    The arrays are (K,), of the classes that are present.
    """

    num_patches: Array
    share: Array
    of_patch: Array
    """p (1 - p) / n, the variance of independent patches; the next two are multiples of it."""
    pooled: Array
    """Design effect 1 + rho (sum_s n_s^2 / n - 1) (Kish 1965) with the pooled correlation rho."""
    own: Array
    """Cluster-robust variance, corrected for few clusters (CR2: Bell and McCaffrey 2002)."""
    shared: float
    """What classes add that are right together in a scene."""
    whole: float
    """Cluster-robust variance of scenes as wholes."""
    num_scenes: int
    freedom: int
    """Degrees of freedom of the pooled correlation."""

    @staticmethod
    def of(right: Array, total: Array) -> _Variances | None:
        """Return the variances of (S, K) right patches and patches; None without any patch."""
        present = total.sum(axis=0) > 0
        if not present.any():
            return None
        x, t = right[:, present], total[:, present]
        n = t.sum(axis=0)
        p = x.sum(axis=0) / n
        spread = p * (1.0 - p)
        correlation, freedom = _pooled(x, t)
        # A scene's share in its class, for the correction of its residual.
        share = t / n
        residual = (x - t * p) / n
        with np.errstate(divide="ignore", invalid="ignore"):
            own = ((residual / np.sqrt(1.0 - share)) ** 2).sum(axis=0) / (spread / n)
            leverage = share.mean(axis=1)
            whole = ((residual.sum(axis=1) / np.sqrt(1.0 - leverage)) ** 2).sum()
        return _Variances(
            num_patches=n,
            share=p,
            of_patch=spread / n,
            pooled=np.maximum(1.0 + correlation * ((t * t).sum(axis=0) / n - 1.0), 1.0),
            own=np.where(np.isfinite(own), own, 0.0),
            shared=_shared_variance(residual, spread, t, n),
            whole=float(whole) if np.isfinite(whole) else 0.0,
            num_scenes=int((t.sum(axis=1) > 0).sum()),
            freedom=freedom,
        )

    def effects(self, confidence: float) -> tuple[Array, float]:
        """Return what ``scene_effects`` documents."""
        outer = quantile_of(confidence, self.num_scenes)
        inner = quantile_of(confidence, 1 + max(self.freedom, self.num_scenes - 1))
        pooled = float((self.of_patch * self.pooled).sum())
        if not (pooled > 0.0 and np.isfinite(outer)):
            return self.pooled, outer
        both = pooled + self.shared
        square = (inner**2 * pooled + outer**2 * self.shared) / both
        return self.pooled * (both / pooled), float(np.sqrt(square))


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

    Between- and within-scene variance of each class come from the analysis of variance (Donner
    1986), weighted by scenes, with a weak prior. A class in one scene, or with one patch in each,
    tells nothing.

    Args:
        right: (S, K) right patches of each scene and class.
        total: (S, K) patches.
    """
    return _pooled(right, total)[0]


def _pooled(right: Array, total: Array) -> tuple[float, int]:
    """Return the correlation of ``pooled_correlation`` and its degrees of freedom."""
    n = total.sum(axis=0)
    num_scenes = (total > 0).sum(axis=0)
    usable = (num_scenes > 1) & (n > num_scenes)
    if not usable.any():
        return PRIOR_WITHIN, 0
    x, t, n, s = right[:, usable], total[:, usable], n[usable], num_scenes[usable]
    safe = np.where(t > 0, t, 1.0)
    p = x.sum(axis=0) / n
    within = (x * (1.0 - x / safe)).sum(axis=0) / (n - s)
    between = (t * (x / safe - p) ** 2).sum(axis=0) / (s - 1)
    size = (n - (t * t).sum(axis=0) / n) / (s - 1)
    of_scenes = (between - within) / size
    moment = float(((s - 1) * of_scenes).sum())
    information = float(((s - 1) * np.maximum(of_scenes + within, 0.0)).sum())
    return _shrunk(moment, information, PRIOR_WITHIN), int((s - 1).sum())
