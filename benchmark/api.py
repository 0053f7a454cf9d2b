"""The Python interface: load an experiment, run it, read its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import config
from benchmark.catalog.datasets import DATASETS
from benchmark.catalog.heads import HEADS
from benchmark.catalog.metrics import METRICS
from benchmark.catalog.names import check_names, resolve_backbones
from benchmark.cluster.connection import Cluster
from benchmark.cluster.metering import MeteredProgress
from benchmark.config import Experiment
from benchmark.environment import check_environment
from benchmark.errors import BenchmarkError
from benchmark.experiment import file as experiment_file
from benchmark.experiment.cells import CellResult, verified
from benchmark.experiment.context import Context
from benchmark.experiment.rates import Rates
from benchmark.experiment.usage import StageUsage, usage_to_json
from benchmark.progress import LoggedProgress, Progress
from benchmark.search.saved import load_head as load_head
from benchmark.stages import STAGES
from benchmark.stages.estimating import Estimate, estimate
from benchmark.stages.running import run_stages
from benchmark.store.artefacts import Store
from benchmark.store.filesystems import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from benchmark.experiment.cells import TextTable
    from benchmark.stages.base import StageResult


@dataclass(frozen=True)
class RunResult:
    """Result of a run: paths, cells and tables."""

    store: str
    scores: str | None
    """Path of the scores (Parquet); None if nothing could be evaluated."""
    report: str | None
    """Path of the page (HTML)."""
    cells: list[CellResult]
    """The grid: dataset x backbone x method x train_set x seed."""
    stage_cells: list[CellResult]
    """The cells of every stage."""
    tables: list[TextTable]
    usages: list[StageUsage] = field(default_factory=list)
    """Duration and load of each stage that computed something."""

    @property
    def failed(self) -> list[CellResult]:
        """The failed cells of every stage."""
        return [result for result in self.stage_cells if result.status == "failed"]

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``benchmark run --json`` prints."""
        return {
            "store": self.store,
            "scores": self.scores,
            "report": self.report,
            "cells": [result.to_json() for result in self.cells],
            "usage": usage_to_json(self.usages),
        }


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Load an experiment file and check every name in it.

    Args:
        path: the TOML file, or one that a run kept in its store (``STORE/experiments``).
        overrides: ``KEY=VALUE`` settings, e.g. ``embed.batch_size=64``.

    Raises:
        UsageError: the file, a setting or a name is wrong.
    """
    experiment = experiment_file.relocated(config.load(path, overrides))
    check_names(experiment)
    return experiment


def build(**settings: Any) -> Experiment:
    """Build an experiment without a file, with the settings and the checks of one.

    Args:
        **settings: as in a file: ``name``, ``backbones``, ``dataset``, ``heads``, ``store``, ...;
            a section is a dict, and ``dataset`` may be arrays (``from_arrays``), which are written
            into a folder of the store.

    Raises:
        UsageError: a setting or a name is unknown or wrong, or the arrays cannot be written.
    """
    from benchmark.catalog.arrays.building import build as build_experiment

    return build_experiment(settings)


@contextmanager
def open_context(
    experiment: Experiment,
    *,
    store: str | None = None,
    address: str | Cluster | None = None,
    progress: Progress | None = None,
) -> Iterator[Context]:
    """Resolve an experiment's names and open its store; close all resources at the end.

    A ``Cluster`` that is given as address is left open.
    """
    check_environment()
    check_names(experiment)
    with nullcontext(address) if isinstance(address, Cluster) else Cluster(address) as cluster:
        context = Context(
            experiment=experiment,
            dataset=DATASETS.get(experiment.dataset.name),
            backbones=resolve_backbones(experiment),
            heads=tuple(HEADS.get(name) for name in experiment.heads),
            metrics=tuple(METRICS),
            store=Store(store or experiment.store),
            cluster=cluster,
            progress=MeteredProgress(progress or LoggedProgress(), experiment=experiment.name),
        )
        with context.leases:
            yield context


@contextmanager
def open_readable(experiment: Experiment, *, store: str | None = None) -> Iterator[Context]:
    """Open a context to read from a store, which must answer within seconds."""
    with open_context(experiment, store=store) as context:
        context.store.check_readable()
        yield context


@contextmanager
def _open_recorded(
    experiment: Experiment,
    store: str | None,
    address: str | Cluster | None,
    progress: Progress | None,
) -> Iterator[Context]:
    """Open a context, keep the experiment in its store, and report if its file changed since."""
    with open_context(experiment, store=store, address=address, progress=progress) as context:
        context.store.check_writable()
        context.store.discards_damage = True
        experiment_file.keep(context)
        yield context
        if text := experiment_file.describe_change(experiment):
            context.progress.message(text)


def check(experiment: Experiment, *, store: str | None = None) -> None:
    """Check the data, the store and the bands of an experiment; start and compute nothing.

    Raises:
        UsageError: one of them is wrong.
    """
    with open_readable(experiment, store=store) as context:
        context.store.check_writable()
        STAGES.get("embed").load().check(context)


def run(
    experiment: Experiment,
    *,
    store: str | None = None,
    address: str | Cluster | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run all stages, in parallel if the cluster has room; complete artefacts are skipped.

    Args:
        experiment: from ``load``.
        store: overrides the experiment's.
        address: of a Ray cluster, or an open ``Cluster``; None starts Ray on this machine.
        progress: receives the progress; default: the ``benchmark`` logger.

    Raises:
        UsageError: the user's input is wrong. A failed cell does not raise: see ``failed``.
    """
    with _open_recorded(experiment, store, address, progress) as context:
        results = run_stages(context)
        stage_cells = [cell for result in results for cell in result.cells]
        return RunResult(
            store=context.store.uri,
            scores=_path_of(context, "evaluate"),
            report=_path_of(context, "report"),
            cells=[item for item in stage_cells if item.cell.method is not None],
            stage_cells=stage_cells,
            tables=[table for result in results for table in result.tables],
            usages=list(context.usages),
        )


def run_stage(
    name: str,
    experiment: Experiment,
    *,
    store: str | None = None,
    address: str | Cluster | None = None,
    progress: Progress | None = None,
) -> tuple[StageResult, str]:
    """Run one stage; return its result and the path of its output.

    Raises:
        UsageError: the user's input is wrong, or the stage is unknown.
    """
    entry = STAGES.get(name)
    with _open_recorded(experiment, store, address, progress) as context:
        result = entry.load().run(context)
        return result, _path_of(context, name) or join(context.store.uri, name)


def export(
    experiment: Experiment,
    *,
    backbone: str,
    out: str | Path,
    method: str = "finetune",
    seed: int | None = None,
    repo: str | None = None,
    store: str | None = None,
) -> tuple[Path, str | None]:
    """Write a trained model as a folder, and upload it if ``repo`` is given.

    Args:
        experiment: from ``load``.
        backbone: one of the experiment's.
        out: a new folder.
        method: ``finetune``, or a head on frozen embeddings.
        seed: one of the experiment's; None takes the first.
        repo: repository of the Hugging Face hub, ``ORG/NAME``; needs the user's token.
        store: overrides the experiment's.

    Returns: the folder, and the address of the upload.

    Raises:
        UsageError: a name is unknown, the model is not trained yet, the folder is not empty, or
            the token is missing.
    """
    from benchmark.exporting import folder as exporting

    if repo:
        exporting.check_push(repo)
    with open_readable(experiment, store=store) as context:
        folder = exporting.export(
            context, backbone=backbone, method=method, seed=seed, out=Path(out)
        )
    return folder, exporting.push(folder, repo) if repo else None


def describe_export(folder: str | Path) -> tuple[str, str]:
    """Return the kind of an exported folder (pipeline, program or package), and one line about it.

    Raises:
        UsageError: it was not exported.
    """
    from benchmark.exporting.running import read_description
    from benchmark.exporting.usage import summarise

    description = read_description(folder)
    return description["kind"], summarise(description)


def status(
    experiment: Experiment, *, store: str | None = None, verify: bool = False
) -> list[CellResult]:
    """Return the status of every cell of every stage; compute and write nothing.

    Args:
        experiment: from ``load``.
        store: overrides the experiment's.
        verify: read every file of complete cells and compare it with its checksum.
    """
    with open_readable(experiment, store=store) as context:
        results = [result for entry in STAGES for result in entry.load().status(context)]
        return [verified(result) for result in results] if verify else results


def plan(
    experiment: Experiment,
    *,
    store: str | None = None,
    address: str | None = None,
    stage: str | None = None,
) -> tuple[list[CellResult], Estimate]:
    """Return the status of every cell, and an estimate of what is left; compute nothing.

    Args:
        experiment: from ``load``.
        store: overrides the experiment's.
        address: of the cluster whose rates count; None: this machine's.
        stage: estimate only this stage.
    """
    with open_readable(experiment, store=store) as context:
        results = [result for entry in STAGES for result in entry.load().status(context)]
        rates = Rates(Cluster(address).place)
        return results, estimate(context, results, rates, stage=stage)


def scores(experiment: Experiment, *, store: str | None = None) -> pd.DataFrame:
    """Return the scores as a pandas frame in long format (the columns of ``tables.SCORES``).

    Raises:
        BenchmarkError: the scores are not computed yet.
    """
    with open_readable(experiment, store=store) as context:
        artefact = context.scores()
        if not artefact.is_complete:
            raise BenchmarkError(
                f"{experiment.path}: there are no scores in '{context.store.uri}' yet; run it first"
            )
        frame: pd.DataFrame = artefact.read_table(names=["scores.parquet"]).to_pandas()
        return frame


def aggregate(
    frames: Mapping[str, pd.DataFrame],
    *,
    metric: str = "balanced_accuracy",
    split: str = "test",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Summarise the methods that several data sets or regions have in common, best first.

    Args:
        frames: the scores of each data set, from ``scores``, by its name.
        metric: higher must be better.
        split: ``test`` or ``val``.
        confidence: of the intervals.

    Returns:
        One row for each backbone and method: mean rank, interquartile mean of normalised scores and
        chance to beat the leader, with intervals (see ``statistics.aggregates``).

    Raises:
        BenchmarkError: there are fewer than two data sets or common methods, or no scale.
    """
    import numpy as np
    import pandas as pd

    from benchmark.statistics.aggregates import summarise_sets

    wanted = []
    for frame in frames.values():
        rows = frame[(frame["metric"] == metric) & (frame["split"] == split)]
        wanted.append(rows.groupby(["backbone", "method"])["value"].apply(list))
    common = sorted(set.intersection(*(set(item.index) for item in wanted))) if wanted else []
    if len(wanted) < 2 or len(common) < 2:
        raise BenchmarkError(
            f"aggregate: {len(wanted)} data sets have {len(common)} methods with '{metric}' on "
            f"'{split}' in common; give at least two of each"
        )
    num_runs = min(len(item[key]) for item in wanted for key in common)
    runs = [np.array([item[key][:num_runs] for item in wanted]) for key in common]
    try:
        found = summarise_sets(runs, confidence=confidence, seed=0)
    except ValueError as error:
        raise BenchmarkError(f"aggregate: {error}") from None
    names = [{"backbone": backbone, "method": method} for backbone, method in common]
    table = pd.DataFrame([name | row for name, row in zip(names, found, strict=True)])
    return table.sort_values("mean_rank", ignore_index=True)


def _path_of(context: Context, stage: str) -> str | None:
    if stage == "patches":
        artefact, name = context.patches, None
    elif stage == "evaluate":
        artefact, name = context.scores(), "scores.parquet"
    elif stage == "report":
        artefact, name = context.report(), "index.html"
    else:
        return None
    if not artefact.is_complete:
        return None
    return artefact.file_uri(name) if name else artefact.uri
