"""Log a finished run to MLflow: one run of the experiment, and in it one for each method."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from benchmark.comparing.runs import FinishedRun
from benchmark.errors import UsageError, first_line
from benchmark.experiment.context import Context
from benchmark.store.names import SCORES_CSV
from benchmark.tracking.addresses import Address
from benchmark.tracking.content import Method, Point, as_keys, flat_settings, methods_of
from benchmark.tracking.exports import log_exports

if TYPE_CHECKING:
    from mlflow import MlflowClient

FINGERPRINT = "benchmark.fingerprint"
"""Tag that tells a run of the benchmark from others: the fingerprint of its scores."""
LONGEST_VALUE = 6000
"""Characters of a parameter, and of a tag less than MLflow takes."""
MOST_METRICS = 1000
MOST_PARAMS = 100
"""Of one request."""
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Nothing but what the commands print goes to stdout.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A folder is the user's choice.
    "MLFLOW_ALLOW_FILE_STORE": "true",
}
DEFAULTS = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # MLflow would wait for a server for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Values of what the environment does not set."""
PROBE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""A server that does not answer is refused before the run within seconds."""


def check_mlflow(address: Address, *, where: str) -> None:
    """Check that MLflow is installed and that the server, database or folder answers.

    Args:
        address: of it.
        where: start of the message.

    Raises:
        UsageError: it is not, or does not.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise UsageError(
            f"{where}: mlflow needs the package mlflow, which is not installed; run: pip install "
            '"backbone-benchmark[mlflow]"'
        )
    if address.path is not None:
        folder = address.path.parent
        if not folder.is_dir():
            raise UsageError(f"{where}: mlflow: there is no folder '{folder}'; make it first")
        if address.is_database and (address.path.is_dir() or not os.access(folder, os.W_OK)):
            raise UsageError(f"{where}: mlflow: '{address.path}' cannot be written as a database")
        if not address.is_database and address.path.exists() and not address.path.is_dir():
            raise UsageError(f"{where}: mlflow: '{address.path}' is a file; name a folder")
    try:
        with open_client(address, surroundings=PROBE) as client:
            client.search_experiments(max_results=1)
    except Exception as error:
        what = "cannot be opened" if address.path else "does not answer as an MLflow server"
        raise UsageError(f"{where}: mlflow: '{address.uri}' {what}: {first_line(error)}") from None


@contextmanager
def open_client(
    address: Address, *, surroundings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[MlflowClient]:
    """Open a client in an environment in which MLflow is quiet and does not wait for long."""
    with _environment({**DEFAULTS, **os.environ, **ENVIRONMENT, **surroundings}):
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=address.uri)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment, and put back what they were."""
    changed = {key: value for key, value in wanted.items() if os.environ.get(key) != value}
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def log_run(context: Context, run: FinishedRun, address: Address) -> str:
    """Log a finished run unless it is logged already; return one line about it.

    Args:
        context: of the experiment.
        run: its complete scores.
        address: where to.

    Raises:
        Exception: of MLflow. A run that is not logged wholly is left with the status FAILED.
    """
    with open_client(address) as client:
        experiment_id = _find_experiment(client, run.name, address)
        found = client.search_runs(
            [experiment_id],
            f"tags.`{FINGERPRINT}` = '{run.artefact.fingerprint}' and status = 'FINISHED'",
            max_results=1,
        )
        if found:
            parent = found[0].info.run_id
            text = f"{address.uri} has this run already: {parent}"
        else:
            parent = _log_new(client, experiment_id, context, run)
            text = f"logged to {address.uri}: run {parent} of the experiment '{run.name}'"
        tracking = context.experiment.tracking
        if tracking is not None and tracking.exports is not None:
            folder = Path(tracking.exports)
            count = log_exports(client, experiment_id, parent, context, folder)
            text += f"; {count} new models from '{folder}'"
        return text


def _log_new(client: MlflowClient, experiment_id: str, context: Context, run: FinishedRun) -> str:
    methods = methods_of(context, run)
    tags = _tags(context, run)
    parent = str(client.create_run(experiment_id, run_name=run.label, tags=tags).info.run_id)
    with _ended(client, parent):
        _log_parameters(client, parent, flat_settings(context))
        for method in methods:
            _log_method(client, experiment_id, parent, method)
        best = min(methods, key=lambda item: item.scores.get("rank", float("inf")))
        _log_points(client, parent, [Point(key, 0, item) for key, item in best.scores.items()])
        _log_files(client, parent, context, run)
    return parent


def _find_experiment(client: MlflowClient, name: str, address: Address) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return client.create_experiment(name, artifact_location=address.artifacts)
    if found.lifecycle_stage == "deleted":
        raise UsageError(
            f"the experiment '{name}' is deleted there; restore it, or give this one another name"
        )
    return str(found.experiment_id)


@contextmanager
def _ended(client: MlflowClient, run_id: str) -> Iterator[None]:
    """End a run of MLflow as finished or, if an exception passes, as failed."""
    try:
        yield
    except BaseException:
        # The reason of the first failure is told, not that of this request.
        with suppress(Exception):
            client.set_terminated(run_id, status="FAILED")
        raise
    client.set_terminated(run_id, status="FINISHED")


def _tags(context: Context, run: FinishedRun) -> dict[str, str]:
    provenance = dict(run.manifest.get("provenance") or {})
    versions = dict(provenance.pop("versions", None) or {})
    values: dict[str, Any] = {
        FINGERPRINT: run.artefact.fingerprint,
        "benchmark.experiment": run.name,
        "benchmark.store": run.store.uri,
        "benchmark.patches": run.patches_fingerprint,
        "benchmark.dataset_digest": context.dataset_digest,
        **{f"benchmark.{key}": value for key, value in provenance.items()},
        **{f"version.{key}": value for key, value in versions.items()},
    }
    keys = as_keys(values)
    return {keys[name]: _cut(str(value)) for name, value in values.items() if value is not None}


def _log_parameters(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    keys = as_keys(values)
    params = [Param(keys[name], _cut(value)) for name, value in values.items()]
    for start in range(0, len(params), MOST_PARAMS):
        client.log_batch(run_id, params=params[start : start + MOST_PARAMS])


def _log_method(client: MlflowClient, experiment_id: str, parent: str, method: Method) -> None:
    tags = {"mlflow.parentRunId": parent, "benchmark.verdict": method.verdict}
    run_id = client.create_run(experiment_id, run_name=_cut(method.label), tags=tags).info.run_id
    with _ended(client, run_id):
        names = {key: getattr(method, key) for key in ("backbone", "method", "train_set")}
        _log_parameters(client, run_id, names)
        means = [Point(key, 0, value) for key, value in method.scores.items()]
        _log_points(client, run_id, [*means, *method.points])


def _log_points(client: MlflowClient, run_id: str, points: list[Point]) -> None:
    from mlflow.entities import Metric

    keys = as_keys(point.series for point in points)
    now_ms = int(time.time() * 1000)
    metrics = [Metric(keys[item.series], item.value, now_ms, item.step) for item in points]
    for start in range(0, len(metrics), MOST_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])


def _log_files(client: MlflowClient, run_id: str, context: Context, run: FinishedRun) -> None:
    """Log the table of scores as CSV, and the page with its figures if it is complete."""
    report = context.report()
    with tempfile.TemporaryDirectory() as folder:
        if run.artefact.has(SCORES_CSV):
            Path(folder, "scores.csv").write_bytes(run.artefact.read_verified(SCORES_CSV))
        if report.is_complete:
            page = Path(folder, "report")
            page.mkdir()
            for name in report.files():
                if name == "index.html" or name.startswith("figure-"):
                    (page / name).write_bytes(report.read_verified(name))
        client.log_artifacts(run_id, folder)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
