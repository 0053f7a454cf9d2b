"""Fold batch normalisations into the convolutions before them, to save memory passes."""

from __future__ import annotations

import copy
import logging

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger("benchmark")

TOLERANCE = 1e-4
"""Largest difference, relative to the largest output, that counts as rounding."""


def fold_batch_norms(module: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
    """Return the module with its batch normalisations folded, or unchanged.

    A batch normalisation is assumed to follow the convolution registered last before it. If that
    is wrong, the outputs differ and the module is returned unchanged.

    Args:
        module: in evaluation mode.
        example: an input, float32 (B, C, H, W), to compare the outputs of both.
    """
    if not any(isinstance(child, torch.nn.BatchNorm2d) for child in module.modules()):
        # Copying a large module costs memory.
        return module
    folded = copy.deepcopy(module)
    if not _fold_pairs(folded):
        return module
    with torch.inference_mode():
        expected, found = module(example), folded(example)
    if not isinstance(expected, torch.Tensor) or not isinstance(found, torch.Tensor):
        # No embeddings: the first batch says so.
        return module
    scale = float(expected.abs().max())
    if float((expected - found).abs().max()) <= TOLERANCE * scale:
        return folded
    logger.info("batch normalisations are not folded: the outputs would differ")
    return module


def _fold_pairs(module: torch.nn.Module) -> int:
    count, conv = 0, None
    for name, child in list(module.named_modules()):
        if isinstance(child, torch.nn.Conv2d):
            conv = child
        elif isinstance(child, torch.nn.BatchNorm2d):
            if conv is not None and conv.out_channels == child.num_features:
                _fold_pair(module, name, conv, child)
                count += 1
            conv = None
    return count


def _fold_pair(
    module: torch.nn.Module, name: str, conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d
) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    conv.weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    conv.bias = bias
    # timm's normalisations carry their activation with them.
    rest = getattr(norm, "act", torch.nn.Identity())
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent) if parent else module, attribute, rest)
