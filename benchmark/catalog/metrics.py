"""The metrics, each computed from summed sufficient statistics and never from ratios of shards.

To add one, write a function from ``Statistics`` to an array and append an entry to METRICS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.registry import Registry
from benchmark.specs import Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmark.statistics.counts import Statistics

HEADLINE = "balanced_accuracy"
"""The metric by which cells are ranked."""


def balanced_accuracy(statistics: Statistics) -> NDArray[np.float64]:
    """Return the mean recall over the classes present in y_true, as scikit-learn defines it."""
    import numpy as np

    present = statistics.counts.sum(axis=-1) > 0
    total = np.where(present, recall(statistics), 0.0).sum(axis=-1)
    return _divide(total, present.sum(axis=-1))


def accuracy(statistics: Statistics) -> NDArray[np.float64]:
    """Return the share of patches that are classified correctly."""
    return _divide(_correct(statistics).sum(axis=-1), statistics.counts.sum(axis=(-2, -1)))


def macro_f1(statistics: Statistics) -> NDArray[np.float64]:
    """Return the mean F1 over the classes present in y_true or y_pred.

    These are scikit-learn's default labels of ``f1_score(average="macro")``; a class without a
    correct prediction scores 0.
    """
    import numpy as np

    both = statistics.counts.sum(axis=-1) + statistics.counts.sum(axis=-2)
    # F1 = 2 TP / (2 TP + FP + FN); the denominator is the sum of true and predicted patches.
    f1 = np.where(both > 0, _divide(2 * _correct(statistics), both), 0.0)
    return _divide(f1.sum(axis=-1), (both > 0).sum(axis=-1))


def recall(statistics: Statistics) -> NDArray[np.float64]:
    """Return the recall of each class, (..., K); NaN where the class is absent from y_true."""
    return _divide(_correct(statistics), statistics.counts.sum(axis=-1))


def precision(statistics: Statistics) -> NDArray[np.float64]:
    """Return the precision of each class, (..., K); NaN where it is never predicted."""
    return _divide(_correct(statistics), statistics.counts.sum(axis=-2))


def expected_calibration_error(statistics: Statistics) -> NDArray[np.float64]:
    """Return the debiased mean gap between the largest score and accuracy, over 15 bins."""
    from benchmark.statistics.scores import debiased_calibration_error

    return debiased_calibration_error(statistics)


def _correct(statistics: Statistics) -> NDArray[np.float64]:
    import numpy as np

    return np.diagonal(statistics.counts, axis1=-2, axis2=-1)


def _divide(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the quotient, NaN where the denominator is 0."""
    import numpy as np

    top = np.asarray(numerator, dtype=np.float64)
    bottom = np.asarray(denominator, dtype=np.float64)
    quotient = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=quotient, where=bottom != 0)
    return quotient


METRICS = Registry[Metric](
    "metric",
    [
        Metric(
            name=HEADLINE,
            description="Mean recall over the classes present in the split; the headline.",
            compute=balanced_accuracy,
        ),
        Metric(
            name="accuracy",
            description="Share of patches that are classified correctly.",
            compute=accuracy,
        ),
        Metric(
            name="macro_f1",
            description="Mean F1 over the classes present in the labels or the predictions.",
            compute=macro_f1,
        ),
        Metric(
            name="recall",
            description="Share of the patches of a class that are found (accuracy per class).",
            compute=recall,
            is_per_class=True,
        ),
        Metric(
            name="precision",
            description="Share of the patches predicted as a class that belong to it.",
            compute=precision,
            is_per_class=True,
        ),
        Metric(
            name="expected_calibration_error",
            description="Mean gap between the largest score and accuracy, over 15 bins, debiased.",
            compute=expected_calibration_error,
            direction="lower",
            version=2,
        ),
    ],
)
