"""Many searches as one run of Ray Tune, for heads and for fine-tuning.

A Ray Tune trial is one segment of one search. So searches of different cells run in parallel,
processes are reused, and a cell is committed as soon as its own search ends.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from benchmark.cluster.incidents import Account, explain_death
from benchmark.errors import BenchmarkError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.usage import StageUsage
from benchmark.progress import StageProgress
from benchmark.search.bookkeeping import Outcome, Search, Segment
from benchmark.store.artefacts import Artefact

NO_OUTCOME = Outcome([], 0.0)

POLL_S = 1.0
"""Interval of the checks whether the input of a search is complete."""


@dataclass(frozen=True)
class CellSearch:
    """The search of one cell, and the function that commits it."""

    cell: Cell
    search: Search
    commit: Callable[[Search, Outcome, Account], None]
    """Write the cell's artefact from the search, the outcome of its refit and the cell's incidents;
    may raise BenchmarkError."""
    is_iterative: bool
    """Whether trials are trained in rungs."""
    begin: Callable[[Account], None] | None = None
    """Called once the cell is leased, before its first trial."""
    needs: tuple[Artefact, ...] = ()
    """The artefacts that must be complete before the first trial; this run may still compute
    them."""
    memory: Callable[[], float] | None = None
    """Returns the bytes that each trial books (0: none); called once, after ``begin``. Raises
    BenchmarkError if no machine has them."""


def outcome_row(
    outcome: Outcome, *, began: float, ended: float, toll: Mapping[str, int]
) -> dict[str, Any]:
    """Return the result that a Ray Tune trial reports for a segment; times in s since the epoch."""
    return {
        "score": max(outcome.scores, default=0.0),
        # As text: Ray Tune flattens the results that it passes to a searcher.
        "outcome": json.dumps(outcome._asdict()),
        "toll": json.dumps(toll),
        "began": began,
        "ended": ended,
        "done": True,
    }


def run_searches(
    searcher: CellSearcher,
    trainable: Any,
    *,
    resources: Mapping[str, float] | Callable[[dict[str, Any]], Any],
    slots: int,
    max_failures: int,
) -> None:
    """Run the segments of ``searcher`` until none is left.

    Args:
        searcher: suggests segments.
        trainable: Ray Tune's class or function that runs one segment.
        resources: booked by one trial, e.g. ``{"cpu": 1}``, or a function of the trial's config
            that returns a placement group.
        slots: number of trials that fit in parallel.
        max_failures: number of retries of a trial whose process died.
    """
    # One queued trial per slot: a free slot never waits for the driver.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    _keep_environment()
    _count_no_loggers()
    with tempfile.TemporaryDirectory(prefix="benchmark-search-") as folder:
        tune.Tuner(
            tune.with_resources(trainable, resources if callable(resources) else dict(resources)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=True,
                metric="score",
                mode="max",
            ),
            run_config=tune.RunConfig(
                name="searches",
                storage_path=folder,
                verbose=0,
                callbacks=[_Recoveries(searcher)],
                progress_reporter=_Silent(),
                failure_config=tune.FailureConfig(max_failures=max_failures),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
            ),
        ).fit()


def _keep_environment() -> None:
    """Keep Ray Tune from giving its trials an environment of their own.

    Processes that Ray has started already then run them. Ray would also write the S3 keys among
    the variables to its logs and show them on its dashboard; trials do not need them, because the
    store that they get brings its own.
    """
    from ray.tune.execution import class_cache

    # For PyTorch Lightning, which no trial uses.
    class_cache.DEFAULT_ENV_VARS.clear()
    names = class_cache.ENV_VARS_TO_PROPAGATE
    names.difference_update([name for name in names if name.startswith("AWS_")])


def _count_no_loggers() -> None:
    """Keep Ray Tune from importing every tracker that is installed (mlflow takes 0.8 CPU s).

    It counts their loggers for its usage statistics, which ``ENVIRONMENT`` turns off.
    """
    from ray.air._internal import usage

    untyped: Any = usage
    untyped.tag_callbacks = lambda _: False


class _Silent(tune.ProgressReporter):
    """Reports nothing: Ray Tune's own reporter clears the output of a notebook's cell."""

    def should_report(self, trials: Any, done: bool = False) -> bool:
        """Return False."""
        del trials, done
        return False


class _Recoveries(tune.Callback):
    """Tells the searcher which trials are retried after their process or node was lost."""

    def __init__(self, searcher: CellSearcher) -> None:
        self._searcher = searcher

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Note the retry of a trial, with the reason from its error file."""
        del iteration, trials, info
        # The file lists all failures of the trial; the last one is at the end.
        path = Path(trial.error_file or "")
        text = path.read_text().rpartition("Failure #")[2] if path.is_file() else ""
        self._searcher.note_repeat(trial.trial_id, explain_death(text))


class CellSearcher(Searcher):
    """Suggests segments of many searches to Ray Tune; commits each cell when its search ends."""

    def __init__(
        self,
        context: Context,
        items: Sequence[CellSearch],
        progress: StageProgress,
        slots: int,
        limit: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Search ``items`` in an order that finishes backbones early.

        Args:
            context: of the run.
            items: the searches; polled while their ``needs`` may still be computed.
            progress: of their stage.
            slots: number of trials that fit in parallel.
            limit: returns the most trials that may run now; called before each start.
        """
        super().__init__(metric="score", mode="max")
        self._context = context
        self._items = items
        self._progress = progress
        self._slots = slots
        self._running: dict[str, tuple[int, Segment]] = {}
        # Searches with rungs come first: while a rung waits for its last trial, trials of other
        # searches fill the slots, whose processes Ray Tune would end otherwise.
        order = {item.cell.backbone: place for place, item in reversed(list(enumerate(items)))}
        self._open = sorted(
            range(len(items)),
            key=lambda n: (order[items[n].cell.backbone], not items[n].is_iterative, n),
        )
        self._started: set[int] = set()
        self._refits: dict[int, Outcome] = {}
        self._memory: dict[int, float] = {}
        self._accounts: dict[int, Account] = {}
        self._spans: list[tuple[float, float]] = []
        self._limit = limit
        self._ready: set[str] = set()
        self._looked: dict[str, float] = {}
        self._began = time.time()

    @property
    def busy_share(self) -> float:
        """The busy share of the slots, from the first trial's start to the last one's end."""
        if not self._spans:
            return 0.0
        began, ended = min(span[0] for span in self._spans), max(span[1] for span in self._spans)
        return self._busy_s / (self._slots * max(ended - began, 1e-9))

    @property
    def _busy_s(self) -> float:
        return sum(end - begin for begin, end in self._spans)

    def usage(self, stage: str) -> StageUsage:
        """Return the duration and utilisation of the searches so far."""
        ended = sum(item.search.num_trials - item.search.num_running for item in self._items)
        return StageUsage(
            stage=stage,
            began_s=self._began,
            ended_s=time.time(),
            busy_s=self._busy_s,
            num_slots=self._slots,
            num_cells=len(self._items),
            num_items=ended,
            unit="trials",
            num_failed=sum(item.search.num_failed for item in self._items),
            failure=next(filter(None, (item.search.first_error() for item in self._items)), ""),
        )

    def wait(self) -> int | None:
        """Wait until a search can begin and return its number, or None if none ever can."""
        while self._open:
            for number in list(self._open):
                if self._is_ready(number):
                    return number
            time.sleep(POLL_S)
        return None

    def suggest(self, trial_id: str) -> Any:
        """Return the next segment of the first search that has one and is not another run's."""
        if len(self._running) >= self._limit():
            return None
        for number in list(self._open):
            if number not in self._started and not self._start(number):
                continue
            segment = self._items[number].search.next()
            if segment is not None:
                self._running[trial_id] = (number, segment)
                return {
                    "job": number,
                    "segment": segment._asdict(),
                    "memory": self._memory.get(number, 0.0),
                }
        return None if self._open else Searcher.FINISHED

    def _is_ready(self, number: int) -> bool:
        """Return whether a search can begin; fail it if nothing will compute its input."""
        return all(self._is_there(number, needed) for needed in self._items[number].needs)

    def _is_there(self, number: int, needed: Artefact) -> bool:
        item = self._items[number]
        if needed.path in self._ready:
            return True
        now, looked = time.monotonic(), self._looked.get(needed.path)
        if looked is not None and now - looked < POLL_S:
            return False
        state = self._context.readiness(needed)
        if state == "blocked":
            self._open.remove(number)
            self._context.block(item.cell.artefact, needed)
            self._progress.failed(item.cell.label, self._context.why_missing(needed))
        elif state == "ready":
            self._ready.add(needed.path)
        else:
            self._looked[needed.path] = now
        return state == "ready"

    def _start(self, number: int) -> bool:
        """Lease a cell and begin it; if another run computes it, drop it and return False."""
        item = self._items[number]
        if not self._is_ready(number):
            return False
        try:
            if not self._context.leases.acquire_one(item.cell.artefact):
                self._open.remove(number)
                return False
            account = self._accounts[number] = Account(item.cell.artefact, self._context.leases)
            if item.begin is not None:
                item.begin(account)
            if item.memory is not None:
                self._memory[number] = item.memory()
        except BenchmarkError as error:
            self._end(number, str(error))
            return False
        self._started.add(number)
        self._progress.start(item.cell.label)
        return True

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass the outcome to its search; end the cell after its last segment."""
        if trial_id not in self._running:
            return
        number, segment = self._running.pop(trial_id)
        self._accounts[number].add_toll(json.loads((result or {}).get("toll", "{}")))
        if error or not result or "outcome" not in result:
            outcome = Outcome([], 0.0, error="its worker process died (out of memory?)")
        else:
            outcome = Outcome(**json.loads(result["outcome"]))
            self._spans.append((result["began"], result["ended"]))
        search = self._items[number].search
        running = search.num_running
        search.tell(segment, outcome)
        if segment.kind == "fit":
            self._progress.advance(running - search.num_running)
        else:
            self._refits[number] = outcome
        if outcome.error and segment.kind == "refit":
            self._end(number, outcome.error)
        elif search.is_finished:
            self._end(number, "" if search.best else f"all trials failed: {search.first_error()}")

    def note_repeat(self, trial_id: str, reason: str) -> None:
        """Record the retry of a trial in its cell's incidents."""
        if trial_id in self._running:
            number, _ = self._running[trial_id]
            self._accounts[number].add("trial_repeated", detail=reason)

    def _end(self, number: int, reason: str) -> None:
        self._open.remove(number)
        item = self._items[number]
        if not reason:
            try:
                refit = self._refits.get(number, NO_OUTCOME)
                item.commit(item.search, refit, self._accounts[number])
            except BenchmarkError as error:
                reason = str(error)
        if reason:
            self._context.fail(item.cell.artefact, reason)
            self._progress.failed(item.cell.label, reason)
        else:
            self._progress.done(item.cell.label)
            if remark := item.search.describe_failures():
                self._context.progress.message(f"{item.cell.label}: {remark}")
        self._context.leases.release([item.cell.artefact])

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune saves its searcher to restore a run; this one restarts instead.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: an interrupted search restarts and repeats its trials."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing, as ``save`` saves nothing."""
