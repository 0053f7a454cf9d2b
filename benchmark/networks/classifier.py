"""A backbone with a classification layer, for fine-tuning."""

from __future__ import annotations

import torch

from benchmark.errors import CellError
from benchmark.specs import Backbone

EXAMPLE_SIZE = 64
"""Side in px of an image that tries a backbone without a fixed size."""


def head_prefix(model: torch.nn.Module) -> str | tuple[str, ...]:
    """Return the prefix of the names of the parameters in a classifier's last layer."""
    prefix = model.head_prefix
    if not isinstance(prefix, (str, tuple)):
        raise TypeError(f"{type(model).__name__}.head_prefix is not a string or tuple of strings")
    return prefix


class LinearClassifier(torch.nn.Module):
    """A linear layer on the embedding of a backbone: (B, C, H, W) to logits (B, K)."""

    head_prefix = "head."

    def __init__(self, body: torch.nn.Module, dim: int, num_classes: int) -> None:
        """Add a new layer with small weights to ``body``, (B, C, H, W) to (B, ``dim``)."""
        super().__init__()
        self.body = body
        self.head = torch.nn.Linear(dim, num_classes)
        torch.nn.init.trunc_normal_(self.head.weight, std=0.01)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of normalised pixels (B, C, H, W)."""
        logits: torch.Tensor = self.head(self.body(x))
        return logits


def build_classifier(backbone: Backbone, num_bands: int, num_classes: int) -> torch.nn.Module:
    """Build the model's own classifier, or a linear layer on its embedding if it has none.

    The module maps normalised pixels float32 (B, C, H, W) to logits (B, K). The parameter names
    of its classification layer start with its ``head_prefix``.
    """
    if backbone.build_classifier is not None:
        return backbone.build_classifier(num_bands, num_classes)
    body = backbone.build(num_bands)
    dim = backbone.dim or measure_dim(body, num_bands, backbone)
    return LinearClassifier(body, dim, num_classes)


def measure_dim(body: torch.nn.Module, num_bands: int, backbone: Backbone) -> int:
    """Return the length D of the embedding of a network, by running it on one grey image.

    Raises:
        CellError: the network returns no embeddings (B, D).
    """
    size = backbone.image_size or EXAMPLE_SIZE
    was_training = body.training
    body.eval()
    with torch.inference_mode():
        found = body(torch.zeros(1, num_bands, size, size))
    body.train(was_training)
    check_embeddings(found, 1, name=backbone.name)
    return int(found.shape[1])


def check_embeddings(found: object, count: int, *, name: str) -> None:
    """Refuse an output of a network that is not one floating point vector for each image.

    Raises:
        CellError: says what was returned instead.
    """
    if not isinstance(found, torch.Tensor):
        raise CellError(
            f"backbone '{name}' returned a {type(found).__name__}; return a tensor (B, D)"
        )
    if found.ndim != 2 or found.shape[0] != count or not found.is_floating_point():
        raise CellError(
            f"backbone '{name}' returned {found.dtype} of shape {tuple(found.shape)} for {count} "
            f"images; return float32 ({count}, D)"
        )
