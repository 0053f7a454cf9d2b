"""The Python interface: what scripts and notebooks call as ``bm.NAME``.

Arguments are checked, a run shows its progress, and a reader without ``store`` looks where the last
run of the experiment in this process wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import api
from benchmark.arguments import check_type, path_text, refuse
from benchmark.bars import progress_of
from benchmark.catalog.datasets import find_dataset
from benchmark.config import Experiment
from benchmark.errors import BenchmarkError, UsageError
from benchmark.frames import index_scores, read_scores
from benchmark.results import CellResults, DataCard, Report, RunResult
from benchmark.stages import STAGES

if TYPE_CHECKING:
    import os

    import geopandas as gpd  # type: ignore[import-untyped]
    import pandas as pd

    from benchmark.progress import Progress

PAGE = "index.html"

_last_stores: dict[str, str] = {}
"""The store of the last run of each experiment in this process, by the experiment as JSON."""


def load(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Experiment:
    """Load an experiment file and check every name in it.

    Args:
        path: the TOML file: a path, or a URI of a store's file system (``s3://...``).
        overrides: ``KEY=VALUE`` settings, e.g. ``["embed.batch_size=64"]``.

    Raises:
        UsageError: the file, a setting or a name is wrong.

    Example:
        >>> exp = bm.load("small.toml", ["tune.num_trials=3"])
        >>> exp
        <Experiment 'small': 1 backbone x 3 heads x 1 seed on chesapeake>
    """
    where = path_text("load: path", path, "give the path of a TOML file")
    advice = 'give a list of settings, e.g. ["embed.batch_size=64"]'
    if isinstance(overrides, (str, bytes)) or not isinstance(overrides, Iterable):
        raise refuse("load: overrides", overrides, advice)
    given = list(overrides)
    for item in given:
        check_type("load: overrides", item, str, advice)
    return api.load(where, given)


def run(
    experiment: Experiment,
    *,
    store: str | os.PathLike[str] | None = None,
    address: str | None = None,
    progress: Progress | bool | None = True,
) -> RunResult:
    """Run all stages, in parallel if the cluster has room; complete artefacts are skipped.

    Args:
        experiment: from ``load``.
        store: overrides the experiment's.
        address: of a Ray cluster; None starts Ray on this machine.
        progress: True shows bars in a notebook or on a terminal, and logs elsewhere; False or
            None only logs, to the ``benchmark`` logger; or an object that receives the progress.

    Raises:
        UsageError: the user's input is wrong. A failed cell does not raise: see ``failed``.

    Example:
        >>> result = bm.run(exp, progress=False)
        >>> result.cells
        <3 cells: 3 complete>
        >>> result.failed
        <0 cells: none>
    """
    _check_experiment("run", experiment)
    where = None if store is None else path_text("run: store", store)
    check_type("run: address", address, (str, type(None)), "give HOST:PORT of a cluster, or None")
    if address is not None and not address.strip():
        raise refuse("run: address", address, "give HOST:PORT of a cluster, or None")
    check_progress("run", progress)
    key, used = experiment.model_dump_json(), where or experiment.store
    _last_stores[key] = used if "://" in used else str(Path(used).absolute())
    try:
        with progress_of(progress) as receiver:
            return api.run(experiment, store=where, address=address, progress=receiver)
    except UsageError:
        # Nothing was written there.
        del _last_stores[key]
        raise


def status(
    experiment: Experiment,
    *,
    store: str | os.PathLike[str] | None = None,
    verify: bool = False,
) -> CellResults:
    """Return the status of every cell of every stage; compute and write nothing.

    Args:
        experiment: from ``load``.
        store: None: that of its last run in this process, else the experiment's.
        verify: read every file of complete cells and compare it with its checksum.

    Example:
        >>> bm.status(exp)
        <7 cells: 7 complete>
    """
    where = store_of("status", experiment, store)
    check_type("status: verify", verify, bool, "give True or False")
    return api.status(experiment, store=where, verify=verify)


def scores(experiment: Experiment, *, store: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return the scores as a pandas frame in long format.

    Args:
        experiment: from ``load``.
        store: None: that of its last run in this process, else the experiment's.

    Returns:
        One row for each cell, split and metric, and for each class where a metric is of one class,
        indexed by ``backbone``, ``method``, ``train_set``, ``seed``, ``split`` and ``metric``:
        ``dataset``, ``class_name``, ``value``, ``ci_low``, ``ci_high``, ``num_patches``,
        ``fingerprint`` (of the scores) and ``artefact``, the folder of the cell (None for all folds
        together).

    Raises:
        BenchmarkError: the scores are not computed yet.

    Example:
        >>> test = bm.scores(exp).xs("test", level="split")
        >>> test.xs("balanced_accuracy", level="metric")["value"].idxmin()[:2]
        ('mean_color', 'majority')
    """
    with api.open_readable(experiment, store=store_of("scores", experiment, store)) as context:
        return index_scores(read_scores(context))


def report(experiment: Experiment, *, store: str | os.PathLike[str] | None = None) -> Report:
    """Return the page of an experiment; it is written first if it is not complete.

    Args:
        experiment: from ``load``.
        store: None: that of its last run in this process, else the experiment's.

    Returns: the page: its ``path`` and ``html``; a notebook shows its ranking and a link.

    Raises:
        BenchmarkError: the scores are not computed yet, or the page cannot be written.

    Example:
        >>> bm.report(exp)
        Report(path='.../report/small-.../index.html')
    """
    where = store_of("report", experiment, store)
    with api.open_readable(experiment, store=where) as context:
        is_complete = context.report().is_complete
        if not is_complete and not context.scores().is_complete:
            raise BenchmarkError(
                f"{experiment.path}: there are no scores in '{context.store.uri}' yet; run it "
                "first, or give the store of its run with store="
            )
    if not is_complete:
        result, _ = api.run_stage("report", experiment, store=where)
        for cell in result.cells:
            if cell.status != "complete":
                raise BenchmarkError(f"{experiment.path}: there is no report: {cell.reason}")
    with api.open_readable(experiment, store=where) as context:
        artefact = context.report()
        html = artefact.read_verified(PAGE).decode()
        tables = STAGES.get("evaluate").load().tables(context)
        return Report(artefact.file_uri(PAGE), html, tables)


def describe(
    experiment: Experiment,
    *,
    store: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = True,
) -> DataCard:
    """Return what an experiment's patches are: counts, pixel values, duplicates, examples, a map.

    The patches are sampled first if they are not in the store; nothing is embedded.

    Args:
        experiment: from ``load``.
        store: None: that of its last run in this process, else the experiment's.
        progress: as for ``run``.

    Returns: the card, which a notebook shows; ``write(FOLDER)`` writes it as a page and as JSON.

    Raises:
        UsageError: the user's input is wrong.
        BenchmarkError: the patches cannot be computed.

    Example:
        >>> card = bm.describe(exp, progress=False)
        >>> card.write("card")
        PosixPath('card/small-data-card.html')
    """
    where = store_of("describe", experiment, store)
    check_progress("describe", progress)
    with progress_of(progress) as receiver:
        return api.describe(experiment, store=where, progress=receiver)


def footprints(
    experiment: Experiment,
    *,
    cell: str | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = True,
) -> gpd.GeoDataFrame:
    """Return an experiment's patches as a frame of shapes, with predictions and errors of a cell.

    The patches are sampled first if they are not in the store.

    Args:
        experiment: from ``load``.
        cell: whose predictions and errors are joined: ``BACKBONE/METHOD``, of the first seed, or
            ``BACKBONE/METHOD/seedN``; None: the leader, or none if nothing is evaluated.
        store: None: that of its last run in this process, else the experiment's.
        progress: as for ``run``.

    Returns:
        One row per patch, indexed by ``patch_id`` and sorted by it: ``class_name``, ``label``,
        ``split``, ``region``, ``scene``, ``row`` and ``col`` (px in the scene), ``lon`` and ``lat``
        (centre), ``purity``, ``is_synthetic``; with a cell also ``cell``, ``predicted``,
        ``confidence`` and ``is_error``, null on patches that it does not predict. ``geometry``
        (EPSG:4326) is the patch's outline, or its centre if no outline is known.

    Raises:
        UsageError: the cell is unknown or not complete, or no patch has coordinates.
        BenchmarkError: the patches cannot be computed.

    Example:
        >>> patches = bm.footprints(exp, cell="mean_color/knn", progress=False)
        >>> patches.query("split == 'test'").to_file("test.gpkg")
    """
    where = store_of("footprints", experiment, store)
    check_progress("footprints", progress)
    if cell is not None:
        check_type("footprints: cell", cell, str, 'give BACKBONE/METHOD, e.g. "mean_color/knn"')
    with progress_of(progress) as receiver:
        frame = api.footprints(experiment, cell=cell, store=where, progress=receiver)
    return frame.set_index("patch_id")


def export(
    experiment: Experiment,
    *,
    backbone: str,
    out: str | os.PathLike[str],
    method: str = "finetune",
    seed: int | None = None,
    format: str = "folder",
    repo: str | None = None,
    store: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a trained model as a folder for ``predict``, and upload it if ``repo`` is given.

    Args:
        experiment: from ``load``.
        backbone: one of the experiment's.
        out: a new folder.
        method: ``finetune`` (``finetune-MODE`` with ``modes``), or a head on frozen embeddings.
        seed: one of the experiment's; None takes the first.
        format: ``folder``, or ``onnx`` for one graph, which needs the extra ``onnx``.
        repo: repository of the Hugging Face hub, ``ORG/NAME``; needs the user's token.
        store: None: that of its last run in this process, else the experiment's.

    Returns: the folder.

    Raises:
        UsageError: a name is unknown, the model is not trained yet, the folder is not empty, or
            the token is missing.

    Example:
        >>> model = bm.export(exp, backbone="mean_color", method="knn", out="model")
        >>> model
        PosixPath('model')
    """
    where = store_of("export", experiment, store)
    check_type("export: backbone", backbone, str, "give the name of a backbone")
    check_type("export: method", method, str, "give 'finetune' or the name of a head")
    check_type("export: seed", seed, (Integral, type(None)), "give a seed of the experiment")
    check_type("export: format", format, str, "give 'folder' or 'onnx'")
    check_type("export: repo", repo, (str, type(None)), "give ORG/NAME, or None")
    folder, _ = api.export(
        experiment,
        backbone=backbone,
        method=method,
        seed=None if seed is None else int(seed),
        out=path_text("export: out", out, "give a new folder"),
        format=format,
        repo=repo,
        store=where,
    )
    return folder


def prepare(
    dataset: str,
    root: str | os.PathLike[str],
    *,
    scenes: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    regions: Sequence[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = True,
) -> Path:
    """Download or copy the source scenes of a data set, or write them for ``synthetic``.

    Args:
        dataset: its name.
        root: folder for the scenes.
        scenes: of ``synthetic`` and ``chesapeake``: number per state.
        size: of ``synthetic``: side of a scene in px.
        seed: of ``synthetic``.
        regions: of ``chesapeake``: copy only these states, e.g. ``["de", "pa"]``.
        source: of ``chesapeake``: folder or URI of unpacked data to copy.
        progress: as for ``run``.

    Returns: the folder.

    Raises:
        UsageError: the data set is unknown or needs no preparation, or an option is wrong.

    Example:
        >>> bm.prepare("synthetic", "scenes", scenes=3, size=256, progress=False)
        PosixPath('scenes')
    """
    check_type("prepare: dataset", dataset, str, "give the name of a data set")
    check_progress("prepare", progress)
    folder = Path(path_text("prepare: root", root))
    given = {"scenes": scenes, "size": size, "seed": seed}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for key, value in options.items():
        check_type(f"prepare: {key}", value, Integral, "give a number")
    entry = find_dataset(dataset, where="prepare")
    if entry.prepare is None:
        raise UsageError(f"prepare: the data set '{dataset}' is your own data and needs no prepare")
    if regions is not None:
        check_type("prepare: regions", regions, (list, tuple), "give a list of states")
        for region in regions:
            check_type("prepare: regions", region, str, "give a list of states")
        options["regions"] = list(regions)
    if source is not None:
        options["source"] = path_text("prepare: source", source)
    for key in sorted(options.keys() - entry.prepare_options):
        raise UsageError(f"prepare: {key} does not apply to the data set '{dataset}'; omit it")
    with progress_of(progress) as receiver:
        return entry.prepare(folder, progress=receiver, **options)


def _check_experiment(function: str, experiment: object) -> None:
    if not isinstance(experiment, Experiment):
        raise refuse(
            f"{function}: experiment", experiment, "give an experiment, from bm.load(PATH)"
        )
    # `model_copy(update=...)` of pydantic checks nothing.
    content = experiment.model_dump(warnings=False)
    Experiment.model_validate({**content, "path": experiment.path})


def check_progress(function: str, progress: object) -> None:
    """Raise UsageError unless an argument is True, False, None or receives progress."""
    if not isinstance(progress, bool | None) and not callable(getattr(progress, "stage", None)):
        raise refuse(f"{function}: progress", progress, "give True, False or a Progress object")


def store_of(
    function: str, experiment: Experiment, store: str | os.PathLike[str] | None
) -> str | None:
    """Return the store to read; None: the experiment's own."""
    _check_experiment(function, experiment)
    if store is not None:
        return path_text(f"{function}: store", store)
    return _last_stores.get(experiment.model_dump_json())
