"""Toy catalog entries: real objects that fail, or are quick, on purpose."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.heads import HEADS
from benchmark.specs import Backbone, Head


class _Pooled(torch.nn.Module):
    """A small convolution, averaged over positions: (B, C, H, W) to (B, 16)."""

    def __init__(self, num_bands: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(num_bands, 16, 5, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x)).mean(dim=(2, 3))


class _NotFinite(_Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 0.0


class _Constant(_Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(x), 16)


class _Killer(_Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        os._exit(1)


def build_not_finite(num_bands: int) -> torch.nn.Module:
    return _NotFinite(num_bands)


def build_constant(num_bands: int) -> torch.nn.Module:
    return _Constant(num_bands)


def build_killer(num_bands: int) -> torch.nn.Module:
    return _Killer(num_bands)


def toy(name: str, build: Any = _Pooled) -> Backbone:
    return replace(BACKBONES.get("random"), name=name, build=build, dim=16, image_size=None)


def build_failing_head(params: Any, seed: int) -> Any:
    raise ValueError("this head never fits")


def failing_head() -> Head:
    return replace(HEADS.get("knn"), name="failing", build=build_failing_head)
