"""The bookkeeping of one search: which piece of work comes next, and which trial won.

Decisions depend on the scores of whole batches and rungs, never on the order in which results
arrive, so a search gives the same trials however many run in parallel. Needs no Ray.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import optuna
import pyarrow as pa

from benchmark.energy import describe
from benchmark.tables import TRIALS

NUM_STARTUP = 10
"""Trials that Optuna draws at random before its TPE sampler learns from them."""
BATCH = 5
"""Trials drawn together after that; fixed, so that draws do not depend on the machine."""
RUNG_PATCHES = 30_000
"""Patches after which hopeless trials of an iterative head are stopped, at the first rung; the
second rung comes after three times as many."""
KEEP = 3
"""One trial in so many survives a rung (successive halving, Jamieson and Talwalkar 2016)."""


class Space(Protocol):
    """A search space: a head, or the recipe of fine-tuning."""

    @property
    def is_searched(self) -> bool:
        """Whether there is anything to search; otherwise there is one trial."""
        ...

    @property
    def num_epochs(self) -> int | None:
        """Most epochs of iterative training; None: fitted at once."""
        ...

    @property
    def suggest(self) -> Callable[[optuna.Trial], dict[str, Any]]:
        """A function that draws one configuration."""
        ...


class Segment(NamedTuple):
    """A piece of work: fit one trial (from one epoch to another), or refit the best."""

    kind: Literal["fit", "refit"]
    trial: int
    params: dict[str, Any]
    first_epoch: int
    last_epoch: int


class Outcome(NamedTuple):
    """The result of a segment: val scores (one per epoch, or one), and whether it stopped early."""

    scores: list[float]
    seconds: float
    is_stopped: bool = True
    error: str = ""
    joules: float | None = None
    """Energy; None: not told by the device."""
    peak_memory_bytes: int = 0
    peak_device_bytes: int = 0
    """Peaks of the memory of the process and of its GPU; 0: not known."""


class Best(NamedTuple):
    """The trial that won."""

    trial: int
    params: dict[str, Any]
    num_epochs: int
    val_score: float


@dataclass
class _Trial:
    number: int
    params: dict[str, Any]
    handle: optuna.Trial
    scores: list[float] = field(default_factory=list)
    seconds: float = 0.0
    state: Literal["running", "complete", "pruned", "failed"] = "running"
    error: str = ""

    @property
    def best_score(self) -> float:
        return max(self.scores)

    @property
    def best_epoch(self) -> int:
        """The first epoch with the best score, counted from one."""
        return self.scores.index(self.best_score) + 1


def plan_rungs(num_train: int) -> tuple[int, int]:
    """Return the epochs of the rungs, from patch counts: epochs of few patches teach little.

    Args:
        num_train: patches of the training split.
    """
    first = max(3, math.ceil(RUNG_PATCHES / num_train))
    return first, 3 * first


class Search:
    """The search of one cell: batches of trials, rungs of epochs, then the refit."""

    def __init__(
        self,
        space: Space,
        *,
        num_trials: int,
        seed: int,
        rungs: Sequence[int] = (),
        first: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin a search.

        Args:
            space: the search space; one trial if it is not searched.
            num_trials: of Optuna.
            seed: of the sampler.
            rungs: epochs after which hopeless trials of an iterative method are stopped.
            first: the configuration of the first trial; None draws it like the others.
        """
        self._space = space
        self._num_trials = num_trials if space.is_searched else 1
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=NUM_STARTUP)
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        optuna.logging.set_verbosity(verbosity)
        if first is not None:
            self._study.enqueue_trial(dict(first))
        last = space.num_epochs or 0
        self._rungs = [*(rung for rung in rungs if rung < last), last]
        self._trials: list[_Trial] = []
        self._batch: list[_Trial] = []
        self._rung = 0
        self._queue: list[Segment] = []
        self._num_out = 0
        self.joules = 0.0
        """Energy of all trials and the refit so far; NaN: not told by a device."""
        self.peaks = dict.fromkeys(("peak_memory_bytes", "peak_device_bytes"), 0)
        """The largest of all segments so far."""
        self._refit: Literal["", "queued", "done"] = ""
        self._draw()

    def next(self) -> Segment | None:
        """Return work that can begin now, or None if results must arrive first."""
        if not self._queue:
            return None
        self._num_out += 1
        return self._queue.pop(0)

    def tell(self, segment: Segment, outcome: Outcome) -> None:
        """Record the outcome of a segment."""
        self._num_out -= 1
        self.joules += math.nan if outcome.joules is None else outcome.joules
        self.peaks = {key: max(peak, getattr(outcome, key)) for key, peak in self.peaks.items()}
        if segment.kind == "refit":
            self._refit = "done"
            return
        trial = self._trials[segment.trial]
        trial.scores += outcome.scores
        trial.seconds += outcome.seconds
        if outcome.error:
            trial.state, trial.error = "failed", outcome.error
        elif outcome.is_stopped or segment.last_epoch == self._rungs[-1]:
            trial.state = "complete"
        if not self._queue and not self._num_out:
            self._advance()

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self._refit == "done" or (self.is_searched and self.best is None)

    @property
    def is_searched(self) -> bool:
        """Whether all trials have ended."""
        return len(self._trials) == self._num_trials and all(
            trial.state != "running" for trial in self._trials
        )

    @property
    def best(self) -> Best | None:
        """The best trial so far (the first of equals), or None if there is none."""
        ended = [trial for trial in self._trials if trial.state == "complete"]
        if not ended and self.is_searched:
            # All survivors of the rungs failed later: a pruned trial is a result too.
            ended = [trial for trial in self._trials if trial.state == "pruned"]
        if not ended:
            return None
        trial = max(ended, key=lambda item: (item.best_score, -item.number))
        return Best(trial.number, trial.params, self._epochs(trial), trial.best_score)

    @property
    def num_trials(self) -> int:
        """The number of trials of the search."""
        return self._num_trials

    @property
    def num_running(self) -> int:
        """The number of trials that have not ended, including those not yet drawn."""
        return self._num_trials - sum(trial.state != "running" for trial in self._trials)

    @property
    def seconds(self) -> float:
        """The total time of all trials (s)."""
        return sum(trial.seconds for trial in self._trials)

    def first_error(self) -> str:
        """Return why the first failed trial failed, or an empty string."""
        return next((trial.error for trial in self._trials if trial.error), "")

    @property
    def num_failed(self) -> int:
        """The number of failed trials."""
        return sum(trial.state == "failed" for trial in self._trials)

    def describe_failures(self) -> str:
        """Return how many trials failed and why the first did, or an empty string."""
        if not self.num_failed:
            return ""
        return (
            f"{self.num_failed} of {self.num_trials} trials failed, the first: {self.first_error()}"
        )

    def failures(self) -> dict[str, Any]:
        """Return the entries of a manifest on failed trials; empty without any."""
        if not self.num_failed:
            return {}
        return {"failed_trials": self.num_failed, "remark": self.describe_failures()}

    def expenses(self, *, on_gpu: bool) -> dict[str, Any]:
        """Return the entries of a manifest on energy and memory; a peak of 0 is not known."""
        known = {key: peak for key, peak in self.peaks.items() if peak}
        return {**known, "energy": describe(self.joules, on_gpu=on_gpu)}

    def trials_table(self) -> pa.Table:
        """Return one row per trial, with the columns of ``tables.TRIALS``."""
        rows = [
            {
                "trial": trial.number,
                "params": json.dumps(trial.params, sort_keys=True),
                "val_score": trial.best_score if trial.scores else None,
                "num_epochs": self._epochs(trial) if trial.scores else None,
                "seconds": trial.seconds,
                "state": trial.state,
            }
            for trial in self._trials
        ]
        return pa.Table.from_pylist(rows, schema=TRIALS)

    def _epochs(self, trial: _Trial) -> int:
        return trial.best_epoch if self._space.num_epochs else 0

    def _draw(self) -> None:
        begun = len(self._trials)
        size = NUM_STARTUP if begun < NUM_STARTUP else BATCH
        self._batch = []
        for number in range(begun, min(begun + size, self._num_trials)):
            handle = self._study.ask()
            self._batch.append(_Trial(number, self._space.suggest(handle), handle))
        self._trials += self._batch
        self._rung = 0
        self._enqueue(self._batch, 0)

    def _enqueue(self, trials: Sequence[_Trial], first_epoch: int) -> None:
        last_epoch = self._rungs[self._rung]
        self._queue += [
            Segment("fit", trial.number, trial.params, first_epoch, last_epoch) for trial in trials
        ]

    def _advance(self) -> None:
        """Queue the next rung, the next batch or the refit, after the last result of a rung."""
        running = [trial for trial in self._batch if trial.state == "running"]
        if running:
            reached = self._rungs[self._rung]
            kept = self._survivors(running, reached)
            for trial in running:
                if trial not in kept:
                    trial.state = "pruned"
            self._rung += 1
            self._enqueue(kept, reached)
            if kept:
                return
        for trial in self._batch:
            self._tell_optuna(trial)
        if len(self._trials) < self._num_trials:
            self._draw()
        elif (best := self.best) is not None:
            self._queue.append(Segment("refit", best.trial, best.params, 0, best.num_epochs))
            self._refit = "queued"

    def _survivors(self, running: Sequence[_Trial], reached: int) -> list[_Trial]:
        """Return the running trials among the best third of all that reached this rung."""
        came = [
            trial
            for trial in self._trials
            if len(trial.scores) >= reached or trial.state == "complete"
        ]
        scores = sorted((max(trial.scores[:reached]) for trial in came), reverse=True)
        limit = scores[(len(scores) - 1) // KEEP]
        return [trial for trial in running if trial.best_score >= limit]

    def _tell_optuna(self, trial: _Trial) -> None:
        if trial.state == "failed" or not trial.scores:
            self._study.tell(trial.handle, state=optuna.trial.TrialState.FAIL)
        elif trial.state == "pruned":
            trial.handle.report(trial.best_score, len(trial.scores))
            self._study.tell(trial.handle, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial.handle, trial.best_score)
