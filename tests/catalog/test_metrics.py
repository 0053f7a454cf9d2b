"""Every metric equals scikit-learn's, on any counts, with any leading axes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import foldnorm
from sklearn.metrics import (  # type: ignore[import-untyped]
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
)

from benchmark.catalog.contracts.metrics import CHECKS, Case
from benchmark.catalog.metrics import HEADLINE, METRICS
from benchmark.catalog.references import CHESAPEAKE_STUDY
from benchmark.errors import UsageError
from benchmark.specs import Metric
from benchmark.statistics.counts import Statistics, summarise

K = 5

STUDY = [(row.name, row.value, row.confusion) for row in CHESAPEAKE_STUDY.rows]

labels = st.lists(st.tuples(st.integers(0, K - 1), st.integers(0, K - 1)), min_size=1, max_size=60)


def one_hot(y_pred: NDArray[np.int64], num_classes: int = K) -> NDArray[np.float64]:
    return np.eye(num_classes)[y_pred]


def statistics_of(pairs: list[tuple[int, int]]) -> tuple[Statistics, list[int], list[int]]:
    y_true, y_pred = (list(column) for column in zip(*pairs, strict=True))
    return (
        summarise(y_true, y_pred, one_hot(np.asarray(y_pred)), num_classes=K),
        y_true,
        y_pred,
    )


def of_counts(counts: NDArray[np.float64]) -> Statistics:
    empty = np.zeros((*counts.shape[:-2], 15))
    return Statistics(counts, empty, empty, empty)


def value(name: str, statistics: Statistics) -> NDArray[np.float64]:
    return METRICS.get(name).compute(statistics)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@given(pairs=labels)
def test_single_numbers_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    statistics, y_true, y_pred = statistics_of(pairs)
    assert value("balanced_accuracy", statistics) == pytest.approx(
        balanced_accuracy_score(y_true, y_pred)
    )
    assert value("accuracy", statistics) == pytest.approx(accuracy_score(y_true, y_pred))
    assert value("macro_f1", statistics) == pytest.approx(
        f1_score(y_true, y_pred, average="macro", zero_division=0)
    )


@given(pairs=labels)
def test_numbers_per_class_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    statistics, y_true, y_pred = statistics_of(pairs)
    settings = {"labels": range(K), "average": None, "zero_division": np.nan}
    np.testing.assert_allclose(
        value("recall", statistics), recall_score(y_true, y_pred, **settings)
    )
    np.testing.assert_allclose(
        value("precision", statistics), precision_score(y_true, y_pred, **settings)
    )


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(0, 1)), min_size=1, max_size=40
    )
)
def test_calibration_error_equals_its_definition_less_its_bias(
    rows: list[tuple[int, int, float]],
) -> None:
    y_true, y_pred, spread = (np.asarray(column) for column in zip(*rows, strict=True))
    # The largest of three scores lies between 1/3 and 1.
    confidence = 1 / 3 + spread * 2 / 3
    score = np.repeat(((1 - confidence) / 2)[:, None], 3, axis=1)
    score[np.arange(len(y_pred)), y_pred] = confidence
    expected = 0.0
    largest = score.max(axis=1)
    for index in range(15):
        inside = (largest > index / 15) & (largest <= (index + 1) / 15)
        if inside.any():
            right = (y_true == y_pred)[inside]
            gap = abs(right.mean() - largest[inside].mean())
            smooth = (right.sum() + 1) / (inside.sum() + 2)
            deviation = np.sqrt(smooth * (1 - smooth) / inside.sum())
            expected += inside.mean() * (
                2 * gap - foldnorm(gap / deviation, scale=deviation).mean()
            )
    statistics = summarise(y_true, y_pred, score, num_classes=3)
    # A score within rounding of a bin's edge may fall on either side of it.
    if np.abs(largest * 15 - np.round(largest * 15)).min() > 1e-9:
        assert value("expected_calibration_error", statistics) == pytest.approx(max(expected, 0.0))


def test_a_calibrated_forecast_has_no_calibration_error() -> None:
    y_true = [0] * 8 + [1] * 2
    statistics = summarise(y_true, [0] * 10, [[0.8, 0.2]] * 10, num_classes=2)
    assert value("expected_calibration_error", statistics) == pytest.approx(0.0)


@pytest.mark.parametrize(("name", "expected", "counts"), STUDY, ids=[row[0] for row in STUDY])
def test_the_study_s_balanced_accuracies(
    name: str, expected: float, counts: list[list[int]]
) -> None:
    matrix = np.asarray(counts, dtype=float)
    assert matrix.sum() == 2586, name
    assert value("balanced_accuracy", of_counts(matrix)) == pytest.approx(expected, abs=5e-4)


def test_what_the_study_s_matrices_tell_and_what_not() -> None:
    """Their intervals overlap: without the predictions, paired, no two methods are told apart."""
    from benchmark.statistics.intervals import quantile_of, score_interval

    intervals = {}
    for name, _, counts in STUDY:
        matrix = np.asarray(counts, dtype=float)
        found = score_interval(np.diag(matrix), matrix.sum(axis=1), quantile_of(0.95))
        intervals[name] = (round(found.low, 3), round(found.high, 3))
    assert sorted(intervals.values()) == [
        (0.743, 0.825), (0.757, 0.841), (0.784, 0.874), (0.797, 0.888),
    ]  # fmt: skip
    assert max(low for low, _ in intervals.values()) < min(high for _, high in intervals.values())


def test_averaging_balanced_accuracy_over_shards_is_another_number() -> None:
    # Documents why shards return counts: the rare class stands in one shard only.
    shards = np.zeros((2, 2, 2))
    shards[0] = [[90, 10], [0, 0]]
    shards[1] = [[90, 10], [9, 1]]
    whole = value("balanced_accuracy", of_counts(shards.sum(axis=0)))
    averaged = value("balanced_accuracy", of_counts(shards)).mean()
    assert whole == pytest.approx((0.9 + 0.1) / 2)
    assert averaged == pytest.approx((0.9 + (0.9 + 0.1) / 2) / 2)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("metric", list(METRICS), ids=METRICS.names())
def test_every_metric_keeps_the_contract(metric: Metric, check: Any) -> None:
    check(Case(metric))


@pytest.mark.parametrize("metric", list(METRICS), ids=METRICS.names())
def test_every_metric_is_a_share(metric: Metric) -> None:
    found = metric.compute(Case(metric).grouped)
    defined = found[np.isfinite(found)]
    assert ((defined >= 0) & (defined <= 1)).all()
    assert pickle.loads(pickle.dumps(metric)) == metric


def test_headline_and_directions() -> None:
    assert HEADLINE == "balanced_accuracy" == METRICS.names()[0]
    assert [metric.name for metric in METRICS if metric.direction == "lower"] == [
        "expected_calibration_error"
    ]
    with pytest.raises(UsageError, match="Did you mean 'accuracy'"):
        METRICS.get("acuracy")


def test_listing_metrics_imports_nothing_heavy() -> None:
    code = (
        "import sys, benchmark.catalog.metrics; "
        "print(sorted({'numpy', 'torch', 'ray', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
