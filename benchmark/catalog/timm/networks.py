"""Networks of timm: what they are fed, what they say of themselves, and how they are built.

The embedding is what the network's own global pooling gives to its classifier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmark.catalog.tensors import check_finite
from benchmark.catalog.timm.names import pretrained_config
from benchmark.errors import UsageError, one_line

if TYPE_CHECKING:
    import torch

    from benchmark.specs import Publication

Arguments = tuple[tuple[str, Any], ...]
"""What ``timm.create_model`` is given beside the name, by name."""


class Facts(NamedTuple):
    """What a network says of itself."""

    dim: int
    num_parameters: int


class Preprocessing(NamedTuple):
    """The fields of ``specs.Backbone`` that say what it is fed, by their names."""

    image_size: int
    resize_to: int | None
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_rounded: bool = True
    """timm resizes PIL images."""
    crops_like_torchvision: bool = True


def read_preprocessing(config: Mapping[str, Any], what: str) -> Preprocessing:
    """Translate what timm's evaluation transform does by a ``pretrained_cfg``.

    Patches are square, so that its three ways to crop come to the same.

    Args:
        config: of timm, or of a checkpoint; defaults of timm where it is silent.
        what: begins messages.

    Raises:
        UsageError: it holds something that has no equal here; says what.
    """
    from timm.data.config import resolve_data_config as untyped

    resolve_data_config: Any = untyped
    try:
        bands, height, width = (int(side) for side in config.get("input_size") or (3, 224, 224))
        if bands != 3:
            raise UsageError(
                f"{what}: its images have {bands} bands; only weights of 3 can be used"
            )
        # As transformers calls it: a single mean is that of every band.
        data = resolve_data_config(dict(config))
        mean, std = (tuple(float(value) for value in data[key]) for key in ("mean", "std"))
        resize_to = math.floor(height / data["crop_pct"])
    except (AssertionError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{what}: its pretrained_cfg cannot be used: {one_line(error, limit=120)}"
        ) from None
    interpolation: Literal["bilinear", "bicubic"] = data["interpolation"]
    if interpolation not in ("bilinear", "bicubic") or height != width:
        raise UsageError(
            f"{what}: its images are {height} x {width} px, resized '{interpolation}'; only square "
            "ones, bilinear or bicubic, can be had here"
        )
    if not 0 < height <= resize_to:
        raise UsageError(
            f"{what}: its pretrained_cfg crops {height} px from {resize_to} px; crop_pct must be "
            "above 0, and at most 1"
        )
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise UsageError(
            f"{what}: its pretrained_cfg has mean = {mean} and std = {std}; give one number for "
            "each of red, green and blue, std above 0"
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
        overlay: replaces values of timm's ``pretrained_cfg``; says where the weights are.
        model_args: what ``timm.create_model`` is given beside.
        num_bands: 3; more grow the first convolution.
        what: begins messages.
        num_classes: of the classifier that the weights have, so that timm checks every tensor;
            it is taken off. None: as timm knows them.

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
        text = " ".join(str(error).split())[:200]
        raise UsageError(f"{what}: its weights do not fit the network: {text}") from None
    # timm keeps a copy of the tensors that it was given.
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
    """Build the network with weights drawn at random: (B, C, H, W) to (B, D), or to (B, K)."""
    import timm

    network = timm.create_model(model, pretrained=False, num_classes=num_classes, **model_args)
    return _inflated(network, num_bands).eval()


@cache
def read_facts(model: str, size: int, num_bands: int, model_args: Arguments | None = None) -> Facts:
    """Return what a network says of itself, from one without memory or weights.

    Args:
        model: timm's name.
        size: side in px of what it is fed.
        num_bands: how many bands it is fed.
        model_args: what ``timm.create_model`` is given beside; None: what the size needs.

    Raises:
        UsageError: it cannot take that size or so many bands, or has no pooled embedding.
    """
    import torch

    if model_args is None:
        model_args = size_arguments(pretrained_config(model), size)
    try:
        with torch.device("meta"), torch.inference_mode():
            network = build_untrained(model, num_bands, **dict(model_args))
            _check_patches(network, size)
            found = network(torch.zeros(2, num_bands, size, size))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UsageError(
            f"{model} cannot take {num_bands} bands of {size} px: {one_line(error, limit=160)}"
        ) from None
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        raise UsageError(f"{model} gives no pooled embedding with {dict(model_args)}")
    return Facts(int(found.shape[1]), sum(item.numel() for item in network.parameters()))


def publish_network(model: str, model_args: Arguments, publication: Publication) -> None:
    """Write a fine-tuned classifier as a folder for transformers, which wraps timm.

    Args:
        model: timm's name.
        model_args: what ``timm.create_model`` is given beside.
        publication: what is written, and where.
    """
    from benchmark.catalog.huggingface.publish import publish_timm

    publish_timm(
        model.partition(".")[0],
        publication,
        classifier=pretrained_config(model)["classifier"],
        model_args=dict(model_args),
    )


def size_arguments(config: Mapping[str, Any], size: int | None) -> Arguments:
    """Return what ``timm.create_model`` needs to know of the size.

    Networks with positions for each patch are built for one size, and timm resamples their
    positions; the others take any.
    """
    is_own = size is None or size == config["input_size"][-1]
    return () if is_own or not config["fixed_input_size"] else (("img_size", size),)


def _check_patches(network: Any, size: int) -> None:
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    side = patch[0] if isinstance(patch, tuple) else patch
    if isinstance(side, int) and size % side:
        raise UsageError(
            f"'image_size' = {size} is no multiple of its patches of {side} px; take "
            f"{max(1, size // side) * side}"
        )


def _inflated(network: torch.nn.Module, num_bands: int) -> torch.nn.Module:
    from benchmark.networks.inflation import inflate_first_convolution

    if num_bands == 3:
        return network
    config: Any = network.pretrained_cfg
    names = config.get("first_conv") or ()
    return inflate_first_convolution(
        network, num_bands, names=(names,) if isinstance(names, str) else tuple(names)
    )
