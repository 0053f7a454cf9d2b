"""A slice of the simulation of docs/STATISTICS.md: intervals cover, verdicts keep their level."""

from __future__ import annotations

import pytest

from perf.coverage import USUAL, Case, intervals, tables_of_equals, verdicts

FEW = (60, 120, 60, 24, 12)


@pytest.mark.parametrize(
    "case",
    [
        Case((56,), 0, 0.0, 0.99),
        Case((24,) * 5, 0, 0.0, 0.95),
        Case(FEW, 10, 0.05, 0.85),
        Case(FEW, 30, 0.2, 0.6),
    ],
    ids=str,
)
def test_intervals_hold_the_truth(case: Case) -> None:
    found = intervals(case, 150, seed=1)
    former, _ = found.pop("bootstrap")
    for name, (share, width) in found.items():
        # Of 150 that hold with a chance of 0.95, at least 135 do in all but one of 200 cases.
        assert share >= 0.9, (name, share)
        assert 0.0 < width < 1.0
    assert found["balanced_accuracy"][0] >= former


def test_equal_methods_are_told_apart_in_one_case_of_twenty() -> None:
    found = verdicts(Case(FEW, 12, 0.2, 0.85), 0.0, 200, seed=2)
    assert found["flip"] <= 0.09
    assert found["mcnemar"] > 0.2
    assert found["covers"] >= 0.91


def test_a_difference_is_found_as_often_as_the_former_interval_found_it() -> None:
    found = verdicts(Case(USUAL, 30, 0.05, 0.85), 0.08, 100, seed=3)
    assert found["flip"] >= 0.6
    assert found["covers"] >= 0.88


def test_in_a_table_of_equal_methods_none_is_behind() -> None:
    now, former = tables_of_equals(Case(FEW, 20, 0.1, 0.85), 12, 60, seed=4)
    assert now <= 0.12
    assert former > 0.4
