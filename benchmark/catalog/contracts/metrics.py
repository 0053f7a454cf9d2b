"""The contract of a metric: a function of summed counts, with any leading axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from benchmark.catalog.contracts.checks import Check, expect, pickles
from benchmark.statistics.counts import Statistics, summarise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.specs import Metric

NUM_PATCHES, NUM_SCENES = 200, 6


@dataclass(frozen=True)
class Case:
    """A metric on random predictions of K classes in six scenes."""

    metric: Metric
    num_classes: int = 5

    @cached_property
    def scenes(self) -> list[Statistics]:
        """The statistics of each scene."""
        rng = np.random.default_rng(0)
        y_true, y_pred = rng.integers(0, self.num_classes, (2, NUM_PATCHES))
        score = rng.dirichlet(np.ones(self.num_classes), NUM_PATCHES)
        scene = rng.integers(0, NUM_SCENES, NUM_PATCHES)
        return [
            summarise(
                y_true[scene == s], y_pred[scene == s], score[scene == s],
                num_classes=self.num_classes,
            )
            for s in range(NUM_SCENES)
        ]  # fmt: skip

    @property
    def grouped(self) -> Statistics:
        """The statistics with a leading axis of scenes."""
        columns = zip(*(item.arrays() for item in self.scenes), strict=True)
        return Statistics(*(np.stack(arrays) for arrays in columns))

    def compute(self, statistics: Statistics) -> NDArray[np.float64]:
        """Return the value of the metric."""
        return np.asarray(self.metric.compute(statistics))


def is_one_number_for_each_set(case: Case) -> None:
    """It returns one number for each set of patches, or one for each class."""
    wanted = (NUM_SCENES, case.num_classes) if case.metric.is_per_class else (NUM_SCENES,)
    shape = case.compute(case.grouped).shape
    expect(shape == wanted, f"shape {shape} for {NUM_SCENES} sets of patches; return {wanted}")


def takes_each_set_alone(case: Case) -> None:
    """The value of a set does not depend on the other sets."""
    together = case.compute(case.grouped)
    alone = np.stack([case.compute(item) for item in case.scenes])
    expect(np.allclose(together, alone, equal_nan=True), "sets together differ from each alone")


def is_the_same_twice(case: Case) -> None:
    """The same counts have the same value, and are not changed."""
    grouped = case.grouped
    before = [array.copy() for array in grouped.arrays()]
    one, other = case.compute(grouped), case.compute(grouped)
    expect(np.array_equal(one, other, equal_nan=True), "two calls differ")
    same = all(np.array_equal(a, b) for a, b in zip(before, grouped.arrays(), strict=True))
    expect(same, "it changes the counts that it is given")


def is_a_number(case: Case) -> None:
    """It is a finite number where every class has patches."""
    value = case.compute(case.grouped.total())
    expect(bool(np.isfinite(value).all()), f"it is {value} where every class has patches")


def is_undefined_without_patches(case: Case) -> None:
    """It is NaN where there are no patches, neither 0 nor an error."""
    nothing = summarise([], [], np.empty((0, case.num_classes)), num_classes=case.num_classes)
    expect(bool(np.isnan(case.compute(nothing)).all()), "it is no NaN without patches")


def is_better_in_its_direction(case: Case) -> None:
    """Right predictions are not worse than wrong ones, in the direction that it says."""
    k = case.num_classes
    labels = np.arange(k).repeat(8)
    right, wrong = (
        case.compute(summarise(labels, pred, np.eye(k)[pred], num_classes=k))
        for pred in (labels, (labels + 1) % k)
    )
    gain = np.nan_to_num(right) - np.nan_to_num(wrong)
    sign = 1.0 if case.metric.direction == "higher" else -1.0
    expect(
        bool((sign * gain >= 0).all()),
        f"direction = {case.metric.direction}, but it is {right} for right predictions and "
        f"{wrong} for wrong ones",
    )


def pickles_for_workers(case: Case) -> None:
    """The entry reaches another process."""
    pickles(case.metric)


CHECKS: Sequence[Check[Case]] = (
    is_one_number_for_each_set,
    takes_each_set_alone,
    is_the_same_twice,
    is_a_number,
    is_undefined_without_patches,
    is_better_in_its_direction,
    pickles_for_workers,
)
