"""A backbone with a classification layer: what fine-tuning trains."""

from __future__ import annotations

import torch

from benchmark.specs import Backbone


def head_prefix(model: torch.nn.Module) -> str | tuple[str, ...]:
    """Return how the names of the parameters of a classifier's last layer begin."""
    prefix = model.head_prefix
    if not isinstance(prefix, (str, tuple)):
        raise TypeError(f"{type(model).__name__}.head_prefix is no string")
    return prefix


class LinearClassifier(torch.nn.Module):
    """A linear layer on the embedding of a backbone: (B, C, H, W) to logits (B, K)."""

    head_prefix = "head."

    def __init__(self, body: torch.nn.Module, dim: int, num_classes: int) -> None:
        """Put a new layer, with small weights, behind ``body`` (B, C, H, W) to (B, ``dim``)."""
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
    """Build the model's own classifier where it has one, else a linear layer on its embedding.

    The module maps normalised pixels float32 (B, C, H, W) to logits (B, K); its ``head_prefix``
    begins the names of the parameters of its classification layer.
    """
    if backbone.build_classifier is not None:
        return backbone.build_classifier(num_bands, num_classes)
    body = backbone.build(num_bands)
    dim = backbone.dim
    if dim is None:
        raise ValueError(f"backbone '{backbone.name}': its dimension is not known")
    return LinearClassifier(body, dim, num_classes)
