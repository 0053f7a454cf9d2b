"""Paired differences of two runs on the test patches that both have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.comparing.runs import FinishedRun
from benchmark.comparing.sides import Method, Side
from benchmark.errors import UsageError
from benchmark.experiment.cells import TextTable
from benchmark.fields import shown
from benchmark.stages.evaluate.folds import with_folds
from benchmark.statistics.design import Design, find_design
from benchmark.statistics.flips import NO_DIFFERENCE, TOO_LITTLE, Flips, flip_table
from benchmark.tables import find_common

ALIKE = "right on the same patches"
"""The verdict on two methods of which no test patch tells one from the other."""
MOST_NAMED = 10
"""Methods of one side alone that a note names."""


@dataclass(frozen=True, repr=False)
class RunComparison:
    """Differences of two runs, B minus A, on the test patches that both have."""

    content: dict[str, Any]
    """The document that ``benchmark compare --json`` prints (docs/RESULTS.md)."""

    def __repr__(self) -> str:
        counts, rows = self.content["patches"], self.content["rows"]
        return f"<RunComparison: {len(rows)} rows on {counts['shared']} shared test patches>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def table(self) -> TextTable:
        """Return the differences as a table to print."""
        names = [self.content[side]["name"] for side in "ab"]
        is_one_set = len({row["train_set_a"] for row in self.content["rows"]}) == 1
        return TextTable(
            title="Balanced accuracy on the shared test patches, "
            f"B ({names[1]}) minus A ({names[0]})",
            columns=("backbone", "method", "A", "B", "points", "interval", "p", "B is"),
            rows=[_text_row(row, is_one_set=is_one_set) for row in self.content["rows"]],
            notes=tuple(self.content["notes"]),
        )


def compare_runs(a: FinishedRun, b: FinishedRun) -> RunComparison:
    """Compare each method that two runs share, and their leaders, patch by patch.

    The tests of a train set are corrected together, the leaders among them. Level and seed are
    those of A.

    Args:
        a: the run to compare with.
        b: the run whose gains are positive.

    Raises:
        UsageError: the runs share no test patch, or disagree on the class of one, or only one of
            them is cross-validated.
        CellError: a file of a store is missing, damaged, or of another version.
    """
    sides = Side(a), Side(b)
    _check_folds(*sides)
    at_a, at_b = find_common(sides[0].ids, sides[1].ids)
    if not len(at_a):
        raise UsageError(
            f"compare: '{a.artefact.uri}' and '{b.artefact.uri}' share none of their "
            f"{len(sides[0].ids):,} and {len(sides[1].ids):,} test patches; give two runs on the "
            "same data"
        )
    _check_labels(sides, at_a, at_b)
    design = _design(sides[0], at_a)
    rows = []
    for pairs in _pair_methods(*sides):
        # One pair after the other: of many patches, a few columns fill the memory.
        scored = [
            [
                design.contributions(side.right(method)[at])
                for side, method, at in zip(sides, pair, (at_a, at_b), strict=True)
            ]
            for _, *pair in pairs
        ]
        flips = flip_table(
            np.stack([after - before for before, after in scored], axis=1),
            design.unit_weights,
            alpha=1.0 - a.confidence,
            seed=int(a.settings.get("seed", 0)),
            folds=design.folds,
        )
        for number, (kind, one, two) in enumerate(pairs):
            before, after = scored[number]
            rows.append(
                {
                    "kind": kind,
                    **_names("a", one),
                    **_names("b", two),
                    "seeds_a": len(sides[0].methods[one]),
                    "seeds_b": len(sides[1].methods[two]),
                    "value_a": float(before.sum()),
                    "value_b": float(after.sum()),
                    **_verdict(flips, number, are_alike=np.array_equal(before, after)),
                }
            )
    alone = [
        [" / ".join(method) for method in mine.methods if method not in other.methods]
        for mine, other in (sides, sides[::-1])
    ]
    content = {
        "a": describe_run(a),
        "b": describe_run(b),
        "patches": {
            "shared": len(at_a),
            "only_a": len(sides[0].ids) - len(at_a),
            "only_b": len(sides[1].ids) - len(at_b),
            "unit": design.kind,
            "num_units": design.num_units,
        },
        "confidence": a.confidence,
        "rows": rows,
        "methods_only_a": alone[0],
        "methods_only_b": alone[1],
        "notes": _notes(sides, at_a, at_b, design, alone),
    }
    return RunComparison(content)


def describe_run(run: FinishedRun) -> dict[str, Any]:
    """Return what identifies a run: experiment, store, data set, code and time."""
    patches = {} if run.patches is None else run.patches.manifest()
    inputs = patches.get("inputs") or {}
    return {
        "name": run.name,
        "store": run.store.uri,
        "scores": run.artefact.uri,
        "fingerprint": run.artefact.fingerprint,
        "dataset": inputs.get("dataset"),
        "dataset_digest": inputs.get("digest"),
        "patches": run.patches_fingerprint,
        "version": run.version,
        "code": run.code,
        "written": run.written or None,
    }


def _pair_methods(a: Side, b: Side) -> list[list[tuple[str, Method, Method]]]:
    """Return the pairs that are tested together: the leaders, and the methods of a train set."""
    found = [("headline", a.headline, b.headline)]
    families: dict[str, list[tuple[str, Method, Method]]] = {a.headline.train_set: found}
    for method in a.methods:
        if method in b.methods:
            families.setdefault(method.train_set, []).append(("method", method, method))
    return list(families.values())


def _check_folds(a: Side, b: Side) -> None:
    if a.run.num_folds == b.run.num_folds:
        return
    kinds = [f"{n}-fold cross-validation" if n else "a test split" for n in _folds(a, b)]
    raise UsageError(
        f"compare: '{a.run.artefact.uri}' is scored by {kinds[0]} and '{b.run.artefact.uri}' by "
        f"{kinds[1]}; their tests are of different models: give two runs of one protocol"
    )


def _folds(*sides: Side) -> list[int | None]:
    return [side.run.num_folds for side in sides]


def _check_labels(sides: tuple[Side, Side], at_a: NDArray[np.intp], at_b: NDArray[np.intp]) -> None:
    a, b = sides
    names = a.class_names[at_a], b.class_names[at_b]
    differs = np.flatnonzero(names[0] != names[1])
    if len(differs):
        first = differs[0]
        raise UsageError(
            f"compare: the labels of {len(differs):,} of {len(at_a):,} shared test patches "
            f"differ: {shown(str(a.ids[at_a][first]), 100)} is {shown(names[0][first], 80)} in A "
            f"and {shown(names[1][first], 80)} in B; give two runs on the same labels"
        )
    if a.run.num_folds and not np.array_equal(a.rows.ids, b.rows.ids):
        raise UsageError(
            "compare: the folds of A and B are drawn over different patches; cross-validated runs "
            "are compared on the same patches alone"
        )


def _design(side: Side, at: NDArray[np.intp]) -> Design:
    design = find_design(side.labels[at], side.scenes[at], alpha=1.0 - side.run.confidence)
    if not side.run.num_folds:
        return design
    # All patches of both sides are shared.
    return with_folds(design, side.rows, side.run.num_folds)


def _verdict(flips: Flips, number: int, *, are_alike: bool) -> dict[str, Any]:
    difference = float(flips.differences[number])
    low, high = flips.intervals[number]
    verdict = NO_DIFFERENCE
    if are_alike:
        verdict = ALIKE
    elif flips.is_too_little:
        verdict = TOO_LITTLE
    elif flips.is_detected[number]:
        verdict = "better" if difference > 0 else "worse"
    return {
        "difference": difference,
        "ci_low": low,
        "ci_high": high,
        "p_value": float(flips.p_values[number]),
        "verdict": verdict,
    }


def _names(side: str, method: Method) -> dict[str, str]:
    return {f"{name}_{side}": value for name, value in method._asdict().items()}


def _notes(
    sides: tuple[Side, Side],
    at_a: NDArray[np.intp],
    at_b: NDArray[np.intp],
    design: Design,
    alone: list[list[str]],
) -> list[str]:
    """Return what a reader must know: the patches, what was left out, and what else differs."""
    a, b = sides
    notes = [
        f"{len(at_a):,} test patches are in both runs, {len(a.ids) - len(at_a):,} in A alone and "
        f"{len(b.ids) - len(at_b):,} in B alone; scores here are of the shared ones.",
        design.reason,
        "p-values and intervals are corrected over the rows of a train set. The leaders were "
        "chosen on these patches, so their scores are a little too high.",
    ]
    about = [describe_run(side.run) for side in sides]
    if about[0]["dataset_digest"] != about[1]["dataset_digest"]:
        notes.append(
            f"The source files of the data differ (digest {about[0]['dataset_digest']} in A, "
            f"{about[1]['dataset_digest']} in B): patches are matched by identity and class, and "
            "their pixels may differ."
        )
    elif about[0]["patches"] != about[1]["patches"]:
        notes.append("The patches were sampled with other settings or by other code.")
    if a.rows.classes != b.rows.classes:
        notes.append(
            f"A knows {len(a.rows.classes)} classes and B {len(b.rows.classes)}, or in another "
            "order."
        )
    if num := int(_differs(a.scenes[at_a], b.scenes[at_b]).sum()):
        notes.append(f"The scene of {num:,} shared patches differs; those of A count.")
    for key in ("confidence", "seed"):
        ours, theirs = (side.run.settings.get(key) for side in sides)
        if ours != theirs:
            notes.append(f"[evaluate] {key} is {ours} in A and {theirs} in B; that of A counts.")
    for name, side, methods in zip("AB", sides, alone, strict=True):
        if methods:
            more = f" and {len(methods) - MOST_NAMED} more" if len(methods) > MOST_NAMED else ""
            notes.append(f"In {name} alone: {', '.join(methods[:MOST_NAMED])}{more}.")
        if regions := [key for key, kind in side.run.kinds.items() if kind == "regions"]:
            notes.append(f"Left out of {name}: {len(regions)} train sets of regions.")
    return notes


def _differs(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    import pandas as pd

    found: NDArray[np.bool_] = (
        pd.Series(one).fillna("").to_numpy() != pd.Series(other).fillna("").to_numpy()
    )
    return found


def _text_row(row: dict[str, Any], *, is_one_set: bool) -> list[str]:
    names = [row["backbone_a"], row["method_a"]]
    if row["kind"] == "headline":
        others = [row["backbone_b"], row["method_b"]]
        names = ["leaders:", f"{' / '.join(names)} → {' / '.join(others)}"]
    if not is_one_set:
        names[1] += f", {row['train_set_a']}"
    return [
        *names,
        f"{row['value_a']:.3f}",
        f"{row['value_b']:.3f}",
        f"{100 * row['difference']:+.1f}",
        f"[{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]",
        f"{row['p_value']:.2g}",
        row["verdict"],
    ]
