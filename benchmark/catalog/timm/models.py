"""Backbones from networks of timm: ``timm:NAME`` or ``timm:NAME.TAG``.

Weights are safetensors from the Hugging Face hub's cache, pinned to a commit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from benchmark.catalog.huggingface.files import CONFIG, WEIGHTS, Checkpoint
from benchmark.catalog.options import READ, check_applicable, feed, options_where, prefixed
from benchmark.catalog.timm.layers import read_layer
from benchmark.catalog.timm.names import family_of, full_name, pretrained_config
from benchmark.catalog.timm.networks import (
    Arguments,
    build_loaded,
    build_untrained,
    publish_network,
    read_facts,
    read_preprocessing,
    size_arguments,
)
from benchmark.specs import Backbone

if TYPE_CHECKING:
    import torch

    from benchmark.options import BackboneOptions

TIMM_PREFIX = "timm:"


def resolve_timm(name: str, *, where: str = "", options: BackboneOptions | None = None) -> Backbone:
    """Return the backbone named ``timm:...``.

    Args:
        name: e.g. ``timm:resnet50`` (timm's default weights) or ``timm:resnet50.a1_in1k``.
        where: the place of the name; prefix of error messages.
        options: of this backbone; all but ``trust_remote_code`` apply.

    Raises:
        UsageError: timm has no such network or weights, the weights cannot be fetched, or the
            network does not support an option.
    """
    check_applicable(name, options, READ, where=where)
    checkpoint = Checkpoint(name=name, where=where)
    model = full_name(name.removeprefix(TIMM_PREFIX), checkpoint.what)
    config = pretrained_config(model)
    checkpoint = replace(checkpoint, repo=config["hf_hub_id"])
    # A cache with the weights may lack the configuration, which is faster to fetch.
    checkpoint = checkpoint.pinned(WEIGHTS if checkpoint.has(WEIGHTS) else CONFIG)
    # Read now so that missing or truncated weights fail before any work.
    checkpoint.headers()
    backbone = feed(describe(name, model, checkpoint.what), options, where=where)
    size = backbone.image_size
    model_args = size_arguments(config, size)
    with prefixed(options_where(name, where)):
        facts = read_facts(model, size, len(backbone.bands or ()))
    backbone = replace(
        backbone,
        build=partial(build, model, checkpoint, model_args),
        publish=partial(publish_network, model, model_args),
        revision=partial(str, checkpoint.revision),
        dim=facts.dim,
        num_parameters=facts.num_parameters,
    )
    network = partial(build_untrained, model, **dict(model_args))
    return read_layer(backbone, options, network, where=where)


def describe(name: str, model: str, what: str) -> Backbone:
    """Return the entry of a network of timm without its weights.

    Args:
        name: of the backbone.
        model: timm's name, with a tag.
        what: prefix of error messages.

    Raises:
        UsageError: its preprocessing is not supported.
    """
    config = pretrained_config(model)
    images = read_preprocessing(config, what)
    architecture, _, tag = model.partition(".")
    facts = read_facts(model, images.image_size, 3)
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
        **images._asdict(),
    )


def build(
    model: str, checkpoint: Checkpoint, model_args: Arguments, num_bands: int
) -> torch.nn.Module:
    """Build the network with its weights: (B, C, H, W) to (B, D).

    Args:
        model: timm's name, with a tag.
        checkpoint: its files.
        model_args: further arguments of ``timm.create_model``.
        num_bands: 3; more bands widen the first convolution.

    Raises:
        UsageError: the weights do not fit the network.
    """
    overlay = {"file": str(checkpoint.need(WEIGHTS))}
    return build_loaded(model, overlay, model_args, num_bands, what=checkpoint.what)
