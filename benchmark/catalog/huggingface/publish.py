"""Write classifiers as folders that the pipeline of transformers loads unchanged."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from benchmark.catalog.huggingface.files import Checkpoint
from benchmark.catalog.options import STAND_INS
from benchmark.catalog.tensors import misfit
from benchmark.errors import UsageError
from benchmark.specs import Backbone, Publication

if TYPE_CHECKING:
    import torch

INSTEAD = "export a head on its embedding instead (--method)"
"""Advice for a fine-tuned classifier that cannot be published."""


def publish_transformers(checkpoint: Checkpoint, publication: Publication) -> None:
    """Write a classifier of transformers, with its image processor.

    Raises:
        UsageError: transformers has no classifier for this model, or the state does not fit it.
    """
    from transformers import AutoModelForImageClassification

    from benchmark.catalog.huggingface.load import load_config, load_processor, quiet_transformers

    auto: Any = AutoModelForImageClassification

    what = f"backbone '{publication.backbone.name}'"
    # A folded head is compared with the embedding, however that is pooled.
    can_have: tuple[str, ...] = ("pooling",) if publication.is_frozen else ()
    if checkpoint.stand_in is not None:
        can_have += STAND_INS
    _check_options(publication.backbone, can_have=can_have)
    state = _renamed(publication.state, {"model.": ""}, what)
    config = load_config(checkpoint)
    config.id2label = dict(enumerate(publication.classes))
    config.label2id = {name: k for k, name in enumerate(publication.classes)}
    config.problem_type = "single_label_classification"
    with quiet_transformers():
        try:
            model = auto.from_config(config, trust_remote_code=False)
        except ValueError:
            raise UsageError(
                f"{what}: transformers has no image classifier for '{config.model_type}'; {INSTEAD}"
            ) from None
        _load_state(model, state, what)
        # The checkpoint may be in half precision; the trained weights are float32.
        model.float().save_pretrained(publication.folder)
        load_processor(checkpoint).save_pretrained(publication.folder)


def publish_timm(
    architecture: str,
    publication: Publication,
    *,
    classifier: str | tuple[str, ...] | None = "classifier",
    model_args: dict[str, Any] | None = None,
) -> None:
    """Write a classifier of timm as ``TimmWrapperForImageClassification`` of transformers.

    Args:
        architecture: timm's name.
        publication: with the state of ``LinearClassifier`` on timm's network.
        classifier: timm's name of the classification layer; a network with several or none
            cannot be published.
        model_args: further arguments of ``timm.create_model``.

    Raises:
        UsageError: the state belongs to another kind of classifier.
    """
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    from benchmark.catalog.huggingface.load import quiet_transformers

    backbone = publication.backbone
    what = f"backbone '{backbone.name}'"
    _check_options(backbone, can_have=("image_size",))
    if not isinstance(classifier, str):
        raise UsageError(
            f"{what}: a network with {len(classifier or ())} classification layers cannot be "
            f"published; {INSTEAD}"
        )
    size = backbone.image_size or 224
    state = _renamed(
        publication.state,
        {"body.": "timm_model.", "head.": f"timm_model.{classifier}."},
        what,
    )
    config = TimmWrapperConfig.from_dict(
        {
            "architecture": architecture,
            "label_names": list(publication.classes),
            "num_classes": len(publication.classes),
            "problem_type": "single_label_classification",
            "model_args": model_args or None,
            "pretrained_cfg": {
                "architecture": architecture,
                "input_size": [3, size, size],
                "interpolation": backbone.interpolation,
                "mean": list(backbone.mean) * (3 // len(backbone.mean)),
                "std": list(backbone.std) * (3 // len(backbone.std)),
                "crop_pct": _crop_share(size, backbone.resize_to or size),
                "crop_mode": "center",
                "fixed_input_size": False,
            },
        }
    )
    with quiet_transformers():
        model = TimmWrapperForImageClassification(config)
        _load_state(model, state, what)
        model.save_pretrained(publication.folder)


def _check_options(backbone: Backbone, *, can_have: Collection[str]) -> None:
    for name, value in backbone.options:
        if name not in can_have:
            text = list(value) if isinstance(value, tuple) else value
            raise UsageError(
                f"backbone '{backbone.name}': the pipeline of transformers does not support "
                f"{name} = {text}; {INSTEAD}"
            )


def _crop_share(size: int, resize_to: int) -> float:
    """Return the ``crop_pct`` for which timm's floor(size / crop_pct) is ``resize_to``."""
    share = size / resize_to
    # Half a pixel more protects the floor from rounding errors.
    return share if math.floor(size / share) == resize_to else size / (resize_to + 0.5)


def _renamed(state: Any, prefixes: dict[str, str], what: str) -> dict[str, torch.Tensor]:
    """Return the state with its prefixes replaced; raises UsageError for any other prefix."""
    renamed = {}
    for name, tensor in state.items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if old is None:
            raise UsageError(
                f"{what}: the tensor '{name}' belongs to a classifier that cannot be published; "
                f"{INSTEAD}"
            )
        renamed[prefixes[old] + name.removeprefix(old)] = tensor
    return renamed


def _load_state(model: Any, state: dict[str, torch.Tensor], what: str) -> None:
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise misfit(f"{what}: the weights", error) from None
    model.eval()
