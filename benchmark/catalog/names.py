"""Look up and check the names in an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.datasets import DATASETS
from benchmark.catalog.heads import HEADS
from benchmark.catalog.metrics import METRICS
from benchmark.catalog.own.lookup import find_entry
from benchmark.catalog.own.source import search_folders
from benchmark.config import Experiment, FinetuneConfig
from benchmark.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from benchmark.specs import Backbone, Dataset, Head, Metric

COMMON_DATASET_SETTINGS = frozenset(
    {"name", "root", "patch_size", "seed", "per_region", "per_class", "on_error"}
)


def check_names(experiment: Experiment) -> None:
    """Check the names of data set, backbones, heads and settings in an experiment.

    Raises:
        UsageError: a name is unknown, or a setting does not apply to the data set.
    """
    where = experiment.path
    dataset = resolve_dataset(experiment, where=f"{where} [dataset]")
    backbones = resolve_backbones(experiment, where=where)
    resolve_heads(experiment, where=where)
    resolve_metrics(experiment, where=f"{where} [evaluate]")
    if experiment.finetune is not None:
        _check_finetune(experiment.finetune, backbones, where=f"{where} [finetune]")
    allowed = COMMON_DATASET_SETTINGS | dataset.settings | {"settings"}
    for key in sorted(experiment.dataset.model_fields_set - allowed):
        raise UsageError(
            f"{where} [dataset]: '{key}' does not apply to the data set '{dataset.name}'; remove it"
        )


def resolve_backbones(experiment: Experiment, *, where: str = "") -> tuple[Backbone, ...]:
    """Return the entries of an experiment's backbones, with their options applied.

    Raises:
        UsageError: a name or an option is wrong.
    """
    options, folders = experiment.backbone, search_folders(experiment.path)
    return tuple(
        find_backbone(name, where=where, options=options.get(name), folders=folders)
        for name in experiment.backbones
    )


def resolve_heads(experiment: Experiment, *, where: str = "") -> tuple[Head, ...]:
    """Return the entries of an experiment's heads.

    Raises:
        UsageError: a name or a setting is wrong.
    """
    options, folders = experiment.head, search_folders(experiment.path)
    return tuple(
        find_entry(
            HEADS,
            name,
            where=where,
            folders=folders,
            settings=options[name].settings if name in options else None,
        )
        for name in experiment.heads
    )


def resolve_metrics(experiment: Experiment, *, where: str = "") -> tuple[Metric, ...]:
    """Return all metrics of the package, and those that the experiment adds.

    Raises:
        UsageError: a name or a setting is wrong, or a metric is one of the package.
    """
    options, folders = experiment.metric, search_folders(experiment.path)
    found = []
    for name in experiment.evaluate.metrics:
        if name in METRICS:
            raise UsageError(f"{where}: metric '{name}' is always computed; list your own alone")
        given = options[name].settings if name in options else None
        found.append(find_entry(METRICS, name, where=where, folders=folders, settings=given))
    return (*METRICS, *found)


def resolve_dataset(experiment: Experiment, *, where: str = "") -> Dataset:
    """Return the entry of an experiment's data set.

    Raises:
        UsageError: its name or a setting is wrong.
    """
    config = experiment.dataset
    return find_entry(
        DATASETS,
        config.name,
        where=where,
        folders=search_folders(experiment.path),
        settings=config.settings,
    )


def _check_finetune(config: FinetuneConfig, backbones: Sequence[Backbone], *, where: str) -> None:
    """Refuse backbones that cannot be fine-tuned; the message names those that can."""
    names = [item.name for item in backbones]
    can = [item.name for item in backbones if item.is_trainable]
    known = f"those that can: {', '.join(can)}" if can else "none of the experiment's backbones can"
    for name in config.backbones or ():
        if name not in names:
            raise UsageError(
                f"{where}: backbone '{name}' is not among the experiment's backbones."
                f"{did_you_mean(name, names)}"
            )
        if name not in can:
            raise UsageError(
                f"{where}: backbone '{name}' has no weights and cannot be fine-tuned; {known}"
            )
    if config.backbones is None and not any(
        item.is_trainable and not item.is_floor for item in backbones
    ):
        raise UsageError(
            f"{where}: there is nothing to fine-tune: {', '.join(names)} have no weights or belong "
            f"to the floor; {known}. Name one with backbones = [...], or remove the table"
        )
