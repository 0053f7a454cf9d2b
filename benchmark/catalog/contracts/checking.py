"""Run the contract tests of an entry that is named or given."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.catalog.backbones import SOURCES, find_backbone
from benchmark.catalog.contracts.checks import Checked, run_checks
from benchmark.catalog.datasets import find_dataset, is_public
from benchmark.catalog.options import feed
from benchmark.catalog.own.adapters import parameters_of
from benchmark.catalog.own.loading import checked, refer
from benchmark.catalog.own.lookup import FORM, GROUPS, find_entry, more_names
from benchmark.catalog.own.making import KINDS, Kind
from benchmark.catalog.own.source import parse, search_folders
from benchmark.catalog.torchgeo.models import RCF, TORCHGEO_PREFIX
from benchmark.config import DatasetConfig, build
from benchmark.errors import UsageError, did_you_mean
from benchmark.options import BackboneOptions
from benchmark.products import PlacedProduct

if TYPE_CHECKING:
    from benchmark.registry import Registry
    from benchmark.specs import Backbone, Dataset, Head, Metric


def check_entry(
    entry: Backbone | Head | Metric | Dataset | str,
    catalogs: Sequence[Registry[Any]],
    *,
    kind: Kind | None = None,
    settings: Mapping[str, Any],
) -> list[Checked]:
    """Run the contract tests of an entry and return their results.

    Args:
        entry: an entry, or a name as in an experiment file.
        catalogs: of built-in entries.
        kind: of the entry; None: found from it.
        settings: keyword arguments of a function; those that are settings of ``[dataset]`` or
            ``image_size`` and ``bands`` of a backbone are applied as such.

    Raises:
        UsageError: the name is unknown, or the code or a setting is wrong.
    """
    return list(iterate_checks(entry, catalogs, kind=kind, settings=settings))


def iterate_checks(
    entry: Backbone | Head | Metric | Dataset | str,
    catalogs: Sequence[Registry[Any]],
    *,
    kind: Kind | None = None,
    settings: Mapping[str, Any],
) -> Iterator[Checked]:
    """Yield the results of ``check_entry`` one by one."""
    if kind is not None and kind not in KINDS:
        raise UsageError(f"check: unknown kind '{kind}'.{did_you_mean(kind, KINDS)}")
    if isinstance(entry, str):
        kind = kind or find_kind(entry, catalogs)
    else:
        kind = next((key for key, item in KINDS.items() if isinstance(entry, item)), None)
        if kind is None:
            raise UsageError(
                f"check: a {type(entry).__name__} is no bm.Backbone, bm.Head, bm.Metric or "
                "bm.Dataset"
            )
    options, rest = _split(kind, settings)
    registry = next(item for item in catalogs if item.kind == kind)
    found = entry
    if isinstance(entry, str) and kind == "backbone":
        found = find_backbone(entry, where="check", options=_options(options, rest))
        options = {}
    elif isinstance(entry, str) and kind == "dataset":
        found = find_dataset(entry, where="check", settings=rest)
    elif isinstance(entry, str):
        found = find_entry(registry, entry, where="check", settings=rest)
    elif rest and kind != "dataset":
        raise UsageError("check: settings are for a function that is named, not for an entry")
    yield from _RUNNERS[kind](found, options, rest)


def find_kind(name: str, catalogs: Sequence[Registry[Any]]) -> Kind:
    """Return the kind of an entry from its name or code.

    Raises:
        UsageError: the name is unknown, of several kinds, or the code does not tell its kind.
    """
    is_model = "/" in name or name == f"{TORCHGEO_PREFIX}{RCF}"
    if is_public(name) and not (name.startswith(TORCHGEO_PREFIX) and is_model):
        return "dataset"
    if name.startswith(tuple(source.partition(":")[0] + ":" for source in SOURCES)):
        return "backbone"
    kinds = [item.kind for item in catalogs if name in item or name in more_names(item.kind)]
    if len(kinds) == 1:
        return kinds[0]  # type: ignore[return-value]
    target = parse(name)
    if target is None:
        what = "is of several kinds: add --kind" if kinds else "is unknown"
        raise UsageError(f"check: '{name}' {what}; own code is written {FORM}")
    reference = refer(target, search_folders(), where=f"check: '{name}'")
    with checked(f"check: '{name}'"):
        found = reference.load()
    for kind, item in KINDS.items():
        if isinstance(found, item):
            return kind
    names = list(parameters_of(found) or {}) if callable(found) else []
    if names[:1] == ["num_bands"] or _is_module_class(found):
        return "backbone"
    if names[:2] == ["y_true", "y_pred"] or names[:1] == ["counts"]:
        return "metric"
    if names[:1] == ["config"]:
        return "dataset"
    if inspect.isclass(found) and hasattr(found, "fit"):
        return "head"
    raise UsageError(f"check: '{name}': add --kind {'|'.join(GROUPS)}: its code does not tell")


def _is_module_class(found: Any) -> bool:
    return inspect.isclass(found) and any(
        f"{item.__module__}.{item.__name__}" == "torch.nn.modules.module.Module"
        for item in found.__mro__
    )


def _split(kind: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of this package, and those of the function."""
    ours = {
        "backbone": {"image_size", "bands", "id_column", "vector_columns"},
        "dataset": set(DatasetConfig.model_fields) - {"name", "settings"},
    }.get(kind, set())
    options = {key: value for key, value in settings.items() if key in ours}
    return options, {key: value for key, value in settings.items() if key not in ours}


def _options(options: dict[str, Any], rest: dict[str, Any]) -> BackboneOptions:
    """Return the options of a backbone.

    Raises:
        UsageError: one is of a wrong type.
    """
    table = {**options, **({"settings": rest} if rest else {})}
    content = {"name": "x", "backbones": ["x"], "dataset": {"name": "x", "root": "x"}}
    return build({**content, "backbone": {"x": table}}, where="check").backbone["x"]


def _check_backbone(
    entry: Backbone, options: dict[str, Any], rest: dict[str, Any]
) -> Iterator[Checked]:
    from benchmark.catalog.contracts.backbones import CHECKS, case_of, kept_threads

    if entry.product is not None:
        from benchmark.catalog.contracts import products

        if isinstance(entry.product, PlacedProduct):
            yield from run_checks(products.PLACED_CHECKS, entry.product)
        else:
            yield from run_checks(products.CHECKS, entry.product)
        return
    if options:
        entry = feed(entry, _options(options, rest), where="check")
    with kept_threads():
        yield from run_checks(CHECKS, case_of(entry))


def _check_head(entry: Head, options: dict[str, Any], rest: dict[str, Any]) -> Iterator[Checked]:
    from benchmark.catalog.contracts.heads import CHECKS, Case, quietly

    del options, rest
    with quietly():
        yield from run_checks(CHECKS, Case(entry))


def _check_metric(
    entry: Metric, options: dict[str, Any], rest: dict[str, Any]
) -> Iterator[Checked]:
    from benchmark.catalog.contracts.metrics import CHECKS, Case

    del options, rest
    yield from run_checks(CHECKS, Case(entry))


def _check_dataset(
    entry: Dataset, options: dict[str, Any], rest: dict[str, Any]
) -> Iterator[Checked]:
    from benchmark.catalog.contracts.datasets import CHECKS, Case

    if "root" not in options:
        raise UsageError("check: a data set needs its folder: --set root=DIR")
    table = {**options, "name": "x", "root": str(Path(options["root"]).resolve()), "settings": rest}
    experiment = build({"name": "x", "backbones": ["x"], "dataset": table}, where="check")
    yield from run_checks(CHECKS, Case(replace(entry), experiment.dataset))


_RUNNERS: Mapping[str, Any] = {
    "backbone": _check_backbone,
    "head": _check_head,
    "metric": _check_metric,
    "dataset": _check_dataset,
}
