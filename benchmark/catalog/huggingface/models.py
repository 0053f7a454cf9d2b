"""Networks of transformers, built from local files; their tensors are checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.catalog.huggingface.files import Checkpoint
from benchmark.catalog.huggingface.load import (
    TOWERS,
    base_class,
    has_classifier,
    load_config,
    load_model,
)
from benchmark.catalog.options import AS_IT_IS, Reading
from benchmark.catalog.tensors import check_finite, check_fit
from benchmark.errors import UsageError

if TYPE_CHECKING:
    import torch

    from benchmark.networks.pooling import PooledModel

_CLASS_TOKENS = ("cls_token", "class_embedding")
"""Names of the parameter of a class token."""
_DISTILLATION, _REGISTERS = "distillation_token", "register_tokens"


def build_pooled(checkpoint: Checkpoint, reading: Reading = AS_IT_IS) -> torch.nn.Module:
    """Build a model that pools a hidden state as in ``reading``: (B, 3, H, W) to (B, D).

    Raises:
        UsageError: the weights do not fit the model, or it lacks the class token or pooler.
    """
    return read_off(checkpoint, _load_base(checkpoint, reading), reading).eval()


def build_many(checkpoint: Checkpoint, readings: Sequence[Reading]) -> torch.nn.Module:
    """Build a model of which several readings are pooled: (B, 3, H, W) to (B, sum of D).

    Raises:
        UsageError: as for ``build_pooled``.
    """
    from benchmark.networks.pooling import PooledModels

    with_pooler = [item for item in readings if item.pooling == "pooler"]
    model = _load_base(checkpoint, (with_pooler or readings)[0])
    return PooledModels([read_off(checkpoint, model, item) for item in readings]).eval()


def _load_base(checkpoint: Checkpoint, reading: Reading) -> torch.nn.Module:
    """Load the base model with its weights, and with its pooler if ``reading`` takes it."""
    has_pooler = reading.pooling == "pooler"
    config = load_config(checkpoint)
    kind = base_class(checkpoint, config)
    arguments = pooler_arguments(checkpoint, reading)
    if not hasattr(kind, "from_config") and not _has_own_prefix(kind, config):
        arguments["key_mapping"] = {rf"^{re.escape(_tower_prefix(kind.config_class))}": ""}
    model, info = load_model(checkpoint, kind, **arguments)
    _check_tensors(
        checkpoint, model, info, is_new=_is_counter if has_pooler else _is_unused, keeps=has_pooler
    )
    _index_positions(model, reading)
    base: torch.nn.Module = model
    return base


def read_off(checkpoint: Checkpoint, model: torch.nn.Module, reading: Reading) -> PooledModel:
    """Return a base model of transformers as a module that returns embeddings.

    Raises:
        UsageError: it has no class token.
    """
    from benchmark.networks.pooling import PooledModel

    names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    if reading.pooling.startswith("cls") and not names & set(_CLASS_TOKENS):
        raise UsageError(
            f'{checkpoint.what}: {type(model).__name__} has no class token; set pooling = "mean"'
        )
    return PooledModel(
        model,
        pooling=reading.pooling,
        layer=reading.layer,
        interpolates=interpolates(model, reading),
        num_prefix=_count_prefix(model),
    )


def _count_prefix(model: torch.nn.Module) -> int:
    """Return the number of class and register tokens of a transformer."""
    shapes = {name.rpartition(".")[2]: item.shape for name, item in model.named_parameters()}
    registers = shapes.get(_REGISTERS)
    return sum(name in shapes for name in (*_CLASS_TOKENS, _DISTILLATION)) + (
        registers[-2] if registers else 0
    )


def interpolates(model: torch.nn.Module, reading: Reading) -> bool:
    """Return whether a model needs an argument to interpolate positions to another size."""
    parameters = inspect.signature(model.forward).parameters
    return reading.image_size is not None and "interpolate_pos_encoding" in parameters


def build_own_classifier(
    checkpoint: Checkpoint, dim: int, num_classes: int, reading: Reading = AS_IT_IS
) -> torch.nn.Module:
    """Build the model's classifier with a new classification layer: (B, 3, H, W) to (B, K).

    The layer's weights are drawn from torch's generator, even if the checkpoint has some.

    Raises:
        UsageError: the weights do not fit the model.
    """
    from transformers import AutoModelForImageClassification

    from benchmark.networks.classifier import LinearClassifier
    from benchmark.networks.pooling import ImageClassifier

    if not has_classifier(checkpoint):
        return LinearClassifier(build_pooled(checkpoint, reading), dim, num_classes)
    model, info = load_model(checkpoint, AutoModelForImageClassification, num_labels=num_classes)
    base = f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters()]
    heads = sorted({name.partition(".")[0] for name in names if not name.startswith(base)})
    if not heads or all(not name.startswith(base) for name in names):
        # Without a base model, body and head cannot be separated.
        return LinearClassifier(build_pooled(checkpoint, reading), dim, num_classes)
    _check_tensors(
        checkpoint, model, info, is_new=lambda name: not name.startswith(base) or _is_unused(name)
    )
    for name in heads:
        _reset(getattr(model, name))
    prefixes = tuple(f"model.{name}." for name in heads)
    _index_positions(model, reading)
    return ImageClassifier(
        model,
        prefixes[0] if len(prefixes) == 1 else prefixes,
        interpolates=interpolates(model, reading),
    )


def build_features(checkpoint: Checkpoint, num_classes: int) -> torch.nn.Module:
    """Build the model's trained classifier without its last layer: (B, 3, H, W) to (B, D).

    Raises:
        UsageError: the weights do not fit the model, or it has not one such layer.
    """
    import torch
    from transformers import AutoModelForImageClassification

    from benchmark.networks.pooling import ImageClassifier

    model, info = load_model(checkpoint, AutoModelForImageClassification)
    _check_tensors(checkpoint, model, info, is_new=_is_unused)
    base = f"{model.base_model_prefix}."
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module.out_features == num_classes
        and not name.startswith(base)
    ]
    if len(layers) != 1:
        raise UsageError(
            f"{checkpoint.what}: {type(model).__name__} has {len(layers)} classification layers; "
            "only the embedding before a single one is defined"
        )
    model.set_submodule(layers[0], torch.nn.Identity())
    return ImageClassifier(model, ()).eval()


def _index_positions(model: Any, reading: Reading) -> None:
    """Let transformers compute the index of relative positions now, outside inference mode.

    It caches the first index of a window size for all models of the process; an index computed
    in inference mode cannot be used in training.
    """
    import torch

    patch = getattr(model.config, "patch_size", None)
    for module in model.modules():
        if not hasattr(module, "generate_relative_position_index"):
            continue
        window = module.window_size
        if reading.image_size and isinstance(patch, int):
            window = (reading.image_size // patch,) * 2
        with torch.inference_mode(False), torch.device("cpu"):
            module.generate_relative_position_index(tuple(window))


def pooler_arguments(checkpoint: Checkpoint, reading: Reading) -> dict[str, Any]:
    """Return the arguments that omit the pooler from a base model unless it is used.

    Raises:
        UsageError: transformers has no base model of this kind.
    """
    from transformers import MODEL_MAPPING

    config = load_config(checkpoint)
    kind = base_class(checkpoint, config)
    if hasattr(kind, "from_config"):
        if type(config) not in MODEL_MAPPING:
            return {}
        kind = MODEL_MAPPING[type(config)]
    parameters = inspect.signature(kind).parameters
    has_pooler = reading.pooling == "pooler"
    return {"add_pooling_layer": has_pooler} if "add_pooling_layer" in parameters else {}


def _check_tensors(
    checkpoint: Checkpoint,
    model: Any,
    info: dict[str, Any],
    *,
    is_new: Callable[[str], bool],
    keeps: bool = False,
) -> None:
    """Raise UsageError if tensors are missing, unexpected, of another shape or not finite.

    Args:
        checkpoint: the loaded checkpoint.
        model: the model that it was loaded into.
        info: loading info of ``from_pretrained``.
        is_new: whether the checkpoint may lack a tensor of the model.
        keeps: whether the pooler of the checkpoint is used.
    """
    prefix = f"{model.base_model_prefix}."
    prefix = _tower_prefix(type(model.config)) or prefix
    stored = {name for header in checkpoint.headers() for name in header}
    # Tensors without the base model's prefix belong to another head; if none has the prefix, all
    # are the base model's.
    has_prefix = any(name.startswith(prefix) for name in stored)
    beside = {name.partition(".")[0] for name in stored if not name.startswith(prefix)}
    left_over = [
        name
        for name in info["unexpected_keys"]
        if not (_is_counter(name) if keeps else _is_unused(name))
        and not (has_prefix and name.partition(".")[0] in beside)
    ]
    absent = [name for name in info["missing_keys"] if not is_new(name)]
    misshapen = [item[0] for item in info["mismatched_keys"] if not is_new(item[0])]
    check_fit(checkpoint.what, absent=absent, left_over=left_over, misshapen=misshapen)
    check_finite(checkpoint.what, model.state_dict())


def _has_own_prefix(kind: Any, config: Any) -> bool:
    """Return whether a vision model names its tensors as a checkpoint of the whole model does."""
    import torch

    with torch.device("meta"):
        return any(
            name.startswith(_tower_prefix(type(config))) for name in kind(config).state_dict()
        )


def _tower_prefix(kind: Any) -> str:
    """Return the prefix of the tensors of a vision model in a checkpoint; empty: it has none."""
    return TOWERS.get(kind.model_type.removesuffix("_vision_model"), "")


def _is_unused(name: str) -> bool:
    # The pooler follows the last hidden state; the mean over it does not use it.
    return "pooler" in name.split(".") or _is_counter(name)


def _is_counter(name: str) -> bool:
    return name.endswith(("num_batches_tracked", "position_ids"))


def _reset(module: torch.nn.Module) -> None:
    """Redraw the weights of a classification layer in the way of ``LinearClassifier``."""
    import torch

    for child in module.modules():
        if isinstance(child, torch.nn.Linear):
            torch.nn.init.trunc_normal_(child.weight, std=0.01)
            if child.bias is not None:
                torch.nn.init.zeros_(child.bias)
        elif callable(reset := getattr(child, "reset_parameters", None)):
            reset()
