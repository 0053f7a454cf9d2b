"""Checkpoints of transformers as backbones: what they are fed, what comes out, what is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmark.catalog.backbones import BACKBONES, find_backbone
from benchmark.catalog.huggingface.images import read_preprocessing
from benchmark.catalog.huggingface.resolve import resolve_huggingface
from benchmark.errors import UsageError
from benchmark.networks.classifier import build_classifier
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder, Preprocessing
from benchmark.options import BackboneOptions
from benchmark.specs import Backbone, Publication
from tests.exporting.cells import run_alone

ROOT = Path(__file__).resolve().parents[2]
UCMERCED = ROOT.parent / "shared/data/ucmerced-mini"
MOBILENET = ROOT.parent / "shared/weights/mobilenet_v2_imagenet"

RGB = ("red", "green", "blue")
CLASSES = ("water", "trees", "roads")

VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIDES = {"image_size": 32, "patch_size": 8}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def write_checkpoint(folder: Path, kind: str, *, num_labels: int = 3) -> Path:
    """Write a tiny model of a kind, with weights drawn at random, as transformers saves it."""
    torch.manual_seed(0)
    if kind == "beit":
        config: Any = transformers.BeitConfig(
            **VIT, **SIDES, use_mean_pooling=True, num_labels=num_labels
        )
        model: Any = transformers.BeitForImageClassification(config)
        processor: Any = transformers.BeitImageProcessor(
            size={"height": 32, "width": 32}, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
    elif kind == "convnext":
        config = transformers.ConvNextConfig(
            hidden_sizes=[8, 16, 24, 40], depths=[1, 1, 2, 1], num_labels=num_labels
        )
        model = transformers.ConvNextForImageClassification(config)
        processor = transformers.ConvNextImageProcessor(
            size={"shortest_edge": 64}, crop_pct=0.875, image_mean=MEAN, image_std=STD
        )
    elif kind == "vit":
        model = transformers.ViTForImageClassification(
            transformers.ViTConfig(**VIT, **SIDES, num_labels=num_labels)
        )
        processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    elif kind == "mobilenet_v2":
        config = transformers.MobileNetV2Config(
            depth_multiplier=0.35, image_size=64, num_labels=num_labels
        )
        model = transformers.MobileNetV2ForImageClassification(config)
        processor = transformers.MobileNetV2ImageProcessor(
            size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}
        )
    elif kind == "dinov3_vit":
        config = transformers.DINOv3ViTConfig(**VIT, image_size=32, patch_size=8)
        model = transformers.DINOv3ViTModel(config)
        processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    elif kind == "mobilevit":
        config = transformers.MobileViTConfig(
            hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 56], image_size=64
        )
        model = transformers.MobileViTForImageClassification(config)
        processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    else:
        raise ValueError(kind)
    for name, buffer in model.named_buffers():
        # Statistics that are not those of a new network, so that their loss would show.
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny checkpoint of a kind; it must not be changed."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(kind: str) -> Path:
        path = root / kind
        return path if path.is_dir() else write_checkpoint(path, kind)

    return folder


def resolve(folder: Path) -> Backbone:
    return resolve_huggingface(f"hf:{folder}", where="x.toml")


def photos(limit: int = 3) -> list[Image.Image]:
    if UCMERCED.is_dir():
        found = [Image.open(path).convert("RGB") for path in sorted(UCMERCED.glob("*/*0.png"))]
        return [picture.crop((0, 0, 224, 224)) for picture in found[:limit]]
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (limit, 16, 16, 3), np.uint8)
    return [Image.fromarray(item).resize((224, 224), Image.Resampling.BICUBIC) for item in coarse]


def as_pixels(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture).transpose(2, 0, 1)[None].copy())


def edit_json(path: Path, **changes: Any) -> None:
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: item for key, item in content.items() if item != "-"}))


KINDS = ["beit", "convnext", "vit", "mobilenet_v2"]
DIMS = {"beit": 32, "convnext": 40, "vit": 32, "mobilenet_v2": 1280, "mobilevit": 56}


# --- what comes out ---


@pytest.mark.parametrize("kind", [*KINDS, "mobilevit"])
def test_the_embedding_is_the_mean_of_the_last_hidden_state(
    kind: str, checkpoint: Callable[[str], Path]
) -> None:
    backbone = resolve(checkpoint(kind))
    assert backbone.dim == DIMS[kind]
    model = transformers.AutoModel.from_pretrained(checkpoint(kind)).eval()
    x = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    with torch.inference_mode():
        state = model(pixel_values=x).last_hidden_state
        found = backbone.build(3)(x)
    expected = state.mean(dim=1) if state.ndim == 3 else state.mean(dim=(2, 3))
    assert found.shape == (2, backbone.dim)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedder_takes_it_as_any_other_backbone(
    kind: str, checkpoint: Callable[[str], Path]
) -> None:
    backbone = pickle.loads(pickle.dumps(resolve(checkpoint(kind))))
    plan = plan_device(precision="float32", batch_size=2, num_threads=1, device="cpu")
    patches = np.concatenate([as_pixels(item).numpy() for item in photos()])
    embeddings, _ = Embedder(backbone, (*RGB, "nir"), plan)(
        np.concatenate([patches, patches[:, :1]], axis=1)
    )
    alone, _ = Embedder(backbone, RGB, replace(plan, batch_size=1))(patches)
    assert embeddings.shape == (3, backbone.dim)
    np.testing.assert_allclose(embeddings, alone, rtol=1e-3, atol=1e-4 * np.abs(alone).max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_entry_is_resolved_without_torch(kind: str, checkpoint: Callable[[str], Path]) -> None:
    code = (
        "import sys; from benchmark.catalog.backbones import find_backbone\n"
        f"b = find_backbone('hf:{checkpoint(kind)}'); b.revision()\n"
        "print(b.dim, [m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{DIMS[kind]} []"


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_parameters_is_read_from_the_header(
    kind: str, checkpoint: Callable[[str], Path]
) -> None:
    backbone = resolve(checkpoint(kind))
    found = sum(item.numel() for item in backbone.build(3).parameters())
    assert backbone.num_parameters == found


def test_the_revision_follows_weights_and_config(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint("vit"), tmp_path / "vit"))
    first = resolve(folder).revision()
    assert first == resolve(folder).revision() == resolve(checkpoint("vit")).revision()
    tensors = load_file(folder / "model.safetensors")
    tensors["vit.layernorm.bias"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    second = resolve(folder).revision()
    edit_json(folder / "config.json", hidden_act="relu")
    assert len({first, second, resolve(folder).revision()}) == 3


# --- what it is fed ---


def processors() -> dict[str, Any]:
    square = {"height": 96, "width": 96}
    return {
        "mobilenet": transformers.MobileNetV2ImageProcessor(),
        "mobilenet-small": transformers.MobileNetV2ImageProcessor(
            size={"shortest_edge": 100}, crop_size={"height": 81, "width": 81}
        ),
        "beit": transformers.BeitImageProcessor(size=square),
        "beit-crop": transformers.BeitImageProcessor(
            size={"height": 256, "width": 256}, do_center_crop=True, crop_size=square, resample=2
        ),
        "convnext-crop": transformers.ConvNextImageProcessor(size={"shortest_edge": 224}),
        "convnext-small": transformers.ConvNextImageProcessor(
            size={"shortest_edge": 96}, crop_pct=0.95, resample=2
        ),
        "convnext-whole": transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
        "vit": transformers.ViTImageProcessor(),
        "vit-no-normalise": transformers.ViTImageProcessor(size=square, do_normalize=False),
        "vit-scaled": transformers.ViTImageProcessor(
            size=square, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3
        ),
        "dinov2": transformers.BitImageProcessor(
            size={"shortest_edge": 256}, image_mean=MEAN, image_std=STD
        ),
        "dinov3": transformers.DINOv3ViTImageProcessor(size=square),
        "efficientnet": transformers.EfficientNetImageProcessor(size=square),
        "efficientnet-offset": transformers.EfficientNetImageProcessor(
            size=square, rescale_offset=True, rescale_factor=1 / 127.5, do_normalize=False
        ),
        "efficientnet-crop": transformers.EfficientNetImageProcessor(
            size=square,
            crop_size={"height": 80, "width": 80},
            do_center_crop=True,
            include_top=False,
            image_mean=MEAN,
            image_std=STD,
        ),
        "levit": transformers.LevitImageProcessor(),
        "levit-square": transformers.LevitImageProcessor(size=square, crop_size=square),
        "mobilevit": transformers.MobileViTImageProcessor(
            size={"shortest_edge": 110}, crop_size=square
        ),
        "mobilevit-unflipped": transformers.MobileViTImageProcessor(
            size={"shortest_edge": 96}, do_center_crop=False, do_flip_channel_order=False
        ),
        "poolformer": transformers.PoolFormerImageProcessor(),
        "poolformer-share": transformers.PoolFormerImageProcessor(
            size={"shortest_edge": 90}, crop_pct=0.8, crop_size=square
        ),
    }


def nest_processor(folder: Path, **changes: Any) -> Path:
    """Add the file of transformers 5 that holds an image processor beside others."""
    content = json.loads((folder / "preprocessor_config.json").read_text())
    nested = {"image_processor": {**content, **changes}, "processor_class": "CLIPProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    return folder


def test_a_levit_of_a_large_side_is_refused_at_once(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint("vit"), tmp_path / "levit"))
    transformers.LevitConfig(image_size=4000).save_pretrained(folder)
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"has image_size = 4000; set at most 512 px"):
        resolve(folder)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("keeps_plain", [True, False])
def test_a_nested_processor_goes_first_like_in_transformers(
    checkpoint: Callable[[str], Path], tmp_path: Path, keeps_plain: bool
) -> None:
    folder = Path(shutil.copytree(checkpoint("vit"), tmp_path / "vit"))
    nest_processor(folder, image_mean=[0.1, 0.2, 0.3])
    if not keeps_plain:
        (folder / "preprocessor_config.json").unlink()
    auto: Any = transformers.AutoImageProcessor
    assert list(auto.from_pretrained(folder).image_mean) == [0.1, 0.2, 0.3]
    assert resolve(folder).mean == (0.1, 0.2, 0.3)
    (folder / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    if keeps_plain:
        assert resolve(folder).mean == resolve(checkpoint("vit")).mean


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_std": [0.0] * 3}, r"processor_config\.json has image_std = \[0\.0"),
        ({"size": {"height": 10**6, "width": 10**6}}, r"processor_config\.json has size = "),
    ],
)
def test_a_nested_processor_is_checked(
    checkpoint: Callable[[str], Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(checkpoint("vit"), tmp_path / "vit"))
    with pytest.raises(UsageError, match=f" {message}"):
        resolve(nest_processor(folder, **changes))
    (folder / "processor_config.json").write_text('{"image_processor": [1]}')
    with pytest.raises(UsageError, match=r"has image_processor = .* give a JSON object"):
        resolve(folder)


@pytest.mark.parametrize("name", processors())
def test_preprocessing_is_what_transformers_computes(name: str, tmp_path: Path) -> None:
    processors()[name].save_pretrained(tmp_path)
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    read = read_preprocessing(content, "vit", what="x")
    assert read.is_known
    entry = replace(
        BACKBONES.get("random"),
        **read.fields,
    )
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    preprocess = Preprocessing(entry, RGB)
    for side in (64, 128, 224):
        for picture in photos(2):
            given = picture.crop((0, 0, side, side))
            expected = processor(given, return_tensors="pt")["pixel_values"]
            found = preprocess(as_pixels(given))
            assert found.shape == expected.shape
            assert float((found - expected).abs().max()) < 1e-5 * max(
                1.0, float(expected.abs().max())
            )


def test_old_files_that_leave_things_out_are_read_as_transformers_reads_them() -> None:
    old = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    vit = read_preprocessing({**old, "size": 224}, "vit", what="x")
    assert vit[:6] == (224, None, "bilinear", (0.5,) * 3, (0.5,) * 3, True)
    beit = {
        **old, "size": 224, "crop_size": 224, "do_center_crop": False, "resample": 2,
        "feature_extractor_type": "BeitFeatureExtractor",
    }  # fmt: skip
    assert read_preprocessing(beit, "beit", what="x") == vit
    convnext = {
        **old, "size": 224, "crop_pct": 0.875, "resample": 3,
        "feature_extractor_type": "ConvNextFeatureExtractor",
    }  # fmt: skip
    found = read_preprocessing(convnext, "convnext", what="x")
    assert found[:3] == (224, 256, "bicubic")
    assert read_preprocessing({**convnext, "size": 384}, "convnext", what="x")[:2] == (384, None)
    assert read_preprocessing({**convnext, "crop_pct": None}, "convnext", what="x")[1] == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 9}, r"x: preprocessor_config.json has resample = 9; set 2"),
        ({"image_mean": [0.5, 0.5]}, r"has image_mean = \[0.5, 0.5\]; give one number"),
        ({"image_std": [0.5, 0.0, 0.5]}, r"has image_std = .*; give one number .* from 1e-06"),
        ({"size": {"height": 32, "width": 64}}, r"has no square size"),
        ({"size": "big"}, r"has no square size"),
        ({"do_center_crop": True, "crop_size": 64}, r"crops 64 px from 32 px"),
    ],
)
def test_what_has_no_equal_is_refused(changes: dict[str, Any], message: str) -> None:
    content = {
        "image_processor_type": "ViTImageProcessor", "size": 32,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **changes,
    }  # fmt: skip
    with pytest.raises(UsageError, match=message):
        read_preprocessing(content, "vit", what="x")


# --- classifiers ---


@pytest.mark.parametrize("kind", [*KINDS, "mobilevit"])
def test_the_classifier_is_the_models_own_with_a_new_layer(
    kind: str, checkpoint: Callable[[str], Path]
) -> None:
    backbone = resolve(checkpoint(kind))

    def build() -> Any:
        torch.manual_seed(5)
        return build_classifier(backbone, 3, 3)

    one, other = build(), build()
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )
    # Loaded by transformers, since it renames tensors of older checkpoints.
    loaded = transformers.AutoModelForImageClassification.from_pretrained(checkpoint(kind))
    stored = loaded.state_dict()
    fresh = dict(one.named_parameters())
    head = {name for name in fresh if name.startswith(one.head_prefix)}
    assert head == {"model.classifier.weight", "model.classifier.bias"}
    # The checkpoint has three classes too: its layer is not kept for that.
    assert not torch.equal(fresh["model.classifier.weight"], stored["classifier.weight"])
    for name, value in fresh.items():
        assert name in head or torch.equal(value, stored[name.removeprefix("model.")]), name
    x = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    assert one(x).shape == (2, 3)
    torch.manual_seed(6)
    assert build_classifier(backbone, 3, 5)(x).shape == (2, 5)


def test_a_model_without_a_classifier_gets_a_linear_layer(
    checkpoint: Callable[[str], Path],
) -> None:
    backbone = resolve(checkpoint("dinov3_vit"))
    classifier = build_classifier(backbone, 3, 4)
    assert classifier.head_prefix == "head."
    assert classifier(torch.randn(1, 3, 32, 32)).shape == (1, 4)
    publication = Publication(backbone, Path("out"), classifier.state_dict(), ("a", "b", "c", "d"))
    with pytest.raises(UsageError, match=r"'.*' belongs to a classifier that cannot be published"):
        backbone.publish(publication)


# --- weights and processors as people save them ---


def as_bins(folder: Path, *, num_shards: int) -> Path:
    """Save the weights of a checkpoint by ``torch.save``, in one file or in shards."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if num_shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder
    weight_map = {}
    for number in range(num_shards):
        shard = f"pytorch_model-{number + 1:05}-of-{num_shards:05}.bin"
        part = {name: tensors[name] for name in sorted(tensors)[number::num_shards]}
        torch.save(part, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("num_shards", [1, 2])
def test_weights_of_torch_are_those_of_safetensors(
    checkpoint: Callable[[str], Path], tmp_path: Path, num_shards: int
) -> None:
    before = resolve(checkpoint("vit"))
    folder = as_bins(
        Path(shutil.copytree(checkpoint("vit"), tmp_path / "bins")), num_shards=num_shards
    )
    backbone = resolve(folder)
    assert (backbone.dim, backbone.num_parameters) == (before.dim, before.num_parameters)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(backbone.build(3)(x), before.build(3)(x))
    found = build_classifier(backbone, 3, 2).state_dict()
    for name, tensor in build_classifier(before, 3, 2).state_dict().items():
        assert name.startswith("model.classifier") or torch.equal(found[name], tensor)
    revision = backbone.revision()
    path = sorted(folder.glob("*.bin"))[-1]
    torch.save({name: item + 1 for name, item in torch.load(path).items()}, path)
    assert resolve(folder).revision() != revision


STAND_INS = {"image_size": 48, "mean": (0.4, 0.5, 0.6), "std": (0.25,)}


def test_settings_stand_in_for_a_processor(broken: Path, tmp_path: Path) -> None:
    (broken / "preprocessor_config.json").unlink()
    backbone = resolve_huggingface(
        f"hf:{broken}", where="x.toml", options=BackboneOptions(**STAND_INS)
    )
    assert (backbone.image_size, backbone.mean, backbone.std) == (48, (0.4, 0.5, 0.6), (0.25,) * 3)
    assert ("mean", (0.4, 0.5, 0.6)) in backbone.options
    found = Preprocessing(backbone, RGB)(as_pixels(photos()[0]))
    processor = transformers.ViTImageProcessor(
        size={"height": 48, "width": 48}, image_mean=[0.4, 0.5, 0.6], image_std=[0.25] * 3
    )
    expected = processor(photos()[0], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert backbone.build(3)(found).shape == (1, 32)
    publish(backbone, tmp_path / "out")
    again = resolve(tmp_path / "out")
    assert (again.image_size, again.mean, again.std) == (48, backbone.mean, backbone.std)


@pytest.mark.parametrize(
    ("has_processor", "options", "message"),
    [
        (True, STAND_INS, r"'mean' and 'std' stand in .* has one \(preprocessor_config.json\)"),
        (False, {"mean": (0.5,)}, r"image_size and std must be set, too, to stand in"),
        (False, {**STAND_INS, "std": (0.1, 0.2)}, r"has std = \[0.1, 0.2\]; give one number"),
        (False, {**STAND_INS, "mean": (0.1, 0.2)}, r"has mean = \[0.1, 0.2\]; give one number"),
    ],
)
def test_settings_that_cannot_stand_in_are_one_line(
    broken: Path, has_processor: bool, options: dict[str, Any], message: str
) -> None:
    if not has_processor:
        (broken / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=message):
        resolve_huggingface(
            f"hf:{broken}", where="x.toml", options=BackboneOptions.model_validate(options)
        )


# --- mistakes ---


@pytest.fixture
def broken(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(checkpoint("vit"), tmp_path / "broken"))


def write_torn(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def write_text(folder: Path) -> None:
    (folder / "model.safetensors").write_text("not weights at all")


def write_bin(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


class Code:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("code-was-run",)


def write_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": Code()}, folder / "pytorch_model.bin")


def write_list(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": 1}, folder / "pytorch_model.bin")


def write_lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"there is no config.json in .*broken"),
        (lambda f: (f / "config.json").write_text("{"), r"config.json is not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), r"config.json is not a JSON object"),
        (lambda f: edit_json(f / "config.json", model_type="-"), r"has no model_type"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "bert", "vocab_size": 9}'),
            r"'bert' is a text model; name an image model",
        ),
        (
            lambda f: (f / "config.json").write_text(
                '{"model_type": "kosmos-2", "text_config": {}, "vision_config": {}}'
            ),
            r"'kosmos-2' is a model of images and text",
        ),
        (lambda f: (f / "preprocessor_config.json").unlink(), r"there is no preprocessor_config"),
        (
            lambda f: edit_json(f / "preprocessor_config.json", sampling_rate=16000),
            r"is an audio model",
        ),
        (
            lambda f: (f / "model.safetensors").unlink(),
            r"no model.safetensors and no pytorch_model.bin in .*put the weigh",
        ),
        (write_bin, r"pytorch_model.bin cannot be read as a file of tensors alone: "),
        (
            write_code,
            r"pytorch_model.bin cannot be read as a file of tensors alone: .*Weights only",
        ),
        (write_list, r"pytorch_model.bin is not a dictionary of tensors by name"),
        (
            write_torn,
            r"model.safetensors is not a safetensors file or is truncated; fetch it",
        ),
        (write_text, r"model.safetensors is not a safetensors file or is truncated"),
        (write_lost_shard, r"the weights model-1-of-2.safetensors are missing"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_one_clear_line(
    damage: Callable[[Path], Any], message: str, broken: Path
) -> None:
    damage(broken)
    with pytest.raises(UsageError, match=message) as caught:
        resolve(broken)
    assert str(caught.value).startswith(f"x.toml: backbone 'hf:{broken}'")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:./nowhere", r"x.toml: backbone 'hf:./nowhere': there is no folder /.*/nowhere"),
        ("hf:", r"neither a folder nor a model of the hub; write hf:PATH/TO/FOLDER or hf:ORG/NAME"),
        ("hf:a/b/c", r"neither a folder nor a model of the hub"),
    ],
)
def test_a_name_that_means_nothing_is_one_clear_line(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_backbone(name, where="x.toml")


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("vit.embeddings.cls_token"),
            r"weights lack the tensor '.*cls_token'; use config.json and weights of the same",
        ),
        (
            lambda t: t.update({"vit.encoder.layer.7.bias": torch.zeros(3)}),
            r"weights have an unexpected tensor '[.\w]*layers?.7.bias'",
        ),
        (
            lambda t: t.update({"vit.layernorm.bias": torch.zeros(3)}),
            r"weights have another shape for the tensor '.*layernorm.bias'",
        ),
        (
            lambda t: t["vit.layernorm.bias"].fill_(float("nan")),
            r"weights are NaN or infinite in the tensor '.*layernorm.bias'; fetch them again",
        ),
    ],
)
@pytest.mark.parametrize("is_prefixed", [True, False])
def test_weights_that_do_not_fit_are_named(
    change: Callable[[dict[str, torch.Tensor]], Any],
    message: str,
    is_prefixed: bool,
    broken: Path,
) -> None:
    change_tensors(broken, change)
    if not is_prefixed:
        tensors = load_file(broken / "model.safetensors")
        base = {name[4:]: item for name, item in tensors.items() if name.startswith("vit.")}
        save_file(base, broken / "model.safetensors", metadata={"format": "pt"})
    backbone = resolve(broken)
    for build in (lambda: backbone.build(3), lambda: build_classifier(backbone, 3, 2)):
        with pytest.raises(UsageError, match=message):
            build()


def test_a_base_model_without_any_head_is_loaded(broken: Path) -> None:
    change_tensors(broken, lambda t: (t.pop("classifier.weight"), t.pop("classifier.bias")))
    backbone = resolve(broken)
    assert backbone.build(3)(torch.zeros(1, 3, 32, 32)).shape == (1, 32)
    assert build_classifier(backbone, 3, 2)(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_a_model_that_transformers_does_not_know_is_one_clear_line(broken: Path) -> None:
    edit_json(broken / "config.json", model_type="vit_of_the_future")
    with pytest.raises(UsageError, match=r"transformers cannot read its config.json: .*future"):
        resolve(broken)


@pytest.fixture
def nearest(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """Return a checkpoint whose image processor takes the nearest pixel."""
    folder = Path(shutil.copytree(checkpoint("vit"), tmp_path / "nearest"))
    edit_json(folder / "preprocessor_config.json", resample=0)
    return folder


def test_a_processor_that_does_more_prepares_the_patches_itself(nearest: Path) -> None:
    backbone = pickle.loads(pickle.dumps(resolve(nearest)))
    assert backbone.processor.name == "ViTImageProcessor"
    assert 0 < backbone.processor.ms_per_patch < 1000
    assert (
        "ViTImageProcessor, which no setting describes, prepares patches on the CPU"
        in backbone.processor.price
    )
    processor = transformers.AutoImageProcessor.from_pretrained(nearest)
    expected = processor(photos(), return_tensors="pt")["pixel_values"]
    pixels = torch.cat([as_pixels(item) for item in photos()])
    bands = (*RGB[::-1], "nir")
    given = torch.cat([pixels.flip(1), pixels[:, :1]], dim=1)
    assert torch.equal(Preprocessing(backbone, bands)(given), expected)
    plan = plan_device(precision="float32", batch_size=2, num_threads=1, device="cpu")
    found, _ = Embedder(backbone, bands, plan)(given.numpy())
    model = transformers.AutoModel.from_pretrained(nearest).eval()
    with torch.inference_mode():
        states = model(pixel_values=expected).last_hidden_state.mean(dim=1)
    np.testing.assert_allclose(found, states.numpy(), atol=1e-5)


def test_colours_are_jittered_before_a_processor_sees_them(nearest: Path) -> None:
    preprocess = Preprocessing(resolve(nearest), RGB)
    pixels = as_pixels(photos()[0])
    found = preprocess(pixels, lambda x: x / 2)
    assert torch.equal(found, preprocess(((pixels.float() / 2) + 0.5).floor().to(torch.uint8)))


@pytest.mark.parametrize(
    "options", [{"image_size": 64}, {"bands": (*RGB, "nir")}], ids=["size", "bands"]
)
def test_what_a_processor_cannot_take_is_one_line(nearest: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"does not apply, because its ViTImageProcessor prepares"):
        resolve_huggingface(f"hf:{nearest}", where="x", options=BackboneOptions(**options))


def test_another_type_of_an_equal_processor_is_recognised(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint("vit"), tmp_path / "blip"))
    transformers.BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    backbone = resolve(folder)
    assert backbone.processor is None
    assert (backbone.image_size, backbone.interpolation) == (32, "bicubic")


def test_two_bands_are_refused(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match=r"weights of 3 bands cannot take 2"):
        resolve(checkpoint("vit")).build(2)


def test_an_unknown_name_says_that_checkpoints_work_too() -> None:
    with pytest.raises(
        UsageError,
        match=r"x.toml: unknown backbone 'randon'. Did you mean 'random'\? .*hf:ORG/NAME",
    ):
        find_backbone("randon", where="x.toml")
    assert find_backbone("random") is BACKBONES.get("random")


# --- the hub ---

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A cache in which the hub's client has left a model, and no hub."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    folder = cache / "models--org--tiny"
    shutil.copytree(checkpoint("beit"), folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.mark.parametrize("name", ["hf:org/tiny", "hf:org/tiny@main", f"hf:org/tiny@{COMMIT}"])
def test_a_model_of_the_hub_is_taken_from_the_cache(name: str, hub_cache: Path) -> None:
    backbone = resolve_huggingface(name, where="x.toml")
    assert backbone.name == name
    assert backbone.revision() == COMMIT
    # A branch that moves on in the meantime changes nothing: workers build that commit.
    (hub_cache / "models--org--tiny/refs/main").write_text("f" * 40)
    assert backbone.build(3)(torch.zeros(1, 3, 32, 32)).shape == (1, 32)


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_model_that_is_not_there_names_the_line_that_fetches_it(
    is_offline: bool, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    # Nothing listens there.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"run `hf download org/other --revision refs/pr/3`"):
        resolve_huggingface("hf:org/other@refs/pr/3", where="x.toml")


def test_a_cache_without_the_weights_names_them(hub_cache: Path) -> None:
    (hub_cache / f"models--org--tiny/snapshots/{COMMIT}/model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"model.safetensors is not in the local .* --revision 01"):
        resolve_huggingface("hf:org/tiny", where="x.toml")


# --- publishing ---

RUN_PIPELINE = """
import json
from transformers import pipeline
for folder in folders:
    classify = pipeline("image-classification", model=folder)
    found = classify(pictures, function_to_apply="none", top_k=100)
    print(json.dumps([{item["label"]: item["score"] for item in scores} for scores in found]))
"""


def pipeline_logits(folders: list[Path], pictures: list[Path]) -> list[np.ndarray]:
    """Run the pipeline as a stranger would: another process, no network, no benchmark."""
    given = f"folders, pictures = {[*map(str, folders)]}, {[*map(str, pictures)]}"
    printed = run_alone(f"{given}\n{RUN_PIPELINE}", cwd=folders[0])
    answers = [json.loads(line) for line in printed.splitlines() if line.startswith("[")]
    return [np.array([[scores[name] for name in CLASSES] for scores in item]) for item in answers]


def publish(backbone: Backbone, folder: Path) -> np.ndarray:
    """Publish a classifier with a random last layer, and return its logits of the photographs."""
    torch.manual_seed(1)
    classifier = build_classifier(backbone, 3, len(CLASSES)).eval()
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if name.startswith(classifier.head_prefix):
                parameter.normal_(std=0.5)
    folder.mkdir()
    backbone.publish(Publication(backbone, folder, classifier.state_dict(), CLASSES))
    with torch.inference_mode():
        pixels = torch.cat([as_pixels(item) for item in photos()])
        return classifier(Preprocessing(backbone, RGB)(pixels)).numpy()


@pytest.mark.slow
def test_the_pipeline_of_transformers_runs_what_is_published(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    backbones = [resolve(checkpoint(kind)) for kind in KINDS]
    backbones += [BACKBONES.get("random"), BACKBONES.get("efficientnet_lite0")]
    if MOBILENET.is_dir():
        backbones.append(resolve(MOBILENET))
    folders = [tmp_path / f"out{number}" for number in range(len(backbones))]
    expected = [publish(*item) for item in zip(backbones, folders, strict=True)]
    pictures = [tmp_path / f"photo{number}.png" for number in range(len(photos()))]
    for path, picture in zip(pictures, photos(), strict=True):
        picture.save(path)
    found = pipeline_logits(folders, pictures)
    for backbone, folder, one, two in zip(backbones, folders, expected, found, strict=True):
        np.testing.assert_allclose(two, one, atol=0.02 * np.abs(one).max(), err_msg=backbone.name)
        if backbone.name.startswith("hf:"):
            # What is published can be benchmarked again.
            again = resolve(folder)
            assert (again.dim, again.image_size) == (backbone.dim, backbone.image_size)
            assert (again.resize_to, again.mean) == (backbone.resize_to, backbone.mean)
            again.build(3)


@pytest.mark.skipif(not MOBILENET.is_dir(), reason=f"{MOBILENET} is not there")
def test_the_real_mobilenet_is_a_backbone() -> None:
    backbone = resolve(MOBILENET)
    assert (backbone.dim, backbone.num_parameters) == (1280, 2_223_872)
    assert (backbone.image_size, backbone.resize_to) == (224, 256)
    model = transformers.AutoModelForImageClassification.from_pretrained(MOBILENET).eval()
    x = Preprocessing(backbone, RGB)(torch.cat([as_pixels(item) for item in photos()]))
    with torch.inference_mode():
        expected = model(x, output_hidden_states=True).logits
        found = model.classifier(backbone.build(3)(x))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
