"""Hidden layers of networks of timm and torchvision as embeddings: ``layer`` and ``pooling``.

Layers are the blocks of a transformer, and the stages of other networks, as timm lists them. By
default a network pools its last layer in its own way, and nothing here is used.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.options import options_where, prefixed
from benchmark.catalog.tensors import measure
from benchmark.errors import UsageError, one_line
from benchmark.specs import Backbone
from benchmark.variants import Shared

if TYPE_CHECKING:
    import torch

    from benchmark.options import BackboneOptions, Pooling

USUAL_SIDE = 224
"""Side in px of the images with which networks without a size of their own are measured."""


class Tap(NamedTuple):
    """The hidden layer that gives the embedding, and how it is pooled."""

    at: int
    """Of the block or stage, from 0."""
    pooling: Pooling
    is_last: bool
    """Whether it is the last layer, to which the network's last normalisation belongs."""
    is_block: bool
    """Whether layers are blocks, not stages."""
    words: str
    """Description for users."""


def read_layer(
    backbone: Backbone,
    options: BackboneOptions | None,
    untrained: Callable[[int], torch.nn.Module],
    *,
    where: str,
) -> Backbone:
    """Return a backbone whose embedding is the chosen layer and pooling of its network.

    Args:
        backbone: the entry, whose network pools in its own way.
        options: of this backbone.
        untrained: builds its network with random weights for a number of bands.
        where: the place of its name; prefix of error messages.

    Raises:
        UsageError: the network lacks the layer or a class token, or does not give hidden layers.
    """
    # The mean is also the default, which is the network's own pooling.
    is_chosen = options is not None and "pooling" in options.model_fields_set
    side, num_bands = backbone.image_size or USUAL_SIDE, len(backbone.bands or ())
    backbone = replace(backbone, shared=Shared(partial(build_shared, backbone.build, side), None))
    if options is None or (options.layer == -1 and not is_chosen):
        return backbone
    with prefixed(options_where(backbone.name, where)):
        if options.one_pooling == "pooler":
            raise UsageError(
                "'pooling' = 'pooler' does not apply: without 'pooling' and 'layer', the embedding "
                "is the output of this network's own pooling; remove 'pooling'"
            )
        tap = _find_tap(untrained, options, num_bands, side)
        if tap is None:
            return backbone
        facts = measure("this network", partial(build_tapped, untrained, tap), num_bands, side)
    description, count = re.subn(", pooled [a-z ]+", f", {tap.words}", backbone.description)
    given = dict(backbone.options) | {"layer": options.layer, "pooling": options.pooling}
    shared = Shared(partial(build_shared, backbone.build, side), tap)
    if options.layer == -1:
        del given["layer"]
    elif options.pooling == "mean":
        del given["pooling"]
    return replace(
        backbone,
        description=description if count else f"{description}, {tap.words}",
        build=partial(build_tapped, backbone.build, tap),
        options=tuple(given.items()),
        shared=shared,
        **facts._asdict(),
    )


def build_tapped(
    build: Callable[[int], torch.nn.Module], tap: Tap, num_bands: int
) -> torch.nn.Module:
    """Build a network and read one of its layers: (B, C, H, W) to (B, D).

    Args:
        build: builds the network, which pools in its own way.
        tap: the layer and how it is pooled.
        num_bands: of the input.
    """
    from benchmark.networks.pooling import HiddenModel

    return HiddenModel(
        _staged(build(num_bands)), index=tap.at, pooling=tap.pooling, has_norm=tap.is_last
    ).eval()


def build_shared(
    build: Callable[[int], torch.nn.Module], side: int, num_bands: int, taps: tuple[Tap | None, ...]
) -> torch.nn.Module:
    """Build a network and read several of its layers: (B, C, H, W) to (B, sum of D).

    Args:
        build: builds the network, which pools in its own way.
        side: of the input, in px.
        num_bands: of the input.
        taps: the layers and how they are pooled; None: the network's own pooling.
    """
    import torch

    from benchmark.networks.hidden import HiddenModels, Layer

    own = build(num_bands)
    example = torch.linspace(-1, 1, num_bands * side**2).reshape(1, num_bands, side, side)
    layers = [
        None if tap is None else Layer(tap.at, tap.pooling, tap.is_last, tap.is_block)
        for tap in taps
    ]
    # A network that gives no hidden layers has its own pooling.
    staged = _staged(own) if any(layers) else own
    return HiddenModels(own, staged, layers, example).eval()


def _staged(network: torch.nn.Module) -> Any:
    """Return a network with timm's ``forward_intermediates``.

    Raises:
        UsageError: there is no way to read its hidden layers.
    """
    if hasattr(network, "forward_intermediates") and hasattr(network, "prune_intermediate_layers"):
        return network
    if type(network).__module__ == "torchvision.models.swin_transformer":
        from benchmark.networks.pooling import SwinStages

        features: Any = network.features
        return SwinStages(features)
    kind = type(getattr(network, "model", network)).__name__
    raise UsageError(
        f"'layer' and 'pooling' do not apply: the library gives no hidden layers of its {kind}; "
        "remove them"
    )


def _find_tap(
    untrained: Callable[[int], torch.nn.Module], options: BackboneOptions, num_bands: int, side: int
) -> Tap | None:
    """Return the chosen layer and pooling; None: they are the network's own.

    It runs the network on the meta device, without memory or weights.
    """
    import torch

    # timm's mean leaves out the class token and registers.
    pooling: Pooling = "mean" if options.pooling == "patches" else options.one_pooling
    try:
        with torch.device("meta"), torch.inference_mode():
            original = untrained(num_bands)
            if options.layer == -1 and pooling == "mean" and _pools_mean(original):
                return None
            network = _staged(original)
            states = network.forward_intermediates(
                torch.zeros(1, num_bands, side, side), intermediates_only=True
            )
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UsageError(
            f"this network cannot take {num_bands} bands of {side} px: {one_line(error, limit=160)}"
        ) from None
    count = len(states)
    unit = "block" if len(getattr(network, "blocks", ())) == count else "stage"
    if count < -options.layer:
        raise UsageError(
            f"'layer' = {options.layer}: this network has {count} layers ({unit}s); set -1 to "
            f"{-count}"
        )
    if pooling.startswith("cls") and not _gives_class_token(network):
        raise UsageError(
            f"'pooling' = '{pooling}': this network has no class token beside the tokens of its "
            "layers; remove 'pooling'"
        )
    if pooling == "pooler":
        raise ValueError("the caller refuses the pooler")
    state = f"{unit} {count + options.layer + 1} of {count}"
    words = {
        "mean": f"mean of {state} over positions",
        "cls": f"class token of {state}",
        "cls+mean": f"class token of {state}, then the mean over its positions",
        "mean+std": f"mean and standard deviation of {state} over positions",
        "gem": f"generalised mean of {state} over positions",
    }[pooling]
    is_block = unit == "block"
    return Tap(count + options.layer, pooling, options.layer == -1, is_block, words)


def _pools_mean(network: Any) -> bool:
    """Return whether the network's own pooling is the mean over positions."""
    # timm's transformers state it in a word; convolutional networks have a layer for it.
    body = getattr(network, "model", network)
    own = getattr(body, "global_pool", None) or getattr(body, "avgpool", None)
    if isinstance(own, str):
        return own == "avg"
    return own is not None or hasattr(network, "forward_intermediates")


def _gives_class_token(network: Any) -> bool:
    parameters = inspect.signature(network.forward_intermediates).parameters
    return getattr(network, "cls_token", None) is not None and "return_prefix_tokens" in parameters
