"""Checkpoints of timm as backbones: as transformers wraps them, and as timm saves them."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from transformers import (
    AutoImageProcessor,
    AutoModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperModel,
)

from benchmark.catalog.backbones import find_backbone
from benchmark.errors import UsageError
from benchmark.networks.classifier import build_classifier
from benchmark.networks.embedder import Preprocessing
from benchmark.options import BackboneOptions
from benchmark.specs import Backbone, Publication

RGB = ("red", "green", "blue")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FED: dict[str, dict[str, Any]] = {
    "test_resnet": {"interpolation": "bilinear", "crop_pct": 0.875, "crop_mode": "border"},
    "test_vit": {"interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.1, 0.2, 0.3]},
    "test_convnext": {"interpolation": "bicubic", "crop_pct": 1.0, "std": [0.3, 0.2, 0.1]},
    "test_efficientnet": {"interpolation": "bilinear", "input_size": [3, 96, 96]},
}
"""timm's own tiny networks, each with a ``pretrained_cfg`` that is not the one timm knows."""


def fed(network: str) -> dict[str, Any]:
    return {**timm.get_pretrained_cfg(network).to_dict(), **FED[network]}


def draw(model: torch.nn.Module) -> torch.nn.Module:
    """Draw all weights, so that the loss of any of them would show."""
    generator = torch.Generator().manual_seed(0)
    for name, item in model.state_dict().items():
        if item.is_floating_point():
            low = 0.5 if name.endswith("running_var") else -0.2
            item.uniform_(low, low + 0.5, generator=generator)
    return model


def write(folder: Path, kind: str, network: str) -> Path:
    if kind == "timm":
        model = timm.create_model(network, num_classes=4)
        save_for_hf(draw(model), str(folder), safe_serialization=True, data_config=FED[network])
        return folder
    content = {"architecture": network, "pretrained_cfg": fed(network), "num_classes": 4}
    own = TimmWrapperModel if kind == "model" else TimmWrapperForImageClassification
    draw(own(TimmWrapperConfig.from_dict(content))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return the folder of a network saved in one of three ways; it must not be changed."""
    root = tmp_path_factory.mktemp("timm")

    def folder(kind: str, network: str) -> Path:
        path = root / f"{kind}-{network}"
        return path if path.is_dir() else write(path, kind, network)

    return folder


@pytest.fixture
def broken(saved: Callable[[str, str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a checkpoint of ``test_resnet`` to damage."""
    return lambda kind: Path(shutil.copytree(saved(kind, "test_resnet"), tmp_path / kind))


def resolve(folder: Path, **options: Any) -> Backbone:
    given = BackboneOptions(**options) if options else None
    return find_backbone(f"hf:{folder}", where="x.toml", options=given)


def photo(side: int) -> Image.Image:
    # PIL rounds, and cuts off at 0 and 255, between its passes over rows and columns.
    coarse = np.random.default_rng(0).integers(40, 216, (9, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def as_pixels(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture).transpose(2, 0, 1)[None].copy())


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def own_network(folder: Path) -> Any:
    """Return timm's network with the weights of a folder, loaded without the benchmark."""
    content = json.loads((folder / "config.json").read_text())
    network = timm.create_model(content["architecture"], num_classes=4)
    stored = load_file(folder / "model.safetensors")
    network.load_state_dict(
        {name.removeprefix("timm_model."): item for name, item in stored.items()}, strict=False
    )
    return network.eval()


# --- what comes out, and what is fed ---


@pytest.mark.parametrize("network", FED)
@pytest.mark.parametrize("kind", ["model", "classifier", "timm"])
def test_the_embedding_is_what_timm_pools(
    kind: str, network: str, saved: Callable[[str, str], Path]
) -> None:
    folder = saved(kind, network)
    backbone = pickle.loads(pickle.dumps(resolve(folder)))
    own = own_network(folder)
    x = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    with torch.inference_mode():
        expected = own.forward_head(own.forward_features(x), pre_logits=True)
        module = backbone.build(3)
        torch.testing.assert_close(module(x), expected)
        if kind != "timm":
            wrapped = AutoModel.from_pretrained(folder).eval()
            torch.testing.assert_close(module(x), wrapped(pixel_values=x).pooler_output)
    assert expected.shape == (2, backbone.dim)
    assert backbone.num_parameters == sum(item.numel() for item in module.parameters())
    assert "state_dict" not in module.pretrained_cfg


@pytest.mark.parametrize("network", FED)
@pytest.mark.parametrize("kind", ["model", "timm"])
def test_preprocessing_is_that_of_the_checkpoint(
    kind: str, network: str, saved: Callable[[str, str], Path]
) -> None:
    folder = saved(kind, network)
    backbone = resolve(folder)
    if kind == "timm":
        data = resolve_model_data_config(timm.create_model(f"local-dir:{folder}"))
        transform: Any = create_transform(**data, is_training=False)
    else:
        processor = AutoImageProcessor.from_pretrained(folder)
        assert type(processor).__name__ == "TimmWrapperImageProcessor"

        def transform(picture: Image.Image) -> torch.Tensor:
            found: torch.Tensor = processor(picture, return_tensors="pt")["pixel_values"][0]
            return found

    for side in (64, 128, 300):
        picture = photo(side)
        expected, found = transform(picture), Preprocessing(backbone, RGB)(as_pixels(picture))[0]
        assert found.shape == expected.shape
        levels = (found - expected).abs() * 255 * torch.tensor(backbone.std)[:, None, None]
        # Pillow's weights of a kernel have more bits than those of torch.
        assert float(levels.max()) < 2.01
        assert float(levels.mean()) < 0.1


def test_the_revision_follows_weights_and_config(broken: Callable[[str], Path]) -> None:
    folder = broken("classifier")
    found = {resolve(folder).revision()}
    change_tensors(folder, lambda t: t["timm_model.conv1.0.weight"].add_(1))
    found.add(resolve(folder).revision())
    edit_config(folder, lambda c: c.update(model_args={"drop_rate": 0.1}))
    found.add(resolve(folder).revision())
    assert len(found) == 3
    assert resolve(folder).source == "folder classifier"


def test_positions_are_resampled_and_bands_grow(saved: Callable[[str, str], Path]) -> None:
    folder = saved("classifier", "test_vit")
    small = resolve(folder, image_size=96)
    assert (small.image_size, small.resize_to) == (96, None)
    own = own_network(folder)
    own.set_input_size(96)
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        expected = own.forward_head(own.forward_features(x), pre_logits=True)
        torch.testing.assert_close(small.build(3)(x), expected)
        four = resolve(folder, bands=(*RGB, "nir"))
        assert four.build(4)(torch.zeros(1, 4, 160, 160)).shape == (1, 64)
    with pytest.raises(UsageError, match=r"\[backbone.*\]: 'image_size' = 90 is not a multiple"):
        resolve(folder, image_size=90)
    message = r"'trust_remote_code' does not apply .* do: bands, image_size, layer, pooling"
    with pytest.raises(UsageError, match=message):
        resolve(folder, trust_remote_code=True)


def test_a_layer_of_a_saved_network_is_read(saved: Callable[[str, str], Path]) -> None:
    folder = saved("classifier", "test_vit")
    backbone = pickle.loads(pickle.dumps(resolve(folder, layer=-4, pooling="cls")))
    x = torch.randn(2, 3, 160, 160)
    own = own_network(folder)
    with torch.inference_mode():
        ((_, tokens),) = own.forward_intermediates(
            x, indices=[2], intermediates_only=True, return_prefix_tokens=True
        )
        torch.testing.assert_close(backbone.build(3)(x), tokens[:, 0])


def test_arguments_of_the_network_are_those_that_were_saved(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", depth=2, img_size=96, num_classes=9)
    data = {"input_size": (3, 96, 96)}
    save_for_hf(draw(network), str(tmp_path), safe_serialization=True, data_config=data)
    backbone = resolve(tmp_path)
    assert backbone.image_size == 96
    x = torch.randn(1, 3, 96, 96)
    network.eval().reset_classifier(0)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.build(3)(x), network(x))


def test_the_flat_config_of_an_older_version_is_read_too(broken: Callable[[str], Path]) -> None:
    folder = broken("timm")
    before = resolve(folder)
    edit_config(folder, lambda c: c.update(c.pop("pretrained_cfg")))
    found = resolve(folder)
    for field in ("image_size", "resize_to", "interpolation", "mean", "std", "dim"):
        assert getattr(found, field) == getattr(before, field)


def test_names_of_an_older_version_are_those_that_timm_translates(tmp_path: Path) -> None:
    network = draw(timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1)))
    save_for_hf(network, str(tmp_path), safe_serialization=True)
    change_tensors(
        tmp_path,
        lambda t: t.update(
            {f"head.{end}": t.pop(f"head.fc.{end}") for end in ("weight", "bias")}
            | {f"norm.{end}": t.pop(f"head.norm.{end}") for end in ("weight", "bias")}
        ),
    )
    backbone = resolve(tmp_path)
    x = torch.randn(1, 3, 64, 64)
    network.eval().reset_classifier(0)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.build(3)(x), network(x))


def test_a_model_of_the_hub_is_pinned_to_its_commit(
    saved: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "models--org--tiny"
    shutil.copytree(saved("timm", "test_resnet"), cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    backbone = find_backbone("hf:org/tiny", where="x.toml")
    assert (backbone.revision(), backbone.hub_id) == (COMMIT, "org/tiny")
    assert backbone.source == "https://huggingface.co/org/tiny"
    (cache / "refs/main").write_text("f" * 40)
    assert backbone.build(3)(torch.zeros(1, 3, 160, 160)).shape == (1, 96)


# --- publishing ---


@pytest.mark.parametrize("name", ["efficientnet_lite0", "hf:classifier"])
def test_what_is_published_is_a_backbone_again(
    name: str, saved: Callable[[str, str], Path], tmp_path: Path
) -> None:
    if name == "hf:classifier":
        backbone = resolve(saved("classifier", "test_vit"))
    else:
        backbone = find_backbone(name)
    classifier = build_classifier(backbone, 3, 3).eval()
    assert classifier.head_prefix == "head."
    out = tmp_path / "out"
    backbone.publish(Publication(backbone, out, classifier.state_dict(), ("a", "b", "c")))
    again = resolve(out)
    for field in ("dim", "num_parameters", "image_size", "resize_to", "interpolation"):
        assert getattr(again, field) == getattr(backbone, field)
    # Fed as it is, or enlarged and cropped.
    side, level = backbone.image_size, 2.01 / (255 * min(backbone.std))
    x = Preprocessing(again, RGB)(as_pixels(photo(side)))
    torch.testing.assert_close(x, Preprocessing(backbone, RGB)(as_pixels(photo(side))))
    processor = AutoImageProcessor.from_pretrained(out)
    expected = processor(photo(side), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(x, expected, atol=level, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(again.build(3)(x), classifier.body(x))
        model = TimmWrapperForImageClassification.from_pretrained(out).eval()
        torch.testing.assert_close(model(pixel_values=x).logits, classifier(x))


# --- mistakes ---


@pytest.mark.parametrize("kind", ["model", "classifier", "timm"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, p: t.pop(f"{p}conv1.0.weight"), r"weights lack the tensor 'conv1.0.weight'; "),
        (
            lambda t, p: t.update({f"{p}conv9.weight": torch.zeros(3)}),
            r"weights have an unexpected tensor 'conv9.weight'",
        ),
        (
            lambda t, p: t.update({f"{p}conv1.0.weight": torch.zeros(3)}),
            r"weights have another shape for the tensor 'conv1.0.weight'",
        ),
        (
            lambda t, p: t[f"{p}conv1.0.weight"].fill_(float("nan")),
            r"weights are NaN or infinite in the tensor 'conv1.0.weight'",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[dict[str, torch.Tensor], str], Any],
    message: str,
    kind: str,
    broken: Callable[[str], Path],
) -> None:
    folder = broken(kind)
    prefix = "" if kind == "timm" else "timm_model."
    change_tensors(folder, lambda tensors: change(tensors, prefix))
    with pytest.raises(UsageError, match=message) as caught:
        resolve(folder).build(3)
    assert str(caught.value).startswith(f"x.toml: backbone 'hf:{folder}'")
    assert "\n" not in str(caught.value)


def test_only_the_classifier_may_be_another(broken: Callable[[str], Path]) -> None:
    folder = broken("timm")
    x = torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        expected = resolve(folder).build(3)(x)
        for change in (
            lambda t: t.update({"fc.weight": torch.zeros(7, 96)}),
            lambda t: t["fc.bias"].fill_(float("nan")),
            lambda t: t.pop("fc.bias"),
            lambda t: t.pop("fc.weight"),
        ):
            change_tensors(folder, change)
            assert torch.equal(resolve(folder).build(3)(x), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(architecture="test_resnett"),
            r"timm has no network 'test_resnett'. Did you mean 'test_resnet'\?",
        ),
        (
            lambda c: c.update(architecture="qqqqq"),
            r"timm has no network 'qqqqq'. timm.list_models\(\) lists all",
        ),
        (lambda c: c.update(architecture=3), r"config.json names no architecture of timm"),
        (lambda c: c.pop("pretrained_cfg"), r"config.json has no pretrained_cfg \(how images are"),
        (
            lambda c: c["pretrained_cfg"].update(input_size=[3, 160, 96]),
            r"its images are 160 x 96 px, .*; only square images",
        ),
        (
            lambda c: c["pretrained_cfg"].update(input_size=[4, 160, 160]),
            r"its images have 4 bands; use weights of 3 bands",
        ),
        (
            lambda c: c["pretrained_cfg"].update(interpolation="lanczos"),
            r"resized 'lanczos'; only .* bilinear or bicubic",
        ),
        (
            lambda c: c["pretrained_cfg"].update(crop_pct=1.2),
            r"crops 160 px from 133 px; crop_pct must be above 0 and at most 1",
        ),
        (lambda c: c["pretrained_cfg"].update(std=[0.1, 0.0, 0.1]), r"std = .*above 0"),
        (lambda c: c["pretrained_cfg"].update(mean="grey"), r"pretrained_cfg is invalid"),
        (
            lambda c: c.update(model_args={"checkpoint_path": "other.pth"}),
            r"has 'checkpoint_path' in model_args, which is not an argument of a pooled network",
        ),
        (lambda c: c.update(model_args={"in_chans": 4}), r"in_chans = 4; only square images of 3"),
        (
            lambda c: c.update(model_args={"depth": 3}),
            r"test_resnet cannot take 3 bands of 160 px: TypeError: .*'depth'",
        ),
        (
            lambda c: c.update(model_args={"global_pool": ""}),
            r"test_resnet gives no pooled embedding with \{'global_pool': ''\}",
        ),
    ],
)
def test_a_config_that_cannot_be_used_is_one_clear_line(
    change: Callable[[dict[str, Any]], Any], message: str, broken: Callable[[str], Path]
) -> None:
    folder = broken("classifier")
    edit_config(folder, change)
    with pytest.raises(UsageError, match=message) as caught:
        resolve(folder)
    assert str(caught.value).startswith(f"x.toml: backbone 'hf:{folder}'")
    assert "\n" not in str(caught.value)


def test_weights_that_are_torn_or_no_safetensors_fail_at_once(
    broken: Callable[[str], Path],
) -> None:
    folder = broken("timm")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UsageError, match=r"not a safetensors file or is truncated"):
        resolve(folder)
    path.rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"cannot be read as a file of tensors alone"):
        resolve(folder)


def test_weights_of_torch_are_read_as_tensors_alone(broken: Callable[[str], Path]) -> None:
    folder = broken("timm")
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = resolve(folder).build(3)(x)
        path = folder / "model.safetensors"
        torch.save(load_file(path), folder / "pytorch_model.bin")
        path.unlink()
        assert torch.equal(resolve(folder).build(3)(x), expected)
