"""Any image model of transformers or timm as a backbone: ``hf:FOLDER`` or ``hf:ORG/NAME``.

What an entry says is read from JSON and from the header of the weights; torch is imported where
a network is built. Only safetensors are read, and no code of a checkpoint is run.
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
"""Models whose last hidden state is as long as ``hidden_size``."""
HIDDEN_SIZES = frozenset({"convnext", "convnextv2", "regnet", "resnet"})
"""Models whose last hidden state is as long as the last of ``hidden_sizes``."""


def resolve_huggingface(
    name: str, *, where: str, options: BackboneOptions | None = None
) -> Backbone:
    """Return the backbone that ``hf:...`` names.

    A name that is a folder (relative to where the command runs, or absolute) means that folder;
    any other is a repository of the Hugging Face hub, from the local cache where it is there.

    Args:
        name: e.g. ``hf:checkpoints/beit`` or ``hf:facebook/convnext-base-224-22k@main``.
        where: where it was written; begins the message.
        options: of this backbone; to a network of timm only ``image_size`` and ``bands`` apply.

    Raises:
        UsageError: there is no such checkpoint, it is no image model, it is not whole, or it
            cannot be used as the options say.
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
    checkpoint, commit = _pin(checkpoint)
    revision = partial(_digest, checkpoint) if commit is None else partial(str, commit)
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
        image_size=images.image_size,
        resize_to=images.resize_to,
        interpolation=images.interpolation,
        is_rounded=True,
        mean=images.mean,
        std=images.std,
    )
    backbone = feed(entry, options, where=where)
    reading = AS_IT_IS
    if options is not None:
        reading = Reading(options.pooling, options.layer, options.image_size)
    num_bands = len(backbone.bands or ())
    if dim is None or reading != AS_IT_IS or num_bands != 3:
        from benchmark.catalog.huggingface.checks import measure_dim

        dim = measure_dim(checkpoint, backbone.image_size or 224, reading, num_bands)
    # The model's own classifier reads the last hidden state in its own way.
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
        unproven: dimension and preprocessing of a kind of model that is not known here, which
            are compared with what transformers does; None: known.
        reading: how the embedding is read off.
        num_bands: 3; more grow the first convolution.

    Raises:
        UsageError: the weights do not fit the model, or it cannot be used as a backbone.
    """
    from benchmark.catalog.huggingface.models import build_pooled
    from benchmark.networks.inflation import inflate_first_convolution

    model = build_pooled(checkpoint, reading)
    if unproven is not None:
        from benchmark.catalog.huggingface.checks import check_kind

        dim, images = unproven
        check_kind(checkpoint, model, dim, images)
    return model if num_bands == 3 else inflate_first_convolution(model, num_bands)


def build_classifier(
    checkpoint: Checkpoint, dim: int, reading: Reading, num_bands: int, num_classes: int
) -> torch.nn.Module:
    """Build the model's own classifier, its classification layer new: (B, C, H, W) to (B, K).

    A kind of model for which transformers has no classifier gets a linear layer on its embedding.
    """
    from benchmark.catalog.huggingface.models import build_own_classifier
    from benchmark.networks.inflation import inflate_first_convolution

    model = build_own_classifier(checkpoint, dim, num_classes, reading)
    return model if num_bands == 3 else inflate_first_convolution(model, num_bands)


def publish(checkpoint: Checkpoint, publication: Publication) -> None:
    """Write a fine-tuned classifier as a folder for transformers."""
    from benchmark.catalog.huggingface.publish import publish_transformers

    publish_transformers(checkpoint, publication)


def _pin(checkpoint: Checkpoint) -> tuple[Checkpoint, str | None]:
    """Return the checkpoint at the commit that a branch means now, and that commit."""
    if checkpoint.path is not None:
        return checkpoint, None
    config = checkpoint.file(CONFIG)
    # The cache keeps a file under snapshots/COMMIT/.
    commit = None if config is None else config.parent.name
    return replace(checkpoint, revision=commit), commit


def _digest(checkpoint: Checkpoint) -> str:
    from benchmark.store.digest import digest_files, fingerprint

    config = checkpoint.file(CONFIG)
    paths = [*checkpoint.weights(), *checkpoint.code()] + ([] if config is None else [config])
    digests = digest_files(paths)
    return fingerprint([[path.name, digests[path]] for path in paths])


def _image_model(config: Mapping[str, Any], checkpoint: Checkpoint) -> str:
    """Return the type of a model that takes images alone, or of the part of it that does."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UsageError(
            f"{checkpoint.what}: its {CONFIG} has no model_type, so that it is no checkpoint of "
            "transformers"
        )
    has_images = bool({"vision_config", "image_size", "num_channels"} & config.keys())
    # BEiT has a vocabulary too, that of its image tokens, but no positions of words.
    has_words = "vocab_size" in config and (
        not has_images or bool({"type_vocab_size", "max_position_embeddings"} & config.keys())
    )
    if model_type in TOWERS and "vision_config" in config:
        return f"{model_type}_vision_model"
    if has_words or "text_config" in config:
        kind = "a model of images and text" if has_images else "a text model"
        raise UsageError(
            f"{checkpoint.what}: '{model_type}' is {kind}; a backbone takes images alone"
        )
    return model_type


def _check_processor(
    processor: Mapping[str, Any] | None, model_type: str, checkpoint: Checkpoint
) -> None:
    if processor is None:
        raise UsageError(
            f"{checkpoint.what}: there is no {PROCESSOR}, which says how images are resized and "
            "normalised; save the model's image processor beside its weights"
        )
    if "sampling_rate" in processor:
        raise UsageError(
            f"{checkpoint.what}: '{model_type}' is a model of sound; a backbone takes images alone"
        )


def _known_dim(config: Mapping[str, Any], model_type: str) -> int | None:
    """Return the length of the embedding, or None where a network must be built to know it."""
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
