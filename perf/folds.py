"""Whether intervals and tests of cross-validation hold, in simulation with trained methods.

python -m perf.folds            all designs, about two minutes; --quick: two designs
Prints the table "Cross-validation" of docs/STATISTICS.md. Patches are normal vectors around a
centre for each class, shifted together within a scene; a method is a linear discriminant on half of
the components. Its true score is its mean over trainings of the size of a fold's, on other scenes.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.catalog.metrics import balanced_accuracy
from benchmark.errors import UsageError
from benchmark.experiment.fold_sets import Fold, find_folds
from benchmark.experiment.train_sets import PatchRows
from benchmark.stages.evaluate.folds import with_folds
from benchmark.statistics.counts import summarise
from benchmark.statistics.design import find_design
from benchmark.statistics.flips import flip_table
from benchmark.statistics.scores import Uncertainty

Array = NDArray[np.float64]
HALF = 8
NUM_FRESH = 300
"""Patches of each class on which a trained method's true score is measured, in 60 scenes."""


class Case(NamedTuple):
    """Patches of each class, classes, scenes (0: unknown), folds, and how hard the patches are."""

    size: int
    classes: int
    scenes: int
    folds: int
    distance: float
    shift: float = 0.0


CASES = (
    Case(8, 3, 0, 5, 1.5),
    Case(20, 3, 0, 5, 1.5),
    Case(20, 5, 0, 5, 2.5),
    Case(60, 3, 0, 5, 1.0),
    Case(20, 3, 0, 2, 1.5),
    Case(20, 3, 0, 3, 1.5),
    Case(20, 3, 0, 10, 1.5),
    Case(40, 3, 0, 20, 1.5),
    Case(20, 3, 15, 5, 1.5, 0.7),
    Case(40, 3, 30, 5, 2.0, 1.0),
    Case(40, 3, 12, 3, 1.5, 0.7),
    Case(60, 5, 20, 10, 1.5, 0.5),
)


class Data(NamedTuple):
    """Vectors (N, 2 HALF), labels (N,) and scenes (N,)."""

    x: Array
    y: NDArray[np.int64]
    scene: NDArray[np.int64]


def draw(case: Case, rng: np.random.Generator, size: int, scenes: int) -> Data:
    """Draw patches; both halves of the components tell the classes apart equally well."""
    y = np.repeat(np.arange(case.classes), size)
    x = rng.normal(size=(len(y), 2 * HALF))
    x[np.arange(len(y)), y] += case.distance
    x[np.arange(len(y)), HALF + y] += case.distance
    scene = rng.integers(0, max(scenes, 1), len(y))
    return Data(x + case.shift * rng.normal(size=(max(scenes, 1), 2 * HALF))[scene], y, scene)


def train(x: Array, y: NDArray[np.int64], num_classes: int) -> tuple[Array, Array]:
    """Return weights and biases of a regularised linear discriminant."""
    centres = np.stack([x[y == k].mean(axis=0) for k in range(num_classes)])
    rest = x - centres[y]
    spread = rest.T @ rest / max(len(x) - num_classes, 1) + 0.3 * np.eye(x.shape[1])
    weights = np.linalg.solve(spread, centres.T)
    return weights, -0.5 * (centres * weights.T).sum(axis=1)


def validate(case: Case, data: Data, fresh: Data, rows: PatchRows) -> tuple[Array, float]:
    """Return the pooled predictions of both methods (2, N), and the true score of the first."""
    pooled, truths = np.empty((2, len(data.y)), np.int64), []
    for number in range(1, case.folds + 1):
        roles = Fold(number, case.folds)(rows, 0)
        is_train, is_test = roles == "train", roles == "test"
        for method, part in enumerate((slice(0, HALF), slice(HALF, None))):
            weights, bias = train(data.x[is_train][:, part], data.y[is_train], case.classes)
            pooled[method, is_test] = (data.x[is_test][:, part] @ weights + bias).argmax(axis=1)
            if method == 0:
                found = (fresh.x[:, part] @ weights + bias).argmax(axis=1)
                truths.append(float((found == fresh.y).mean()))
    return pooled, float(np.mean(truths))


class Drawn(NamedTuple):
    """One data set: intervals without and with what folds add, and verdicts likewise."""

    truth: float
    plain: tuple[float, float]
    wide: tuple[float, float]
    plain_differs: bool
    wide_differs: bool


def draw_one(case: Case, rng: np.random.Generator) -> Drawn | None:
    """Cross-validate two equally good methods on one data set; None if it has too few scenes."""
    data = draw(case, rng, case.size, case.scenes)
    num = len(data.y)
    names = [f"scene {one}" if case.scenes else None for one in data.scene]
    whole = np.full(num, "train", object)
    rows = PatchRows(
        np.arange(num).astype(str), whole, data.y.astype(np.int32), np.array(names, object),
        np.full(num, None, object), tuple("abcdefgh"[: case.classes]),
    )  # fmt: skip
    try:
        find_folds(rows, case.folds)
    except UsageError:
        return None
    fresh = draw(case, rng, NUM_FRESH, 60 if case.scenes else 0)
    pooled, truth = validate(case, data, fresh, rows)
    design = with_folds(find_design(data.y, rows.scenes), rows, case.folds)
    assert design.folds is not None
    by_group = summarise(
        data.y, pooled[0], np.eye(case.classes)[pooled[0]], num_classes=case.classes,
        groups=design.scene_or_whole, num_groups=design.num_groups,
    )  # fmt: skip
    certainty = Uncertainty(by_group, has_scenes=design.has_scenes, confidence=0.95)
    plain = certainty.of("balanced_accuracy") or []
    (wide,) = design.folds.widen(plain, balanced_accuracy, by_group, certainty.quantile)
    right = (pooled == data.y).astype(np.float64)
    gain = design.contributions(right[0] - right[1])[:, None]
    differs = [
        bool(flip_table(gain, design.unit_weights, alpha=0.05, folds=folds).is_detected[0])
        for folds in (None, design.folds)
    ]
    return Drawn(truth, plain[0], wide, *differs)


def report(case: Case, num: int) -> None:
    """Print a row of the table."""
    rng = np.random.default_rng(0)
    drawn = [one for one in (draw_one(case, rng) for _ in range(num)) if one is not None]
    truth = float(np.mean([one.truth for one in drawn]))
    cells = []
    for name in ("plain", "wide"):
        ends = np.array([getattr(one, name) for one in drawn])
        covered = float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())
        cells.append(f"{100 * covered:.1f} / {100 * float((ends[:, 1] - ends[:, 0]).mean()):.1f}")
    cells += [
        f"{100 * float(np.mean([getattr(one, name) for one in drawn])):.1f}"
        for name in ("plain_differs", "wide_differs")
    ]
    scenes = f"{case.scenes} scenes" if case.scenes else "no scenes"
    what = f"{case.classes} x {case.size} patches, {scenes}, score {truth:.2f}"
    print(f"| {what} | {case.folds} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the table."""
    is_quick = "--quick" in sys.argv
    print("| data | folds | scenes alone | with what folds add | differ, scenes alone | differ |")
    print("|---|---:|---:|---:|---:|---:|")
    for case in CASES[1::7] if is_quick else CASES:
        report(case, 100 if is_quick else 500)


if __name__ == "__main__":
    main()
