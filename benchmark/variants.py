"""Variants of a backbone: several layers and poolings of one network, embedded in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from benchmark.options import BackboneOptions
    from benchmark.specs import Backbone

LISTS = ("layers", "pooling")
"""The options whose lists make variants."""


@dataclass(frozen=True)
class Shared:
    """How a network gives several embeddings in one forward pass."""

    build: Callable[[int, tuple[Any, ...]], torch.nn.Module]
    """Build the network for a number of bands and the ``reading`` of several variants. Input as
    for ``Backbone.build``; output: their embeddings side by side, float32 (B, sum of D)."""
    reading: Any
    """How this embedding is read off the network."""
    group: str = ""
    """The name in the experiment that the variants come from; empty: it has no variants."""
    layer: int = -1
    pooling: str = ""
    """Of the variant; empty: the network's own."""
    dims: tuple[int, ...] = ()
    """Lengths of the embeddings side by side, of variants that are computed together."""


def name_variants(name: str, options: BackboneOptions) -> list[tuple[str, BackboneOptions]]:
    """Return name and options of each variant of a backbone: every layer with every pooling.

    A variant has the options that a user would set for it alone, so that it is the same backbone.
    Its name tells what was listed, e.g. ``NAME@layer=-4,pooling=cls``.
    """
    found = []
    for layer in options.layers or (None,):
        for pooling in options.pooling if isinstance(options.pooling, tuple) else (None,):
            given = {key: value for key, value in (("layer", layer), ("pooling", pooling)) if value}
            words = ",".join(f"{key}={value}" for key, value in given.items())
            # What was listed counts as set, also if it is the default.
            own = options.model_copy(update={**given, "layers": None})
            found.append((f"{name}@{words}" if words else name, own))
    return found


def name_options(
    backbones: Sequence[Backbone], options: Mapping[str, BackboneOptions]
) -> dict[str, BackboneOptions]:
    """Return the options of backbones by name, where variants have the short name of their network.

    What was listed stays behind it, e.g. ``mine@layer=-4``.
    """
    found = dict(options)
    for item in backbones:
        given = options.get(item.group)
        if given is not None and given.name is not None:
            name = given.name + item.name.removeprefix(item.group)
            found[item.name] = given.model_copy(update={"name": name})
    return found


def count_variants(options: BackboneOptions | None) -> int:
    """Return the number of variants of a backbone; 1 without lists."""
    return 1 if options is None else len(name_variants("", options))


def leaders(backbones: Sequence[Backbone]) -> list[Backbone]:
    """Return the backbones without all but the first variant of each network."""
    seen: set[str] = set()
    found = []
    for item in backbones:
        if not item.group or item.group not in seen:
            found.append(item)
            seen.add(item.group)
    return found


def choose(backbones: Sequence[Backbone], names: Sequence[str]) -> tuple[Backbone, ...]:
    """Return the backbones with these names; the name of a network means its first variant."""
    firsts = leaders(backbones)
    return tuple(
        item for item in backbones if item.name in names or (item.group in names and item in firsts)
    )
