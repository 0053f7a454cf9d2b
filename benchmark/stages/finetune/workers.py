"""Code of Ray's processes: a trial that builds a trainer, and the trainer's workers."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import torch
from ray import train, tune
from ray.train import UserCallback
from ray.train.torch import TorchTrainer, get_device

from benchmark.cluster.incidents import Toll, add_tolls
from benchmark.cluster.teams import Team
from benchmark.errors import BenchmarkError, blame, one_line
from benchmark.finetune_settings import FinetuneConfig
from benchmark.search.bookkeeping import Outcome, Segment
from benchmark.stages.finetune.stream import StreamFeed
from benchmark.stages.searching import outcome_row
from benchmark.training.feeds import Feed, MemoryFeed, Shard, read_samples
from benchmark.training.loop import MemoryShort, Ranks
from benchmark.training.segment import Job, Worker, segment_name

MEMORY_SHARE = 0.4
"""Share of the free memory of a node or GPU that train may take; beyond it, train is streamed."""


class FinetuneTrial(tune.Trainable):
    """One segment of one search, run by a trainer of its own; the process is reused.

    Ray Tune identifies trainables by class name: the one of heads, which may run in the same
    driver, must have another name.
    """

    def setup(
        self, config: dict[str, Any], jobs: list[Job] | None = None, team: Team | None = None
    ) -> None:
        """Keep the jobs and the team, which all segments share."""
        self._jobs = jobs or []
        self._team = team
        self._work = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next segment."""
        self._work = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Run the segment; a failure is an outcome, not a crash."""
        job, segment = self._jobs[self._work["job"]], Segment(**self._work["segment"])
        began = time.time()
        toll = Toll()
        restarts = 0
        if self._team is None or self._team.is_alone:
            # In this process: no worker group to start.
            scaling, run_config = train.ScalingConfig(num_workers=0), train.RunConfig()
            outcome = _fit(job, segment, scaling, run_config)
        else:
            with tempfile.TemporaryDirectory(prefix="benchmark-train-") as folder:
                outcome = _fit(job, segment, *_group(self._team, job, folder))
                restarts = Failures(folder).count()
        spent = add_tolls(toll.to_json(), {"process_restarted": restarts})
        return outcome_row(outcome, began=began, ended=time.time(), toll=spent)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Segments keep their own checkpoints in the store."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Segments keep their own checkpoints in the store."""


class Failures(UserCallback):
    """Count the failures of a worker group in a file, as Ray Train calls it in another process."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / "failures"

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Count one failure, of one worker or of several."""
        del run_context, worker_exceptions
        with self._path.open("a") as file:
            file.write("x")

    def count(self) -> int:
        """Return how often the group failed."""
        return self._path.stat().st_size if self._path.exists() else 0


def _group(team: Team, job: Job, folder: str) -> tuple[train.ScalingConfig, train.RunConfig]:
    resources = {"CPU": team.num_cpus}
    if team.num_gpus:
        resources["GPU"] = team.num_gpus
    scaling = train.ScalingConfig(
        num_workers=team.num_workers,
        use_gpu=team.num_gpus > 0,
        resources_per_worker=resources,
    )
    run_config = train.RunConfig(
        name=uuid.uuid4().hex,
        storage_path=folder,
        failure_config=train.FailureConfig(max_failures=job.config.max_failures),
        callbacks=[Failures(folder)],  # type: ignore[list-item]
    )
    return scaling, run_config


def _fit(
    job: Job, segment: Segment, scaling: train.ScalingConfig, run_config: train.RunConfig
) -> Outcome:
    trainer = TorchTrainer(
        run_worker,  # type: ignore[arg-type]
        train_loop_config={"job": job, "segment": segment},
        scaling_config=scaling,
        run_config=run_config,
    )
    try:
        result: Any = trainer.fit()
        return Outcome(**result.return_value)
    except train.TrainingFailedError as error:
        return Outcome([], 0.0, error=f"the workers failed: {one_line(error)}")


def run_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Run a segment on this worker and return its outcome (the loop of Ray Train).

    A permanent error becomes the outcome. A transient one (a killed process, too little memory)
    ends the worker, and Ray restarts the group.

    Returns: the outcome as plain values.

    Raises:
        RuntimeError: one of several workers failed; the store has the reason.
        Exception: one of several workers failed, perhaps because another died.
    """
    job, segment = config["job"], config["segment"]
    logging.getLogger("benchmark").setLevel(logging.INFO)
    place = train.get_context()
    ranks = Ranks(place.get_world_rank(), place.get_world_size(), _device(job))
    worker = Worker(job, ranks, _Opener(job, place.get_local_world_size()), _report)
    was_recorded = job.artefact.has(segment_name(segment))
    try:
        outcome = worker.run(segment)
    except MemoryShort:
        raise
    except BenchmarkError as error:
        outcome = Outcome([], 0.0, error=str(error))
    except Exception as error:  # of any type: backbones are third-party code
        if ranks.world > 1:
            # Perhaps caused by another worker's death: Ray restarts the group.
            raise
        outcome = Outcome([], 0.0, error=blame(error))
    if outcome.error and ranks.world > 1 and not was_recorded:
        # The others may wait for this one: end the group; restarted, it finds the outcome.
        job.artefact.write_json(segment_name(segment), outcome._asdict())
        raise RuntimeError(outcome.error)
    return outcome._asdict()


def _device(job: Job) -> torch.device:
    # Ray does not hide GPUs from a process that has booked none.
    if not job.uses_gpus:
        return torch.device("cpu")
    # Ray Train sets up no device in a trial's own process.
    if train.get_context().get_world_size() > 1:
        return torch.device(get_device())
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _report(row: dict[str, float]) -> None:
    train.report(dict(row))


class _Opener:
    """Open train in memory if it fits, otherwise as a stream."""

    def __init__(self, job: Job, workers_here: int) -> None:
        self._job = job
        self._workers_here = max(1, workers_here)

    def __call__(self, splits: tuple[str, ...], config: FinetuneConfig, ranks: Ranks) -> Feed:
        job, shard = self._job, Shard(ranks.rank, ranks.world)
        counts = job.class_counts if splits == ("train",) else job.refit_counts
        c, h, w = job.shape
        num_bytes = sum(counts) * c * h * w
        if config.ingest == "stream" or (
            config.ingest == "auto" and num_bytes > MEMORY_SHARE * self._free_bytes()
        ):
            return StreamFeed(
                job.patches,
                job.shape,
                splits,
                batch_size=config.batch_size,
                seed=job.seed,
                shard=shard,
            )
        samples, device = read_samples(job.patches, job.shape, splits), ranks.device
        if device.type == "cuda" and num_bytes < MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
            samples = samples._replace(
                pixels=samples.pixels.to(device), labels=samples.labels.to(device)
            )
        return MemoryFeed(samples, batch_size=config.batch_size, seed=job.seed, shard=shard)

    def _free_bytes(self) -> float:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return free / self._workers_here
