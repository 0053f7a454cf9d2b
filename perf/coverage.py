"""Whether intervals cover and verdicts keep their level, in simulation.

python -m perf.coverage            all designs, about ten minutes; --quick: a few
python -m perf.coverage --repeats 2000 --only scenes=3 --only rho=0.2 --only table=intervals

Prints the tables of docs/STATISTICS.md and counts the cells that hold what is claimed there; ends
with 1 if a cell surely does not. Scenes differ: a class's patches are right in a scene with a
probability drawn from a beta distribution of intra-scene correlation rho. The former methods
(percentile bootstrap, McNemar's test) stand beside the present ones. All numbers are of simulated
patches.
"""

from __future__ import annotations

import argparse
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
from perf.claims import (
    LEAST_IN_ONE_SCENE,
    LOW,
    MOST_OF_TABLE,
    MOST_SIZE,
    Cell,
    leaves_no_choice,
    print_coverage,
    print_size,
)

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

    def leaves_no_choice(self, metric: str) -> bool:
        """Return whether no interval of a metric can cover in 93 to 98 % of cases.

        Known without scenes, where the number of right patches is binomial and decides the metric:
        recall, and where classes are of one size the scores of all.
        """
        if self.scenes or metric == "expected_calibration_error":
            return False
        if metric != "recall" and len(set(self.sizes)) > 1:
            return False
        num = self.sizes[-1] if metric == "recall" else sum(self.sizes)
        return leaves_no_choice(stats.binom.pmf(np.arange(num + 1), num, self.recall))

    @property
    def least(self) -> float:
        """The coverage that an interval must have at least, but for the known weak point."""
        if self.scenes_of_last == 1 and self.rho >= 0.5:
            return LEAST_IN_ONE_SCENE
        return LOW


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
    for scenes in (6, 10, 30):
        for rho in (0.2, 0.5):
            yield Case(USUAL, scenes, rho, 0.85, fails_together=True)


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
    differences = []
    for number in range(repeats):
        scenes = world.scenes()
        pair = np.stack([world.right(scenes, case.recall + s * gap / 2) for s in (1, -1)])
        parts, weights = contributions(world, scenes, pair.astype(float))
        gain = parts[:, [0]] - parts[:, [1]]
        test = flip_table(gain, weights, alpha=0.05, seed=number)
        found["flip"].append(bool(test.is_detected[0]))
        differences.append(test.differences[0])
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
    # No test of this difference that keeps its level can do much better than one that knows how
    # far the difference strays.
    limit = stats.norm.ppf(0.975) * np.std(differences)
    found["known spread"] = [bool(abs(difference) > limit) for difference in differences]
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


TABLES = ("intervals", "equal", "different", "tables")
"""The names that ``--only table=`` takes."""


class Wanted:
    """The tables and designs that the command line asks for."""

    def __init__(self, arguments: list[str]) -> None:
        """Parse the arguments."""
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--quick", action="store_true", help="a few designs, 200 test sets")
        parser.add_argument("--repeats", type=int, help="test sets of each row")
        parser.add_argument(
            "--only",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"designs of these scenes, rho, recall or classes; table={'|'.join(TABLES)}",
        )
        given = parser.parse_args(arguments)
        if given.repeats is not None and given.repeats < 1:
            parser.error(f"--repeats {given.repeats}: at least 1")
        self.quick = bool(given.quick)
        self.repeats = given.repeats or (200 if self.quick else 400)
        self.repeats_of_tables = given.repeats or (200 if self.quick else 300)
        self._tables: set[str] = set()
        self._values: dict[str, set[float]] = {}
        for text in given.only:
            name, _, value = text.partition("=")
            if name == "table" and value in TABLES:
                self._tables.add(value)
                continue
            try:
                number = float(value)
            except ValueError:
                parser.error(f"--only {text}: not NAME=NUMBER or table={'|'.join(TABLES)}")
            if name not in ("scenes", "rho", "recall", "classes"):
                parser.error(f"--only {text}: unknown name {name!r}")
            self._values.setdefault(name, set()).add(number)

    def table(self, name: str) -> bool:
        """Return whether a table is asked for."""
        return not self._tables or name in self._tables

    def holds(self, case: Case) -> bool:
        """Return whether a design is asked for."""
        facts = {"classes": len(case.sizes), **case._asdict()}
        return all(facts[name] in values for name, values in self._values.items())


KEYS = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "recall": "recall, last class",
    "expected_calibration_error": "calibration error",
}


def print_intervals(wanted: Wanted) -> bool:
    """Print coverage and width of all intervals; return whether all cover."""
    print("## Intervals: coverage / mean width at 95 %\n")
    print("| design | " + " | ".join(KEYS.values()) + " | former bootstrap |")
    print("|---|" + "---|" * (len(KEYS) + 1))
    cells: dict[str, list[Cell]] = {}
    for number, case in enumerate(cases(wanted.quick)):
        if not wanted.holds(case):
            continue
        found = intervals(case, wanted.repeats, number)
        for key in KEYS.keys() & found.keys():
            cells.setdefault(KEYS[key], []).append(
                Cell(
                    str(case),
                    found[key][0],
                    wanted.repeats,
                    case.least,
                    case.leaves_no_choice(key),
                )
            )
        print(
            f"| {case} | "
            + " | ".join(show(found.get(key)) for key in (*KEYS, "bootstrap"))
            + " |",
            flush=True,
        )
    return print_coverage({name: cells[name] for name in KEYS.values() if name in cells})


def print_verdicts(wanted: Wanted, gap: float) -> bool:
    """Print how often methods whose recalls differ by ``gap`` are told apart."""
    if gap:
        print(f"\n## Verdicts on a difference of {100 * gap:g} points: power, coverage\n")
        sets = [(0, 0.0), (10, 0.05), (30, 0.05), (100, 0.05)]
        keys = {
            "flip": "flip test",
            "known spread": "if the spread were known",
            "covers": "coverage",
            "bootstrap": "former bootstrap",
        }
    else:
        print("\n## Verdicts on two equal methods: share called different at 5 %\n")
        sets = [(0, 0.0), *((s, r) for s in (3, 6, 10, 30, 100) for r in (0.0, 0.05, 0.2, 0.5))]
        keys = {"flip": "flip test", "bootstrap": "former bootstrap", "mcnemar": "McNemar"}
    if wanted.quick:
        sets = [(30, 0.05)] if gap else [(10, 0.2)]
    print("| design | " + " | ".join(keys.values()) + " |\n|---|" + "---|" * len(keys))
    cells = []
    for case in (Case(USUAL, scenes, rho, 0.85) for scenes, rho in sets):
        if not wanted.holds(case):
            continue
        found = verdicts(case, gap, wanted.repeats, 8 if gap else 7)
        cells.append(Cell(str(case), found["flip"], wanted.repeats, MOST_SIZE))
        print(f"| {case} | " + " | ".join(f"{found[key]:.3f}" for key in keys) + " |", flush=True)
    print()
    return bool(gap) or print_size("Wrong verdicts", cells)


def print_tables(wanted: Wanted) -> bool:
    """Print how often a table of equal methods calls one behind; return whether that is seldom."""
    print("\n## Tables of equal methods: share with at least one called behind\n")
    print("| methods | design | flip test over all pairs | former bootstrap |\n|---|---|---|---|")
    sets = [(24, 10, 0.1), (24, 30, 0.1), (24, 100, 0.1), (24, 0, 0.0), (6, 30, 0.2)]
    cells = []
    for methods, scenes, rho in [(6, 10, 0.1)] if wanted.quick else sets:
        case = Case(USUAL, scenes, rho, 0.85)
        if not wanted.holds(case):
            continue
        now, before = tables_of_equals(case, methods, wanted.repeats_of_tables, 9)
        cells.append(Cell(str(case), now, wanted.repeats_of_tables, MOST_OF_TABLE))
        print(f"| {methods} | {case} | {now:.3f} | {before:.3f} |", flush=True)
    print()
    return print_size("Wrong tables", cells)


def main(arguments: list[str]) -> int:
    """Print the tables; return 0 if they hold what is claimed, otherwise 1."""
    wanted = Wanted(arguments)
    began = time.time()
    parts = {
        "intervals": lambda: print_intervals(wanted),
        "equal": lambda: print_verdicts(wanted, 0.0),
        "different": lambda: print_verdicts(wanted, 0.04),
        "tables": lambda: print_tables(wanted),
    }
    holds = [part() for name, part in parts.items() if wanted.table(name)]
    print(
        f"\n{wanted.repeats} test sets for each row ({wanted.repeats_of_tables} for tables); "
        f"{time.time() - began:.0f} s. {'' if all(holds) else 'At least one cell does not hold.'}"
    )
    return 0 if all(holds) else 1


def show(found: tuple[float, float] | None) -> str:
    """Return coverage and width as text."""
    return "" if found is None else f"{found[0]:.3f} / {found[1]:.3f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
