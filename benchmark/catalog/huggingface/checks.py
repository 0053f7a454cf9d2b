"""Checks of model types without rules of their own: forward passes, compared with transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.catalog.huggingface.documents import explained
from benchmark.catalog.huggingface.files import CONFIG, PROCESSOR, Checkpoint
from benchmark.catalog.huggingface.images import Preprocessing
from benchmark.catalog.huggingface.load import load_config, load_processor
from benchmark.catalog.huggingface.models import pooler_arguments, read_off
from benchmark.catalog.huggingface.sizes import bounded
from benchmark.catalog.options import AS_IT_IS, Reading, check_multiple, prefixed
from benchmark.catalog.tensors import inflated
from benchmark.errors import UsageError

if TYPE_CHECKING:
    import torch

    from benchmark.catalog.huggingface.resolve import Proof


def measure_dim(
    checkpoint: Checkpoint, side: int, reading: Reading = AS_IT_IS, num_bands: int = 3
) -> int:
    """Return the length of the embedding, from a network on the meta device (no weights).

    Args:
        checkpoint: its files.
        side: of the input, in px.
        reading: the hidden state and pooling that give the embedding.
        num_bands: of the input.

    Raises:
        UsageError: the model does not support this reading or such images.
    """
    from unittest import mock

    import torch
    from transformers import AutoModel

    auto: Any = AutoModel
    config = load_config(checkpoint)
    arguments = pooler_arguments(checkpoint, reading)
    patch = getattr(config, "patch_size", None)
    # Models whose heads are listed by stage pad their input.
    has_one_grid = isinstance(getattr(config, "num_attention_heads", None), int)
    # transformers caches tensors for later models unless it compiles; from here they would lack
    # values.
    uncached = mock.patch("transformers.pytorch_utils.is_torchdynamo_compiling", lambda: True)
    is_chosen = reading != AS_IT_IS or num_bands != 3
    cannot = "does not support these options" if is_chosen else f"of its {CONFIG} cannot be built"
    failed = f"{checkpoint.what}: '{type(config).model_type}' {cannot} with images of {side} px"
    with explained(failed), bounded(checkpoint.headers(), checkpoint.what):
        if reading.image_size and has_one_grid and isinstance(patch, int):
            with prefixed(checkpoint.what):
                check_multiple(reading.image_size, patch)
        with uncached, torch.device("meta"), torch.inference_mode():
            base = auto.from_config(
                config,
                trust_remote_code=checkpoint.trusts_code,
                dtype=torch.float32,
                **arguments,
            ).eval()
            model = inflated(read_off(checkpoint, base, reading).eval(), num_bands)
            return int(model(torch.zeros(1, num_bands, side, side)).shape[1])


def check_dim(checkpoint: Checkpoint, proof: Proof, reading: Reading) -> None:
    """Build a network on the meta device, before one that takes memory is built.

    Args:
        checkpoint: its files.
        proof: holds the expected length of the embedding.
        reading: the hidden state and pooling that give the embedding.

    Raises:
        UsageError: the network is larger than its weights, fails, or gives another embedding.
    """
    found = measure_dim(checkpoint, proof.side, reading, proof.num_channels)
    if found != proof.dim:
        raise UsageError(
            f"{checkpoint.what}: by its {CONFIG}, its embedding has the length {proof.dim}, but "
            f"the network gives {found}; use another checkpoint"
        )


def check_kind(
    checkpoint: Checkpoint, model: torch.nn.Module, dim: int, images: Preprocessing
) -> None:
    """Compare a model type without rules of its own with its entry.

    Raises:
        UsageError: its embedding is random or of another length, or its image processor differs
            from the preprocessing of the benchmark.
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
    with explained(f"{checkpoint.what}: transformers cannot use its {PROCESSOR}"):
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
        **images.fields,
    )
    pixels = torch.from_numpy(np.array(picture).transpose(2, 0, 1)[None].copy())
    found = DevicePreprocessing(entry, ("red", "green", "blue"))(pixels)
    level = 1 / (255 * min(images.std))
    if expected.shape != found.shape or float((expected - found).abs().max()) > 3 * level:
        raise UsageError(
            f"{checkpoint.what}: its image processor {type(processor).__name__} does more than "
            "resize, crop and normalise; use a checkpoint with another processor"
        )
    with explained(f"{checkpoint.what}: its network fails"), torch.inference_mode():
        one, other = model(found), model(found)
    if one.shape != (1, dim) or not torch.equal(one, other):
        raise UsageError(
            f"{checkpoint.what}: its embedding is random or not of length {dim}; use another "
            "checkpoint"
        )
