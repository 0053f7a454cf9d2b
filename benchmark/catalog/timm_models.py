"""Any network of timm as a backbone: ``timm:NAME`` or ``timm:NAME.TAG``.

The embedding is what the network's own global pooling gives to its classifier. Weights come from
the Hugging Face hub's cache, as safetensors, pinned to a commit.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmark.catalog.huggingface_files import CONFIG, WEIGHTS, Checkpoint
from benchmark.catalog.options import FED, check_applicable, feed, options_where
from benchmark.catalog.timm_names import family_of, full_name, pretrained_config
from benchmark.errors import UsageError, one_line
from benchmark.specs import Backbone, Publication

if TYPE_CHECKING:
    import torch

    from benchmark.config import BackboneOptions

TIMM_PREFIX = "timm:"


class Facts(NamedTuple):
    """What a network says of itself."""

    dim: int
    num_parameters: int


def resolve_timm(name: str, *, where: str = "", options: BackboneOptions | None = None) -> Backbone:
    """Return the backbone that ``timm:...`` names.

    Args:
        name: e.g. ``timm:resnet50`` (timm's default weights) or ``timm:resnet50.a1_in1k``.
        where: where it was written; begins messages.
        options: of this backbone; ``image_size`` and ``bands`` apply.

    Raises:
        UsageError: timm has no such network or weights, the weights are not on this machine and
            cannot be fetched, or an option does not fit.
    """
    check_applicable(name, options, FED, where=where)
    what = f"{where}: backbone '{name}'" if where else f"backbone '{name}'"
    model = full_name(name.removeprefix(TIMM_PREFIX), what)
    config = pretrained_config(model)
    checkpoint, commit = _pin(
        Checkpoint(name=name, where=where, repo=config["hf_hub_id"], revision=None)
    )
    # They are read here so that what is absent or torn fails before any work.
    checkpoint.headers()
    backbone = feed(describe(name, model, what), options, where=where)
    size = backbone.image_size
    model_args = _size_arguments(config, size)
    num_bands = len(backbone.bands or ())
    try:
        facts = read_facts(model, size, num_bands)
    except UsageError as error:
        raise UsageError(f"{options_where(name, where)}: {error}") from None
    return replace(
        backbone,
        build=partial(build, model, checkpoint, model_args),
        publish=partial(publish, model, model_args),
        revision=partial(str, commit),
        dim=facts.dim,
        num_parameters=facts.num_parameters,
    )


def describe(name: str, model: str, what: str) -> Backbone:
    """Return the entry of a network of timm without its weights.

    Args:
        name: of the backbone.
        model: timm's name, with a tag.
        what: begins messages.

    Raises:
        UsageError: its preprocessing has no equal here.
    """
    from timm.data.config import resolve_data_config as untyped

    resolve_data_config: Any = untyped
    config = pretrained_config(model)
    data = resolve_data_config(pretrained_cfg=config)
    interpolation: Literal["bilinear", "bicubic"] = data["interpolation"]
    _, height, width = data["input_size"]
    if interpolation not in ("bilinear", "bicubic") or height != width:
        raise UsageError(
            f"{what}: its images are {height} x {width} px, resized '{interpolation}'; only square "
            "ones, bilinear or bicubic, can be had here"
        )
    resize_to = math.floor(height / data["crop_pct"])
    architecture, _, tag = model.partition(".")
    facts = read_facts(model, height, 3)
    return Backbone(
        name=name,
        description=f"{architecture} of timm, {tag or 'untagged'}, pooled features",
        family=family_of(architecture),
        build=partial(build_untrained, model),
        dim=facts.dim,
        num_parameters=facts.num_parameters,
        source=f"https://huggingface.co/{config['hf_hub_id']}",
        license=config.get("license") or "as the checkpoint says",
        hub_id=config["hf_hub_id"],
        image_size=height,
        resize_to=None if resize_to == height else resize_to,
        interpolation=interpolation,
        # timm resizes PIL images.
        is_rounded=True,
        crops_like_torchvision=True,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )


def build(
    model: str, checkpoint: Checkpoint, model_args: dict[str, Any], num_bands: int
) -> torch.nn.Module:
    """Build the network with its weights: (B, C, H, W) to (B, D).

    Args:
        model: timm's name, with a tag.
        checkpoint: its files.
        model_args: what ``timm.create_model`` is given beside.
        num_bands: 3; more grow the first convolution.

    Raises:
        UsageError: the weights do not fit the network.
    """
    import timm

    path = checkpoint.file(WEIGHTS)
    if path is None:
        raise UsageError(f"{checkpoint.what}: there is no {WEIGHTS} in {checkpoint.repo}")
    # With its own classifier, so that timm checks every tensor; the classifier is taken off.
    overlay = {"file": str(path), "custom_load": False}
    try:
        network: Any = timm.create_model(
            model, pretrained=True, pretrained_cfg_overlay=overlay, **model_args
        )
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        text = " ".join(str(error).split())[:200]
        raise UsageError(f"{checkpoint.what}: its weights do not fit the network: {text}") from None
    network.reset_classifier(0)
    return _inflated(network, num_bands).eval()


def build_untrained(model: str, num_bands: int, **model_args: Any) -> torch.nn.Module:
    """Build the network with weights drawn at random: (B, C, H, W) to (B, D)."""
    import timm

    network = timm.create_model(model, pretrained=False, num_classes=0, **model_args)
    return _inflated(network, num_bands).eval()


def publish(model: str, model_args: dict[str, Any], publication: Publication) -> None:
    """Write a fine-tuned classifier as a folder for transformers, which wraps timm."""
    from benchmark.catalog.huggingface_publish import publish_timm

    publish_timm(
        model.partition(".")[0],
        publication,
        classifier=pretrained_config(model)["classifier"],
        model_args=model_args,
    )


@cache
def read_facts(model: str, size: int, num_bands: int) -> Facts:
    """Return what a network says of itself, from one without memory or weights.

    Args:
        model: timm's name.
        size: side in px of what it is fed.
        num_bands: how many bands it is fed.

    Raises:
        UsageError: it cannot take that size or so many bands.
    """
    import torch

    model_args = _size_arguments(pretrained_config(model), size)
    try:
        with torch.device("meta"), torch.inference_mode():
            network = build_untrained(model, num_bands, **model_args)
            _check_patches(network, size)
            found = network(torch.zeros(2, num_bands, size, size))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UsageError(
            f"{model} cannot take {num_bands} bands of {size} px: {one_line(error, limit=160)}"
        ) from None
    return Facts(int(found.shape[1]), sum(item.numel() for item in network.parameters()))


def _check_patches(network: Any, size: int) -> None:
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    side = patch[0] if isinstance(patch, tuple) else patch
    if isinstance(side, int) and size % side:
        raise UsageError(
            f"'image_size' = {size} is no multiple of its patches of {side} px; take "
            f"{max(1, size // side) * side}"
        )


def _inflated(network: torch.nn.Module, num_bands: int) -> torch.nn.Module:
    from benchmark.inflation import inflate_first_convolution

    if num_bands == 3:
        return network
    config: Any = network.pretrained_cfg
    names = config.get("first_conv") or ()
    return inflate_first_convolution(
        network, num_bands, names=(names,) if isinstance(names, str) else tuple(names)
    )


def _size_arguments(config: dict[str, Any], size: int | None) -> dict[str, Any]:
    """Return what ``timm.create_model`` needs to know of the size.

    Networks with positions for each patch are built for one size, and timm resamples their
    positions; the others take any.
    """
    is_own = size is None or size == config["input_size"][-1]
    return {} if is_own or not config["fixed_input_size"] else {"img_size": size}


def _pin(checkpoint: Checkpoint) -> tuple[Checkpoint, str]:
    """Return the checkpoint at the commit that its branch means now, and that commit."""
    # Who has the weights need not have the configuration, which is fetched sooner.
    path: Path | None = checkpoint.file(WEIGHTS if checkpoint.has(WEIGHTS) else CONFIG)
    if path is None:
        raise UsageError(f"{checkpoint.what}: there is no {CONFIG} in {checkpoint.repo}")
    # The cache keeps a file under snapshots/COMMIT/.
    return replace(checkpoint, revision=path.parent.name), path.parent.name
