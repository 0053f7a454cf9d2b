"""Backbones that are made from stored embeddings, by ``concat`` or ``of`` in their table."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from benchmark.errors import UsageError, did_you_mean
from benchmark.fields import shown
from benchmark.variants import name_variants

if TYPE_CHECKING:
    from benchmark.config import Experiment
    from benchmark.options import BackboneOptions
    from benchmark.specs import Backbone

STEPS = ("pca", "random_projection", "truncate")
"""Options that shorten an embedding, in the order in which they are applied."""
KEYS = ("concat", "of", *STEPS, "dtype")
"""The options of ``[backbone."NAME"]`` that belong here."""
FORM = '[backbone."NAME"] concat = ["A", "B"], or of = "A"'
MEANING = "made from stored embeddings of others, never fine-tuned: docs/DERIVED.md"
"""How such a backbone is named, and what it is, for ``benchmark list``."""
MAX_SLUG = 60
"""Characters of a recipe in file names."""
VERSION = 1
"""Increase by hand when a change of the code changes the embeddings."""

Packed = Literal["float16", "int8", "binary"]
Dtype = Literal["float32", Packed]
BITS: Mapping[str, int] = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """How the embeddings of a backbone are made from those of others."""

    parents: tuple[str, ...]
    """Names of backbones of the experiment."""
    is_concat: bool = False
    """Whether the parents are scaled and concatenated; otherwise there is one."""
    steps: tuple[tuple[str, int], ...] = ()
    """What shortens the embedding, in order: a name of ``STEPS`` and the number of dimensions."""
    dtype: Dtype = "float32"
    """Type of the numbers that remain of a value."""
    is_fitted: bool = False
    """Whether it, or a parent, depends on the patches of train."""
    origin: str = ""
    """What identifies the parents, as a part of file names; no part of the identity."""

    @property
    def fits(self) -> bool:
        """Whether it is fitted on train itself."""
        is_quantised = self.dtype in ("int8", "binary")
        return self.is_concat or is_quantised or any(name == "pca" for name, _ in self.steps)

    @property
    def is_drawn(self) -> bool:
        """Whether it depends on the seed of the experiment."""
        return any(name == "random_projection" for name, _ in self.steps)

    @property
    def identity(self) -> dict[str, Any]:
        """Its part of a fingerprint, beside those of the parents."""
        return {
            "kind": "concat" if self.is_concat else "of",
            "steps": [list(step) for step in self.steps],
            "dtype": self.dtype,
            "version": VERSION,
        }

    @property
    def slug(self) -> str:
        """Its part of file names, e.g. ``pca64-int8-efficientnet_lite0``."""
        steps = [f"{name}{size}" for name, size in self.steps]
        kind = ["concat"] if self.is_concat else []
        dtype = [] if self.dtype == "float32" else [self.dtype]
        return "-".join([*kind, *steps, *dtype, self.origin])[:MAX_SLUG]

    @property
    def words(self) -> str:
        """The recipe for users, e.g. ``pca = 64, dtype = int8, of a``."""
        if self.is_concat:
            return f"{' + '.join(self.parents)}, each scaled on train"
        steps = [f"{name} = {size}" for name, size in self.steps]
        dtype = [] if self.dtype == "float32" else [f"dtype = {self.dtype}"]
        return f"{', '.join([*steps, *dtype])}, of {self.parents[0]}"

    def num_bytes(self, dim: int) -> int:
        """Return the bytes of one embedding of ``dim`` values, packed, without shared scales."""
        return -(-dim * BITS[self.dtype] // 8)


def parents_of(options: BackboneOptions | None) -> tuple[str, ...]:
    """Return the names that a backbone is made from; of a network none."""
    if options is None:
        return ()
    return options.concat or (() if options.of is None else (options.of,))


def networks_of(experiment: Experiment) -> dict[str, str]:
    """Return the name in the list for each backbone: a network with variants has several."""
    tables = experiment.backbone
    return {
        full: name
        for name in experiment.backbones
        for full in ([name] if name not in tables else dict(name_variants(name, tables[name])))
    }


def derivation_of(options: BackboneOptions, parents: Sequence[Backbone]) -> Derivation:
    """Return the recipe of a table, for the backbones that it names."""
    sizes = ((name, getattr(options, name)) for name in STEPS)
    found = Derivation(
        parents=parents_of(options),
        is_concat=options.concat is not None,
        steps=tuple((name, size) for name, size in sizes if size is not None),
        dtype=options.dtype or "float32",
        # Not their names, nor the places of their files, which may change.
        origin="-".join(
            item.identity if item.derived is None else item.derived.slug for item in parents
        ),
    )
    return replace(found, is_fitted=found.fits or any(item.is_fitted for item in parents))


def describe_made(backbones: Iterable[Backbone], *, is_finetuning: bool) -> str:
    """Return a sentence on the backbones that are made from stored embeddings; or nothing.

    Args:
        backbones: of the experiment.
        is_finetuning: whether it fine-tunes others.
    """
    made = [item for item in backbones if item.derived is not None]
    if not made:
        return ""
    names = ", ".join(item.name for item in made)
    text = f"Made from stored embeddings, not computed from patches: {names}."
    if is_finetuning:
        text += " They have no weights, so none is fine-tuned."
    fitted = [item.name for item in made if item.derived is not None and item.derived.fits]
    if fitted:
        text += f" Fitted without labels on the train split of the data: {', '.join(fitted)}."
    return text


def check_options(options: BackboneOptions) -> None:
    """Refuse settings of one table that contradict each other.

    Raises:
        ValueError: names the settings, and what to do.
    """
    given = [name for name in KEYS if getattr(options, name) is not None]
    if not given:
        return
    fields = type(options).model_fields
    # A dumped experiment has every setting, most of them with their defaults.
    others = sorted(
        name
        for name in options.model_fields_set - {*KEYS, "name"}
        if getattr(options, name) != fields[name].get_default(call_default_factory=True)
    )
    if options.concat is None and options.of is None:
        raise ValueError(
            f"'{given[0]}' shortens or packs stored embeddings: name their backbone with "
            f"of = \"...\", or remove '{given[0]}'"
        )
    if options.concat is not None and options.of is not None:
        raise ValueError(
            "'concat' and 'of' are both set; keep one, and make the other in a table of its own"
        )
    kind = "of" if options.concat is None else "concat"
    if others:
        raise ValueError(
            f"'{others[0]}' does not apply beside '{kind}', which takes stored embeddings as they "
            "are; set it in the table of their own backbone"
        )
    if options.concat is not None and len(options.concat) < 2:
        raise ValueError("'concat' lists one backbone; list two or more")
    if options.of is not None and given == ["of"]:
        raise ValueError(f"'of' needs one of {', '.join(STEPS)}, dtype: nothing else is changed")
    if options.concat is not None and given != ["concat"]:
        raise ValueError(
            f"'{given[1]}' does not apply beside 'concat'; shorten the result in a table of its "
            'own, with of = "NAME"'
        )


def check_derived(experiment: Experiment, where: str) -> None:
    """Refuse backbones that are made from unknown ones, from themselves, or from several variants.

    Raises:
        UsageError: names the setting, and what to do.
    """
    networks = networks_of(experiment)
    graph = {name: parents_of(options) for name, options in experiment.backbone.items()}
    for name, parents in graph.items():
        place = f'{where} [backbone."{name}"]'
        if parents and ":" in name:
            raise UsageError(
                f"{place}: names with ':' are models themselves; choose a name without ':' for "
                "what is made from others"
            )
        key = "concat" if experiment.backbone[name].concat else "of"
        for parent in parents:
            if parent == name:
                raise UsageError(f"{place}: '{key}' names {shown(name, 100)} itself; remove it")
            if parent not in networks and parent in experiment.backbones:
                first = next(item for item, network in networks.items() if network == parent)
                raise UsageError(
                    f"{place}: '{key}' names {shown(parent, 100)}, which lists layers or poolings: "
                    f"name one of its variants, e.g. {shown(first, 150)}"
                )
            if parent not in networks:
                others = [item for item in networks if item != name]
                raise UsageError(
                    f"{place}: '{key}' names {shown(parent, 100)}, which is not among the "
                    f"experiment's backbones: add it to 'backbones'.{did_you_mean(parent, others)}"
                )
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = " -> ".join(reversed(error.args[1][:10]))
        raise UsageError(
            f"{where} [backbone]: backbones are made from each other in a circle: "
            f"{shown(circle)}; remove one of them"
        ) from None


def in_order(experiment: Experiment) -> list[str]:
    """Return the names of an experiment's backbones, each after those that it is made from."""
    tables, networks = experiment.backbone, networks_of(experiment)
    graph = {
        name: [networks[parent] for parent in parents_of(tables.get(name))]
        for name in experiment.backbones
    }
    own = [name for name, parents in graph.items() if not parents]
    order = graphlib.TopologicalSorter(graph).static_order()
    return [*own, *(name for name in order if graph.get(name))]


def sources_of(experiment: Experiment, name: str) -> Iterator[str]:
    """Yield the models that a backbone needs: its own, or those of all that it is made from."""
    networks = networks_of(experiment)
    waiting, seen = [name], set[str]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        parents = parents_of(experiment.backbone.get(one))
        waiting += [networks[parent] for parent in parents]
        if not parents:
            yield experiment.model_of(one)
