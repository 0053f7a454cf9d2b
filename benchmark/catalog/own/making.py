"""Make an entry of each kind from own code: an entry, or a plain function or class."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from benchmark.catalog.own.adapters import (
    SEED_NAMES,
    Member,
    OwnBackbone,
    OwnHead,
    OwnMetric,
    OwnReader,
    OwnSuggest,
    SpaceSuggest,
    is_ours,
    parameters_of,
)
from benchmark.catalog.own.loading import Reference, checked, identity, own_errors
from benchmark.catalog.own.settings import check_settings, identify_settings
from benchmark.catalog.own.source import Target, describe
from benchmark.catalog.scalers import SCALERS
from benchmark.errors import CellError, UsageError
from benchmark.fields import shown
from benchmark.spaces import corners
from benchmark.specs import Backbone, Dataset, Head, Metric

Entry: TypeAlias = Backbone | Head | Metric | Dataset
Kind: TypeAlias = Literal["backbone", "head", "metric", "dataset"]

KINDS: Mapping[Kind, type[Any]] = {
    "backbone": Backbone,
    "head": Head,
    "metric": Metric,
    "dataset": Dataset,
}

READER_SETTINGS = frozenset(
    {"purity", "val_regions", "test_regions", "val_fraction", "test_fraction", "bands"}
    | {"value_range"}
)
"""The optional ``[dataset]`` settings that an own reader may use."""


def make_entry(
    kind: Kind,
    name: str,
    reference: Reference,
    settings: Mapping[str, Any],
    *,
    search: Mapping[str, Any],
    where: str,
) -> Any:
    """Return the entry that own code is, or is made into.

    Args:
        kind: of the entry.
        name: what the user wrote.
        reference: to the code.
        settings: the user's settings for the function.
        search: the search space of a head that the user wrote, which replaces that of the code.
        where: start of each message.

    Raises:
        UsageError: the code cannot be imported or is of another kind, or a setting is wrong.
    """
    place = f"{where}: {kind} '{name}'" if where else f"{kind} '{name}'"
    with checked(place):
        found = reference.load()
    if isinstance(found, tuple(KINDS.values())):
        if not isinstance(found, KINDS[kind]):
            raise UsageError(f"{place} is a {type(found).__name__}, not a {KINDS[kind].__name__}")
        if settings or search:
            raise UsageError(
                f"{place} is an entry, which takes no settings and no search: name a function, or "
                "write them into the entry"
            )
        return _behind(found, name, identity(reference), lambda key: Member(reference, key))
    if not callable(found):
        raise UsageError(
            f"{place} is {shown(found, 100)}; name a function, a class or a "
            f"bm.{KINDS[kind].__name__}"
        )
    with checked(place):
        if kind == "head":
            return _make_head(name, reference, dict(settings), dict(search), place)
        return _MAKERS[kind](name, reference, dict(settings), place)


def register_entry(entry: Entry, wrap: Callable[[str, Any], Any], own: Mapping[str, Any]) -> Any:
    """Return an entry of Python, with each function wrapped so that workers can use it."""
    return _behind(entry, entry.name, own, lambda key: wrap(key, getattr(entry, key)))


def _behind(entry: Any, name: str, own: Mapping[str, Any], wrap: Callable[[str], Any]) -> Any:
    """Return an entry whose functions are replaced by wrapped ones."""
    changes: dict[str, Any] = {
        item.name: wrap(item.name)
        for item in fields(entry)
        if callable(value := getattr(entry, item.name))
        and not str(getattr(value, "__module__", "")).startswith(("builtins", "benchmark."))
    }
    if isinstance(entry, Dataset) and "open" in changes:
        changes["open"] = OwnReader(name, changes["open"])
    return replace(entry, name=name, own=dict(own), **changes)


def _beside(reference: Reference, function: Any, name: str, default: Any) -> Any:
    """Return an attribute of a function, or the constant of its module, e.g. ``IMAGE_SIZE``."""
    module = sys.modules[reference.target.module]
    for holder, key in ((function, name), (module, name.upper())):
        found = getattr(holder, key, None)
        if found is not None and not callable(found):
            return found
    return default


def _make_backbone(
    name: str, reference: Reference, settings: dict[str, Any], place: str
) -> Backbone:
    function = reference.load()
    check_settings(function, settings, num_fixed=1, where=f"{place}: {describe(reference.target)}")
    values = {
        key: _beside(reference, function, key, default)
        for key, default in (("image_size", None), ("bands", None), ("mean", 0.0), ("std", 1.0))
    }
    size, bands = values["image_size"], values["bands"]
    if size is not None and (type(size) is not int or not 8 <= size <= 4096):
        raise UsageError(f"{place}: image_size = {shown(size, 100)}: give a side of 8 to 4096 px")
    if bands is not None and (
        isinstance(bands, str) or not all(isinstance(item, str) for item in bands) or not bands
    ):
        raise UsageError(f"{place}: bands = {shown(bands, 100)}: give a tuple of names")
    mean, std = (_numbers(values[key], key, bands, place) for key in ("mean", "std"))
    if not all(value > 0 for value in std):
        raise UsageError(f"{place}: std = {shown(std, 100)}: give numbers above 0")
    build = OwnBackbone(name, reference, settings)
    num_bands = len(bands) if bands else 3
    facts = _describe_network(name, reference, json.dumps(settings, sort_keys=True), num_bands)
    return Backbone(
        name=name,
        description="own code",
        family="own",
        build=build,
        dim=None,
        num_parameters=facts[0],
        is_trainable=facts[1],
        source=describe(reference.target),
        license="own",
        image_size=size,
        bands=None if bands is None else tuple(bands),
        mean=mean,
        std=std,
        own={**identity(reference), **identify_settings(settings)},
    )


def _numbers(value: Any, key: str, bands: Any, place: str) -> tuple[float, ...]:
    """Return a mean or standard deviation: one for all bands, or one for each."""
    given = (value,) if isinstance(value, (int, float)) else value
    try:
        found = tuple(float(item) for item in given)
    except (TypeError, ValueError):
        found = ()
    if len(found) not in (1, len(bands or ())):
        raise UsageError(
            f"{place}: {key} = {shown(value, 100)}: give one number, or one for each of its bands"
        )
    return found


@lru_cache(maxsize=256)
def _describe_network(
    name: str, reference: Reference, settings: str, num_bands: int
) -> tuple[int, bool]:
    """Return the number of parameters of a network, and whether any can be trained."""
    try:
        network = OwnBackbone(name, reference, json.loads(settings))(num_bands)
    except CellError as error:
        raise CellError(f"built for {num_bands} bands: {error}") from None
    parameters = list(network.parameters())
    return sum(item.numel() for item in parameters), any(item.requires_grad for item in parameters)


def _make_head(
    name: str,
    reference: Reference,
    settings: dict[str, Any],
    search: dict[str, Any],
    place: str,
) -> Head:
    function = reference.load()
    what = f"{place}: {describe(reference.target)}"
    build = OwnHead(name, reference, settings)
    own_suggest = OwnSuggest(_find_suggest(reference, function))
    suggest = SpaceSuggest(search) if search else own_suggest
    params, is_searched = _draw(suggest)
    if both := sorted(settings.keys() & params.keys()):
        raise UsageError(f"{what}: '{both[0]}' is a setting and is searched: remove one of them")
    _check_scaler(function, {**settings, **search}, what)
    named = {**settings, **dict.fromkeys(search)}
    if is_ours("scaler", parameters_of(function) or {}):
        named.pop("scaler", None)
    check_settings(function, named, num_fixed=0, given={*params, *SEED_NAMES}, where=what)
    for drawn in corners(search) if search else [params]:
        _check_parameters(build(drawn, 0))
    return Head(
        name=name,
        description=f"own code: {describe(reference.target)}",
        suggest=suggest,
        build=build,
        is_searched=is_searched,
        own={
            **identity(reference),
            **identify_settings(settings),
            **({"search": search} if search else {}),
        },
    )


def _check_scaler(function: Any, given: Mapping[str, Any], what: str) -> None:
    """Refuse a scaler that is none of ours."""
    if "scaler" not in given or not is_ours("scaler", parameters_of(function) or {}):
        return
    value = given["scaler"]
    names = [value] if isinstance(value, str) else value
    if isinstance(names, Mapping) or not all(item in SCALERS for item in names):
        raise UsageError(
            f"{what}: scaler = {shown(value, 100)}: the scalers are {', '.join(SCALERS)}"
        )


def _check_parameters(estimator: Any) -> None:
    """Let scikit-learn check the parameters of an estimator, which it otherwise does in ``fit``.

    Raises:
        CellError: scikit-learn's own error, which names the parameter and what it may be.
    """
    if hasattr(estimator, "steps"):
        estimator = estimator[-1]
    for item in (estimator, getattr(estimator, "estimator", None)):
        check = getattr(item, "_validate_params", None)
        if str(type(item).__module__).startswith("sklearn.") and callable(check):
            with own_errors():
                check()


def _find_suggest(reference: Reference, function: Any) -> Reference | None:
    """Return the search space of a head: its attribute, or ``suggest_NAME`` or ``suggest``."""
    module, attribute = reference.target
    if callable(getattr(function, "suggest", None)):
        names = [f"{attribute}.suggest"]
    else:
        names = [f"suggest_{attribute}", "suggest"]
    for name in names:
        other = replace(reference, target=Target(module, name))
        try:
            if callable(other.load()):
                return other
        except CellError:
            continue
    return None


def _draw(suggest: OwnSuggest | SpaceSuggest) -> tuple[dict[str, Any], bool]:
    """Return one configuration, and whether there is anything to search."""
    if isinstance(suggest, OwnSuggest) and suggest.function is None:
        return {}, False
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    optuna.logging.set_verbosity(verbosity)
    params = suggest(trial)
    return params, bool(trial.distributions)


def _make_metric(name: str, reference: Reference, settings: dict[str, Any], place: str) -> Metric:
    function = reference.load()
    what = f"{place}: {describe(reference.target)}"
    takes_labels = takes_two(function)
    check_settings(function, settings, num_fixed=2 if takes_labels else 1, where=what)
    direction = getattr(function, "direction", "higher")
    if direction not in ("higher", "lower"):
        raise UsageError(f"{what}: direction = {shown(direction, 100)}: write higher or lower")
    is_per_class = bool(getattr(function, "is_per_class", False))
    return Metric(
        name=name,
        description=f"own code: {describe(reference.target)}",
        compute=OwnMetric(name, reference, takes_labels, is_per_class, settings),
        is_per_class=is_per_class,
        direction="lower" if direction == "lower" else "higher",
        own={**identity(reference), **identify_settings(settings)},
    )


def takes_two(function: Any) -> bool:
    """Return whether a metric takes (y_true, y_pred); otherwise it takes counts (K, K)."""
    parameters = parameters_of(function)
    needed = [
        item
        for item in (parameters or {}).values()
        if item.default is item.empty
        and item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
    ]
    return parameters is None or len(needed) == 2


def _make_dataset(name: str, reference: Reference, settings: dict[str, Any], place: str) -> Dataset:
    what = f"{place}: {describe(reference.target)}"
    check_settings(reference.load(), settings, num_fixed=1, where=what)
    return Dataset(
        name=name,
        description=f"own code: {describe(reference.target)}",
        open=OwnReader(name, reference),
        settings=READER_SETTINGS,
        own={**identity(reference), **identify_settings(settings)},
    )


_MAKERS: Mapping[str, Callable[[str, Reference, dict[str, Any], str], Any]] = {
    "backbone": _make_backbone,
    "metric": _make_metric,
    "dataset": _make_dataset,
}
