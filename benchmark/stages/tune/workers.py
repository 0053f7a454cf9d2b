"""The trials of Ray Tune: fit segments and write predictions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError

from benchmark.cluster.incidents import Toll, add_tolls
from benchmark.energy import known, processor_meter
from benchmark.errors import BenchmarkError, blame, one_line
from benchmark.peaks import peak_memory_bytes, reset_peak
from benchmark.search.bookkeeping import Outcome, Segment
from benchmark.search.fitting import Rows, fit_segment, pick_rows, refit, scores_of_all
from benchmark.stages.searching import outcome_row
from benchmark.stages.tune.flipped import FlippedRows, average_flips
from benchmark.stages.tune.job import Job
from benchmark.tables import check_table, predictions_schema

if TYPE_CHECKING:
    from numpy.typing import NDArray


class HeadTrial(tune.Trainable):
    """One segment of one search; its process is reused for the next segment."""

    def setup(
        self, config: dict[str, Any], jobs: list[Job] | None = None, shelf: Any = None
    ) -> None:
        """Store the jobs and the actor that all segments share."""
        self._jobs = jobs or []
        self._shelf = shelf
        self._work = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Accept the next segment; True reuses the process."""
        self._work = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Run the segment; a failure is an outcome, not a crash."""
        number = self._work["job"]
        segment = Segment(**self._work["segment"])
        began = time.time()
        toll = Toll()
        self._toll_of_shelf: dict[str, int] = {}
        reset_peak()
        meter = processor_meter()
        begun = meter.read()
        try:
            outcome = self._run(number, segment)
        except RayTaskError as error:
            outcome = Outcome([], time.time() - began, error=one_line(error))
        except RayError:
            # The object store or the shelf is lost: Ray Tune repeats the trial.
            raise
        except Exception as error:  # of any type: heads are third-party code
            outcome = Outcome([], time.time() - began, error=blame(error))
        outcome = outcome._replace(
            joules=known(meter.read() - begun), peak_memory_bytes=peak_memory_bytes()
        )
        spent = add_tolls(toll.to_json(), self._toll_of_shelf)
        return outcome_row(outcome, began=began, ended=time.time(), toll=spent)

    def _run(self, number: int, segment: Segment) -> Outcome:
        job = self._jobs[number]
        whole, *picks = ray.get(ray.get(self._shelf.rows.remote(number)))
        rows: Rows = pick_rows(whole, *picks) if picks else whole
        if segment.kind == "refit":
            flipped = ray.get(ray.get(self._shelf.flipped.remote(number))) if job.flips else ()
            began = time.perf_counter()
            model = write_predictions(job, rows, segment, flipped)
            self._toll_of_shelf = ray.get(self._shelf.save_head.remote(number, model))
            return Outcome([], time.perf_counter() - began)
        state = None
        if segment.first_epoch:
            state = ray.get(self._shelf.get_state.remote(number, segment.trial))
        outcome, state = fit_segment(job.head, rows, segment, seed=job.seed, state=state)
        if state is not None:
            ray.get(self._shelf.put_state.remote(number, segment.trial, state))
        return outcome

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: segments are short and can be repeated."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing, as nothing is saved."""


def write_predictions(
    job: Job, rows: Rows, segment: Segment, flipped: Sequence[FlippedRows] = ()
) -> Any:
    """Refit the chosen head, write the table ``predictions`` and return the fitted pipeline."""
    model, val, test = refit(job.head, rows, segment, seed=job.seed, on=job.refit)
    val = average_flips(partial(_scores, model), val, rows.ids_val, flipped)
    test = average_flips(partial(_scores, model), test, rows.ids_test, flipped)
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
    return model


def _scores(model: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(model.predict_proba(x), dtype=np.float32)
