"""User options of a backbone (``[backbone."NAME"]``), and how they change it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from benchmark.errors import UsageError
from benchmark.options import BackboneOptions, Pooling
from benchmark.problems import options_place
from benchmark.specs import Backbone

FED = frozenset({"image_size", "bands"})
"""The options that describe the input of a backbone."""
SHOWN = frozenset({"name"})
"""The options that change how a backbone is shown, and nothing else."""
STAND_INS = ("image_size", "mean", "std")
"""The options that stand in for an image processor."""


READ = FED | {"layer", "pooling"}
"""Also the options that choose the embedding of a network."""


class Reading(NamedTuple):
    """The hidden state and pooling that give the embedding of a model of transformers."""

    pooling: Pooling = "mean"
    layer: int = -1
    image_size: int | None = None
    """Chosen side in px; None: that of the checkpoint."""

    @property
    def words(self) -> str:
        """Description for users."""
        state = "the last hidden state" if self.layer == -1 else f"hidden state {self.layer}"
        return {
            "mean": f"mean of {state} over tokens or positions",
            "patches": f"mean of {state} over patch tokens or positions",
            "cls": f"class token of {state}",
            "cls+mean": f"class token of {state}, then the mean over its tokens",
            "mean+std": f"mean and standard deviation of {state} over patch tokens or positions",
            "gem": f"generalised mean of {state} over patch tokens or positions",
            "pooler": "output of its own pooler",
        }[self.pooling]


AS_IT_IS = Reading()


def backbone_what(name: str, where: str) -> str:
    """Return the prefix of error messages about a backbone."""
    return f"{where}: backbone '{name}'" if where else f"backbone '{name}'"


def options_where(name: str, where: str) -> str:
    """Return the prefix of error messages about the options of a backbone."""
    return f"{where} {options_place(name)}".strip()


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Add a prefix to the message of a UsageError."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{prefix}: {error}") from None


def check_multiple(size: int, patch: int) -> None:
    """Raise UsageError if patches of a transformer (side in px) do not fill an image exactly."""
    if size % patch:
        raise UsageError(
            f"'image_size' = {size} is not a multiple of the model's patch size of {patch} px; set "
            f"{max(1, size // patch) * patch}"
        )


def chosen(options: BackboneOptions | None) -> dict[str, Any]:
    """Return the options that change the backbone and differ from their defaults, by name."""
    if options is None:
        return {}
    return {
        name: getattr(options, name)
        for name, field in BackboneOptions.model_fields.items()
        if name not in SHOWN and getattr(options, name) != field.default
    }


def check_applicable(
    name: str, options: BackboneOptions | None, applicable: Collection[str], *, where: str
) -> None:
    """Refuse options that do not apply to a backbone.

    Raises:
        UsageError: names the first such option and those that apply.
    """
    for key in sorted(chosen(options).keys() - set(applicable)):
        known = f"these do: {', '.join(sorted(applicable))}" if applicable else "none does"
        raise UsageError(
            f"{options_where(name, where)}: '{key}' does not apply to this backbone; {known}"
        )


def feed(backbone: Backbone, options: BackboneOptions | None, *, where: str) -> Backbone:
    """Return the backbone with image size, bands and non-default options applied.

    A channel keeps its mean and standard deviation whatever its band; a new channel gets the mean
    of the others.

    Raises:
        UsageError: fewer bands than the weights take.
    """
    given = chosen(options)
    fed = backbone
    if "image_size" in given:
        # Resize the whole patch: a crop would change the ground size of a pixel.
        fed = replace(fed, image_size=given["image_size"], resize_to=None)
    if "bands" in given:
        names = given["bands"]
        own = fed.bands
        if own is not None and len(names) < len(own):
            raise UsageError(
                f"{options_where(backbone.name, where)}: 'bands' names {len(names)}, but its "
                f"weights take {len(own)}; name at least {len(own)}"
            )
        mean, std = (_extended(values, len(names)) for values in (fed.mean, fed.std))
        fed = replace(fed, bands=names, mean=mean, std=std)
    if fed == backbone:
        # Options equal to the defaults of the backbone keep its identity (fingerprint).
        given = {key: value for key, value in given.items() if key not in FED}
    return replace(fed, options=tuple(given.items()))


def _extended(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    if len(values) in (1, count):
        return values
    return (*values, *[sum(values) / len(values)] * (count - len(values)))
