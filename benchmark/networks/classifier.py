"""A backbone with a classification layer, for fine-tuning."""

from __future__ import annotations

import torch

from benchmark.specs import Backbone


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
    dim = backbone.dim
    if dim is None:
        raise ValueError(f"backbone '{backbone.name}': the length of its embedding is unknown")
    return LinearClassifier(body, dim, num_classes)
