"""Scores as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

from benchmark.arguments import refuse
from benchmark.catalog.metrics import METRICS
from benchmark.errors import BenchmarkError, UsageError, did_you_mean
from benchmark.experiment.context import Context
from benchmark.fields import shown
from benchmark.store.names import SCORES_FILE

if TYPE_CHECKING:
    import pandas as pd

CELL = ("backbone", "method", "train_set", "seed")
"""The columns of scores that tell the cells of one experiment apart."""


def read_scores(context: Context) -> pd.DataFrame:
    """Return the scores of an experiment.

    Returns:
        The columns of ``tables.SCORES``; ``class_name`` after ``metric`` (None: the metric is of
        all classes); and ``artefact``, the folder of the row's cell.

    Raises:
        BenchmarkError: the scores are not computed yet.
    """
    artefact = context.scores()
    if not artefact.is_complete:
        raise BenchmarkError(
            f"{context.experiment.path}: there are no scores in '{context.store.uri}' yet; run it "
            "first, or give the store of its run with store="
        )
    frame: pd.DataFrame = artefact.read_table(names=[SCORES_FILE]).to_pandas()
    if "class_name" not in frame:
        # A metric of one class is METRIC/CLASS.
        names = frame["metric"].str.partition("/")[2]
        frame.insert(frame.columns.get_loc("metric") + 1, "class_name", names.where(names != ""))
    folders = {
        (cell.backbone, cell.method, cell.train_set, cell.seed): cell.artefact.uri
        for cell in context.prediction_cells()
    }
    cells = frame[list(CELL)].itertuples(index=False, name=None)
    return frame.assign(artefact=[folders.get(cell) for cell in cells])


def index_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Return scores indexed by what tells their rows apart, sorted by it."""
    return frame.set_index([*CELL, "split", "metric"]).sort_index()


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose named levels of the index are columns."""
    return frame.reset_index([name for name in frame.index.names if name is not None])


def aggregate(
    frames: Mapping[str, pd.DataFrame],
    *,
    metric: str = "balanced_accuracy",
    split: str = "test",
    train_set: str = "all",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Summarise the methods that several data sets or regions have in common, best first.

    Args:
        frames: the scores of each data set, from ``scores``, by its name.
        metric: higher must be better.
        split: ``test`` or ``val``.
        train_set: methods are compared within it, e.g. ``10%``.
        confidence: of the intervals.

    Returns:
        One row for each backbone and method, which are its index: mean rank, interquartile mean of
        normalised scores and chance to beat the leader, with intervals (see
        ``statistics.aggregates``), and the metric and split.

    Raises:
        UsageError: an argument is of a wrong type, or no frame contains the metric and split.
        BenchmarkError: there are fewer than two data sets or common methods, or no scale.

    Example:
        >>> table = bm.aggregate({"here": bm.scores(exp), "there": bm.scores(exp)})
        >>> table["mean_rank"].idxmax()
        ('mean_color', 'majority')
    """
    import numpy as np
    import pandas as pd

    from benchmark.statistics.aggregates import summarise_sets

    _check_frames(frames, metric, split, confidence)
    wanted = []
    for frame in map(_flat, frames.values()):
        rows = frame[
            (frame["metric"] == metric)
            & (frame["split"] == split)
            & (frame["train_set"] == train_set)
        ]
        wanted.append(rows.groupby(["backbone", "method"])["value"].apply(list))
    common = sorted(set.intersection(*(set(item.index) for item in wanted))) if wanted else []
    if len(wanted) < 2 or len(common) < 2:
        raise BenchmarkError(
            f"aggregate: {len(wanted)} data sets have {len(common)} methods with '{metric}' on "
            f"'{split}', trained on {shown(train_set, 100)}, in common; give at least two of each"
        )
    num_runs = min(len(item[key]) for item in wanted for key in common)
    runs = [np.array([item[key][:num_runs] for item in wanted]) for key in common]
    try:
        found = summarise_sets(runs, confidence=confidence, seed=0)
    except ValueError as error:
        raise BenchmarkError(f"aggregate: {error}") from None
    index = pd.MultiIndex.from_tuples(common, names=["backbone", "method"])
    table = pd.DataFrame([{"metric": metric, "split": split} | row for row in found], index=index)
    return table.sort_values("mean_rank", kind="stable")


def _check_frames(frames: Any, metric: Any, split: Any, confidence: Any) -> None:
    import pandas as pd

    if not isinstance(frames, Mapping):
        raise refuse("aggregate: frames", frames, "give {NAME: bm.scores(...)}")
    needed = {*CELL, "metric", "split", "value"}
    for name, frame in frames.items():
        if not isinstance(frame, pd.DataFrame) or needed - {*frame.columns, *frame.index.names}:
            raise UsageError(
                f"bm.aggregate: {shown(name, 100)} is not a frame of scores; give what bm.scores "
                "returns"
            )
    if not isinstance(confidence, Real) or not 0 < float(confidence) < 1:
        raise refuse("aggregate: confidence", confidence, "give a number between 0 and 1")
    if split not in ("val", "test"):
        raise refuse("aggregate: split", split, "give 'test' or 'val'")
    known = {str(key) for frame in frames.values() for key in _flat(frame)["metric"].unique()}
    if frames and metric not in known:
        advice = f"no frame has it.{did_you_mean(str(metric), known)}"
        raise refuse("aggregate: metric", metric, advice)
    base = str(metric).partition("/")[0]
    if base in METRICS and METRICS.get(base).direction == "lower":
        raise refuse("aggregate: metric", metric, "give a metric of which more is better")
