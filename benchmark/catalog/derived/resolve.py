"""Entries of backbones that are made from stored embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, overload

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.options import options_where
from benchmark.derived import KEYS, Derivation, derivation_of
from benchmark.errors import UsageError
from benchmark.specs import Backbone

if TYPE_CHECKING:
    from benchmark.options import BackboneOptions


def resolve_derived(
    name: str, options: BackboneOptions, parents: Sequence[Backbone], *, where: str = ""
) -> Backbone:
    """Return the backbone that a table with ``concat`` or ``of`` describes.

    Args:
        name: of the table.
        options: of the table.
        parents: the backbones that it names, in order.
        where: the place of the name; prefix of error messages.

    Raises:
        UsageError: the name is taken, or an embedding is shorter than what is kept of it.
    """
    place = options_where(name, where)
    if name in BACKBONES.names():
        raise UsageError(
            f"{place}: '{name}' is a backbone of the catalog; choose another name for what is "
            "made from others"
        )
    for parent in parents:
        if parent.product is not None and parent.product.drops_missing:
            raise UsageError(
                f"{place}: '{parent.name}' leaves out patches that its product lacks (missing = "
                '"drop"), and what is made from it needs them all; set missing = "error" there, or '
                f"remove '{name}'"
            )
    derived = derivation_of(options, parents)
    dims = [item.dim for item in parents]
    dim = None if None in dims else sum(filter(None, dims))
    shown = ((key, getattr(options, key)) for key in KEYS)
    return Backbone(
        name=name,
        description=derived.words,
        family="derived",
        build=refuse_network,
        dim=check_widths(derived, dim, where=place),
        num_parameters=0,
        is_trainable=False,
        is_floor=all(item.is_floor for item in parents),
        bands=(),
        source=f"stored embeddings of {', '.join(derived.parents)}",
        license=", ".join(dict.fromkeys(item.license for item in parents)),
        options=tuple((key, value) for key, value in shown if value is not None),
        derived=derived,
    )


@overload
def check_widths(derived: Derivation, dim: int, *, where: str) -> int: ...


@overload
def check_widths(derived: Derivation, dim: int | None, *, where: str) -> int | None: ...


def check_widths(derived: Derivation, dim: int | None, *, where: str) -> int | None:
    """Return the length of the embeddings; None: those of the parents is not known yet.

    Args:
        derived: the recipe.
        dim: length of the parents' embeddings, together.
        where: start of the message.

    Raises:
        UsageError: a step would make them longer.
    """
    given = derived.parents[0] if derived.parents else ""
    for step, size in derived.steps:
        if dim is not None and size > dim:
            raise UsageError(
                f"{where}: '{step}' = {size} is wider than the embedding of '{given}', which has "
                f"{dim:,} dimensions at that step; set at most {dim}"
            )
        dim = size
    return dim


def refuse_network(num_bands: int) -> NoReturn:
    """Refuse to build a network, where a command needs one.

    Raises:
        UsageError: always.
    """
    del num_bands
    raise UsageError(
        "embeddings made from stored ones have no network that computes them for other images; "
        "name a backbone that has one"
    )
