"""Fold a linear head into the last layer of a network's own classifier.

It is exact where that layer reads the embedding that was benchmarked, or parts from which it
follows, whatever the network: both are computed for a few patches and compared. Of transformers,
with the default pooling (``mean``), these are ResNet, RegNet, Swin, MobileNet, MobileViT, I-JEPA
and DINOv2 (its layer reads the class token and the mean over the others); with
``pooling = "cls"`` ViT, DeiT, MAE, MSN, DINOv2 with and without registers, and BEiT without mean
pooling; with ``pooling = "pooler"`` ConvNeXt and BEiT. Networks of timm and EfficientNet-Lite:
always.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmark.errors import BenchmarkError
from benchmark.exporting.heads import Linear
from benchmark.networks.classifier import build_classifier, head_prefix
from benchmark.specs import Backbone

TOLERANCE = 1e-5
"""Largest difference of a probability that counts as rounding."""
SAME = 1e-4
"""Largest difference of two embeddings, relative to the largest value, that counts as rounding."""


class CannotFoldError(BenchmarkError):
    """The reason why a head is not folded, as the second part of a sentence."""


def fold(
    backbone: Backbone, head: Linear, x: torch.Tensor, embeddings: torch.Tensor
) -> Mapping[str, torch.Tensor]:
    """Return the state of the network's own classifier, with the head as its last layer.

    Args:
        backbone: the network.
        head: reads its embedding.
        x: the network's input for a few patches, float32 (n, C, S, S).
        embeddings: of these, float32 (n, D).

    Raises:
        CannotFoldError: the last layer reads something else, or the probabilities would differ.
    """
    num_classes = len(head.bias)
    build = backbone.build_foldable or (lambda *args: build_classifier(backbone, *args))
    classifier = build(x.shape[1], num_classes).eval()
    layer = _last_layer(classifier, num_classes)
    features = _input_of(layer, classifier, x)
    weight = head.weight @ _mixture(features, embeddings)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(head.bias)
        found = classifier(x).softmax(dim=1)
    expected = (embeddings.double() @ head.weight.T + head.bias).softmax(dim=1)
    difference = float((found.double() - expected).abs().max())
    if not difference <= TOLERANCE:
        raise CannotFoldError(
            f"in float32 its probabilities would differ by up to {difference:.1e} from those of "
            "scaler and head in turn"
        )
    return classifier.state_dict()


def _last_layer(classifier: torch.nn.Module, num_classes: int) -> torch.nn.Linear:
    """Return the only linear layer of a classifier's head."""
    prefix = head_prefix(classifier)
    layers: list[Any] = [
        module
        for name, module in classifier.named_modules()
        if isinstance(module, torch.nn.Linear) and f"{name}.".startswith(prefix)
    ]
    if len(layers) != 1 or layers[0].out_features != num_classes or layers[0].bias is None:
        raise CannotFoldError("the network's own classifier does not end in one linear layer")
    layer: torch.nn.Linear = layers[0]
    return layer


def _input_of(layer: torch.nn.Linear, classifier: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what the layer reads in a forward pass, (n, F)."""
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        with torch.no_grad():
            classifier(x)
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0].ndim != 2:
        raise CannotFoldError("the network's own classifier reads positions, not an embedding")
    return seen[0]


def _mixture(features: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Return the matrix M, float64 (D, F), with embeddings = features M'.

    M consists of multiples of the identity: an embedding is the features themselves, one half of
    them, or a weighted mean of halves.

    Raises:
        CannotFoldError: there is no such matrix.
    """
    num, width = features.shape
    dim = embeddings.shape[1]
    for size in (width, width // 2):
        if not size or width % size or dim % size:
            continue
        given, wanted = (
            item.double().reshape(num, -1, size).transpose(1, 2).reshape(num * size, -1)
            for item in (features, embeddings)
        )
        scales = torch.linalg.lstsq(given, wanted, driver="gelsd").solution
        residual = float((given @ scales - wanted).abs().max())
        if residual <= SAME * float(wanted.abs().max()):
            # Nearly whole numbers are whole: the features are the embedding.
            whole = scales.round()
            scales = torch.where((scales - whole).abs() < 1e-6, whole, scales)
            return torch.kron(scales.T.contiguous(), torch.eye(size, dtype=torch.float64))
    raise CannotFoldError(
        "the network's own classifier reads another pooling than the benchmarked embedding"
    )
