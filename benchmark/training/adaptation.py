"""Select the weights that fine-tuning changes: all, the last blocks, or low-rank updates (LoRA)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.errors import UsageError
from benchmark.finetune_settings import FinetuneConfig
from benchmark.networks.classifier import head_prefix

Named = list[tuple[str, torch.nn.Parameter]]


class Parts(NamedTuple):
    """The parameters that are trained."""

    head: Named
    body: Named

    @property
    def num_trained(self) -> int:
        """Number of trained weights."""
        return sum(parameter.numel() for _, parameter in (*self.head, *self.body))


def select_parts(model: torch.nn.Module, config: FinetuneConfig, *, name: str) -> Parts:
    """Return the parameters to train, and freeze the others.

    Args:
        model: a classifier with ``head_prefix``; ``lora`` adds its layers to it.
        config: mode, ``num_blocks`` and ``lora_rank``.
        name: of the backbone, for messages.

    Raises:
        UsageError: the mode does not suit the architecture.
    """
    prefix = head_prefix(model)
    body_names = [key for key, _ in model.named_parameters() if not key.startswith(prefix)]
    if config.mode == "last_blocks":
        body_names = _last_blocks(model, body_names, config.num_blocks, name)
    elif config.mode == "lora":
        body_names = _add_lora(model, config.lora_rank, name)
    wanted = set(body_names)
    head: Named = []
    body: Named = []
    for key, parameter in model.named_parameters():
        is_head = key.startswith(prefix)
        parameter.requires_grad_(is_head or key in wanted)
        if is_head:
            head.append((key, parameter))
        elif key in wanted:
            body.append((key, parameter))
    return Parts(head, body)


def drop_unreached(parts: Parts) -> Parts:
    """Drop and freeze the parameters without a gradient after a backward pass.

    A checkpoint may contain layers that its logits do not use, such as a pooler; workers would
    wait for their gradients for ever.
    """
    kept = []
    for group in parts:
        for _, parameter in group:
            if parameter.grad is None:
                parameter.requires_grad_(False)
        kept.append([(key, item) for key, item in group if item.grad is not None])
    return Parts(*kept)


def train_mode(model: torch.nn.Module) -> None:
    """Set the model to training mode, except that batch normalisation uses its stored statistics.

    The network then starts as exactly the frozen one, and a step does not depend on how its
    batch is split over workers and micro-batches.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def find_blocks(model: torch.nn.Module, *, prefix: str = "") -> list[str]:
    """Return the names of the blocks of a network, first to last, each after ``prefix``.

    A block is a child of a list or sequence of modules that itself holds no sequence of
    composite modules: a transformer layer, a residual block.
    """
    found: list[str] = []
    for key, child in model.named_children():
        if _is_sequence(model) and _is_composite(child) and not _holds_blocks(child):
            found.append(prefix + key)
        else:
            found += find_blocks(child, prefix=f"{prefix}{key}.")
    return found


def merge_lora(model: torch.nn.Module) -> None:
    """Add low-rank updates to the weights they belong to and remove their layers, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for key, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, attribute = key.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module.get_base_layer())


def _is_sequence(module: torch.nn.Module) -> bool:
    return isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential))


def _is_composite(module: torch.nn.Module) -> bool:
    return next(module.children(), None) is not None


def _holds_blocks(module: torch.nn.Module) -> bool:
    return any(
        _is_sequence(inner) and any(_is_composite(child) for child in inner.children())
        for inner in module.modules()
    )


def _last_blocks(model: torch.nn.Module, names: list[str], count: int, name: str) -> list[str]:
    prefix = head_prefix(model)
    blocks = [
        block
        for block in find_blocks(model)
        if not f"{block}.".startswith(prefix)
        # Blocks without weights, such as a pooling, do not count.
        and any(key.startswith(f"{block}.") for key in names)
    ]
    if count > len(blocks):
        raise UsageError(
            f"[finetune] num_blocks = {count}: backbone '{name}' has {len(blocks)} blocks; "
            + (f"set num_blocks to {len(blocks)} at most" if blocks else 'use mode = "full"')
        )
    first = f"{blocks[-count]}."
    begin = next(place for place, key in enumerate(names) if key.startswith(first))
    return names[begin:]


def _add_lora(model: torch.nn.Module, rank: int, name: str) -> list[str]:
    prefix = head_prefix(model)
    targets = [
        key
        for key, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not f"{key}.".startswith(prefix)
    ]
    if not targets:
        raise UsageError(
            f"[finetune] mode = \"lora\": backbone '{name}' has no linear layers; "
            'use "full", "linear_then_full" or "last_blocks"'
        )
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, bias="none"), model
    )
    return [key for key, _ in model.named_parameters() if ".lora_" in key]
