"""One segment of a fine-tuning: epochs with checkpoints, or the predictions of the best trial.

Does not use Ray: a process of Ray Train runs a ``Worker``, which can also be run and timed alone.
A segment writes to the cell's artefact: ``trial-N-last`` and ``trial-N-best`` (safetensors),
``trial-N-log`` and ``segment-...`` (JSON).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from benchmark.energy import known
from benchmark.errors import CellError
from benchmark.finetune_settings import FinetuneConfig
from benchmark.flipping import predict_flipped
from benchmark.networks.devices import open_meter, peaks, reset_peaks
from benchmark.search.bookkeeping import Outcome, Segment
from benchmark.specs import Backbone
from benchmark.store.artefacts import Artefact
from benchmark.store.names import WEIGHTS
from benchmark.tables import PatchTable, check_table, predictions_schema
from benchmark.training.adaptation import merge_lora
from benchmark.training.checkpoints import (
    Place,
    read_checkpoint,
    read_weights,
    write_checkpoint,
    write_weights,
)
from benchmark.training.feeds import Feed, Shard, SplitReader
from benchmark.training.loop import CHECK_EVERY, MemoryShort, Ranks, Training, Validation

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("benchmark")

SMALLER = "micro-batch.json"
"""File with the smaller micro-batch for the next attempt of several workers."""

SEGMENT = "segment-"
"""Prefix of the files that record outcomes."""

LAST = "-last.safetensors"
"""Suffix of checkpoints."""

"""The weights of the best epoch of the best trial."""

Report = Callable[[dict[str, float]], None]
OpenFeed = Callable[[tuple[str, ...], FinetuneConfig, Ranks], Feed]
"""Opens the rows of some splits for a training with this recipe and these workers."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The fine-tuning of one cell, as a worker needs it."""

    backbone: Backbone
    config: FinetuneConfig
    seed: int
    refit: str
    class_counts: tuple[int, ...]
    """Patches of each class (K,) in train."""
    refit_counts: tuple[int, ...]
    """Patches of each class (K,) in the rows of the refit."""
    bands: tuple[str, ...]
    shape: tuple[int, int, int]
    """(C, H, W) of a patch."""
    patches: PatchTable
    artefact: Artefact
    num_threads: int
    """Of torch, without a GPU."""
    num_workers: int
    flips: tuple[str, ...] = ()
    """Flips of val and test over which predictions are averaged."""
    uses_gpus: bool = False
    """Whether its workers have booked GPUs; a process also sees the GPUs of others."""
    keep_bytes: int = 2**30
    """Memory for the rows of val kept between epochs."""

    @property
    def num_devices(self) -> int:
        """Device-seconds per second of wall time: its GPUs, or its cores without GPUs."""
        on_gpu = self.uses_gpus and torch.cuda.is_available()
        return self.num_workers * (1 if on_gpu else self.num_threads)


class Worker:
    """Runs the segments of one job on one device."""

    def __init__(
        self, job: Job, ranks: Ranks, open_feed: OpenFeed, report: Report | None = None
    ) -> None:
        """Prepare to run segments.

        Args:
            job: to run.
            ranks: the workers; several need ``torch.distributed`` to be set up.
            open_feed: opens train.
            report: called with the numbers of every epoch, on every worker.
        """
        self._job = job
        self._ranks = ranks
        self._open_feed = open_feed
        self._report = report
        self._shard = Shard(ranks.rank, ranks.world)
        if ranks.device.type == "cpu":
            torch.set_num_threads(job.num_threads)
        else:
            torch.cuda.set_device(ranks.device)
        self._meter = open_meter(str(ranks.device))

    def run(self, segment: Segment) -> Outcome:
        """Run a segment, or return the outcome that an earlier run recorded.

        Raises:
            MemoryShort: one of several workers ran out of memory; the next ``run`` begins with
                smaller micro-batches.
            CellError: the loss is not finite, memory ran out, or the store cannot be written.
        """
        name, artefact = segment_name(segment), self._job.artefact
        if artefact.has(name):
            return Outcome(**artefact.read_json(name))
        reset_peaks(str(self._ranks.device))
        try:
            outcome = self._fit(segment) if segment.kind == "fit" else self._refit(segment)
        except MemoryShort as error:
            artefact.write_json(SMALLER, {"micro_batch": error.micro_batch, "note": str(error)})
            raise
        most = peaks(str(self._ranks.device))
        outcome = outcome._replace(
            peak_memory_bytes=most["peak_memory_bytes"],
            peak_device_bytes=most["peak_device_bytes"],
        )
        if self._ranks.rank == 0:
            artefact.write_json(name, outcome._asdict())
        return outcome

    def _fit(self, segment: Segment) -> Outcome:
        job = self._job
        config = job.config.model_copy(update=segment.params)
        feed = self._open_feed(("train",), config, self._ranks)
        training = self._build(config, feed, job.class_counts)
        reader = SplitReader(
            job.patches,
            job.shape,
            "val",
            shard=self._shard,
            with_labels=True,
            keep_bytes=job.keep_bytes,
        )
        stem = f"trial-{segment.trial:03d}"
        last = stem + LAST
        place = self._resume(training, last)
        is_stopped = self._is_over(place, config)
        while place.epoch < segment.last_epoch and not is_stopped:
            self._train_epoch(training, feed, place, last)
            began, begun_j = time.perf_counter(), self._meter.read()
            found = training.validate(reader, len(job.class_counts))
            val_s = time.perf_counter() - began
            self._close_epoch(training, place, found, val_s)
            place.used.append(place.joules + self._add_up(self._meter.read() - begun_j))
            place.joules = 0.0
            is_stopped = self._is_over(place, config)
            if self._ranks.rank == 0:
                if place.best_epoch == place.epoch:
                    write_weights(job.artefact, f"{stem}-best.safetensors", training.model)
                # The checkpoint last: a worker that dies before it repeats the epoch.
                job.artefact.write_json(f"{stem}-log.json", self._log(training, place))
                self._save(training, place, last)
            if self._report is not None:
                self._report(place.curve[-1])
        rows = place.curve[segment.first_epoch :]
        seconds = sum(row["seconds"] for row in rows) * job.num_devices
        joules = known(place.joules_from(segment.first_epoch))
        return Outcome([row["val_score"] for row in rows], seconds, is_stopped, joules=joules)

    def _refit(self, segment: Segment) -> Outcome:
        """Predict val and test with the weights of the best trial, or with a new fit on both."""
        job, artefact = self._job, self._job.artefact
        began, begun_j = time.perf_counter(), self._meter.read()
        config = job.config.model_copy(update=segment.params)
        if job.refit == "train+val":
            feed = self._open_feed(("train", "val"), config, self._ranks)
            training = self._build(config, feed, job.refit_counts)
            last = f"refit{LAST}"
            place = self._resume(training, last)
            num_epochs = read_log(artefact, segment.trial)["best_epoch"]
            while place.epoch < num_epochs:
                self._train_epoch(training, feed, place, last)
                self._close_epoch(training, place)
                if self._ranks.rank == 0:
                    self._save(training, place, last)
        else:
            training = self._build(config, None, job.class_counts)
            weights = read_weights(artefact, f"trial-{segment.trial:03d}-best.safetensors")
            training.model.load_state_dict(weights)
        if config.mode == "lora":
            merge_lora(training.model)
        self._predict(training)
        if self._ranks.rank == 0:
            write_weights(artefact, WEIGHTS, training.model)
        joules = known(self._add_up(self._meter.read() - begun_j))
        return Outcome([], (time.perf_counter() - began) * job.num_devices, joules=joules)

    def _build(
        self, config: FinetuneConfig, feed: Feed | None, class_counts: tuple[int, ...]
    ) -> Training:
        job = self._job
        micro_batch = None if config.micro_batch == "auto" else config.micro_batch
        note = ""
        if job.artefact.has(SMALLER):
            smaller = job.artefact.read_json(SMALLER)
            micro_batch, note = smaller["micro_batch"], smaller["note"]
        training = Training(
            job.backbone,
            job.bands,
            class_counts,
            config,
            seed=job.seed,
            num_steps=feed.num_steps if feed is not None else 1,
            ranks=self._ranks,
            micro_batch=micro_batch,
        )
        training.notes += [note] if note else []
        return training

    def _resume(self, training: Training, name: str) -> Place:
        """Resume from the last checkpoint if it exists and can be read."""
        artefact = self._job.artefact
        if not artefact.has(name):
            return Place()
        try:
            place = read_checkpoint(artefact, name, training.model, training.optimizer)
        except CellError as error:
            logger.warning("%s; restarting the training", error)
            return Place(notes=[f"{error}; the training was restarted"])
        if place.micro_batch:
            training.micro_batch = min(place.micro_batch, training.micro_batch)
        training.notes = [note for note in training.notes if note not in place.notes]
        return place

    def _train_epoch(self, training: Training, feed: Feed, place: Place, name: str) -> None:
        """Train the rest of an epoch, with periodic checkpoints."""
        config = training.config
        training.begin_epoch(place.epoch)
        # One float64 sum from the start of the epoch: checkpoints must not change it.
        begun = place.loss_sum if self._ranks.rank == 0 else 0.0
        losses = torch.tensor(begun, dtype=torch.float64, device=self._ranks.device)
        begun_j = self._meter.read()
        began = saved = time.perf_counter()
        for batch in feed.batches(place.epoch, place.step):
            losses += training.step(batch, place.epoch, place.step)
            place.step += 1
            place.num_seen += batch.num_global
            now = time.perf_counter()
            is_due = now - saved >= config.checkpoint_every_s and place.step < feed.num_steps
            if self._agree(is_due, place.step):
                place.loss_sum = float(self._ranks.sum(losses.clone()))
                place.seconds += now - began
                place.joules += self._add_up(self._meter.read() - begun_j)
                if self._ranks.rank == 0:
                    self._save(training, place, name)
                begun_j = self._meter.read()
                began = saved = time.perf_counter()
        place.loss_sum = float(self._ranks.sum(losses))
        place.seconds += time.perf_counter() - began
        place.joules += self._add_up(self._meter.read() - begun_j)

    def _add_up(self, joules: float) -> float:
        """Return the sum over all workers; NaN if one is."""
        mine = torch.tensor(joules, dtype=torch.float64, device=self._ranks.device)
        return float(self._ranks.sum(mine))

    def _agree(self, is_due: bool, step: int) -> bool:
        """Return whether to write a checkpoint now: rank 0 decides for all workers."""
        if self._ranks.world == 1:
            return is_due
        if step % CHECK_EVERY:
            return False
        is_first = self._ranks.rank == 0
        vote = torch.tensor(float(is_due and is_first), device=self._ranks.device)
        return bool(self._ranks.sum(vote) > 0)

    def _close_epoch(
        self,
        training: Training,
        place: Place,
        found: Validation | None = None,
        val_s: float = 0.0,
    ) -> None:
        place.epoch += 1
        if found is not None and found.order > place.best_order:
            place.best_epoch = place.epoch
        place.curve.append(
            {
                "epoch": place.epoch,
                "train_loss": place.loss_sum / max(1, place.num_seen),
                "val_score": math.nan if found is None else found.score,
                "val_loss": math.nan if found is None else found.loss,
                "learning_rate": training.optimizer.param_groups[0]["lr"],
                "seconds": place.seconds + val_s,
                "train_seconds": place.seconds,
            }
        )
        place.step, place.num_seen, place.loss_sum, place.seconds = 0, 0, 0.0, 0.0

    def _is_over(self, place: Place, config: FinetuneConfig) -> bool:
        """Return whether a trial has no epochs left, or no patience."""
        is_stale = place.epoch - place.best_epoch >= config.patience
        return place.epoch >= config.num_epochs or is_stale

    def _save(self, training: Training, place: Place, name: str) -> None:
        place.micro_batch = training.micro_batch
        self._take_notes(training, place)
        write_checkpoint(self._job.artefact, name, training.model, training.optimizer, place)

    def _take_notes(self, training: Training, place: Place) -> None:
        place.notes += training.notes
        training.notes.clear()

    def _log(self, training: Training, place: Place) -> dict[str, Any]:
        self._take_notes(training, place)
        device = self._ranks.device
        return {
            "curve": place.curve,
            "best_epoch": place.best_epoch,
            "notes": place.notes,
            "num_trained": training.parts.num_trained,
            "plan": {
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "precision": training.precision,
                "num_workers": self._ranks.world,
                "num_threads": self._job.num_threads,
                "batch_size": training.config.batch_size,
                "micro_batch": training.micro_batch,
            },
        }

    def _predict(self, training: Training) -> None:
        """Write this worker's part of the table ``predictions``: val and test, no labels."""
        job = self._job
        ids, scores = [], []

        def predict(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = training.predict(torch.from_numpy(pixels)).cpu().numpy()
            return found

        for split in ("val", "test"):
            for samples in SplitReader(
                job.patches, job.shape, split, shard=self._shard, with_labels=False
            ):
                ids.append(samples.ids)
                scores.append(predict_flipped(predict, samples.pixels.numpy(), job.flips))
        num_classes = len(job.class_counts)
        y_score = np.concatenate([*scores, np.empty((0, num_classes), np.float32)])
        if not np.isfinite(y_score).all():
            raise CellError(f"backbone '{job.backbone.name}': its scores are not finite")
        table = pa.table(
            {
                "patch_id": pa.array(np.concatenate([*ids, np.empty(0, np.str_)]), pa.string()),
                "y_pred": y_score.argmax(axis=1).astype(np.int32),
                "y_score": pa.FixedSizeListArray.from_arrays(
                    pa.array(y_score.reshape(-1)), num_classes
                ),
            }
        ).sort_by("patch_id")
        checked = check_table(table, predictions_schema(num_classes), what="predictions")
        job.artefact.write_table(f"part-{self._ranks.rank:06d}.parquet", checked)


def segment_name(segment: Segment) -> str:
    """Return the file that records the outcome of a segment."""
    return (
        f"{SEGMENT}{segment.kind}-{segment.trial}-{segment.first_epoch}-{segment.last_epoch}.json"
    )


def forget_failures(artefact: Artefact) -> None:
    """Delete failed outcomes, so that a new run tries these segments again."""
    for name in artefact.files(SEGMENT):
        if artefact.read_json(name)["error"]:
            artefact.delete(name)


def read_log(artefact: Artefact, trial: int) -> dict[str, Any]:
    """Return the log of a trial: curve, notes and plan; empty if it failed."""
    name = f"trial-{trial:03d}-log.json"
    return dict(artefact.read_json(name)) if artefact.has(name) else {}
