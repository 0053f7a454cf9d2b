"""Log exported models to the MLflow runs of their methods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.experiment.context import Context
from benchmark.exporting.running import DESCRIPTION, read_description
from benchmark.tracking.content import as_keys

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_exports(
    client: MlflowClient, experiment_id: str, parent: str, context: Context, folder: Path
) -> int:
    """Log the exports of a run's cells that are not logged yet; return their number.

    Args:
        client: of MLflow.
        experiment_id: of the experiment in MLflow.
        parent: identity of the run.
        context: of the run.
        folder: whose sub-folders are exports, of this run or of others; it may be missing.

    Raises:
        UsageError: the description of an export cannot be read.
    """
    cells = {cell.artefact.fingerprint: cell for cell in context.prediction_cells()}
    found = client.search_runs(
        [experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=50_000
    )
    names = ("backbone", "method", "train_set")
    runs = {tuple(run.data.params.get(name) for name in names): run for run in found}
    count = 0
    for path in sorted(folder.glob(f"*/{DESCRIPTION}")):
        export = path.parent
        fingerprint = read_description(export).get("artefact")
        cell = cells.get(str(fingerprint))
        run = None if cell is None else runs.get((cell.backbone, cell.method, cell.train_set))
        if run is None:
            continue
        # The last request: an export that was logged in part is logged again.
        (tag,) = as_keys([f"benchmark.model.{export.name}"]).values()
        if run.data.tags.get(tag) != fingerprint:
            client.log_artifacts(run.info.run_id, str(export), f"models/{export.name}")
            client.set_tag(run.info.run_id, tag, str(fingerprint))
            count += 1
    return count
