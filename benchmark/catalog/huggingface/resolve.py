"""Backbones from image models of transformers or timm: ``hf:FOLDER`` or ``hf:ORG/NAME``.

An entry is read from JSON and the header of the weights; torch is imported when a network is
built. Weights are read as tensors alone; a checkpoint's code runs only with ``trust_remote_code``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.huggingface.documents import explained, field
from benchmark.catalog.huggingface.files import CONFIG, PROCESSOR, Checkpoint, locate
from benchmark.catalog.huggingface.header import count_parameters
from benchmark.catalog.huggingface.images import check_normalisation, read_preprocessing
from benchmark.catalog.huggingface.load import TOWERS
from benchmark.catalog.huggingface.sizes import MAX_SIDE, check_sizes
from benchmark.catalog.huggingface.timm_checkpoints import describe_network, holds_timm
from benchmark.catalog.options import (
    AS_IT_IS,
    FED,
    STAND_INS,
    Reading,
    check_applicable,
    feed,
    options_where,
)
from benchmark.catalog.tensors import inflated
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.problems import options_place
from benchmark.specs import Backbone, Publication
from benchmark.store.digest import FileRevision
from benchmark.variants import Shared

if TYPE_CHECKING:
    import torch

    from benchmark.options import BackboneOptions

PREFIX = "hf:"

_CANNOT_BE_BUILT = f"transformers cannot build it from its {CONFIG}"
_MODEL_TYPE = re.compile(r"[\w-]{1,100}", re.ASCII)

HIDDEN_SIZE = frozenset(
    {"beit", "clip_vision_model", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers",
     "dinov3_vit", "ijepa", "siglip_vision_model", "swin", "swinv2", "vit", "vit_mae", "vit_msn"}
)  # fmt: skip
"""Models whose embedding has the length ``hidden_size``."""
HIDDEN_SIZES = frozenset({"convnext", "convnextv2", "regnet", "resnet"})
"""Models whose embedding has the length of the last of ``hidden_sizes``."""
_COMPARED = HIDDEN_SIZE | HIDDEN_SIZES | {"mobilenet_v2"}
"""Models whose sizes are compared with the weights at once; any other is built at once."""


class Proof(NamedTuple):
    """What an entry says of a model, compared with transformers when the model is built."""

    dim: int
    side: int
    """Of the input, in px."""
    is_known: bool
    """Whether the model type has rules of its own."""
    num_channels: int = 3
    """Bands that the weights take."""


def resolve_huggingface(
    name: str, *, where: str, options: BackboneOptions | None = None
) -> Backbone:
    """Return the backbone named ``hf:...``.

    If a folder of that name exists (relative to the working directory, or absolute), it is used;
    any other name is a repository of the Hugging Face hub, read from the local cache if possible.

    Args:
        name: e.g. ``hf:checkpoints/beit`` or ``hf:facebook/convnext-base-224-22k@main``.
        where: the place of the name; prefix of error messages.
        options: of this backbone; networks of timm take no ``trust_remote_code``.

    Raises:
        UsageError: the checkpoint does not exist, is truncated, is not an image model, or does
            not support the options.
    """
    applicable = FED | {"mean", "std", "pooling", "layer", "trust_remote_code"}
    check_applicable(name, options, applicable, where=where)
    checkpoint = locate(name, where=where)
    if options is not None:
        checkpoint = replace(checkpoint, trusts_code=options.trust_remote_code)
    config: Mapping[str, Any] | None = checkpoint.read_json(CONFIG)
    if config is None:
        raise UsageError(
            f"{checkpoint.what}: there is no {CONFIG} in {checkpoint.path or 'the repository'}; "
            "name a folder or model that transformers can load"
        )
    if checkpoint.path is None:
        checkpoint = checkpoint.pinned()
        revision: Callable[[], str] = partial(str, checkpoint.revision)
    else:
        revision = FileRevision(_files, (checkpoint,), has_names=True)
    if holds_timm(config):
        network = describe_network(checkpoint, config, revision=revision, options=options)
        return replace(network, folder=checkpoint.folder_name)
    model_type = _image_model(config, checkpoint)
    tower = TOWERS.get(config["model_type"], "")
    is_tower = bool(tower)
    if is_tower:
        config = field(config, "vision_config", f"{checkpoint.what}: its {CONFIG}")
    num_channels = _num_channels(config, options, options_where(name, where))
    checkpoint = _with_stand_in(checkpoint, num_channels, options, options_where(name, where))
    processor, file = checkpoint.read_processor()
    _check_processor(processor, model_type, checkpoint)
    images = read_preprocessing(
        processor or {}, model_type, what=checkpoint.what, file=file, num_bands=num_channels
    )
    headers = checkpoint.headers()
    if model_type in _COMPARED:
        check_sizes(config, headers, checkpoint.what)
    dim = _known_dim(config, model_type, checkpoint.what)
    is_known = (dim is not None or is_tower) and images.is_known
    entry = Backbone(
        name=name,
        description=f"{model_type}, {AS_IT_IS.words}",
        family=model_type,
        build=partial(build, checkpoint),
        dim=dim,
        num_parameters=count_parameters(headers, prefix=tower),
        source=checkpoint.source,
        license="as the checkpoint says",
        hub_id=checkpoint.repo or None,
        revision=revision,
        folder=checkpoint.folder_name,
        **images.fields,
    )
    if num_channels != 3 and options is not None and options.bands is not None:
        entry = replace(entry, bands=options.bands[:num_channels])
    if not is_known:
        entry = _settled(checkpoint, entry, num_channels, options, options_where(name, where))
    backbone = feed(entry, options, where=where)
    reading = AS_IT_IS
    if options is not None:
        reading = Reading(options.one_pooling, options.layer, options.image_size)
    num_bands = len(backbone.bands or ())
    side = backbone.image_size or _own_side(config)
    if dim is None or reading != AS_IT_IS or num_bands != 3:
        from benchmark.catalog.huggingface.checks import measure_dim

        dim = measure_dim(checkpoint, side, reading, num_bands)
    # The model's own classifier always pools the last hidden state in its own way.
    reads_otherwise = reading._replace(image_size=None) != AS_IT_IS
    proof = Proof(dim, side, is_known, num_channels)
    classifier = partial(build_classifier, checkpoint, proof, reading)
    return replace(
        backbone,
        description=f"{model_type}, {reading.words}",
        build=partial(build, checkpoint, proof, reading),
        build_classifier=None if reads_otherwise or is_tower else classifier,
        build_foldable=None if is_tower else classifier,
        publish=None if is_tower else partial(publish, checkpoint),
        shared=Shared(partial(build_shared, checkpoint), (proof, reading)),
        dim=dim,
    )


def build(
    checkpoint: Checkpoint, proof: Proof, reading: Reading, num_bands: int
) -> torch.nn.Module:
    """Build the pooled model: (B, C, H, W) to (B, D).

    Args:
        checkpoint: its files.
        proof: what the entry says, to be compared with transformers.
        reading: the hidden state and pooling that give the embedding.
        num_bands: at least those of the weights; more bands widen the first convolution.

    Raises:
        UsageError: the weights do not fit the model, or it cannot be used as a backbone.
    """
    from benchmark.catalog.huggingface.checks import check_dim, check_kind
    from benchmark.catalog.huggingface.models import build_pooled

    with explained(f"{checkpoint.what}: {_CANNOT_BE_BUILT}"):
        check_dim(checkpoint, proof, reading)
        model = build_pooled(checkpoint, reading)
        if not proof.is_known:
            check_kind(checkpoint, model, proof.dim, proof.side)
        return inflated(model, num_bands)


def build_shared(
    checkpoint: Checkpoint, num_bands: int, readings: tuple[tuple[Proof, Reading], ...]
) -> torch.nn.Module:
    """Build one model that several readings pool: (B, C, H, W) to (B, sum of D).

    Args:
        checkpoint: its files.
        num_bands: as for ``build``.
        readings: as for ``build``, in order.

    Raises:
        UsageError: as for ``build``.
    """
    from benchmark.catalog.huggingface.checks import check_dim, check_kind
    from benchmark.catalog.huggingface.models import build_many

    with explained(f"{checkpoint.what}: {_CANNOT_BE_BUILT}"):
        for proof, reading in readings:
            check_dim(checkpoint, proof, reading)
        model = build_many(checkpoint, [reading for _, reading in readings])
        proof = readings[0][0]
        if not proof.is_known:
            check_kind(checkpoint, model, sum(item.dim for item, _ in readings), proof.side)
        return inflated(model, num_bands)


def build_classifier(
    checkpoint: Checkpoint, proof: Proof, reading: Reading, num_bands: int, num_classes: int
) -> torch.nn.Module:
    """Build the model's classifier with a new classification layer: (B, C, H, W) to (B, K).

    If transformers has no classifier for the model type, a linear layer reads its embedding.
    """
    from benchmark.catalog.huggingface.checks import check_dim
    from benchmark.catalog.huggingface.models import build_own_classifier

    with explained(f"{checkpoint.what}: {_CANNOT_BE_BUILT}"):
        check_dim(checkpoint, proof, reading)
        model = build_own_classifier(checkpoint, proof.dim, num_classes, reading)
        return inflated(model, num_bands)


def publish(checkpoint: Checkpoint, publication: Publication) -> None:
    """Write a classifier as a folder for transformers."""
    from benchmark.catalog.huggingface.publish import publish_transformers

    publish_transformers(checkpoint, publication)


def _files(checkpoint: Checkpoint) -> list[Path]:
    return [*checkpoint.weights(), *checkpoint.code(), checkpoint.need(CONFIG)]


def _image_model(config: Mapping[str, Any], checkpoint: Checkpoint) -> str:
    """Return the type of an image model, or of the vision part of a model of images and text."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        given = shown(model_type, 100)
        raise UsageError(
            f"{checkpoint.what}: its {CONFIG} has no model_type"
            f"{'' if model_type is None else f' but {given}'}; name a checkpoint of transformers"
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


def _with_stand_in(
    checkpoint: Checkpoint, num_channels: int, options: BackboneOptions | None, where: str
) -> Checkpoint:
    """Return the checkpoint, with an image processor from the options ``mean`` and ``std``.

    Raises:
        UsageError: the checkpoint has an image processor, or an option is absent or out of range.
    """
    if options is None or (options.mean is None and options.std is None):
        return checkpoint
    if checkpoint.read_processor()[0] is not None:
        raise UsageError(
            f"{where}: 'mean' and 'std' stand in for an image processor, and the checkpoint has "
            f"one ({PROCESSOR}); remove them"
        )
    missing = [name for name in STAND_INS if getattr(options, name) is None]
    if missing:
        raise UsageError(
            f"{where}: {' and '.join(missing)} must be set, too, to stand in for the {PROCESSOR} "
            "that the checkpoint lacks"
        )
    check_normalisation(options.mean, options.std, where, ("mean", "std"), num_channels)
    mean, std = (
        list(values or ()) * (num_channels if len(values or ()) == 1 else 1)
        for values in (options.mean, options.std)
    )
    size = {"height": options.image_size, "width": options.image_size}
    content = {
        "image_processor_type": "ViTImageProcessor",
        "size": size,
        "resample": 2,
        "image_mean": mean,
        "image_std": std,
    }
    return replace(checkpoint, stand_in=json.dumps(content))


def _check_processor(
    processor: Mapping[str, Any] | None, model_type: str, checkpoint: Checkpoint
) -> None:
    if processor is None:
        raise UsageError(
            f"{checkpoint.what}: there is no {PROCESSOR} (how images are resized and normalised); "
            "save the model's image processor beside its weights, or set image_size, mean and std "
            f"under {options_place(checkpoint.name)}"
        )
    if "sampling_rate" in processor:
        raise UsageError(
            f"{checkpoint.what}: '{model_type}' is an audio model; name an image model"
        )


def _known_dim(config: Mapping[str, Any], model_type: str, what: str) -> int | None:
    """Return the length of the embedding; None: a network must be built to measure it."""
    found = None
    if model_type in HIDDEN_SIZE:
        found = config.get("hidden_size")
    elif model_type in HIDDEN_SIZES:
        sizes = config.get("hidden_sizes")
        found = sizes[-1] if isinstance(sizes, list) else None
    elif model_type == "mobilenet_v2":
        multiplier = config.get("depth_multiplier", 1.0)
        if type(multiplier) not in (int, float) or not 0 < multiplier <= MAX_SIDE:
            raise UsageError(
                f"{what}: its {CONFIG} has depth_multiplier = {shown(multiplier)}; set a number "
                f"above 0, as of its weights"
            )
        is_fixed = config.get("finegrained_output", True) and multiplier < 1
        found = 1280 if multiplier == 1 or is_fixed else None
    return found if isinstance(found, int) else None


def _settled(
    checkpoint: Checkpoint,
    entry: Backbone,
    num_channels: int,
    options: BackboneOptions | None,
    where: str,
) -> Backbone:
    """Compare the preprocessing with the image processor, or let that prepare the patches.

    Raises:
        UsageError: the image processor is used, or compared, and cannot be fed so.
    """
    from benchmark.catalog.huggingface.checks import settled

    if num_channels != 3:
        raise UsageError(
            f"{checkpoint.what}: a '{entry.family}' of {num_channels} bands cannot be compared "
            "with its image processor; use one of red, green and blue"
        )
    found = settled(checkpoint, entry)
    if found.processor is not None and options is not None:
        for key, is_given in (
            ("image_size", options.image_size is not None),
            ("bands", len(options.bands or ()) > 3),
        ):
            if is_given:
                raise UsageError(
                    f"{where}: '{key}' does not apply, because its {found.processor.name} prepares "
                    "the patches, in red, green and blue and in its own size; remove it"
                )
    return found


def _num_channels(config: Mapping[str, Any], options: BackboneOptions | None, where: str) -> int:
    """Return the number of bands that the weights take.

    Raises:
        UsageError: other than three, and the experiment does not name them.
    """
    found = config.get("num_channels", 3)
    if type(found) is not int or found < 1 or found == 3:
        return 3
    bands = None if options is None else options.bands
    if bands is None or len(bands) < found:
        given = "none are named" if bands is None else f"'bands' names {len(bands)}"
        raise UsageError(
            f"{where}: its weights take {found} band{'s' if found > 1 else ''}, and {given}; name "
            f"at least {found}, in order, with bands = [...]"
        )
    return found


def _own_side(config: Mapping[str, Any]) -> int:
    """Return the side in px for which a model is configured, or a usual one."""
    side = config.get("image_size")
    return side if type(side) is int and 0 < side <= MAX_SIDE else 224
