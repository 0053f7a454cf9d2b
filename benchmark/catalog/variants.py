"""Resolve a backbone of an experiment with lists of layers or poolings into its variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.options import options_where
from benchmark.errors import UsageError
from benchmark.options import BackboneOptions
from benchmark.specs import Backbone
from benchmark.variants import LISTS, name_variants


def find_variants(
    name: str,
    *,
    where: str,
    options: BackboneOptions | None,
    folders: Sequence[str] | None,
) -> tuple[Backbone, ...]:
    """Return a backbone of an experiment, or its variants if layers or poolings are listed.

    Args:
        name: as for ``find_backbone``.
        where: the same.
        options: of this backbone in the experiment.
        folders: as for ``find_backbone``.

    Raises:
        UsageError: as ``find_backbone``, or nothing can be read off this backbone but one vector.
    """
    if options is None or not options.has_lists:
        return (find_backbone(name, where=where, options=options, folders=folders),)
    given = {key: getattr(options, key) for key in options.model_fields_set - {*LISTS}}
    plain = find_backbone(
        name, where=where, options=BackboneOptions.model_validate(given), folders=folders
    )
    if plain.shared is None:
        key = "layers" if options.layers else "pooling"
        why = "it is no network whose layers are read"
        if plain.product is not None:
            why = "its embeddings are read from files"
        raise UsageError(
            f"{options_where(name, where)}: '{key}' does not apply to this backbone: {why}; "
            "remove it"
        )
    found = []
    for variant, own in name_variants(name, options):
        entry = find_backbone(name, where=where, options=own, folders=folders)
        if entry.shared is None:
            raise ValueError(f"{name} gives hidden layers for some options alone")
        pooling = own.one_pooling if "pooling" in own.model_fields_set else ""
        shared = replace(entry.shared, group=name, layer=own.layer, pooling=pooling)
        found.append(replace(entry, name=variant, alias_of=entry.model, shared=shared))
    return tuple(found)
