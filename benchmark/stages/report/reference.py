"""Published results beside those of the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from benchmark.catalog.references import split_cell
from benchmark.options import ANY_BACKBONE
from benchmark.page.beside import plot_beside
from benchmark.page.html import MISSING, Beside, Confusion, Picture, Table
from benchmark.references import Matrix, PublishedRow, Reference
from benchmark.stages.report.figures import picture
from benchmark.stages.report.headline import name_method
from benchmark.stages.report.results import Results
from benchmark.statistics.intervals import Interval, quantile_of, score_interval

UNKNOWN = Interval(float("nan"), float("nan"))
UNPAIRED = (
    "Published and own predictions are not of the same run and cannot be paired, so a difference "
    "has no test and no verdict: it may come from the patches, the search, the seeds or chance."
)


def beside(results: Results) -> Beside | None:
    """Return the published results beside their counterparts; None: none are asked for."""
    reference = results.context.reference
    if reference is None:
        return None
    tables = (_scores(results, reference), _patches(results, reference))
    return Beside(
        title=reference.title,
        notes=(reference.source, *reference.notes, *_differences(results, reference), UNPAIRED),
        tables=tuple(table for table in tables if table is not None),
        confusions=_confusions(results, reference),
    )


def beside_pictures(results: Results) -> list[Picture]:
    """Return the intervals of published scores and of their counterparts side by side."""
    reference = results.context.reference
    if reference is None:
        return []
    rows = []
    for item in reference.rows:
        low, high = _published_interval(results, item)
        found = counterpart(results, item)
        rows.append(
            {
                **{"name": item.name, "published": item.value},
                **{"published_low": low, "published_high": high},
                "run": np.nan if found is None else found.value,
                "run_low": np.nan if found is None else found.ci_low,
                "run_high": np.nan if found is None else found.ci_high,
            }
        )
    frame = pd.DataFrame(rows)
    numbers = [name for name in frame if name != "name"]
    frame[numbers] = frame[numbers].astype(float)
    title = "Published scores beside those of this run"
    return [picture(results, "reference", title, plot_beside, frame)]


def counterpart(results: Results, item: PublishedRow) -> Any | None:
    """Return the row of the ranking that a published one belongs to; None: there is none."""
    cell = results.context.experiment.report.counterparts.get(item.name)
    backbone, method = (item.backbone, item.method) if cell is None else split_cell(cell)
    if backbone is None or method is None:
        return None
    name = _page_name(results, backbone, method)
    rows = results.ranking
    found = rows[(rows["backbone"] == name) & (rows["method"] == method)]
    return None if found.empty else next(found.itertuples())


def _page_name(results: Results, backbone: str, method: str) -> str | None:
    """Return the page's name of a backbone of an experiment, or of the only one of a model."""
    if method in results.naming.kept:
        return ANY_BACKBONE
    for name, item in results.backbones.items():
        if item.name == backbone:
            return name
    same = [name for name, item in results.backbones.items() if item.model == backbone]
    return same[0] if len(same) == 1 else None


def _published_interval(results: Results, item: PublishedRow) -> Interval:
    if item.confusion is None:
        return UNKNOWN
    counts = np.asarray(item.confusion)
    quantile = quantile_of(results.context.experiment.evaluate.confidence)
    return score_interval(np.diag(counts), counts.sum(axis=1), quantile)


def _scores(results: Results, reference: Reference) -> Table:
    rows: list[tuple[Any, ...]] = []
    shown = set()
    for item in reference.rows:
        found = counterpart(results, item)
        ends = _range(*_published_interval(results, item))
        if found is None:
            rows.append((item.name, item.value, ends, None, None, None, None))
            continue
        shown.add((found.backbone, found.method))
        points = f"{100 * (found.value - item.value):+.1f}"
        rows.append((item.name, item.value, ends, *_own(found), points))
    for row in results.ranking.itertuples():
        if (row.backbone, row.method) not in shown:
            name, value, ends = _own(row)
            rows.append((name, None, None, name, value, ends, None))
    level = f"{100 * results.context.experiment.evaluate.confidence:g} %"
    return Table(
        title="Published and own scores",
        columns=(
            *("method", "published", "interval", "in this run", "own", "interval"),
            "own minus published, points",
        ),
        rows=tuple(rows),
        caption=(
            f"Balanced accuracy on test with {level} intervals. The published interval is computed "
            "here from the confusion matrix as if patches were independent; patches of one scene "
            "are alike, so it is too narrow. The run's is that of the ranking. A dash: there "
            "is no counterpart, or nothing to compute it from."
        ),
    )


def _own(row: Any) -> tuple[str, float, str]:
    return name_method(row.backbone, row.method), row.value, _range(row.ci_low, row.ci_high)


def _range(low: float | None, high: float | None) -> str:
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return MISSING
    # No-break spaces: an interval stays on one line.
    return f"{low:.3f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high:.3f}"


def _totals(reference: Reference) -> dict[str, int] | None:
    """Return the published test patches of each class; None: unknown, or not of one test set."""
    matrices: list[Matrix] = [row.confusion for row in reference.rows if row.confusion is not None]
    found = {tuple(map(sum, counts)) for counts in matrices}
    return dict(zip(reference.classes, found.pop(), strict=True)) if len(found) == 1 else None


def _patches(results: Results, reference: Reference) -> Table | None:
    published, own = _totals(reference), results.num_test_patches()
    if published is None:
        return None
    names = dict.fromkeys([*published, *own])
    return Table(
        title="Test patches of each class, published and own",
        columns=("class", "published", "this run"),
        rows=(
            *((name, published.get(name), own.get(name)) for name in names),
            ("all", sum(published.values()), sum(own.values())),
        ),
    )


def _differences(results: Results, reference: Reference) -> list[str]:
    """Return what makes the two test sets different."""
    found = []
    dataset = results.context.dataset.name
    if reference.dataset is not None and reference.dataset != dataset:
        found.append(
            f"The data differ: the published results are of {reference.dataset}, this run is of "
            f"{dataset}. The two scores answer different questions."
        )
    published, own = _totals(reference), results.num_test_patches()
    if published is None:
        found.append("The published test patches of each class are not known to be the same.")
    elif set(published) != set(own):
        found.append("The classes differ, so the two scores are means over different classes.")
    elif published != own:
        found.append(
            f"The test patches differ: {sum(published.values()):,} published, "
            f"{sum(own.values()):,} here."
        )
    if results.has_train_sets:
        found.append(f"Scores of this run are those of the train set {results.train_set}.")
    return found


def _confusions(results: Results, reference: Reference) -> tuple[tuple[Confusion, ...], ...]:
    pairs: list[tuple[Confusion, ...]] = []
    for item in reference.rows:
        if item.confusion is None:
            continue
        published = Confusion(
            title=f"{item.name}, published", classes=reference.classes, counts=item.confusion
        )
        found = counterpart(results, item)
        if found is None:
            pairs.append((published,))
            continue
        name, counts, _ = results.first_confusion(found)
        own = Confusion(title=f"{name}, this run", classes=results.classes, counts=counts.tolist())
        pairs.append((published, own))
    return tuple(pairs)
