"""Fit a head on embeddings: one segment of a search, or the refit of its best trial.

Needs no Ray. An iterative head is scored on val after every epoch; the refit trains for the best
number of epochs, which with the same seed gives the same weights.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmark.errors import CellError
from benchmark.search.bookkeeping import Outcome, Segment
from benchmark.search.scaling import fit_pipeline, fit_scalers
from benchmark.specs import Head

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Rows(NamedTuple):
    """The embeddings of one backbone by split, without test labels.

    ``x_*`` float32 (N, D); ``y_*`` int32 (N,); ``ids_*`` patch_id (N,).
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int32]
    x_val: NDArray[np.float32]
    y_val: NDArray[np.int32]
    x_test: NDArray[np.float32]
    ids_val: NDArray[np.str_]
    ids_test: NDArray[np.str_]


class Picks(NamedTuple):
    """A choice among rows, where train, val and test follow one another; without test labels.

    ``train``, ``val`` and ``test`` int64: places; ``y_*`` int32 and ``ids_*`` as in ``Rows``.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    y_train: NDArray[np.int32]
    y_val: NDArray[np.int32]
    ids_val: NDArray[np.str_]
    ids_test: NDArray[np.str_]


class State(NamedTuple):
    """A trial between two segments: the fitted pipeline, its best val score and epoch."""

    model: Any
    best: float
    best_epoch: int


def pick_rows(rows: Rows, picks: Picks) -> Rows:
    """Return a choice of rows; a split that is chosen whole is not copied."""
    parts = (rows.x_train, rows.x_val, rows.x_test)
    ends = np.cumsum([len(part) for part in parts])

    def take(places: NDArray[np.int64]) -> NDArray[np.float32]:
        taken = np.empty((len(places), rows.x_train.shape[1]), np.float32)
        for part, end in zip(parts, ends, strict=True):
            begin = end - len(part)
            if len(places) == len(part) and np.array_equal(places, np.arange(begin, end)):
                return part
            is_here = (places >= begin) & (places < end)
            taken[is_here] = part[places[is_here] - begin]
        return taken

    return Rows(
        x_train=take(picks.train),
        y_train=picks.y_train,
        x_val=take(picks.val),
        y_val=picks.y_val,
        x_test=take(picks.test),
        ids_val=picks.ids_val,
        ids_test=picks.ids_test,
    )


def fit_segment(
    head: Head, rows: Rows, segment: Segment, *, seed: int, state: State | None = None
) -> tuple[Outcome, State | None]:
    """Fit one trial; an iterative head from ``segment.first_epoch`` to ``last_epoch``.

    Args:
        head: what is fitted.
        rows: the data.
        segment: the trial and its epochs.
        seed: of initialisation and order.
        state: returned by the previous segment; None for the first.

    Returns: the outcome, and the state for the next segment (None if the trial has ended).
    """
    began = time.perf_counter()
    with warnings.catch_warnings():
        # An unconverged fit is a bad trial: its val score shows that.
        warnings.simplefilter("ignore")
        if head.num_epochs is None:
            model = build_estimator(head, segment.params, seed, len(rows.x_train))
            _skip_calibration(model)
            fit_pipeline(model, rows.x_train, rows.y_train, head.fit_unscaled)
            scores = [_val_score(_predict(head, model, rows.x_val), rows)]
            is_stopped, state = True, None
        else:
            scores, is_stopped, state = _fit_epochs(head, rows, segment, seed, state)
    return Outcome(scores, time.perf_counter() - began, is_stopped), state


def build_estimator(head: Head, params: Mapping[str, Any], seed: int, num_rows: int) -> Any:
    """Build the unfitted estimator of a head for a number of rows.

    Raises:
        CellError: it has no ``predict_proba``.
    """
    model = head.build(params, seed)
    if not hasattr(model, "predict_proba"):
        raise CellError(
            f"head '{head.name}' needs predict_proba, and its '{type(model).__name__}' has none"
        )
    if head.adapt is not None:
        head.adapt(model, num_rows)
    return model


def refit(
    head: Head, rows: Rows, segment: Segment, *, seed: int, on: str
) -> tuple[Any, NDArray[np.float32], NDArray[np.float32]]:
    """Fit the chosen configuration and score val and test.

    Args:
        head: what is fitted.
        rows: the data.
        segment: the chosen configuration and its number of epochs.
        seed: of initialisation and order.
        on: ``train`` or ``train+val``.

    Returns: the fitted pipeline, and ``y_score`` float32 (N, K) of val and of test. Columns
    follow ``classes_`` of the pipeline: the labels of train, sorted.
    """
    x, y = rows.x_train, rows.y_train
    is_own = on == "train+val"
    if is_own:
        x, y = np.concatenate([x, rows.x_val]), np.concatenate([y, rows.y_val])
    model = build_estimator(head, segment.params, seed, len(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if head.num_epochs is None:
            fit_pipeline(model, x, y, head.fit_unscaled, overwrite=is_own)
        else:
            scaled = fit_scalers(model, x, overwrite=is_own)
            for _ in range(segment.last_epoch):
                model[-1].partial_fit(scaled, y, classes=np.unique(y))
    val, test = (
        np.asarray(model.predict_proba(part), dtype=np.float32)
        for part in (rows.x_val, rows.x_test)
    )
    return model, val, test


def scores_of_all(
    y_score: NDArray[np.float32], classes: NDArray[np.int32], num_classes: int
) -> NDArray[np.float32]:
    """Spread scores over all K classes, with zeros for classes that the head never saw."""
    spread = np.zeros((len(y_score), num_classes), np.float32)
    spread[:, classes] = y_score
    return spread


def _fit_epochs(
    head: Head, rows: Rows, segment: Segment, seed: int, state: State | None
) -> tuple[list[float], bool, State | None]:
    if state is not None:
        # Arrays from Ray are read-only, and training writes to them.
        model, best, best_epoch = copy.deepcopy(state)
        x_train = model[:-1].transform(rows.x_train) if len(model) > 1 else rows.x_train
    else:
        model = build_estimator(head, segment.params, seed, len(rows.x_train))
        best, best_epoch = -1.0, 0
        x_train = fit_scalers(model, rows.x_train)
    x_val = model[:-1].transform(rows.x_val) if len(model) > 1 else rows.x_val
    classes = np.unique(rows.y_train)
    scores: list[float] = []
    for epoch in range(segment.first_epoch + 1, segment.last_epoch + 1):
        model[-1].partial_fit(x_train, rows.y_train, classes=classes)
        scores.append(_val_score(_predict(head, model[-1], x_val), rows))
        if scores[-1] > best:
            best, best_epoch = scores[-1], epoch
        if epoch - best_epoch >= head.patience or best == 1.0:
            return scores, True, None
    return scores, False, State(model, best, best_epoch)


def _skip_calibration(model: Any) -> None:
    """Let ``DecisionSoftmax`` fit once: a trial needs only its most probable classes."""
    last = model[-1] if hasattr(model, "steps") else model
    if hasattr(last, "finds_scale"):
        last.finds_scale = False


def _predict(head: Head, model: Any, x: NDArray[np.float32]) -> NDArray[Any]:
    """Return the most probable classes (N,), which the scores of test also take.

    Heads of this package predict them; others, e.g. a support vector machine with probabilities,
    may predict another class.
    """
    if head.own:
        found: NDArray[Any] = model.classes_[np.argmax(model.predict_proba(x), axis=1)]
    else:
        found = model.predict(x)
    return found


def _val_score(y_pred: NDArray[np.int32], rows: Rows) -> float:
    """Return the balanced accuracy on val: mean recall over the classes present there."""
    from sklearn.metrics import recall_score

    present = np.unique(rows.y_val)
    return float(recall_score(rows.y_val, y_pred, labels=present, average="macro", zero_division=0))
