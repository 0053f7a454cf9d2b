"""Whether intervals cover and verdicts keep their level, in simulation.

python -m perf.coverage            all designs, about ten minutes; --quick: a few
Prints the tables of docs/STATISTICS.md. Scenes differ: a class's patches are right in a scene with
a probability drawn from a beta distribution of intra-scene correlation rho. The former methods
(percentile bootstrap, McNemar's test) stand beside the present ones. All numbers are of simulated
patches.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmark.catalog.metrics import METRICS
from benchmark.statistics.counts import Statistics, summarise
from benchmark.statistics.flips import flip_ranking, flip_table
from benchmark.statistics.scores import Uncertainty

Array = NDArray[np.float64]

STUDY = (380, 1560, 600, 24, 43)
"""About the test patches of the study's classes (docs/STATISTICS.md)."""
USUAL = (200, 600, 200, 60, 40)


class Case(NamedTuple):
    """A test set: patches of each class, scenes (0: unknown), correlation, recall."""

    sizes: tuple[int, ...]
    scenes: int
    rho: float
    recall: float
    scenes_of_last: int = 0
    """Scenes of the last class; 0: all."""
    fails_together: bool = False
    """Whether a scene that is hard for one class is as hard for all."""

    def __str__(self) -> str:
        few = f", last class in {self.scenes_of_last}" if self.scenes_of_last else ""
        sizes = set(self.sizes)
        what = f"{len(self.sizes)} x {self.sizes[0]}" if len(sizes) == 1 else f"{self.sizes}"
        few += ", classes fail together" if self.fails_together else ""
        scenes = f"{self.scenes} scenes, rho {self.rho:g}{few}" if self.scenes else "no scenes"
        return f"{what} patches, {scenes}, recall {self.recall:g}"


def cases(quick: bool) -> Iterator[Case]:
    """Yield the designs."""
    if quick:
        yield Case((24,) * 5, 0, 0.0, 0.99)
        yield Case(USUAL, 10, 0.2, 0.85)
        return
    for num, size in ((1, 3), (1, 56), (2, 10), (5, 3), (5, 24), (5, 2000), (20, 3), (20, 100)):
        for recall in (0.5, 0.8, 0.95, 0.99, 1.0):
            yield Case((size,) * num, 0, 0.0, recall)
    for recall in (0.8, 0.95):
        yield Case(STUDY, 0, 0.0, recall)
    for scenes in (3, 6, 10, 30, 100):
        for rho in (0.0, 0.05, 0.2, 0.5):
            for recall in (0.6, 0.85, 0.97):
                yield Case(USUAL, scenes, rho, recall)
    for scenes in (6, 30, 100):
        for rho in (0.05, 0.5):
            yield Case(USUAL, scenes, rho, 0.97, fails_together=True)
    for of_last in (1, 3, 5):
        for rho in (0.05, 0.5):
            yield Case((200, 600, 200, 60, 24), 20, rho, 0.85, of_last)


class World:
    """Draws test sets of one design."""

    def __init__(self, case: Case, rng: np.random.Generator) -> None:
        """Lay out labels; scenes are drawn anew each time."""
        self.case, self.rng = case, rng
        self.labels = np.repeat(np.arange(len(case.sizes)), case.sizes)

    def scenes(self) -> NDArray[np.int64]:
        """Return the scene of each patch: classes are spread unevenly."""
        case = self.case
        if not case.scenes:
            return np.zeros(len(self.labels), np.int64)
        found = np.empty(len(self.labels), np.int64)
        for label in range(len(case.sizes)):
            is_last = label == len(case.sizes) - 1
            num = case.scenes_of_last if is_last and case.scenes_of_last else case.scenes
            where = self.rng.permutation(case.scenes)[:num]
            mine = self.labels == label
            found[mine] = self.rng.choice(where, mine.sum(), p=self.rng.dirichlet(np.full(num, 2)))
        return found

    def right(self, scenes: NDArray[np.int64], recall: float) -> NDArray[np.bool_]:
        """Return which patches a method of this recall gets right."""
        rho = self.case.rho
        chance = np.full(len(self.labels), recall)
        if rho and 0 < recall < 1:
            a, b = recall * (1 / rho - 1), (1 - recall) * (1 / rho - 1)
            num = max(self.case.scenes, 1)
            drawn = self.rng.beta(a, b, (num, len(self.case.sizes)))
            if self.case.fails_together:
                drawn = np.repeat(drawn[:, :1], len(self.case.sizes), axis=1)
            chance = drawn[scenes, self.labels]
        return self.rng.random(len(self.labels)) < chance

    def statistics(self, scenes: NDArray[np.int64], right: NDArray[np.bool_]) -> Statistics:
        """Count one method's predictions by scene; wrong ones are any other class."""
        num = max(len(self.case.sizes), 2)
        wrong = (self.labels + self.rng.integers(1, num, len(self.labels))) % num
        pred = np.where(right, self.labels, wrong)
        # Scores in two bins, calibrated in neither.
        sure = np.where(self.rng.random(len(pred)) < 0.5, 0.92, 0.75)
        score = np.repeat(((1 - sure) / (num - 1))[:, None], num, axis=1)
        score[np.arange(len(pred)), pred] = sure
        groups = max(self.case.scenes, 1)
        return summarise(
            self.labels, pred, score, num_classes=num, groups=scenes, num_groups=groups
        )

    def truth(self, metric: str) -> float:
        """Return the value of a metric on endless patches of this design."""
        p, sizes = self.case.recall, np.array(self.case.sizes, float)
        num = max(len(sizes), 2)
        if metric == "expected_calibration_error":
            return (abs(p - 0.92) + abs(p - 0.75)) / 2
        if metric != "macro_f1":
            return p
        counts = np.zeros((num, num))
        counts[: len(sizes)] = sizes[:, None] * (1 - p) / (num - 1)
        counts[np.arange(len(sizes)), np.arange(len(sizes))] = sizes * p
        whole = Statistics(counts, *(np.zeros(15),) * 3)
        (metric_entry,) = (item for item in METRICS if item.name == metric)
        return float(metric_entry.compute(whole))


def bootstrap(by_scene: Statistics, rng: np.random.Generator) -> tuple[float, float]:
    """Return the former interval of the balanced accuracy: percentiles of resamples.

    Scenes were resampled where they were known, else patches within their classes.
    """
    draws = 300
    counts = by_scene.counts
    right, true = np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2)
    if len(counts) > 1:
        weights = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), draws)
        x, n = weights @ right, weights @ true
    else:
        n = np.repeat(true, draws, axis=0)
        x = rng.binomial(n.astype(int), np.where(n > 0, right / np.where(n > 0, n, 1), 0))
    with np.errstate(invalid="ignore"):
        values = np.nanmean(np.where(n > 0, x / np.where(n > 0, n, 1), np.nan), axis=1)
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def intervals(case: Case, repeats: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return coverage and mean width of each metric's interval, and of the former bootstrap."""
    rng = np.random.Generator(np.random.PCG64(seed))
    world = World(case, rng)
    names = ["balanced_accuracy", "accuracy", "recall"]
    # Of one class alone it is not continuous: one error adds a class whose F1 is 0.
    names += ["macro_f1"] if len(case.sizes) > 1 else []
    names += ["expected_calibration_error"] if not case.rho else []
    hits: dict[str, list[tuple[bool, float]]] = {name: [] for name in [*names, "bootstrap"]}
    for _ in range(repeats):
        scenes = world.scenes()
        by_scene = world.statistics(scenes, world.right(scenes, case.recall))
        certainty = Uncertainty(by_scene, has_scenes=case.scenes > 0, confidence=0.95)
        for name in names:
            found = certainty.of(name) or []
            low, high = found[len(case.sizes) - 1 if name == "recall" else 0]
            truth = world.truth(name)
            hits[name].append((low - 1e-9 <= truth <= high + 1e-9, high - low))
        low, high = bootstrap(by_scene, rng)
        hits["bootstrap"].append((low <= case.recall <= high, high - low))
    return {
        name: (float(np.mean([a for a, _ in rows])), float(np.mean([b for _, b in rows])))
        for name, rows in hits.items()
    }


def contributions(world: World, scenes: NDArray[np.int64], right: Array) -> tuple[Array, Array]:
    """Return what each unit adds to each method's balanced accuracy, and its share."""
    sizes = np.array(world.case.sizes, float)
    weights = 1.0 / (sizes[world.labels] * len(sizes))
    units = scenes if world.case.scenes else np.arange(len(scenes))
    num = world.case.scenes or len(scenes)
    each = [np.bincount(units, weights * row, num) for row in right]
    return np.stack(each, axis=1), np.bincount(units, weights, num)


def verdicts(case: Case, gap: float, repeats: int, seed: int) -> dict[str, float]:
    """Return how often two methods whose recalls differ by ``gap`` are told apart."""
    rng = np.random.Generator(np.random.PCG64(seed))
    world = World(case, rng)
    found: dict[str, list[bool]] = {"flip": [], "covers": [], "bootstrap": [], "mcnemar": []}
    for number in range(repeats):
        scenes = world.scenes()
        pair = np.stack([world.right(scenes, case.recall + s * gap / 2) for s in (1, -1)])
        parts, weights = contributions(world, scenes, pair.astype(float))
        gain = parts[:, [0]] - parts[:, [1]]
        test = flip_table(gain, weights, alpha=0.05, seed=number)
        found["flip"].append(bool(test.is_detected[0]))
        low, high = test.intervals[0]
        found["covers"].append(low - 1e-9 <= gap <= high + 1e-9)
        units = rng.multinomial(len(gain), np.full(len(gain), 1 / len(gain)), 300)
        share = units @ weights
        drawn = (units @ gain)[:, 0] / np.where(share > 0, share, 1)
        found["bootstrap"].append(
            bool(np.quantile(drawn, 0.025) > 0 or np.quantile(drawn, 0.975) < 0)
        )
        b, c = int((pair[0] & ~pair[1]).sum()), int((~pair[0] & pair[1]).sum())
        found["mcnemar"].append(bool(b + c and stats.binomtest(b, b + c).pvalue <= 0.05))
    return {name: float(np.mean(rows)) for name, rows in found.items()}


def tables_of_equals(case: Case, methods: int, repeats: int, seed: int) -> tuple[float, float]:
    """Return how often a table of equal methods calls one behind: now, and by the bootstrap."""
    rng = np.random.Generator(np.random.PCG64(seed))
    world = World(case, rng)
    now, before = [], []
    for number in range(repeats):
        scenes = world.scenes()
        right = np.stack([world.right(scenes, case.recall) for _ in range(methods)]).astype(float)
        parts, weights = contributions(world, scenes, right)
        leader = int(parts.sum(axis=0).argmax())
        test = flip_ranking(parts, weights, leader, alpha=0.05, seed=number)
        now.append(bool(test.is_detected.any()))
        units = rng.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), 300)
        drawn = units @ (parts[:, [leader]] - parts)
        before.append(bool((np.quantile(drawn, 0.025, axis=0) > 0).any()))
    return float(np.mean(now)), float(np.mean(before))


def main(arguments: list[str]) -> None:
    """Print the tables."""
    quick = "--quick" in arguments
    began = time.time()
    repeats = 200 if quick else 400
    print("## Intervals: coverage / mean width at 95 %\n")
    names = ["balanced accuracy", "accuracy", "macro F1", "recall, last class", "calibration error"]
    print("| design | " + " | ".join(names) + " | former bootstrap |")
    print("|---|" + "---|" * (len(names) + 1))
    lowest: dict[str, tuple[float, str]] = {}
    keys = ["balanced_accuracy", "accuracy", "macro_f1", "recall", "expected_calibration_error"]
    for number, case in enumerate(cases(quick)):
        found = intervals(case, repeats, number)
        for key, (cover, _) in found.items():
            lowest[key] = min(lowest.get(key, (2.0, "")), (cover, str(case)))
        cells = [show(found.get(key)) for key in [*keys, "bootstrap"]]
        print(f"| {case} | " + " | ".join(cells) + " |", flush=True)
    print("\nLowest coverage: " + "; ".join(f"{k} {v:.3f} ({w})" for k, (v, w) in lowest.items()))
    print("\n## Verdicts on two equal methods: share called different at 5 %\n")
    print("| design | flip test | former bootstrap | McNemar |\n|---|---|---|---|")
    sets: list[tuple[int, float]] = (
        [(10, 0.2)]
        if quick
        else [(0, 0.0), *((s, r) for s in (3, 6, 10, 30, 100) for r in (0.0, 0.05, 0.2, 0.5))]
    )
    for scenes, rho in sets:
        found_v = verdicts(Case(USUAL, scenes, rho, 0.85), 0.0, repeats, 7)
        row = " | ".join(f"{found_v[key]:.3f}" for key in ("flip", "bootstrap", "mcnemar"))
        print(f"| {Case(USUAL, scenes, rho, 0.85)} | {row} |", flush=True)
    print("\n## Verdicts on a difference of 4 points: power, and coverage of its interval\n")
    print("| design | flip test | coverage | former bootstrap |\n|---|---|---|---|")
    for scenes, rho in [(30, 0.05)] if quick else [(0, 0.0), (10, 0.05), (30, 0.05), (100, 0.05)]:
        found_v = verdicts(Case(USUAL, scenes, rho, 0.85), 0.04, repeats, 8)
        row = " | ".join(f"{found_v[key]:.3f}" for key in ("flip", "covers", "bootstrap"))
        print(f"| {Case(USUAL, scenes, rho, 0.85)} | {row} |", flush=True)
    print("\n## Tables of equal methods: share with at least one called behind\n")
    print("| methods | design | flip test over all pairs | former bootstrap |\n|---|---|---|---|")
    for methods, scenes, rho in (
        [(6, 10, 0.1)]
        if quick
        else [(24, 10, 0.1), (24, 30, 0.1), (24, 100, 0.1), (24, 0, 0.0), (6, 30, 0.2)]
    ):
        case = Case(USUAL, scenes, rho, 0.85)
        now, before = tables_of_equals(case, methods, repeats if quick else 300, 9)
        print(f"| {methods} | {case} | {now:.3f} | {before:.3f} |", flush=True)
    print(f"\n{repeats} test sets for each row (300 for tables); {time.time() - began:.0f} s.")


def show(found: tuple[float, float] | None) -> str:
    """Return coverage and width as text."""
    return "" if found is None else f"{found[0]:.3f} / {found[1]:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
