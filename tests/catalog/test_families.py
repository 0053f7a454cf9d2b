"""Every family of transformers with a vision model embeds as transformers itself does.

The families are those that transformers lists; one that is neither built here nor left out by name
fails, so that a new version of transformers is noticed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_IMAGE_MAPPING_NAMES,
)

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.huggingface.load import TOWERS
from benchmark.flipping import flip_images
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder
from benchmark.stages.embed.preparing import CHUNK, Preparation

SIDE = 64
TOLERANCE = 1e-3
"""Largest difference of an embedding, relative to its largest value."""

VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "image_size": SIDE, "patch_size": 16,
}  # fmt: skip
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SWIN = {"image_size": SIDE, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
TEXT = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
    "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
EFFICIENT = {
    "image_size": SIDE, "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320,
}  # fmt: skip
SAM = {"output_channels": 16, "mlp_dim": 32, "global_attn_indexes": [1], "window_size": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "aimv2_vision_model": VIT,
    "beit": {**VIT, "use_relative_position_bias": True},
    "bit": {"embedding_size": 8, **STAGES, "num_groups": 2},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "cvt": {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "data2vec-vision": VIT,
    "deit": VIT,
    "dinov2": VIT,
    "dinov2_with_registers": VIT,
    "dinov3_convnext": STAGES,
    "dinov3_vit": VIT,
    "donut-swin": {**SWIN, "window_size": 4, "patch_size": 4},
    "dpt": VIT,
    "efficientnet": EFFICIENT,
    "focalnet": {
        **SWIN, "focal_levels": [1, 1], "focal_windows": [3, 3], "hidden_sizes": [16, 32],
    },
    "glpn": {**STAGES, "num_attention_heads": [1, 1, 2, 2]},
    "hiera": {
        "image_size": [SIDE, SIDE], "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2],
        "mlp_ratio": 2.0, "query_stride": [2, 2], "num_query_pool": 1,
        "masked_unit_size": [8, 8],
    },
    "ijepa": VIT,
    "levit": {
        "image_size": SIDE, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1], "key_dim": [8, 8, 8],
        "down_ops": [["Subsample", 8, 2, 2, 2, 2], ["Subsample", 8, 2, 2, 2, 2]],
    },
    "mlcd_vision_model": VIT,
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": SIDE},
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": SIDE},
    "mobilevit": {
        "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 56],
        "image_size": SIDE, "num_attention_heads": 2,
    },
    "mobilevitv2": {"image_size": SIDE, "width_multiplier": 0.25},
    "pixio": VIT,
    "poolformer": STAGES,
    "pvt": {
        **STAGES, "image_size": SIDE, "num_attention_heads": [1, 1, 1, 1],
    },
    "pvt_v2": {**STAGES, "image_size": SIDE, "num_attention_heads": [1, 1, 2, 2]},
    "regnet": {"embedding_size": 8, **STAGES, "groups_width": 8},
    "resnet": {"embedding_size": 8, **STAGES},
    "segformer": {**STAGES, "num_attention_heads": [1, 1, 2, 2], "image_size": SIDE},
    "siglip_vision_model": VIT,
    "swiftformer": {"image_size": SIDE, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]},
    "swin2sr": {**SWIN, "window_size": 4},
    "swin": {**SWIN, "window_size": 4},
    "swinv2": {**SWIN, "window_size": 4},
    "textnet": {"image_size": SIDE},
    "tipsv2_vision_model": VIT,
    "vit": VIT,
    "vit_mae": VIT,
    "vit_msn": VIT,
    "vitdet": VIT,
    "yolos": {**VIT, "image_size": [SIDE, SIDE], "num_detection_tokens": 2},
    **{
        name: {"text_config": TEXT, "vision_config": VIT, "projection_dim": 16}
        for name in TOWERS
    },
    "align": {"text_config": TEXT, "vision_config": EFFICIENT},
    "sam": {"vision_config": {**VIT, **SAM}},
    "sam_hq": {"vision_config": {**VIT, **SAM}},
}  # fmt: skip

DETECTOR = "a detector: its network takes a mask and gives objects, or needs another backbone"
VIDEO = "takes videos"
LEFT_OUT = {
    **dict.fromkeys(
        ("conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer"), DETECTOR
    ),
    **dict.fromkeys(("cohere2_vision", "llama4", "mllama", "shieldgemma2"), "a language model"),
    "depth_pro": "holds two networks",
    "hgnet_v2": "gives feature maps alone",
    "mlcd": "is mlcd_vision_model under its older name",
    "pp_lcnet": "transformers has no base model of it",
    "siglip2": "takes lists of patches, not images",
    "dinat": "needs the package natten",
    "imagegpt": "takes colours by their number, not pixels",
    "perceiver": "takes queries beside pixels",
    **dict.fromkeys(("timm_backbone", "timm_wrapper"), "a network of timm: test_timm_checkpoints"),
    **dict.fromkeys(("timesformer", "videomae", "videoprism_vision_model", "vivit"), VIDEO),
}

FAMILIES = sorted(
    {
        *MODEL_FOR_IMAGE_MAPPING_NAMES,
        *MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        *TOWERS,
    }
)
QUICK = {"blip", "efficientnet", "levit", "mobilevit", "poolformer", "sam"}


def processor_of(family: str) -> Any:
    """Return the family's own image processor, for images of ``SIDE`` px."""
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(family) or {}
    name = names.get("torchvision") or "ViTImageProcessor"
    kind: Any = getattr(transformers, name)
    sizes = {
        key: dict.fromkeys(getattr(kind, key), SIDE)
        for key in ("size", "crop_size", "pad_size")
        if getattr(kind, key, None)
    }
    return kind(**sizes)


def write(family: str, folder: Path) -> None:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**CONFIGS[family])
    model = AutoModel.from_config(config)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
    model.save_pretrained(folder)
    processor_of(family).save_pretrained(folder)


def expected_of(family: str, folder: Path, pictures: list[Image.Image]) -> np.ndarray:
    """Return what transformers alone makes of pictures: the mean of the last hidden state."""
    model: Any = AutoModel.from_pretrained(folder).eval()
    model = getattr(model, "vision_model", None) or getattr(model, "vision_encoder", model)
    if family == "vit_mae":
        model.config.mask_ratio = 0.0
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        state = model(pixel_values=pixels).last_hidden_state
    return (state.mean(dim=1) if state.ndim == 3 else state.mean(dim=(2, 3))).numpy()


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in FAMILIES],
)
def test_a_family_embeds_as_transformers_does(family: str, tmp_path: Path) -> None:
    if family in LEFT_OUT:
        pytest.skip(LEFT_OUT[family])
    write(family, tmp_path)
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (2, 12, 12, 3), np.uint8)
    pictures = [Image.fromarray(x).resize((96, 96), Image.Resampling.BICUBIC) for x in coarse]
    expected = expected_of(family, tmp_path, pictures)
    backbone = find_backbone(f"hf:{tmp_path}", where="x.toml")
    plan = plan_device(precision="float32", batch_size=2, num_threads=1, device="cpu")
    patches = np.stack([np.array(x).transpose(2, 0, 1) for x in pictures])
    found, _ = Embedder(backbone, ("red", "green", "blue"), plan)(patches)
    assert found.shape == expected.shape == (2, backbone.dim)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_what_a_reader_prepares_embeds_with_the_bits_of_the_device_path(tmp_path: Path) -> None:
    write("levit", tmp_path)
    path = tmp_path / "preprocessor_config.json"
    # The nearest pixel, which no setting describes.
    path.write_text(json.dumps({**json.loads(path.read_text()), "resample": 0}))
    backbone = find_backbone(f"hf:{tmp_path}", where="x.toml")
    assert backbone.processor is not None
    bands, shape = ("nir", "red", "green", "blue"), (4, 80, 80)
    patches = np.random.default_rng(0).integers(0, 256, (CHUNK + 3, *shape), np.uint8)
    prepare = Preparation(backbone, bands, shape, flip="both")
    ready = prepare(patches)
    assert prepare.bytes_per_patch() == ready.nbytes / len(ready) == 3 * SIDE**2 * 4
    plan = plan_device(precision="float32", batch_size=5, num_threads=1, device="cpu")
    embedder = Embedder(backbone, bands, plan)
    (found, fed), (expected, was_fed) = embedder(ready), embedder(flip_images(patches, "both"))
    np.testing.assert_array_equal(found, expected)
    assert fed.summary() == was_fed.summary()


def test_every_family_is_built_or_left_out_by_name() -> None:
    assert set(FAMILIES) == CONFIGS.keys() | LEFT_OUT.keys()
    assert not CONFIGS.keys() & LEFT_OUT.keys()
