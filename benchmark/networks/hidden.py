"""Several hidden layers of a network of timm, read in one forward pass."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from benchmark.networks.pooling import pool_hidden
from benchmark.options import Pooling

logger = logging.getLogger("benchmark")

TOLERANCE = 1e-5
"""Largest difference, relative to the largest value, that counts as rounding."""


class Layer(NamedTuple):
    """One layer of a network, and how it is pooled."""

    at: int
    """Of the block or stage, from 0."""
    pooling: Pooling
    is_last: bool
    """Whether it is the last layer, to which the network's last normalisation belongs."""
    is_block: bool
    """Whether layers are blocks of one width, of which timm normalises all that it returns."""


class HiddenModels(torch.nn.Module):
    """Embeddings of several layers, side by side: (B, C, H, W) to (B, sum of D)."""

    def __init__(
        self,
        own: torch.nn.Module,
        network: torch.nn.Module,
        layers: Sequence[Layer | None],
        example: torch.Tensor,
    ) -> None:
        """Read layers together if that gives what reading one after the other gives.

        Args:
            own: the network, which pools in its own way.
            network: the same, with timm's ``forward_intermediates`` and
                ``prune_intermediate_layers``.
            layers: each embedding, in order; None: the network's own pooling.
            example: an input (1, C, H, W), to compare both.
        """
        super().__init__()
        self._layers = tuple(layers)
        self._hidden = [item for item in layers if item is not None]
        self._takes_own = len(self._hidden) < len(layers)
        self._indices = sorted({item.at for item in self._hidden})
        self._has_last = any(item.is_last for item in self._hidden)
        self._has_tokens = any(item.pooling.startswith("cls") for item in self._hidden)
        staged: Any = network
        if not self._takes_own:
            staged.prune_intermediate_layers(
                [*self._indices], prune_norm=not self._has_last, prune_head=True
            )
        self.model = staged
        self.own = own if self._takes_own else None
        self._is_delayed = (
            self._has_last
            and any(item.is_block and not item.is_last for item in self._hidden)
            and hasattr(staged, "norm")
        )
        self._shares_own = hasattr(staged, "forward_head")
        self._is_joint = True
        if not self._agrees(example):
            self._is_joint, self._shares_own = self._shares_own and self._takes_own, False
            self._is_joint = self._is_joint and self._agrees(example)
        if not self._is_joint:
            logger.info("layers are read one after the other: together they would differ")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return embeddings float32 (B, sum of D) of normalised pixels (B, C, H, W)."""
        return torch.cat(self._together(x) if self._is_joint else self._in_turn(x), dim=1)

    def _agrees(self, example: torch.Tensor) -> bool:
        with torch.inference_mode():
            for found, expected in zip(
                self._together(example), self._in_turn(example), strict=True
            ):
                scale = float(expected.abs().max())
                if not float((found - expected).abs().max()) <= TOLERANCE * scale:
                    return False
        return True

    def _in_turn(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return each embedding, from a forward pass of its own."""
        found = []
        for item in self._layers:
            if item is None:
                found.append(self._pool_own(x))
                continue
            ((state, tokens),) = self._states(x, [item.at], item.is_last)
            found.append(pool_hidden(state, tokens, item.pooling))
        return found

    def _together(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return each embedding, from one forward pass."""
        own = None
        states: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}
        if self._indices:
            takes_final = self._takes_own and self._shares_own
            has_norm = self._has_last and not self._is_delayed
            found = self._call(x, self._indices, has_norm, only=not takes_final)
            if takes_final:
                final, found = found
                own = self.model.forward_head(final)
            states = dict(zip(self._indices, map(self._split, found), strict=True))
        if self._takes_own and own is None:
            own = self._pool_own(x)
        embeddings = []
        for item in self._layers:
            if item is None:
                assert own is not None
                embeddings.append(own.float())
                continue
            state, tokens = states[item.at]
            if item.is_last and self._is_delayed:
                state, tokens = self._normalise(state, tokens)
            embeddings.append(pool_hidden(state, tokens, item.pooling))
        return embeddings

    def _pool_own(self, x: torch.Tensor) -> torch.Tensor:
        own: Any = self.own
        pooled: torch.Tensor = own(x)
        return pooled.float()

    def _normalise(
        self, state: torch.Tensor, tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Apply the last normalisation to positions (B, D, H, W) and the tokens beside them."""
        norm = self.model.norm
        positions = norm(state.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
        return positions, None if tokens is None else norm(tokens)

    def _states(
        self, x: torch.Tensor, indices: list[int], has_norm: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        return [self._split(item) for item in self._call(x, indices, has_norm, only=True)]

    def _call(self, x: torch.Tensor, indices: list[int], has_norm: bool, *, only: bool) -> Any:
        arguments: dict[str, Any] = {"return_prefix_tokens": True} if self._has_tokens else {}
        return self.model.forward_intermediates(
            x, indices=indices, norm=has_norm, intermediates_only=only, **arguments
        )

    def _split(self, found: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return positions and the tokens beside them, if those were asked for."""
        return found if isinstance(found, tuple) else (found, None)
