"""Any network of timm as a backbone: ``timm:NAME`` or ``timm:NAME.TAG``.

Weights come from the Hugging Face hub's cache, as safetensors, pinned to a commit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.catalog.huggingface.files import CONFIG, WEIGHTS, Checkpoint
from benchmark.catalog.options import FED, backbone_what, check_applicable, feed, options_where
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
from benchmark.errors import UsageError
from benchmark.specs import Backbone

if TYPE_CHECKING:
    import torch

    from benchmark.config import BackboneOptions

TIMM_PREFIX = "timm:"


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
    what = backbone_what(name, where)
    model = full_name(name.removeprefix(TIMM_PREFIX), what)
    config = pretrained_config(model)
    checkpoint, commit = _pin(
        Checkpoint(name=name, where=where, repo=config["hf_hub_id"], revision=None)
    )
    # They are read here so that what is absent or torn fails before any work.
    checkpoint.headers()
    backbone = feed(describe(name, model, what), options, where=where)
    size = backbone.image_size
    model_args = size_arguments(config, size)
    num_bands = len(backbone.bands or ())
    try:
        facts = read_facts(model, size, num_bands)
    except UsageError as error:
        raise UsageError(f"{options_where(name, where)}: {error}") from None
    return replace(
        backbone,
        build=partial(build, model, checkpoint, model_args),
        publish=partial(publish_network, model, model_args),
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
        model_args: what ``timm.create_model`` is given beside.
        num_bands: 3; more grow the first convolution.

    Raises:
        UsageError: the weights do not fit the network.
    """
    path = checkpoint.file(WEIGHTS)
    if path is None:
        raise UsageError(f"{checkpoint.what}: there is no {WEIGHTS} in {checkpoint.repo}")
    return build_loaded(model, {"file": str(path)}, model_args, num_bands, what=checkpoint.what)


def _pin(checkpoint: Checkpoint) -> tuple[Checkpoint, str]:
    """Return the checkpoint at the commit that its branch means now, and that commit."""
    # Who has the weights need not have the configuration, which is fetched sooner.
    path: Path | None = checkpoint.file(WEIGHTS if checkpoint.has(WEIGHTS) else CONFIG)
    if path is None:
        raise UsageError(f"{checkpoint.what}: there is no {CONFIG} in {checkpoint.repo}")
    # The cache keeps a file under snapshots/COMMIT/.
    return replace(checkpoint, revision=path.parent.name), path.parent.name
