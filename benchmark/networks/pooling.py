"""Wrappers that make models of other libraries plain modules: pixels in, one tensor out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmark.options import Pooling

GEM_EXPONENT = 3.0
GEM_FLOOR = 1e-6
"""Both of Radenovic, Tolias and Chum (2018, Fine-tuning CNN image retrieval with no human
annotation): their generalised mean takes smaller activations for the floor."""


def pool_positions(state: torch.Tensor, pooling: Pooling, dims: tuple[int, ...]) -> torch.Tensor:
    """Return the mean (B, D), mean and standard deviation (B, 2 D), or generalised mean (B, D).

    Args:
        state: of patches or positions; any type.
        pooling: ``mean`` or ``patches``; ``mean+std``; or ``gem``.
        dims: the axes of the positions.
    """
    state = state.float()
    if pooling == "gem":
        powers = state.clamp(min=GEM_FLOOR) ** GEM_EXPONENT
        return powers.mean(dim=dims) ** (1 / GEM_EXPONENT)
    mean = state.mean(dim=dims)
    if pooling != "mean+std":
        return mean
    return torch.cat([mean, state.std(dim=dims, correction=0)], dim=1)


class MissingLayerError(ValueError):
    """A model has fewer hidden layers than were asked for."""

    def __init__(self, layer: int, count: int) -> None:
        """Say what was asked for, and how many there are."""
        super().__init__(f"'layer' = {layer}: the model has {count} layers; set -1 to {-count}")


class PooledModel(torch.nn.Module):
    """A hidden state of a model, pooled over tokens or positions."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        pooling: Pooling = "mean",
        layer: int = -1,
        interpolates: bool = False,
        num_prefix: int = 0,
    ) -> None:
        """Wrap a model whose output has ``last_hidden_state``: (B, T, D), or positions of D values.

        Positions are (B, D, H, W) or (B, H, W, D) with H = W, as images are square.

        Args:
            model: of transformers.
            pooling: the mean over tokens or positions; that over the tokens of patches alone; the
                class token, which comes first; class token, then mean; mean and standard deviation
                or generalised mean over the tokens of patches; or the output of the model's own
                pooler.
            layer: hidden layer, counted from the end; -1 is the last hidden state.
            interpolates: whether the model interpolates its positions to the size of its input.
            num_prefix: class and register tokens, which come before those of patches.
        """
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.layer = layer
        self._num_prefix = num_prefix
        self.arguments: dict[str, bool] = {}
        if interpolates:
            self.arguments["interpolate_pos_encoding"] = True
        if layer != -1:
            self.arguments["output_hidden_states"] = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return embeddings float32 (B, D) of normalised pixels (B, C, H, W).

        Raises:
            ValueError: the hidden state has not three or four dimensions, or the model lacks the
                class token, the pooler or the layer.
        """
        return self.pool(self.model(pixel_values=x, **self.arguments), x)

    def pool(self, output: Any, x: torch.Tensor) -> torch.Tensor:
        """Return embeddings float32 (B, D) of the model's output for pixels ``x``."""
        if self.pooling == "pooler":
            pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
            if pooled is None:
                raise ValueError("the model has no pooler")
            return pooled.float().flatten(1)
        state: torch.Tensor = output.last_hidden_state
        if self.layer != -1:
            states = output.hidden_states
            if len(states) < -self.layer:
                raise MissingLayerError(self.layer, len(states))
            state = states[self.layer]
        if state.ndim not in (3, 4):
            raise ValueError(f"a hidden state of shape {tuple(state.shape)} cannot be pooled")
        if state.ndim == 4 and not self.pooling.startswith("cls"):
            is_last = state.shape[1] == state.shape[2] != state.shape[3]
            return pool_positions(state, self.pooling, (1, 2) if is_last else (2, 3))
        if self.pooling == "mean":
            return state.float().mean(dim=1)
        if not self.pooling.startswith("cls"):
            self._check_grid(state.shape[1], x)
            return pool_positions(state[:, self._num_prefix :], self.pooling, (1,))
        if state.ndim == 4:
            raise ValueError("the model has no class token")
        token = state[:, 0].float()
        if self.pooling == "cls":
            return token
        return torch.cat([token, state.float().mean(dim=1)], dim=1)

    def _check_grid(self, num_tokens: int, x: torch.Tensor) -> None:
        side = getattr(getattr(self.model, "config", None), "patch_size", None)
        if not self._num_prefix or not isinstance(side, int):
            return
        expected = self._num_prefix + (x.shape[-2] // side) * (x.shape[-1] // side)
        if num_tokens != expected:
            raise ValueError(
                f"the model has {num_tokens} tokens, not those of its patches after "
                f"{self._num_prefix} others ({expected})"
            )


class PooledModels(torch.nn.Module):
    """Several readings of one model, side by side: (B, C, H, W) to (B, sum of D)."""

    def __init__(self, readings: Sequence[PooledModel]) -> None:
        """Join wrappers of the same model."""
        super().__init__()
        self.model = readings[0].model
        self._readings = tuple(readings)
        self._arguments = {key: value for item in readings for key, value in item.arguments.items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return embeddings float32 (B, sum of D) of normalised pixels (B, C, H, W)."""
        output = self.model(pixel_values=x, **self._arguments)
        return torch.cat([item.pool(output, x) for item in self._readings], dim=1)


class HiddenModel(torch.nn.Module):
    """The output of one block or stage of a network of timm, pooled over positions."""

    def __init__(
        self, model: torch.nn.Module, *, index: int, pooling: Pooling, has_norm: bool
    ) -> None:
        """Wrap a network and drop its layers after the chosen one.

        Args:
            model: with timm's ``forward_intermediates`` and ``prune_intermediate_layers``.
            index: of the block or stage, from 0.
            pooling: over positions, without class token and registers; the class token; or both,
                the class token first.
            has_norm: whether the network's last normalisation is applied.
        """
        super().__init__()
        network: Any = model
        network.prune_intermediate_layers([index], prune_norm=not has_norm, prune_head=True)
        self.model = network
        self.pooling = pooling
        self._arguments: dict[str, Any] = {
            "indices": [index],
            "norm": has_norm,
            "intermediates_only": True,
        }
        if pooling.startswith("cls"):
            self._arguments["return_prefix_tokens"] = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return embeddings float32 (B, D) of normalised pixels (B, C, H, W)."""
        (found,) = self.model.forward_intermediates(x, **self._arguments)
        state, tokens = found if self.pooling.startswith("cls") else (found, None)
        return pool_hidden(state, tokens, self.pooling)


def pool_hidden(state: torch.Tensor, tokens: torch.Tensor | None, pooling: Pooling) -> torch.Tensor:
    """Return embeddings float32 (B, D) of positions (B, D, H, W) and tokens (B, T, D) beside them.

    Raises:
        ValueError: there are no such tokens, and the class token is asked for.
    """
    if not pooling.startswith("cls"):
        return pool_positions(state, pooling, (2, 3))
    if tokens is None:
        raise ValueError("the network has no class token")
    token = tokens[:, 0].float()
    if pooling == "cls":
        return token
    return torch.cat([token, pool_positions(state, "mean", (2, 3))], dim=1)


class SwinStages(torch.nn.Module):
    """The stages of a Swin transformer of torchvision, read like those of timm's networks."""

    def __init__(self, features: torch.nn.Sequential) -> None:
        """Wrap its ``features``: in turn, a layer that shrinks the grid and the blocks on it."""
        super().__init__()
        self.features = features

    def forward_intermediates(
        self, x: torch.Tensor, indices: Sequence[int] | None = None, **_: bool
    ) -> list[torch.Tensor]:
        """Return the states (B, D, H, W) after the chosen stages; None: after all."""
        found = []
        for i in range(0, len(self.features), 2):
            x = self.features[i : i + 2](x)
            found.append(x.permute(0, 3, 1, 2))
        return found if indices is None else [found[i] for i in indices]

    def prune_intermediate_layers(self, indices: Sequence[int], **_: bool) -> None:
        """Drop the stages after the last of ``indices``."""
        self.features = self.features[: 2 * max(indices) + 2]


class SpectralModel(torch.nn.Module):
    """A model with the wavelengths of its bands as second input: (B, C, H, W) to (B, D)."""

    def __init__(self, model: torch.nn.Module, wavelengths: Sequence[float]) -> None:
        """Wrap a model that takes pixels and the wavelengths of their bands, in micrometres."""
        super().__init__()
        self.model = model
        self.wavelengths = list(wavelengths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, D) of normalised pixels (B, C, H, W)."""
        embeddings: torch.Tensor = self.model(x, self.wavelengths)
        return embeddings


class ImageClassifier(torch.nn.Module):
    """A model with its own classification layer: (B, C, H, W) to logits (B, K)."""

    def __init__(
        self,
        model: torch.nn.Module,
        head_prefix: str | tuple[str, ...],
        *,
        interpolates: bool = False,
    ) -> None:
        """Wrap a model whose output has ``logits``.

        Args:
            model: of transformers, for image classification.
            head_prefix: start of the parameter names of the classification layer, ``model.``
                included.
            interpolates: whether the model interpolates its positions to the size of its input.
        """
        super().__init__()
        self.model = model
        self.head_prefix = head_prefix
        self._arguments = {"interpolate_pos_encoding": True} if interpolates else {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits float32 (B, K) of normalised pixels (B, C, H, W)."""
        logits: torch.Tensor = self.model(pixel_values=x, **self._arguments).logits
        return logits.float()
