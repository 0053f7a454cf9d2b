"""Check the trackers of an experiment before it runs, and log to them when its page is written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmark.comparing.runs import run_of
from benchmark.config import Experiment
from benchmark.errors import first_line
from benchmark.experiment.context import Context
from benchmark.tracking.addresses import find_address


def check_trackers(experiment: Experiment) -> None:
    """Check that the trackers of an experiment are installed and answer.

    Raises:
        UsageError: one is not, or does not, or its address is wrong.
    """
    if experiment.tracking is None:
        return
    where = f"{experiment.path} [tracking]"
    address = find_address(experiment)
    if experiment.tracking.tensorboard:
        from benchmark.tracking.event_files import check_tensorboard

        check_tensorboard(where=where)
    if address is not None:
        from benchmark.tracking.mlflow_runs import check_mlflow

        check_mlflow(address, where=where)


def track(context: Context) -> None:
    """Log a run to the trackers of its experiment, if its scores are complete.

    A tracker that fails costs one line: the results are in the store.
    """
    tracking = context.experiment.tracking
    if tracking is None or not context.scores().is_complete:
        return
    if tracking.tensorboard:
        from benchmark.tracking.event_files import write_events

        _attempt(context, "TensorBoard", partial(write_events, context))
    address = find_address(context.experiment)
    if address is not None:
        from benchmark.tracking.mlflow_runs import log_run

        _attempt(context, "MLflow", lambda: log_run(context, run_of(context), address))


def _attempt(context: Context, name: str, log: Callable[[], str]) -> None:
    try:
        text = log()
    # Libraries of trackers raise anything, and no fault of theirs may lose a run.
    except Exception as error:
        # Libraries append advice in further lines.
        text = f"warning: not logged: {first_line(error)}; the results are in {context.store.uri}"
    context.progress.message(f"{name}: {text}")
