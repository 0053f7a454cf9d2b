"""All searches of an experiment are one run of Ray Tune.

Its trials are the segments that the searches ask for, so that searches of different cells run
side by side, processes are reused, and a cell is committed as soon as its own search is over.
Embeddings lie in the object store once per backbone and are mapped, not copied, by every
trial. Test labels are never read.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from benchmark import provenance
from benchmark.context import Cell, Context
from benchmark.errors import BenchmarkError
from benchmark.progress import StageProgress
from benchmark.search import Outcome, Search, Segment, plan_rungs
from benchmark.stages.tune.job import Job
from benchmark.stages.tune.shelf import Shelf
from benchmark.stages.tune.workers import SegmentTrial

logger = logging.getLogger("benchmark")


def search(context: Context, cells: Sequence[Cell], jobs: Sequence[Job]) -> float:
    """Search these cells; a failed one is recorded, not raised.

    Returns: the share of time that trial slots were busy, from the first trial's begin to the
    last one's end.
    """
    resources = context.cluster.connect()
    config = context.experiment.tune
    num_train = context.patches.read_table(columns=["split"], splits=("train",)).num_rows
    searches = [
        Search(
            job.head,
            num_trials=config.num_trials,
            seed=job.seed,
            rungs=plan_rungs(num_train) if config.pruning else (),
        )
        for job in jobs
    ]
    progress = context.progress.stage(
        "tune",
        num_cells=len(jobs),
        num_items=sum(search.num_trials for search in searches),
        unit="trials",
    )
    slots = max(1, int(resources.num_cpus))
    if config.max_concurrent != "auto":
        slots = min(slots, config.max_concurrent)
    searcher = CellSearcher(context, cells, jobs, searches, progress, slots)
    # One prequeued trial for each slot: a free slot never waits for the driver.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    shelf = Shelf.options(num_cpus=0).remote(list(jobs))  # type: ignore[attr-defined]
    # Loaded while Ray Tune starts.
    shelf.rows.remote(searcher.first)
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-tune-") as folder:
            tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(SegmentTrial, jobs=list(jobs), shelf=shelf),
                    {"cpu": 1},
                ),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=True,
                    metric="score",
                    mode="max",
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=folder,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=1),
                    checkpoint_config=tune.CheckpointConfig(
                        checkpoint_frequency=0, checkpoint_at_end=False
                    ),
                ),
            ).fit()
    finally:
        ray.kill(shelf)
        progress.close()
    logger.info("tune: trial slots were busy %.0f %% of the time", 100 * searcher.busy_share)
    return searcher.busy_share


class CellSearcher(Searcher):
    """Hands the segments of many searches to Ray Tune and commits each cell when it is over."""

    def __init__(
        self,
        context: Context,
        cells: Sequence[Cell],
        jobs: Sequence[Job],
        searches: Sequence[Search],
        progress: StageProgress,
        slots: int,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._context = context
        self._cells = cells
        self._jobs = jobs
        self._searches = searches
        self._progress = progress
        self._slots = slots
        self._running: dict[str, tuple[int, Segment]] = {}
        # Heads that are trained in rungs come first: while a rung waits for its last trial, the
        # trials of other heads fill the slots, whose processes Ray Tune would end otherwise.
        order = {cell.backbone: place for place, cell in reversed(list(enumerate(cells)))}
        self._open = sorted(
            range(len(cells)),
            key=lambda n: (order[cells[n].backbone], jobs[n].head.num_epochs is None, n),
        )
        self._started: set[int] = set()
        self._refit_s: dict[int, float] = {}
        self._spans: list[tuple[float, float]] = []

    @property
    def busy_share(self) -> float:
        """The share of time that slots were busy since the first trial began."""
        if not self._spans:
            return 0.0
        began, ended = min(span[0] for span in self._spans), max(span[1] for span in self._spans)
        busy = sum(end - begin for begin, end in self._spans)
        return busy / (self._slots * max(ended - began, 1e-9))

    @property
    def first(self) -> int:
        """The job that is searched first."""
        return self._open[0]

    def suggest(self, trial_id: str) -> Any:
        """Return the next segment of the first search that has one."""
        if not self._open:
            return Searcher.FINISHED
        for number in self._open:
            segment = self._searches[number].next()
            if segment is not None:
                if number not in self._started:
                    self._started.add(number)
                    self._progress.start(self._cells[number].label)
                self._running[trial_id] = (number, segment)
                return {"job": number, "segment": segment._asdict()}
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Give the outcome to its search and finish the cell where it was the last."""
        if trial_id not in self._running:
            return
        number, segment = self._running.pop(trial_id)
        if error or not result or "outcome" not in result:
            outcome = Outcome([], 0.0, error="its worker process died (out of memory?)")
        else:
            outcome = Outcome(**json.loads(result["outcome"]))
            self._spans.append((result["began"], result["ended"]))
        search = self._searches[number]
        running = search.num_running
        search.tell(segment, outcome)
        if segment.kind == "fit":
            self._progress.advance(running - search.num_running)
        else:
            self._refit_s[number] = outcome.seconds
        if outcome.error and segment.kind == "refit":
            self._end(number, outcome.error)
        elif search.is_finished:
            self._end(number, "" if search.best else f"all trials failed: {search.first_error()}")

    def _end(self, number: int, reason: str) -> None:
        self._open.remove(number)
        cell = self._cells[number]
        if not reason:
            try:
                self._commit(number)
            except BenchmarkError as error:
                reason = str(error)
        if reason:
            self._context.fail(cell.artefact, reason)
            self._progress.failed(cell.label, reason)
        else:
            self._progress.done(cell.label)

    def _commit(self, number: int) -> None:
        job, search = self._jobs[number], self._searches[number]
        best = search.best
        if best is None:
            raise BenchmarkError("the search has no best trial")
        job.predictions.write_table("trials.parquet", search.trials_table())
        refit_s = self._refit_s.get(number, 0.0)
        job.predictions.commit(
            {
                "inputs": {"embeddings": job.embeddings.fingerprint},
                "head": job.head.name,
                "seed": job.seed,
                "params": best.params,
                "num_epochs": best.num_epochs,
                "val_score": best.val_score,
                "num_trials": search.num_trials,
                "refit": job.refit,
                "seconds": {
                    "trials": round(search.seconds, 3),
                    "refit": round(refit_s, 3),
                    "device": round(search.seconds + refit_s, 3),
                },
                "provenance": provenance.record(),
            }
        )

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune stores its searcher to restore a run; this one begins anew instead.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """An interrupted search begins anew: it is repeatable, and its cell is small."""

    def restore(self, checkpoint_path: str) -> None:
        """There is nothing to restore."""
