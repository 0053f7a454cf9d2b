"""What runs in Ray's processes: hold the embeddings, fit segments, write predictions."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray import tune

from benchmark.errors import BenchmarkError, one_line
from benchmark.fitting import Rows, fit_segment, refit, scores_of_all
from benchmark.search import Outcome, Segment
from benchmark.stages.tune.job import Job
from benchmark.store import Artefact
from benchmark.tables import check_table, predictions_schema, vectors_array

BACKBONES_HELD = 3
"""Embeddings of so many backbones stay in the object store at once."""


@ray.remote
class Shelf:
    """Holds embeddings in the object store, and the states of unfinished trials."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs
        self._rows: dict[str, Any] = {}
        self._states: dict[tuple[int, int], bytes] = {}

    def rows(self, number: int) -> list[Any]:
        """Return the reference to the rows of a job, in a list so that it is not resolved."""
        job = self._jobs[number]
        path = job.embeddings.path
        if path not in self._rows:
            while len(self._rows) >= BACKBONES_HELD:
                self._rows.pop(next(iter(self._rows)))
            self._rows[path] = ray.put(load_rows(job.patches, job.embeddings))
        return [self._rows[path]]

    def put_state(self, number: int, trial: int, state: bytes) -> None:
        """Keep the state of a trial until its next segment."""
        self._states[number, trial] = state

    def take_state(self, number: int, trial: int) -> bytes:
        """Return the state of a trial and forget it."""
        return self._states.pop((number, trial), b"")

    def drop_states(self, number: int) -> None:
        """Forget the states of a search that has ended (those of pruned trials)."""
        for key in [key for key in self._states if key[0] == number]:
            del self._states[key]


def load_rows(patches: Artefact, embeddings: Artefact) -> Rows:
    """Join embeddings with the labels of train and val; test gets none."""
    labelled = patches.read_table(columns=["patch_id", "split", "label"], splits=("train", "val"))
    test_ids = patches.read_table(columns=["patch_id", "split"], splits=("test",))["patch_id"]
    table = embeddings.read_table(columns=["patch_id", "embedding"])
    vectors = vectors_array(table["embedding"])
    ids = table["patch_id"].to_numpy()
    parts: dict[str, Any] = {}
    split = labelled["split"].to_numpy()
    for name in ("train", "val"):
        rows = labelled.filter(pa.array(split == name))
        wanted = rows["patch_id"].to_numpy()
        parts[f"x_{name}"] = vectors[np.searchsorted(ids, wanted)]
        parts[f"y_{name}"] = rows["label"].to_numpy()
        parts[f"ids_{name}"] = wanted.astype(np.str_)
    wanted = test_ids.to_numpy()
    parts["x_test"], parts["ids_test"] = vectors[np.searchsorted(ids, wanted)], wanted.astype(str)
    del parts["ids_train"]
    return Rows(**parts)


class SegmentTrial(tune.Trainable):
    """One segment of one search; the process is reused for the next."""

    def setup(
        self, config: dict[str, Any], jobs: list[Job] | None = None, shelf: Any = None
    ) -> None:
        """Keep what all segments share."""
        self._jobs = jobs or []
        self._shelf = shelf
        self._work = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next segment."""
        self._work = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Run the segment; a failure is an outcome, not a crash."""
        number = self._work["job"]
        segment = Segment(**self._work["segment"])
        began = time.time()
        try:
            outcome = self._run(number, segment)
        except (BenchmarkError, ValueError, ArithmeticError, MemoryError, OSError) as error:
            outcome = Outcome([], time.time() - began, error=one_line(error))
        return {
            "score": max(outcome.scores, default=0.0),
            # As text, since Ray Tune flattens what it hands to a searcher.
            "outcome": json.dumps(outcome._asdict()),
            "began": began,
            "ended": time.time(),
            "done": True,
        }

    def _run(self, number: int, segment: Segment) -> Outcome:
        job = self._jobs[number]
        (reference,) = ray.get(self._shelf.rows.remote(number))
        rows: Rows = ray.get(reference)
        if segment.kind == "refit":
            began = time.perf_counter()
            write_predictions(job, rows, segment)
            return Outcome([], time.perf_counter() - began)
        state = b""
        if segment.first_epoch:
            state = ray.get(self._shelf.take_state.remote(number, segment.trial))
        outcome, state = fit_segment(job.head, rows, segment, seed=job.seed, state=state)
        if state:
            ray.get(self._shelf.put_state.remote(number, segment.trial, state))
        return outcome

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Segments are short and repeatable: there is nothing to save."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """There is nothing to load."""


def write_predictions(job: Job, rows: Rows, segment: Segment) -> None:
    """Refit the chosen head, save it with skops and write the table ``predictions``."""
    import skops.io

    model, val, test = refit(job.head, rows, segment, seed=job.seed, on=job.refit)
    classes = np.asarray(model.classes_ if hasattr(model, "classes_") else model[-1].classes_)
    y_score = scores_of_all(np.concatenate([val, test]), classes, job.num_classes)
    if not np.isfinite(y_score).all():
        raise BenchmarkError(f"head '{job.head.name}': its scores are not finite")
    table = pa.table(
        {
            "patch_id": np.concatenate([rows.ids_val, rows.ids_test]),
            "y_pred": y_score.argmax(axis=1).astype(np.int32),
            "y_score": pa.FixedSizeListArray.from_arrays(
                pa.array(y_score.reshape(-1)), job.num_classes
            ),
        }
    ).sort_by("patch_id")
    checked = check_table(table, predictions_schema(job.num_classes), what="predictions")
    job.predictions.write_table("part-000000.parquet", checked)
    job.predictions.write_bytes("head.skops", skops.io.dumps(model))
