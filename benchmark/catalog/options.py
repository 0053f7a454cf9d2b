"""What a user's options (``[backbone."NAME"]``) make of a backbone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from benchmark.config import BackboneOptions, options_place
from benchmark.errors import UsageError
from benchmark.specs import Backbone

FED = frozenset({"image_size", "bands"})
"""The options that say what a backbone is fed."""


class Reading(NamedTuple):
    """How the embedding is read off a model of transformers."""

    pooling: Literal["mean", "cls", "cls+mean", "pooler"] = "mean"
    layer: int = -1
    image_size: int | None = None
    """Side in px that was chosen; None: that of the checkpoint."""

    @property
    def words(self) -> str:
        """How it is read, for people."""
        state = "the last hidden state" if self.layer == -1 else f"hidden state {self.layer}"
        return {
            "mean": f"mean of {state} over tokens or positions",
            "cls": f"class token of {state}",
            "cls+mean": f"class token of {state}, then the mean over its tokens",
            "pooler": "output of its own pooler",
        }[self.pooling]


AS_IT_IS = Reading()


def backbone_what(name: str, where: str) -> str:
    """Return what begins a message about a backbone."""
    return f"{where}: backbone '{name}'" if where else f"backbone '{name}'"


def options_where(name: str, where: str) -> str:
    """Return what begins a message about the options of a backbone."""
    return f"{where} {options_place(name)}".strip()


def chosen(options: BackboneOptions | None) -> dict[str, Any]:
    """Return the options that differ from their defaults, by name."""
    if options is None:
        return {}
    return {
        name: getattr(options, name)
        for name, field in BackboneOptions.model_fields.items()
        if getattr(options, name) != field.default
    }


def check_applicable(
    name: str, options: BackboneOptions | None, applicable: Collection[str], *, where: str
) -> None:
    """Refuse options that have no meaning for a backbone.

    Raises:
        UsageError: names the first of them, and those that apply.
    """
    for key in sorted(chosen(options).keys() - set(applicable)):
        known = f"these do: {', '.join(sorted(applicable))}" if applicable else "none does"
        raise UsageError(
            f"{options_where(name, where)}: '{key}' does not apply to this backbone; {known}"
        )


def feed(backbone: Backbone, options: BackboneOptions | None, *, where: str) -> Backbone:
    """Return the backbone with the size and the bands of the options, and what was chosen.

    Mean and standard deviation stay with the channel, whatever band it is fed; those of a new
    channel are the mean of the others.

    Raises:
        UsageError: there are fewer bands than its weights take.
    """
    given = chosen(options)
    fed = backbone
    if "image_size" in given:
        # The whole patch: a crop would change how large a pixel is.
        fed = replace(fed, image_size=given["image_size"], resize_to=None)
    if "bands" in given:
        names = given["bands"]
        own = fed.bands
        if own is not None and len(names) < len(own):
            raise UsageError(
                f"{options_where(backbone.name, where)}: 'bands' names {len(names)}, but its "
                f"weights take {len(own)}; name at least as many"
            )
        mean, std = (_extended(values, len(names)) for values in (fed.mean, fed.std))
        fed = replace(fed, bands=names, mean=mean, std=std)
    if fed == backbone:
        # What was chosen is what it is fed anyway: the same result, the same identity.
        given = {key: value for key, value in given.items() if key not in FED}
    return replace(fed, options=tuple(given.items()))


def _extended(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    if len(values) in (1, count):
        return values
    return (*values, *[sum(values) / len(values)] * (count - len(values)))
