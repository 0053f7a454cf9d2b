"""Load an experiment, run it, read and export its results: for the commands and for Python."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.catalog.names import (
    check_names,
    resolve_backbones,
    resolve_dataset,
    resolve_heads,
    resolve_metrics,
)
from benchmark.catalog.references import resolve_reference
from benchmark.cluster.connection import Cluster
from benchmark.cluster.metering import MeteredProgress
from benchmark.config import Experiment
from benchmark.environment import check_environment
from benchmark.errors import CellError
from benchmark.experiment import file as experiment_file
from benchmark.experiment.cells import verified
from benchmark.experiment.context import Context
from benchmark.experiment.costs import find_costs, wants_costs
from benchmark.experiment.rates import Rates
from benchmark.prices import read_prices
from benchmark.progress import LoggedProgress, Progress, heard_by
from benchmark.results import CellResults, DataCard, RunResult
from benchmark.stages import STAGES
from benchmark.stages.estimating import Estimate, estimate
from benchmark.stages.running import run_stages
from benchmark.store.artefacts import Store
from benchmark.store.filesystems import join
from benchmark.tracking.addresses import find_address
from benchmark.tracking.trackers import check_trackers, track

if TYPE_CHECKING:
    from collections.abc import Iterator

    import geopandas as gpd  # type: ignore[import-untyped]

    from benchmark.stages.base import StageResult


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Load an experiment file and check every name in it.

    Args:
        path: the TOML file, or one that a run kept in its store (``STORE/experiments``); a path,
            or a URI of a store's file system (``s3://...``).
        overrides: ``KEY=VALUE`` settings, e.g. ``embed.batch_size=64``.

    Raises:
        UsageError: the file, a setting or a name is wrong.
    """
    experiment = experiment_file.load(path, overrides)
    check_names(experiment)
    find_address(experiment)
    return experiment


def build(**settings: Any) -> Experiment:
    """Build an experiment without a file, with the settings and the checks of one.

    Args:
        **settings: as in a file: ``name``, ``backbones``, ``dataset``, ``heads``, ``store``, ...;
            a section is a dict, and ``dataset`` may be arrays (``from_arrays``), which are written
            into a folder of the store.

    Raises:
        UsageError: a setting or a name is unknown or wrong, or the arrays cannot be written.

    Example:
        >>> images = {"name": "folder", "root": "images"}
        >>> bm.build(name="mine", backbones=["mean_color"], dataset=images)
        <Experiment 'mine': 1 backbone x 4 heads x 1 seed on folder>
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
    find_address(experiment)
    with nullcontext(address) if isinstance(address, Cluster) else Cluster(address) as cluster:
        context = Context(
            experiment=experiment,
            dataset=resolve_dataset(experiment),
            backbones=resolve_backbones(experiment),
            heads=resolve_heads(experiment),
            metrics=resolve_metrics(experiment),
            reference=resolve_reference(experiment),
            prices=read_prices(experiment.report.prices, where=f"{experiment.path} [report]"),
            store=Store(store or experiment.store),
            cluster=cluster,
            progress=MeteredProgress(progress or LoggedProgress(), experiment=experiment.name),
        )
        with context.leases, heard_by(progress) if progress else nullcontext():
            yield context


@contextmanager
def open_readable(
    experiment: Experiment, *, store: str | None = None, progress: Progress | None = None
) -> Iterator[Context]:
    """Open a context to read from a store, which must answer within seconds."""
    with open_context(experiment, store=store, progress=progress) as context:
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
    """Check the data, classes, store and bands of an experiment; start and compute nothing.

    Raises:
        UsageError: one of them is wrong.
    """
    check_trackers(experiment)
    with open_readable(experiment, store=store) as context:
        context.store.check_writable()
        for name in ("patches", "embed", "report"):
            STAGES.get(name).load().check(context)


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
    check_trackers(experiment)
    with _open_recorded(experiment, store, address, progress) as context:
        results = run_stages(context)
        track(context)
        stage_cells = CellResults(cell for result in results for cell in result.cells)
        return RunResult(
            store=context.store.uri,
            scores=_path_of(context, "evaluate"),
            report=_path_of(context, "report"),
            cells=CellResults(item for item in stage_cells if item.cell.method is not None),
            stage_cells=stage_cells,
            tables=[table for result in results for table in result.tables],
            usages=list(context.usages),
            costs=find_costs(context) if wants_costs(context) else [],
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
    is_last = name == STAGES.names()[-1]
    if is_last:
        check_trackers(experiment)
    with _open_recorded(experiment, store, address, progress) as context:
        result = entry.load().run(context)
        if is_last:
            track(context)
        return result, _path_of(context, name) or join(context.store.uri, name)


@contextmanager
def open_patches(
    experiment: Experiment,
    *,
    store: str | None = None,
    address: str | Cluster | None = None,
    progress: Progress | None = None,
) -> Iterator[Context]:
    """Open a context whose patches are complete: the stage ``patches`` runs if they are not.

    Raises:
        UsageError: the user's input is wrong.
        CellError: the patches cannot be computed.
    """
    with open_readable(experiment, store=store, progress=progress) as context:
        if context.patches.is_complete:
            yield context
            return
    result, _ = run_stage("patches", experiment, store=store, address=address, progress=progress)
    for cell in result.cells:
        if cell.status != "complete":
            raise CellError(f"{experiment.path}: there are no patches: {cell.reason}")
    with open_context(experiment, store=store, progress=progress) as context:
        yield context


def describe(
    experiment: Experiment,
    *,
    store: str | None = None,
    address: str | Cluster | None = None,
    progress: Progress | None = None,
) -> DataCard:
    """Return the data card of an experiment's patches, which are sampled first if needed.

    Args:
        experiment: from ``load``.
        store: overrides the experiment's.
        address: of the cluster that samples the patches.
        progress: receives the progress.

    Raises:
        UsageError: the user's input is wrong.
        CellError: the patches cannot be computed, or are damaged.
    """
    from benchmark.stages.describing import describe as describe_patches

    with open_patches(experiment, store=store, address=address, progress=progress) as context:
        return DataCard(experiment.name, *describe_patches(context))


def footprints(
    experiment: Experiment,
    *,
    cell: str | None = None,
    store: str | None = None,
    address: str | Cluster | None = None,
    progress: Progress | None = None,
) -> gpd.GeoDataFrame:
    """Return an experiment's patches as a frame of shapes; they are sampled first if needed.

    Args:
        experiment: from ``load``.
        cell: whose predictions and errors are joined: ``BACKBONE/METHOD``, of the first seed, or
            ``BACKBONE/METHOD/seedN``; None: the leader, or none if nothing is evaluated.
        store: overrides the experiment's.
        address: of the cluster that samples the patches.
        progress: receives the progress.

    Returns: as ``stages.footprints.read_footprints``.

    Raises:
        UsageError: the cell is unknown or not complete, or no patch has coordinates.
        CellError: the patches cannot be computed, or a file cannot be read.
    """
    from benchmark.stages.footprints import find_cell, read_footprints

    with open_patches(experiment, store=store, address=address, progress=progress) as context:
        return read_footprints(context, find_cell(context, cell))


def export(
    experiment: Experiment,
    *,
    backbone: str,
    out: str | Path,
    method: str = "finetune",
    seed: int | None = None,
    format: str = "folder",
    repo: str | None = None,
    store: str | None = None,
) -> tuple[Path, str | None]:
    """Write a trained model as a folder, and upload it if ``repo`` is given.

    Args:
        experiment: from ``load``.
        backbone: one of the experiment's.
        out: a new folder.
        method: ``finetune`` (``finetune-MODE`` with ``modes``), or a head on frozen embeddings.
        seed: one of the experiment's; None takes the first.
        format: ``folder``, or ``onnx`` for one graph.
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
            context, backbone=backbone, method=method, seed=seed, out=Path(out), format=format
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
) -> CellResults:
    """Return the status of every cell of every stage; compute and write nothing.

    Args:
        experiment: from ``load``.
        store: overrides the experiment's.
        verify: read every file of complete cells and compare it with its checksum.
    """
    with open_readable(experiment, store=store) as context:
        results = [result for entry in STAGES for result in entry.load().status(context)]
        return CellResults(map(verified, results) if verify else results)


def plan(
    experiment: Experiment,
    *,
    store: str | None = None,
    address: str | None = None,
    stage: str | None = None,
) -> tuple[CellResults, Estimate]:
    """Return the status of every cell, and an estimate of what is left; compute nothing.

    Args:
        experiment: from ``load``.
        store: overrides the experiment's.
        address: of the cluster whose rates count; None: this machine's.
        stage: estimate only this stage.
    """
    with open_readable(experiment, store=store) as context:
        results = CellResults(result for entry in STAGES for result in entry.load().status(context))
        rates = Rates(Cluster(address).place)
        return results, estimate(context, results, rates, stage=stage)


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
