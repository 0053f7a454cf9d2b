"""Networks of timm as backbones: what comes out, what they are fed, what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.timm.models import describe, resolve_timm
from benchmark.catalog.timm.networks import read_facts
from benchmark.errors import UsageError
from benchmark.networks.classifier import build_classifier
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder, Preprocessing
from benchmark.options import BackboneOptions
from benchmark.specs import Backbone, Publication
from tests.tiny_models import COMMIT, cache_timm

RGB = ("red", "green", "blue")
MODELS = {
    "test_resnet.r160_in1k": (160, 168, 96),
    "test_vit.r160_in1k": (160, 168, 64),
    "test_convnext.r160_in1k": (160, 168, 64),
    "test_efficientnet.r160_in1k": (160, 168, 256),
}
"""timm's own tiny networks: size, size before the crop, and length of the embedding."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """No hub, and a function that puts a network, drawn at random, into its cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    return partial(cache_timm, tmp_path / "hub")


def resolve(model: str, **options: Any) -> Backbone:
    return find_backbone(
        f"timm:{model}", where="x.toml", options=BackboneOptions(**options) if options else None
    )


@pytest.mark.parametrize("model", MODELS)
def test_the_embedding_is_what_timm_pools(model: str, cache: Callable[[str], Path]) -> None:
    path = cache(model)
    backbone = pickle.loads(pickle.dumps(resolve(model)))
    assert (backbone.image_size, backbone.resize_to, backbone.dim) == MODELS[model]
    network = backbone.build(3)
    assert sum(item.numel() for item in network.parameters()) == backbone.num_parameters
    own = timm.create_model(model, num_classes=0).eval()
    own.load_state_dict(load_file(path), strict=False)
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), own(x))
    assert backbone.revision() == COMMIT
    assert backbone.hub_id == f"timm/{model}"


def test_an_embedder_takes_it_as_any_other_backbone(cache: Callable[[str], Path]) -> None:
    cache("test_resnet.r160_in1k")
    backbone = resolve("test_resnet")
    assert backbone.hub_id == "timm/test_resnet.r160_in1k"
    plan = plan_device(precision="float32", batch_size=2, num_threads=1, device="cpu")
    patches = np.random.default_rng(0).integers(0, 256, (3, 4, 64, 64), np.uint8)
    embeddings, _ = Embedder(backbone, (*RGB, "nir"), plan)(patches)
    assert embeddings.shape == (3, backbone.dim)


@pytest.mark.parametrize(
    "model",
    ["resnet50.a1_in1k", "vit_base_patch16_siglip_224.webli", "mobilenetv3_large_100.ra_in1k"],
)
def test_preprocessing_is_what_timm_computes(model: str) -> None:
    data = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(model).to_dict())
    transform = create_transform(**data, is_training=False)
    entry = describe("x", model, "x")
    generator = np.random.default_rng(1)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 12, 3), np.uint8))
    for side in (128, 300):
        picture = coarse.resize((side, side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1)[None].copy())
        found = Preprocessing(entry, RGB)(pixels)[0]
        levels = (found - transform(picture)).abs() * torch.tensor(entry.std)[:, None, None] * 255
        # torch resizes bytes with other rounding than Pillow, and nearer to it on average than
        # floats that are rounded once.
        assert float(levels.max()) < 2.01
        assert float(levels.mean()) < 0.1


def test_a_crop_that_is_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UsageError, match=r"x: its pretrained_cfg crops 448 px from 389 px"):
        describe("x", "volo_d5_448.sail_in1k", "x")


def test_positions_are_resampled_to_another_size(cache: Callable[[str], Path]) -> None:
    cache("test_vit.r160_in1k")
    backbone = resolve("test_vit", image_size=128)
    assert (backbone.image_size, backbone.resize_to) == (128, None)
    assert backbone.options == (("image_size", 128),)
    x = torch.randn(1, 3, 128, 128)
    own = timm.create_model("test_vit", num_classes=0, img_size=128, dynamic_img_size=True).eval()
    with torch.inference_mode():
        assert backbone.build(3)(x).shape == own(x).shape == (1, 64)
    with pytest.raises(UsageError, match=r"'image_size' = 130 is not a multiple .* of 16 px"):
        resolve("test_vit", image_size=130)


def test_four_bands_and_false_colour(cache: Callable[[str], Path]) -> None:
    path = cache("test_resnet.r160_in1k")
    false = resolve("test_resnet", bands=("nir", "red", "green"))
    plain = resolve("test_resnet")
    assert (false.bands, false.mean) == (("nir", "red", "green"), plain.mean)
    four = resolve("test_resnet", bands=(*RGB, "nir"))
    assert four.mean == pytest.approx((*plain.mean, sum(plain.mean) / 3))
    weight = load_file(path)["conv1.0.weight"]
    network = four.build(4)
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    torch.testing.assert_close(first.weight[:, :3], weight * 0.75)
    assert network(torch.zeros(1, 4, 160, 160)).shape == (1, four.dim)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5O", r"x.toml: backbone 'timm:resnet5O': timm has no network 'resnet5O'. Did you "),
        ("qqqqq", r"no network 'qqqqq'. timm.list_models\(\) lists all"),
        ("resnet50.a1_in2k", r"no pretrained weights 'a1_in2k' for 'resnet50'. Did you .*a1_in1k"),
        ("resnet200", r"timm has no pretrained weights for 'resnet200'. Did you mean 'resnet"),
        ("resnet18.a1_in1k", r"cache and the hub .* run `hf download timm/resnet18.a1_in1k`"),
    ],
)
def test_a_name_that_means_nothing_is_one_clear_line(
    name: str, message: str, cache: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(name)


def test_options_of_other_sources_are_refused_by_name(cache: Callable[[str], Path]) -> None:
    message = (
        r"x.toml \[backbone.\"timm:test_vit\"\]: 'trust_remote_code' does not apply to this "
        r"backbone; these do: bands, image_size, layer, pooling"
    )
    with pytest.raises(UsageError, match=message):
        resolve("test_vit", trust_remote_code=True)


def test_weights_of_another_network_are_refused(cache: Callable[[str], Path]) -> None:
    path = cache("test_resnet.r160_in1k")
    tensors = load_file(path)
    del tensors[min(tensors)]
    save_file(tensors, path)
    backbone = resolve("test_resnet")
    with pytest.raises(UsageError, match=r"its weights do not fit the model: .*Missing key"):
        backbone.build(3)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UsageError, match=r"not a safetensors file or is truncated"):
        resolve("test_resnet")


def test_a_size_or_bands_that_a_network_cannot_take_are_one_line() -> None:
    with pytest.raises(UsageError, match=r"has no first convolution that can take other bands"):
        read_facts("naflexvit_base_patch16_gap.e300_s576_in1k", 384, 4)
    with pytest.raises(UsageError, match=r"test_convnext.r160_in1k cannot take 3 bands of 8 px"):
        read_facts("test_convnext.r160_in1k", 8, 3)


def test_a_classifier_is_published_for_transformers(
    cache: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    cache("test_vit.r160_in1k")
    backbone = resolve("test_vit", image_size=128)
    classifier = build_classifier(backbone, 3, 2).eval()
    out = tmp_path / "out"
    backbone.publish(Publication(backbone, out, classifier.state_dict(), ("a", "b")))
    model = AutoModelForImageClassification.from_pretrained(out).eval()
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (128, 128, 3), np.uint8))
    x = AutoImageProcessor.from_pretrained(out)(picture, return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1)[None].copy())
    with torch.inference_mode():
        expected = classifier(Preprocessing(backbone, RGB)(pixels))
        torch.testing.assert_close(model(pixel_values=x).logits, expected, atol=1e-2, rtol=1e-2)
    four = resolve_timm("timm:test_vit", options=BackboneOptions(bands=(*RGB, "nir")))
    with pytest.raises(UsageError, match=r"the pipeline .* does not support bands = \[.*\]; exp"):
        four.publish(Publication(four, out, {}, ("a", "b")))
