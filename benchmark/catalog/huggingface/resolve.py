"""Backbones from image models of transformers or timm: ``hf:FOLDER`` or ``hf:ORG/NAME``.

An entry is read from JSON and the header of the weights; torch is imported when a network is
built. Only safetensors are read; a checkpoint's code runs only with ``trust_remote_code``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmark.catalog.huggingface.files import CONFIG, PROCESSOR, Checkpoint, locate
from benchmark.catalog.huggingface.header import count_parameters
from benchmark.catalog.huggingface.images import Preprocessing, read_preprocessing
from benchmark.catalog.huggingface.load import TOWER_PREFIX, TOWERS
from benchmark.catalog.huggingface.timm_checkpoints import describe_network, holds_timm
from benchmark.catalog.options import AS_IT_IS, FED, Reading, check_applicable, feed
from benchmark.catalog.tensors import inflated
from benchmark.errors import UsageError
from benchmark.specs import Backbone, Publication

if TYPE_CHECKING:
    import torch

    from benchmark.config import BackboneOptions

PREFIX = "hf:"

HIDDEN_SIZE = frozenset(
    {"beit", "clip_vision_model", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers",
     "dinov3_vit", "ijepa", "siglip_vision_model", "swin", "swinv2", "vit", "vit_mae", "vit_msn"}
)  # fmt: skip
"""Models whose embedding has the length ``hidden_size``."""
HIDDEN_SIZES = frozenset({"convnext", "convnextv2", "regnet", "resnet"})
"""Models whose embedding has the length of the last of ``hidden_sizes``."""


def resolve_huggingface(
    name: str, *, where: str, options: BackboneOptions | None = None
) -> Backbone:
    """Return the backbone named ``hf:...``.

    If a folder of that name exists (relative to the working directory, or absolute), it is used;
    any other name is a repository of the Hugging Face hub, read from the local cache if possible.

    Args:
        name: e.g. ``hf:checkpoints/beit`` or ``hf:facebook/convnext-base-224-22k@main``.
        where: the place of the name; prefix of error messages.
        options: of this backbone; networks of timm take only ``image_size`` and ``bands``.

    Raises:
        UsageError: the checkpoint does not exist, is truncated, is not an image model, or does
            not support the options.
    """
    applicable = FED | {"pooling", "layer", "trust_remote_code"}
    check_applicable(name, options, applicable, where=where)
    checkpoint = locate(name, where=where)
    if options is not None:
        checkpoint = replace(checkpoint, trusts_code=options.trust_remote_code)
    config = checkpoint.read_json(CONFIG)
    if config is None:
        raise UsageError(
            f"{checkpoint.what}: there is no {CONFIG} in {checkpoint.path or 'the repository'}; "
            "name a folder or model that transformers can load"
        )
    if checkpoint.path is None:
        checkpoint = checkpoint.pinned()
        revision = partial(str, checkpoint.revision)
    else:
        revision = partial(_digest, checkpoint)
    if holds_timm(config):
        return describe_network(checkpoint, config, revision=revision, options=options)
    model_type = _image_model(config, checkpoint)
    is_tower = config["model_type"] in TOWERS
    if is_tower:
        config = config["vision_config"]
    processor = checkpoint.read_json(PROCESSOR)
    _check_processor(processor, model_type, checkpoint)
    images = read_preprocessing(processor or {}, model_type, what=checkpoint.what)
    headers = checkpoint.headers()
    dim = _known_dim(config, model_type)
    is_known = (dim is not None or is_tower) and images.is_known
    entry = Backbone(
        name=name,
        description=f"{model_type}, {AS_IT_IS.words}",
        family=model_type,
        build=partial(build, checkpoint, None, AS_IT_IS),
        dim=dim,
        num_parameters=count_parameters(headers, prefix=TOWER_PREFIX if is_tower else ""),
        source=checkpoint.source,
        license="as the checkpoint says",
        hub_id=checkpoint.repo or None,
        revision=revision,
        **images.fields,
    )
    backbone = feed(entry, options, where=where)
    reading = AS_IT_IS
    if options is not None:
        reading = Reading(options.pooling, options.layer, options.image_size)
    num_bands = len(backbone.bands or ())
    if dim is None or reading != AS_IT_IS or num_bands != 3:
        from benchmark.catalog.huggingface.checks import measure_dim

        dim = measure_dim(checkpoint, backbone.image_size or 224, reading, num_bands)
    # The model's own classifier always pools the last hidden state in its own way.
    reads_otherwise = reading._replace(image_size=None) != AS_IT_IS
    classifier = partial(build_classifier, checkpoint, dim, reading)
    return replace(
        backbone,
        description=f"{model_type}, {reading.words}",
        build=partial(build, checkpoint, None if is_known else (dim, images), reading),
        build_classifier=None if reads_otherwise or is_tower else classifier,
        publish=None if is_tower else partial(publish, checkpoint),
        dim=dim,
    )


def build(
    checkpoint: Checkpoint,
    unproven: tuple[int, Preprocessing] | None,
    reading: Reading,
    num_bands: int,
) -> torch.nn.Module:
    """Build the pooled model: (B, C, H, W) to (B, D).

    Args:
        checkpoint: its files.
        unproven: dimension and preprocessing to be compared with transformers; None: a model type
            with rules of its own.
        reading: the hidden state and pooling that give the embedding.
        num_bands: 3; more bands widen the first convolution.

    Raises:
        UsageError: the weights do not fit the model, or it cannot be used as a backbone.
    """
    from benchmark.catalog.huggingface.models import build_pooled

    model = build_pooled(checkpoint, reading)
    if unproven is not None:
        from benchmark.catalog.huggingface.checks import check_kind

        dim, images = unproven
        check_kind(checkpoint, model, dim, images)
    return inflated(model, num_bands)


def build_classifier(
    checkpoint: Checkpoint, dim: int, reading: Reading, num_bands: int, num_classes: int
) -> torch.nn.Module:
    """Build the model's classifier with a new classification layer: (B, C, H, W) to (B, K).

    If transformers has no classifier for the model type, a linear layer reads its embedding.
    """
    from benchmark.catalog.huggingface.models import build_own_classifier

    return inflated(build_own_classifier(checkpoint, dim, num_classes, reading), num_bands)


def publish(checkpoint: Checkpoint, publication: Publication) -> None:
    """Write a fine-tuned classifier as a folder for transformers."""
    from benchmark.catalog.huggingface.publish import publish_transformers

    publish_transformers(checkpoint, publication)


def _digest(checkpoint: Checkpoint) -> str:
    from benchmark.store.digest import digest_files, fingerprint

    paths = [*checkpoint.weights(), *checkpoint.code(), checkpoint.need(CONFIG)]
    digests = digest_files(paths)
    return fingerprint([[path.name, digests[path]] for path in paths])


def _image_model(config: Mapping[str, Any], checkpoint: Checkpoint) -> str:
    """Return the type of an image model, or of the vision part of a model of images and text."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UsageError(
            f"{checkpoint.what}: its {CONFIG} has no model_type; name a checkpoint of transformers"
        )
    has_images = bool({"vision_config", "image_size", "num_channels"} & config.keys())
    # BEiT has a vocabulary of image tokens, but no positions of words.
    has_words = "vocab_size" in config and (
        not has_images or bool({"type_vocab_size", "max_position_embeddings"} & config.keys())
    )
    if model_type in TOWERS and "vision_config" in config:
        return f"{model_type}_vision_model"
    if has_words or "text_config" in config:
        kind = "a model of images and text" if has_images else "a text model"
        raise UsageError(f"{checkpoint.what}: '{model_type}' is {kind}; name an image model")
    return model_type


def _check_processor(
    processor: Mapping[str, Any] | None, model_type: str, checkpoint: Checkpoint
) -> None:
    if processor is None:
        raise UsageError(
            f"{checkpoint.what}: there is no {PROCESSOR} (how images are resized and normalised); "
            "save the model's image processor beside its weights"
        )
    if "sampling_rate" in processor:
        raise UsageError(
            f"{checkpoint.what}: '{model_type}' is an audio model; name an image model"
        )


def _known_dim(config: Mapping[str, Any], model_type: str) -> int | None:
    """Return the length of the embedding; None: a network must be built to measure it."""
    found = None
    if model_type in HIDDEN_SIZE:
        found = config.get("hidden_size")
    elif model_type in HIDDEN_SIZES:
        found = (config.get("hidden_sizes") or [None])[-1]
    elif model_type == "mobilenet_v2":
        multiplier = config.get("depth_multiplier", 1.0)
        is_fixed = config.get("finegrained_output", True) and multiplier < 1
        found = 1280 if multiplier == 1 or is_fixed else None
    return found if isinstance(found, int) else None
