"""The Python interface: load an experiment, run it, read its scores."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import config
from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.datasets import DATASETS
from benchmark.catalog.heads import HEADS
from benchmark.catalog.metrics import METRICS
from benchmark.cluster import Cluster
from benchmark.config import Experiment
from benchmark.context import CellResult, Context
from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.progress import LoggedProgress, Progress
from benchmark.stages import STAGES
from benchmark.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from benchmark.stages.base import StageResult, TextTable

COMMON_DATASET_SETTINGS = frozenset(
    {"name", "root", "patch_size", "seed", "per_region", "per_class", "on_error"}
)


TRUSTED_TYPES = frozenset({"sklearn.neural_network._stochastic_optimizers.AdamOptimizer"})
"""What an MLP holds beside what skops trusts by itself."""


@dataclass(frozen=True)
class RunResult:
    """What a run left behind."""

    store: str
    scores: str | None
    """Path of the scores (Parquet); None where nothing could be evaluated."""
    report: str | None
    """Path of the page (HTML)."""
    cells: list[CellResult]
    """The grid: dataset x backbone x method x train_set x seed."""
    stage_cells: list[CellResult]
    """The cells of every stage."""
    tables: list[TextTable]

    @property
    def failed(self) -> list[CellResult]:
        """The cells that failed, of every stage."""
        return [result for result in self.stage_cells if result.status == "failed"]

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``benchmark run --json`` prints."""
        return {
            "store": self.store,
            "scores": self.scores,
            "report": self.report,
            "cells": [result.to_json() for result in self.cells],
        }


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Load an experiment file and check every name in it.

    Args:
        path: the TOML file.
        overrides: ``KEY=VALUE`` settings, e.g. ``embed.batch_size=64``.

    Raises:
        UsageError: the file, a setting or a name is wrong.
    """
    experiment = config.load(path, overrides)
    check_names(experiment)
    return experiment


def check_names(experiment: Experiment) -> None:
    """Check that the catalogs hold what an experiment names.

    Raises:
        UsageError: a name is unknown, or a setting does not apply to the data set.
    """
    where = experiment.path
    dataset = DATASETS.get(experiment.dataset.name, where=f"{where} [dataset]")
    for name in experiment.backbones:
        BACKBONES.get(name, where=where)
    for name in experiment.heads:
        HEADS.get(name, where=where)
    allowed = COMMON_DATASET_SETTINGS | dataset.settings
    for key in sorted(experiment.dataset.model_fields_set - allowed):
        raise UsageError(
            f"{where} [dataset]: '{key}' does not apply to the data set '{dataset.name}'; remove it"
        )


@contextmanager
def open_context(
    experiment: Experiment,
    *,
    store: str | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Context]:
    """Resolve an experiment's names and open its store; close what was started at the end."""
    check_names(experiment)
    with Cluster(address) as cluster:
        yield Context(
            experiment=experiment,
            dataset=DATASETS.get(experiment.dataset.name),
            backbones=tuple(BACKBONES.get(name) for name in experiment.backbones),
            heads=tuple(HEADS.get(name) for name in experiment.heads),
            metrics=tuple(METRICS),
            store=Store(store or experiment.store),
            cluster=cluster,
            progress=progress or LoggedProgress(),
        )


def run(
    experiment: Experiment,
    *,
    store: str | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run all stages in order, skipping complete artefacts.

    Args:
        experiment: from ``load``.
        store: overrides the experiment's.
        address: of a Ray cluster; None starts Ray on this machine.
        progress: receives what happens; by default the ``benchmark`` logger.

    Raises:
        UsageError: the user's input is wrong. A failed cell is no exception: see ``failed``.
    """
    with open_context(experiment, store=store, address=address, progress=progress) as context:
        context.store.check_writable()
        stage_cells: list[CellResult] = []
        tables: list[TextTable] = []
        for entry in STAGES:
            result = entry.load().run(context)
            stage_cells += result.cells
            tables += result.tables
        return RunResult(
            store=context.store.uri,
            scores=_path_of(context, "evaluate"),
            report=_path_of(context, "report"),
            cells=[item for item in stage_cells if item.cell.method is not None],
            stage_cells=stage_cells,
            tables=tables,
        )


def run_stage(
    name: str,
    experiment: Experiment,
    *,
    store: str | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> tuple[StageResult, str]:
    """Run one stage and return its result and the path that it wrote.

    Raises:
        UsageError: the user's input is wrong, or there is no such stage.
    """
    entry = STAGES.get(name)
    with open_context(experiment, store=store, address=address, progress=progress) as context:
        context.store.check_writable()
        result = entry.load().run(context)
        return result, _path_of(context, name) or f"{context.store.uri}/{name}"


def status(experiment: Experiment, *, store: str | None = None) -> list[CellResult]:
    """Return how every cell of every stage stands; computes and writes nothing."""
    with open_context(experiment, store=store) as context:
        return [result for entry in STAGES for result in entry.load().status(context)]


def scores(experiment: Experiment, *, store: str | None = None) -> pd.DataFrame:
    """Return the scores as a pandas frame in long format (the columns of ``tables.SCORES``).

    Raises:
        BenchmarkError: they have not been computed.
    """
    with open_context(experiment, store=store) as context:
        artefact = context.scores()
        if not artefact.is_complete:
            raise BenchmarkError(
                f"{experiment.path}: there are no scores in '{context.store.uri}' yet; run it first"
            )
        frame: pd.DataFrame = artefact.read_table(names=["scores.parquet"]).to_pandas()
        return frame


def _path_of(context: Context, stage: str) -> str | None:
    artefact, name = {
        "patches": (lambda: context.patches, ""),
        "embed": (None, ""),
        "tune": (None, ""),
        "evaluate": (context.scores, "scores.parquet"),
        "report": (context.report, "index.html"),
    }[stage]
    if artefact is None:
        return None
    found = artefact()
    if not found.is_complete:
        return None
    return f"{found.uri}/{name}" if name else found.uri


def load_head(artefact: str | Path) -> Any:
    """Load the fitted head of a cell: a scikit-learn pipeline with ``predict_proba``.

    Args:
        artefact: the cell's folder, as ``benchmark status`` prints it, on a local disk.

    Raises:
        UsageError: there is no head, or it holds a type that is not scikit-learn's own.
    """
    import zipfile

    import skops.io

    path = Path(artefact) / "head.skops"
    if not path.is_file():
        raise UsageError(f"{path}: no such head")
    try:
        untrusted = skops.io.get_untrusted_types(file=path)
        foreign = [name for name in untrusted if name not in TRUSTED_TYPES]
        if foreign:
            raise UsageError(f"{path}: holds types that are not trusted: {', '.join(foreign)}")
        return skops.io.load(path, trusted=untrusted)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: is no saved head: {one_line(error)}") from None
