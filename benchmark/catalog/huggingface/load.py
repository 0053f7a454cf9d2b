"""Configuration, image processor and model of a checkpoint, loaded by transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmark.catalog.huggingface.documents import explained
from benchmark.catalog.huggingface.files import CONFIG, PROCESSOR, Checkpoint
from benchmark.catalog.huggingface.sizes import bounded, check_totals
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.problems import options_place

TOWERS = {
    **dict.fromkeys(
        ("align", "blip", "chinese_clip", "clip", "clipseg", "groupvit", "metaclip_2", "owlv2",
         "owlvit", "siglip"),
        "vision_model.",
    ),
    **dict.fromkeys(("sam", "sam_hq"), "vision_encoder."),
}  # fmt: skip
"""Models with a separate vision model, and the prefix of its tensors."""

_MAX_LEVIT_SIDE = 512
"""LeViT lists all pairs of positions in Python: hours for large images."""


def has_classifier(checkpoint: Checkpoint) -> bool:
    """Return whether transformers has an image classifier for this kind of model."""
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    return type(load_config(checkpoint)) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING


def base_class(checkpoint: Checkpoint, config: Any) -> Any:
    """Return the class of transformers of a base model, or of a vision model of its own.

    Raises:
        UsageError: there is none.
    """
    import transformers
    from transformers import MODEL_MAPPING, AutoModel

    if type(config) in MODEL_MAPPING or checkpoint.trusts_code:
        return AutoModel
    # Some vision models are known by their class alone.
    name = type(config).__name__.replace("VisionConfig", "VisionModel")
    found = getattr(transformers, name, None)
    if found is None or found is type(config):
        raise UsageError(
            f"{checkpoint.what}: transformers has no base model for '{config.model_type}'; use "
            "another model"
        )
    return found


def load_config(checkpoint: Checkpoint) -> Any:
    """Return the configuration of transformers; of models of images and text, the vision part.

    Raises:
        UsageError: this version of transformers does not know the model, or the file is invalid.
    """
    from transformers import AutoConfig, ViTConfig
    from transformers.activations import ACT2FN

    auto: Any = AutoConfig
    folder = checkpoint.folder()
    try:
        failed = f"{checkpoint.what}: transformers cannot read its {CONFIG}"
        with explained(failed), quiet_transformers():
            config = auto.from_pretrained(
                folder, trust_remote_code=checkpoint.trusts_code, local_files_only=True
            )
            if config.model_type in TOWERS:
                config = config.vision_config
            if config.model_type == "vit_mae":
                # Its own class masks most patches at random; its encoder is a ViT.
                config = ViTConfig.from_dict({**config.to_dict(), "model_type": "vit"})
            # PooledModel reads the output by its names.
            config.return_dict = True
    except UsageError:
        if not checkpoint.trusts_code and "auto_map" in (checkpoint.read_json(CONFIG) or {}):
            raise UsageError(
                f"{checkpoint.what}: needs its own Python code to run; read the code and, if you "
                f"trust it, set trust_remote_code = true under {options_place(checkpoint.name)}"
            ) from None
        raise
    names = getattr(config, "__dataclass_fields__", ())
    fields = {name: getattr(config, name, None) for name in names}
    check_totals(fields.items(), f"{checkpoint.what}: its {CONFIG}")
    if config.model_type == "levit" and max(_listed(config.image_size)) > _MAX_LEVIT_SIDE:
        raise UsageError(
            f"{checkpoint.what}: its {CONFIG} has image_size = {shown(config.image_size)}; set at "
            f"most {_MAX_LEVIT_SIDE} px"
        )
    for name, value in fields.items():
        if name.endswith("_act") and isinstance(value, str) and value not in ACT2FN:
            raise UsageError(
                f"{checkpoint.what}: its {CONFIG} has {name} = {shown(value)}; name an activation "
                "function of transformers, as 'gelu'"
            )
    return config


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def load_processor(checkpoint: Checkpoint) -> Any:
    """Return the image processor of transformers.

    Raises:
        UsageError: this version of transformers does not know it, or the file is invalid.
    """
    from transformers import AutoImageProcessor, ViTImageProcessor

    auto: Any = AutoImageProcessor
    if checkpoint.stand_in is not None:
        return ViTImageProcessor.from_dict(json.loads(checkpoint.stand_in))
    with explained(f"{checkpoint.what}: transformers cannot use its {PROCESSOR}"):
        return auto.from_pretrained(
            checkpoint.folder(), trust_remote_code=checkpoint.trusts_code, local_files_only=True
        )


def load_model(
    checkpoint: Checkpoint, kind: Any, *, num_labels: int | None = None, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Load a model in float32; return it and the loading info of ``from_pretrained``.

    Args:
        checkpoint: its files.
        kind: the class that loads it, e.g. ``AutoModel``.
        num_labels: of the classifier; None: as the checkpoint says.
        options: further arguments of ``from_pretrained``.

    Raises:
        UsageError: it is truncated, or transformers cannot load it.
    """
    import torch

    config = load_config(checkpoint)
    if num_labels is not None:
        config.num_labels = num_labels
    # Raises a clearer message for truncated files.
    headers = checkpoint.headers()
    with (
        explained(f"{checkpoint.what}: transformers cannot load its {CONFIG} and weights"),
        bounded(headers, checkpoint.what),
        quiet_transformers(),
    ):
        model, info = kind.from_pretrained(
            checkpoint.folder(),
            config=config,
            use_safetensors=checkpoint.weights()[0].suffix == ".safetensors",
            weights_only=True,
            trust_remote_code=checkpoint.trusts_code,
            local_files_only=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    return model, info


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the log and progress bars of transformers; errors still raise."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
