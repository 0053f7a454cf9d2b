"""Look up and check the names in an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.catalog.datasets import find_dataset
from benchmark.catalog.derived.resolve import resolve_derived
from benchmark.catalog.heads import HEADS
from benchmark.catalog.huggingface.resolve import PREFIX
from benchmark.catalog.metrics import METRICS
from benchmark.catalog.options import options_where
from benchmark.catalog.own.lookup import find_entry
from benchmark.catalog.own.source import search_folders
from benchmark.catalog.products.resolve import PRODUCT_PREFIX
from benchmark.catalog.references import resolve_reference
from benchmark.catalog.roots.address import check_root, refuse_secrets
from benchmark.catalog.variants import find_variants
from benchmark.config import Experiment
from benchmark.derived import in_order, parents_of
from benchmark.errors import UsageError, did_you_mean
from benchmark.fields import shown
from benchmark.finetune_settings import FinetuneConfig
from benchmark.prices import read_prices
from benchmark.specs import PREPROCESSING, Backbone, Dataset, Head, Metric
from benchmark.variants import leaders

COMMON_DATASET_SETTINGS = frozenset(
    {
        *("name", "root", "patch_size", "seed", "on_error"),
        *("per_region", "per_class", "sampling", "rare_class_boost"),
    }
)


def check_names(experiment: Experiment) -> None:
    """Check the names of data set, backbones, heads and settings in an experiment.

    Raises:
        UsageError: a name is unknown, or a setting does not apply to the data set.
    """
    where = experiment.path
    dataset = resolve_dataset(experiment, where=f"{where} [dataset]")
    _check_root(experiment, dataset, where=f"{where} [dataset]")
    backbones = resolve_backbones(experiment, where=where)
    resolve_heads(experiment, where=where)
    resolve_metrics(experiment, where=f"{where} [evaluate]")
    resolve_reference(experiment, where=f"{where} [report]")
    read_prices(experiment.report.prices, where=f"{where} [report]")
    if experiment.finetune is not None:
        _check_finetune(experiment.finetune, backbones, where=f"{where} [finetune]")
    allowed = COMMON_DATASET_SETTINGS | dataset.settings | dataset.digested | {"settings"}
    has_labels = experiment.dataset.labels is not None
    allowed |= dataset.beside_labels if has_labels else frozenset()
    for key in sorted(experiment.dataset.model_fields_set - allowed):
        unless = " without 'labels'" if key in dataset.beside_labels else ""
        raise UsageError(
            f"{where} [dataset]: '{key}' does not apply to the data set '{dataset.name}'{unless}; "
            "remove it"
        )


def _check_root(experiment: Experiment, dataset: Dataset, *, where: str) -> None:
    root = experiment.dataset.root
    if dataset.own is None:
        check_root(root, where=where, reads_remote=dataset.reads_remote)
    else:
        # A reader of the user's own may take any address.
        refuse_secrets(root, where=where)


def resolve_backbones(experiment: Experiment, *, where: str = "") -> tuple[Backbone, ...]:
    """Return the entries of an experiment's backbones, with their options applied.

    Raises:
        UsageError: a name or an option is wrong, or two names are the same model and options.
    """
    options, folders = experiment.backbone, search_folders(experiment.path)
    for name in options:
        _check_model(experiment, name, where=where)
    resolved: dict[str, tuple[Backbone, ...]] = {}
    named: dict[str, Backbone] = {}
    for name in in_order(experiment):
        given = options.get(name)
        if given is not None and parents_of(given):
            parents = [named[item] for item in parents_of(given)]
            resolved[name] = (resolve_derived(name, given, parents, where=where),)
        else:
            resolved[name] = find_variants(name, where=where, options=given, folders=folders)
        for backbone in resolved[name]:
            if backbone.name in named:
                raise UsageError(
                    f"{where}: {shown(backbone.name, 150)} is both a name in 'backbones' and a "
                    "variant that layers or poolings are listed for; rename or remove one"
                )
            named[backbone.name] = backbone
    found: dict[tuple[Any, ...], Backbone] = {}
    for backbone in (item for name in experiment.backbones for item in resolved[name]):
        twin = found.setdefault(_identity(backbone), backbone)
        if twin is not backbone:
            same = "checkpoint" if backbone.folder else f"model '{backbone.model}'"
            same = "embeddings" if backbone.product or backbone.derived else same
            raise UsageError(
                f"{where}: backbones '{twin.name}' and '{backbone.name}' are the same {same} with "
                "the same options; remove one, or change its options"
            )
    return tuple(found.values())


def _identity(backbone: Backbone) -> tuple[Any, ...]:
    """Return what tells backbones of one experiment apart: their artefacts are others."""
    # Settings of own code hold lists and tables, which are no keys.
    options = repr(backbone.options), repr(backbone.own)
    if backbone.derived is not None:
        return backbone.identity, *options
    if backbone.folder is None and backbone.product is None:
        return backbone.model, *options
    fields = tuple(getattr(backbone, name) for name in PREPROCESSING)
    return backbone.identity, backbone.revision(), fields, *options


def _check_model(experiment: Experiment, name: str, *, where: str) -> None:
    """Refuse a model for a name that is a model itself, and a model that is a name of the file."""
    model, place = experiment.backbone[name].model, options_where(name, where)
    if model is None:
        return
    # A folder or product may be given its new place, and keeps its name in the results.
    is_place = model != name and any(
        name.startswith(prefix) and model.startswith(prefix) for prefix in (PREFIX, PRODUCT_PREFIX)
    )
    if ":" in name and not is_place:
        raise UsageError(
            f"{place}: 'model' = {shown(model)}: names with ':' are models themselves; remove "
            "'model', or choose a name without ':'"
        )
    if model == name or experiment.model_of(model) != model:
        raise UsageError(
            f"{place}: 'model' = {shown(model)} is a name of this file; write the model itself"
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
            search=options[name].search if name in options else None,
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
    return find_dataset(
        config.name,
        where=where,
        folders=search_folders(experiment.path),
        settings=config.settings,
    )


def _check_finetune(config: FinetuneConfig, backbones: Sequence[Backbone], *, where: str) -> None:
    """Refuse backbones that cannot be fine-tuned; the message names those that can."""
    # The name of a network stands for its first variant.
    names = [item.group or item.name for item in leaders(backbones)]
    names += [item.name for item in backbones if item.group]
    can = [item.group or item.name for item in leaders(backbones) if item.is_trainable]
    able = {*can, *(item.name for item in backbones if item.is_trainable)}
    known = f"those that can: {', '.join(can)}" if can else "none of the experiment's backbones can"
    for name in config.backbones or ():
        if name not in names:
            raise UsageError(
                f"{where}: backbone '{name}' is not among the experiment's backbones."
                f"{did_you_mean(name, names)}"
            )
        if name not in able:
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
