"""Kinds of models whose rules are not written here: tried, and compared with transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.catalog.huggingface.files import Checkpoint
from benchmark.catalog.huggingface.images import Preprocessing
from benchmark.catalog.huggingface.load import load_config, load_processor
from benchmark.catalog.huggingface.models import pooler_arguments, read_off
from benchmark.catalog.options import AS_IT_IS, Reading
from benchmark.errors import UsageError, first_line

if TYPE_CHECKING:
    import torch


def measure_dim(
    checkpoint: Checkpoint, side: int, reading: Reading = AS_IT_IS, num_bands: int = 3
) -> int:
    """Return the length of the embedding, from a network without memory or weights.

    Args:
        checkpoint: its files.
        side: of what it is fed, in px.
        reading: how the embedding is read off.
        num_bands: how many bands it is fed.

    Raises:
        UsageError: the model cannot be read like that, or not take such images.
    """
    from unittest import mock

    import torch
    from transformers import AutoModel

    from benchmark.networks.inflation import inflate_first_convolution

    auto: Any = AutoModel
    config = load_config(checkpoint)
    arguments = pooler_arguments(checkpoint, reading)
    _check_patches(checkpoint, config, reading)
    # While it is compiled, transformers keeps no tensors for later models of the process, and one
    # of these would be without values.
    uncached = mock.patch("transformers.pytorch_utils.is_torchdynamo_compiling", lambda: True)
    try:
        with uncached, torch.device("meta"), torch.inference_mode():
            base = auto.from_config(
                config, trust_remote_code=checkpoint.trusts_code, **arguments
            ).eval()
            model = read_off(checkpoint, base, reading).eval()
            if num_bands != 3:
                inflate_first_convolution(model, num_bands)
            return int(model(torch.zeros(1, num_bands, side, side)).shape[1])
    except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise UsageError(
            f"{checkpoint.what}: '{config.model_type}' cannot be used like that, with images of "
            f"{side} px: {first_line(error, limit=200)}"
        ) from None


def _check_patches(checkpoint: Checkpoint, config: Any, reading: Reading) -> None:
    """Refuse a size that leaves a rim of pixels which belong to no patch."""
    size, patch = reading.image_size, getattr(config, "patch_size", None)
    # Others, whose heads are listed stage by stage, pad what they are given.
    has_one_grid = isinstance(getattr(config, "num_attention_heads", None), int)
    if size and has_one_grid and isinstance(patch, int) and size % patch:
        raise UsageError(
            f"{checkpoint.what}: image_size = {size} is no multiple of its patches of {patch} px; "
            f"take {max(1, size // patch) * patch}"
        )


def check_kind(
    checkpoint: Checkpoint, model: torch.nn.Module, dim: int, images: Preprocessing
) -> None:
    """Compare a kind of model that is not known here with what its entry promises.

    Raises:
        UsageError: its embedding is random or of another length, or its image processor does
            something that the preprocessing of the benchmark does not.
    """
    import numpy as np
    import torch
    from PIL import Image

    from benchmark.networks.embedder import Preprocessing as DevicePreprocessing
    from benchmark.specs import Backbone

    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (12, 12, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((300, 300), Image.Resampling.BICUBIC)
    processor = load_processor(checkpoint)
    expected = processor(picture, return_tensors="pt")["pixel_values"]
    entry = Backbone(
        name=checkpoint.name,
        description="",
        family="",
        build=lambda _: model,
        dim=dim,
        num_parameters=0,
        source="",
        license="",
        image_size=images.image_size,
        resize_to=images.resize_to,
        interpolation=images.interpolation,
        is_rounded=True,
        mean=images.mean,
        std=images.std,
    )
    pixels = torch.from_numpy(np.array(picture).transpose(2, 0, 1)[None].copy())
    found = DevicePreprocessing(entry, ("red", "green", "blue"))(pixels)
    level = 1 / (255 * min(images.std))
    if expected.shape != found.shape or float((expected - found).abs().max()) > 3 * level:
        raise UsageError(
            f"{checkpoint.what}: its image processor {type(processor).__name__} does more than "
            "resize, crop and normalise, which the benchmark cannot follow"
        )
    with torch.inference_mode():
        one, other = model(found), model(found)
    if one.shape != (1, dim) or not torch.equal(one, other):
        raise UsageError(
            f"{checkpoint.what}: its embedding is random or not of length {dim}; it cannot be "
            "used as a backbone"
        )
