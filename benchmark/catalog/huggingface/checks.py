"""Checks of model types without rules of their own: forward passes, compared with transformers."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.catalog.huggingface.documents import explained
from benchmark.catalog.huggingface.files import CONFIG, PROCESSOR, Checkpoint
from benchmark.catalog.huggingface.load import base_class, load_config, load_processor
from benchmark.catalog.huggingface.models import pooler_arguments, read_off
from benchmark.catalog.huggingface.sizes import bounded
from benchmark.catalog.options import AS_IT_IS, Reading, check_multiple, prefixed
from benchmark.catalog.tensors import inflated
from benchmark.errors import UsageError
from benchmark.specs import Backbone, Processor

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from benchmark.catalog.huggingface.resolve import Proof

RGB = ("red", "green", "blue")
PROBE_SIDES = (128, 300)
"""Sides in px of the images that are compared."""
MOST_LEVELS = 0.05
"""Largest difference from the image processor in grey levels: more than an error of float32."""
NUM_TIMED = 16
"""Patches whose preparation is timed."""


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

    from benchmark.networks.pooling import MissingLayerError

    config = load_config(checkpoint)
    kind = base_class(checkpoint, config)
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
            if hasattr(kind, "from_config"):
                arguments["trust_remote_code"] = checkpoint.trusts_code
            build = getattr(kind, "from_config", None) or kind._from_config
            base = build(config, dtype=torch.float32, **arguments).eval()
            model = inflated(read_off(checkpoint, base, reading).eval(), num_bands)
            try:
                return int(model(torch.zeros(1, num_bands, side, side)).shape[1])
            except MissingLayerError as error:
                raise UsageError(f"{checkpoint.what}: {error}") from None


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


def settled(checkpoint: Checkpoint, entry: Backbone) -> Backbone:
    """Return an entry whose input equals that of transformers.

    The benchmark's own preprocessing is compared with the checkpoint's image processor on random
    images; if they differ, the image processor itself prepares the patches.

    Raises:
        UsageError: transformers cannot use the image processor, or it gives no square images.
    """
    import torch

    from benchmark.networks.embedder import Preprocessing

    probes = [_probe(side, seed) for side in PROBE_SIDES for seed in range(2)]
    expected = [torch.from_numpy(prepare(checkpoint, item)) for item in probes]
    for fast in (entry, replace(entry, is_rounded=not entry.is_rounded)):
        own = Preprocessing(fast, RGB)
        most = MOST_LEVELS / (255 * min(fast.std))
        found = [own(torch.from_numpy(item)) for item in probes]
        if all(_are_close(*pair, most) for pair in zip(found, expected, strict=True)):
            return fast
    sides = {item.shape[-1] for item in expected}
    if any(item.ndim != 4 or item.shape[2] != item.shape[3] for item in expected):
        shapes = " and ".join(sorted({str(tuple(item.shape[1:])) for item in expected}))
        raise UsageError(
            f"{checkpoint.what}: its image processor {_processor_name(checkpoint)} gives arrays of "
            f"shape {shapes} of square images; use a checkpoint with one that gives square images"
        )
    began = time.perf_counter()
    prepare(checkpoint, np.repeat(_probe(PROBE_SIDES[0], 0), NUM_TIMED, axis=0))
    ms_per_patch = 1000 * (time.perf_counter() - began) / NUM_TIMED
    config = json.dumps(checkpoint.read_processor()[0], sort_keys=True)
    return replace(
        entry,
        image_size=sides.pop() if len(sides) == 1 else None,
        resize_to=None,
        interpolation="bilinear",
        is_rounded=False,
        flips_bands=False,
        mean=(0.0,),
        std=(1.0,),
        processor=Processor(
            _processor_name(checkpoint), config, partial(prepare, checkpoint), ms_per_patch
        ),
    )


def prepare(checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the image processor makes of patches uint8 (B, 3, H, W): float32 (B, 3, S, S).

    Raises:
        UsageError: transformers cannot use it.
    """
    from PIL import Image

    pictures = [Image.fromarray(item.transpose(1, 2, 0)) for item in np.asarray(pixels)]
    processor = _cached_processor(checkpoint)
    with explained(f"{checkpoint.what}: transformers cannot use its {PROCESSOR}"):
        found = processor(pictures, return_tensors="np")["pixel_values"]
        return np.stack(list(found)).astype(np.float32, copy=False)


@lru_cache(maxsize=4)
def _cached_processor(checkpoint: Checkpoint) -> Any:
    return load_processor(checkpoint)


def _processor_name(checkpoint: Checkpoint) -> str:
    return type(_cached_processor(checkpoint)).__name__


def _probe(side: int, seed: int) -> NDArray[np.uint8]:
    """Return an image with edges and plains, uint8 (1, 3, side, side)."""
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.array(picture).transpose(2, 0, 1)[None].copy()


def _are_close(found: torch.Tensor, expected: torch.Tensor, most: float) -> bool:
    return found.shape == expected.shape and float((found - expected).abs().max()) <= most


def check_kind(checkpoint: Checkpoint, model: torch.nn.Module, dim: int, side: int) -> None:
    """Check a model type without rules of its own.

    Raises:
        UsageError: its embedding is random or not of length ``dim``.
    """
    import torch

    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with explained(f"{checkpoint.what}: its network fails"), torch.inference_mode():
        one, other = model(x), model(x)
    if one.shape != (1, dim) or not torch.equal(one, other):
        raise UsageError(
            f"{checkpoint.what}: its embedding is random or not of length {dim}; use another "
            "checkpoint"
        )
