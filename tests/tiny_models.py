"""Tiny checkpoints of transformers and timm with weights drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
import transformers as t
from safetensors.torch import save_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIDES = {"image_size": 32, "patch_size": 8}
TEXT = {**VIT, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
STAGES = {"hidden_sizes": [8, 16, 24, 40], "depths": [1, 1, 2, 1]}
SQUARE = {"height": 32, "width": 32}


def _models() -> dict[str, tuple[Any, Any, Any]]:
    """Return class, configuration and image processor of each family."""
    towers = {"text_config": TEXT, "vision_config": {**VIT, **SIDES}}
    swin = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "window_size": 4}
    vit = t.ViTImageProcessor(size=SQUARE)
    convnext = t.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)
    bit = t.BitImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE)
    return {
        "beit": (
            t.BeitForImageClassification,
            t.BeitConfig(**VIT, **SIDES, use_relative_position_bias=True),
            t.BeitImageProcessor(size=SQUARE),
        ),
        "clip": (
            t.CLIPModel,
            t.CLIPConfig(**towers, projection_dim=16),
            t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE),
        ),
        "convnext": (t.ConvNextForImageClassification, t.ConvNextConfig(**STAGES), convnext),
        "convnextv2": (t.ConvNextV2ForImageClassification, t.ConvNextV2Config(**STAGES), convnext),
        "dinov2": (t.Dinov2Model, t.Dinov2Config(**VIT, **SIDES), bit),
        "mobilenet_v2": (
            t.MobileNetV2ForImageClassification,
            t.MobileNetV2Config(depth_multiplier=0.35, image_size=32),
            t.MobileNetV2ImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE),
        ),
        "resnet": (
            t.ResNetForImageClassification,
            t.ResNetConfig(embedding_size=8, **STAGES),
            convnext,
        ),
        "siglip": (
            t.SiglipModel,
            t.SiglipConfig(**towers),
            t.SiglipImageProcessor(size=SQUARE),
        ),
        "swin": (
            t.SwinForImageClassification,
            t.SwinConfig(**swin, depths=[1, 1], num_heads=[2, 2]),
            vit,
        ),
        "vit": (t.ViTForImageClassification, t.ViTConfig(**VIT, **SIDES), vit),
        "vit_pooler": (t.ViTModel, t.ViTConfig(**VIT, **SIDES), vit),
        "vit_mae": (
            t.ViTMAEForPreTraining,
            t.ViTMAEConfig(
                **VIT,
                **SIDES,
                decoder_hidden_size=16,
                decoder_num_hidden_layers=1,
                decoder_num_attention_heads=2,
                decoder_intermediate_size=16,
            ),
            vit,
        ),
    }


def write_tiny(folder: Path, family: str) -> Path:
    """Write a checkpoint of a family into a folder, once; it must not be changed."""
    if not folder.is_dir():
        kind, config, processor = _models()[family]
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def cache_timm(hub: Path, model: str) -> Path:
    """Put a network of timm into a cache of the hub; return the file of its weights."""
    folder = hub / f"models--timm--{model}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    torch.manual_seed(0)
    save_file(timm.create_model(model).state_dict(), snapshot / "model.safetensors")
    return snapshot / "model.safetensors"
