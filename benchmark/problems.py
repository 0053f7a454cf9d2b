"""Say in one line what is wrong with the settings of an experiment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from benchmark.derived import check_derived
from benchmark.errors import UsageError, did_you_mean, tidy
from benchmark.fields import shown
from benchmark.options import ANY_BACKBONE, short_names
from benchmark.variants import count_variants

NAMED = ("backbone", "head", "metric")
"""Tables of tables, by the name of an entry."""
MAX_CELLS = 1_000_000
"""Backbones times heads times train sets times seeds; a dry run lists them all."""


def options_place(name: str, kind: str = "backbone") -> str:
    """Return the header of the table of an entry's options in the file."""
    return f'[{kind}."{name}"]'


def first_problem(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Return the message of the problem of an experiment that the user should mend first.

    Args:
        error: from pydantic.
        model: of the experiment.
        where: start of the message.
    """
    problems = error.errors(include_url=False)
    # An unknown key often explains a missing one: report it first.
    problems.sort(key=lambda item: item["type"] != "extra_forbidden")
    first = problems[0]
    # Where a number or a table may be given, a fault in the table says more than "is no number".
    outer = first["loc"]
    deeper = [
        item
        for item in problems
        if len(item["loc"]) > len(outer) > 2 and item["loc"][: len(outer) - 1] == outer[:-1]
    ]
    first = deeper[0] if deeper else first
    names = [tidy(part, 200) for part in first["loc"] if isinstance(part, str)]
    num_names = len(names)
    section = ""
    is_named = len(names) > 1 and names[0] in NAMED
    if is_named:
        if names[2:] == ["[key]"]:
            return f"{where} [{names[0]}]: name {shown(first['input'])}: {_plain(first['msg'])}"
        model, section = _table_in(model, names[0]), options_place(names[1], names[0])[1:-1]
        names = names[2:]
    else:
        while names and (inner := _table_of(model, names[0])):
            model, section = inner, f"{section}.{names.pop(0)}".lstrip(".")
    place = f"{where} [{section}]" if section else where
    if not names and is_named:
        return f"{place}: {_plain(first['msg'])}"
    key = names[0] if names else section
    if deeper and names[-1] != "[key]":
        key = f"{key}.{names[-1]}"
    depth = num_names - len(names) + 1
    if first["type"] == "extra_forbidden":
        known = set(model.model_fields) - {"path"}
        return f"{place}: unknown setting '{key}'.{did_you_mean(key, known)}"
    if first["type"] == "missing" and first["loc"] and isinstance(first["loc"][-1], str):
        what = f"setting '{key}'" if names else f"section [{key}]"
        return f"{place}: the {what} is missing"
    if first["type"] in ("invalid_key", "string_unicode") and not names:
        # The location leaves out a key that is no text.
        return f"{place}: key {shown(first['input'])}: {_plain(first['msg'])}"
    # A union has one problem for each of its types; other settings and items have other inputs.
    kinds = [
        item
        for item in problems
        if item["input"] is first["input"] and item["loc"][:depth] == first["loc"][:depth]
    ]
    message = " or ".join(dict.fromkeys(_plain(item["msg"]) for item in kinds))
    return f"{place}: '{key}' = {shown(first['input'])}: {message}"


def check_whole(experiment: Any, where: str) -> None:
    """Refuse options of other entries, too many cells, and settings that contradict each other.

    Args:
        experiment: whose settings are valid one by one.
        where: start of the message.

    Raises:
        UsageError: names the setting.
    """
    listed = (experiment.backbones, experiment.heads, experiment.evaluate.metrics)
    for kind, names in zip(NAMED, listed, strict=True):
        for name in getattr(experiment, kind):
            if name not in names:
                raise UsageError(
                    f"{where} {options_place(name, kind)}: '{name}' is not among the experiment's "
                    f"{kind}s.{did_you_mean(name, names)}"
                )
    check_derived(experiment, where)
    _check_short_names(experiment, where)
    dataset = experiment.dataset
    check_regions(dataset.val_regions, dataset.test_regions, where)
    if dataset.sampling == "balanced" and dataset.rare_class_boost is not None:
        raise UsageError(
            f"{where} [dataset]: 'rare_class_boost' = {shown(dataset.rare_class_boost)} and "
            "'sampling' = 'balanced' contradict each other; remove one"
        )
    training = experiment.finetune
    if training is not None and training.mode and training.modes:
        raise UsageError(
            f"{where} [finetune]: 'mode' = {shown(training.mode)} and 'modes' = "
            f"{shown(list(training.modes))} contradict each other; remove one"
        )
    protocol = experiment.protocol
    num_sets = len(protocol.label_fractions) + len(protocol.shots)
    if protocol.transfer is not None:
        # Of regions that are not known yet, one.
        num_sets += len(protocol.transfer.train) or 1
    if not num_sets:
        raise UsageError(
            f"{where} [protocol]: 'label_fractions' = [] and 'shots' = []: list at least one number"
        )
    if protocol.cross_validation is not None:
        others = protocol.model_dump(mode="json", exclude_defaults=True)
        num_folds = others.pop("cross_validation")
        # Flips divide no patches.
        others.pop("flips", None)
        for key, value in others.items():
            raise UsageError(
                f"{where} [protocol]: '{key}' = {shown(value)} divides the patches of the data's "
                f"splits, which 'cross_validation' = {shown(num_folds)} replaces; remove one"
            )
        num_sets = protocol.cross_validation
    num_backbones = sum(
        count_variants(experiment.backbone.get(name)) for name in experiment.backbones
    )
    num_methods = num_backbones * len(experiment.heads)
    num_cells = num_methods * num_sets * len(experiment.seeds)
    if num_cells > MAX_CELLS:
        raise UsageError(
            f"{where}: backbones x heads x train sets x seeds are {num_cells:,} cells, more than "
            f"{MAX_CELLS:,}; split the experiment"
        )


def _check_short_names(experiment: Any, where: str) -> None:
    """Refuse a name on the page that two backbones would share."""
    try:
        short_names(experiment.backbones, experiment.backbone)
    except ValueError as error:
        (name,) = error.args
        given = experiment.backbone[name].name
        whose = "what depends on no backbone" if given == ANY_BACKBONE else "another backbone"
        raise UsageError(
            f"{where} {options_place(name)}: 'name' = {shown(given)} is the name of {whose}; "
            "choose another"
        ) from None


def check_regions(val: Sequence[str], test: Sequence[str], where: str) -> None:
    """Refuse a split without regions, and regions in two splits.

    Raises:
        UsageError: names the setting.
    """
    for key, regions in (("val_regions", val), ("test_regions", test)):
        if not regions:
            raise UsageError(f"{where} [dataset]: '{key}' = []: list at least one region")
    for region in val:
        if region in test:
            raise UsageError(
                f"{where} [dataset]: region {shown(region, 100)} is in 'val_regions' = "
                f"{shown(list(val))} and in 'test_regions' = {shown(list(test))}; keep it in one"
            )


def _table_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the model of a table; an optional one is a union of its model and None."""
    field = model.model_fields.get(name)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return tables[0] if tables else None


def _table_in(model: type[BaseModel], name: str) -> type[BaseModel]:
    """Return the model of the tables in a table of tables."""
    found: type[BaseModel] = get_args(model.model_fields[name].annotation)[1]
    return found


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a table", message)
    return message[0].lower() + message[1:]
