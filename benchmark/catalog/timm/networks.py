"""Networks of timm: their preprocessing, their facts, and how to build and publish them.

The embedding is the output of the network's own global pooling, the input of its classifier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmark.catalog.options import check_multiple
from benchmark.catalog.tensors import Facts, check_finite, measure, misfit
from benchmark.catalog.timm.names import pretrained_config
from benchmark.errors import UsageError, one_line

if TYPE_CHECKING:
    import torch

    from benchmark.specs import Publication

Arguments = tuple[tuple[str, Any], ...]
"""Further arguments of ``timm.create_model``, by name."""


class Preprocessing(NamedTuple):
    """The fields of ``specs.Backbone`` that describe its input, by their names."""

    image_size: int
    resize_to: int | None
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_rounded: bool = True
    """timm resizes PIL images."""
    crops_like_torchvision: bool = True


def read_preprocessing(config: Mapping[str, Any], what: str) -> Preprocessing:
    """Translate timm's evaluation transform for a ``pretrained_cfg``.

    Patches are square, so that timm's three crop modes give the same result.

    Args:
        config: of timm or of a checkpoint; missing keys get timm's defaults.
        what: prefix of error messages.

    Raises:
        UsageError: the configuration has a setting that is not supported.
    """
    from timm.data.config import resolve_data_config as untyped

    resolve_data_config: Any = untyped
    try:
        bands, height, width = (int(side) for side in config.get("input_size") or (3, 224, 224))
        if bands != 3:
            raise UsageError(f"{what}: its images have {bands} bands; use weights of 3 bands")
        # Called as in transformers: a single mean applies to every band.
        data = resolve_data_config(dict(config))
        mean, std = (tuple(float(value) for value in data[key]) for key in ("mean", "std"))
        resize_to = math.floor(height / data["crop_pct"])
    except (AssertionError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{what}: its pretrained_cfg is invalid: {one_line(error, limit=120)}"
        ) from None
    interpolation: Literal["bilinear", "bicubic"] = data["interpolation"]
    if interpolation not in ("bilinear", "bicubic") or height != width:
        raise UsageError(
            f"{what}: its images are {height} x {width} px, resized '{interpolation}'; only square "
            "images and bilinear or bicubic resizing are supported"
        )
    if not 0 < height <= resize_to:
        raise UsageError(
            f"{what}: its pretrained_cfg crops {height} px from {resize_to} px; crop_pct must be "
            "above 0 and at most 1"
        )
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise UsageError(
            f"{what}: its pretrained_cfg has mean = {mean} and std = {std}; give one number each "
            "for red, green and blue, with std above 0"
        )
    return Preprocessing(
        height, None if resize_to == height else resize_to, interpolation, mean, std
    )


def build_loaded(
    model: str,
    overlay: Mapping[str, Any],
    model_args: Arguments,
    num_bands: int,
    *,
    what: str,
    num_classes: int | None = None,
) -> torch.nn.Module:
    """Build a network with its weights: (B, C, H, W) to (B, D).

    Args:
        model: timm's name.
        overlay: replaces values of timm's ``pretrained_cfg``, among them the place of the weights.
        model_args: further arguments of ``timm.create_model``.
        num_bands: 3; more bands widen the first convolution.
        what: prefix of error messages.
        num_classes: of the classifier in the weights, so that timm checks every tensor; it is
            removed afterwards. None: timm's default.

    Raises:
        UsageError: the weights do not fit the network, or are not finite.
    """
    import timm

    given = dict(model_args)
    if num_classes is not None:
        given["num_classes"] = num_classes
    try:
        network: Any = timm.create_model(
            model,
            pretrained=True,
            pretrained_cfg_overlay={**overlay, "custom_load": False},
            **given,
        )
    except (RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise misfit(f"{what}: its weights", error) from None
    # timm keeps the tensors of the overlay.
    network.pretrained_cfg = network.default_cfg = {
        key: value for key, value in network.pretrained_cfg.items() if key != "state_dict"
    }
    if num_classes != 0:
        network.reset_classifier(0)
    check_finite(what, network.state_dict())
    return _inflated(network, num_bands).eval()


def build_untrained(
    model: str, num_bands: int, *, num_classes: int = 0, **model_args: Any
) -> torch.nn.Module:
    """Build the network with random weights: (B, C, H, W) to (B, D), or (B, K) with classes."""
    import timm

    network = timm.create_model(model, pretrained=False, num_classes=num_classes, **model_args)
    return _inflated(network, num_bands).eval()


@cache
def read_facts(model: str, size: int, num_bands: int, model_args: Arguments | None = None) -> Facts:
    """Return dimension and number of parameters of a network.

    Args:
        model: timm's name.
        size: side of the input in px.
        num_bands: of the input.
        model_args: further arguments of ``timm.create_model``; None: those that the size needs.

    Raises:
        UsageError: it does not support the size or bands, or has no pooled embedding.
    """
    if model_args is None:
        model_args = size_arguments(pretrained_config(model), size)
    given = dict(model_args)

    def build(num_bands: int) -> torch.nn.Module:
        network = build_untrained(model, num_bands, **given)
        patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
        side = patch[0] if isinstance(patch, tuple) else patch
        if isinstance(side, int):
            check_multiple(size, side)
        return network

    return measure(model, build, num_bands, size, note=f" with {given}")


def publish_network(model: str, model_args: Arguments, publication: Publication) -> None:
    """Write a fine-tuned classifier as a folder for the timm wrapper of transformers.

    Args:
        model: timm's name.
        model_args: further arguments of ``timm.create_model``.
        publication: the classifier and the folder.
    """
    from benchmark.catalog.huggingface.publish import publish_timm

    publish_timm(
        model.partition(".")[0],
        publication,
        classifier=pretrained_config(model)["classifier"],
        model_args=dict(model_args),
    )


def size_arguments(config: Mapping[str, Any], size: int | None) -> Arguments:
    """Return the arguments of ``timm.create_model`` for an image size in px.

    Networks with a position for each patch are built for one size, and timm resamples their
    positions; other networks take any size.
    """
    is_own = size is None or size == config["input_size"][-1]
    return () if is_own or not config["fixed_input_size"] else (("img_size", size),)


def _inflated(network: torch.nn.Module, num_bands: int) -> torch.nn.Module:
    from benchmark.networks.inflation import inflate_first_convolution

    if num_bands == 3:
        return network
    config: Any = network.pretrained_cfg
    names = config.get("first_conv") or ()
    return inflate_first_convolution(
        network, num_bands, names=(names,) if isinstance(names, str) else tuple(names)
    )
