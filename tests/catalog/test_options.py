"""``[backbone."NAME"]``: what the options of a backbone change, and what they are refused for."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmark import api
from benchmark.catalog.backbones import find_backbone
from benchmark.config import BackboneOptions, build
from benchmark.errors import UsageError
from benchmark.experiment.identity import backbone_inputs
from benchmark.networks.classifier import build_classifier
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder
from benchmark.specs import Backbone, Publication
from tests.tiny_models import write_tiny

RGB = ("red", "green", "blue")
RGBN = (*RGB, "nir")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny checkpoint; it must not be changed."""
    root = tmp_path_factory.mktemp("tiny")
    return lambda family: write_tiny(root / family, family)


def resolve(folder: Path, **options: Any) -> Backbone:
    given = BackboneOptions(**options) if options else None
    return find_backbone(f"hf:{folder}", where="x.toml", options=given)


def own_output(folder: Path, x: torch.Tensor, **arguments: Any) -> Any:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(pixel_values=x, **arguments)


def embed(backbone: Backbone, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = backbone.build(x.shape[1])(x)
    assert found.shape == (len(x), backbone.dim)
    return found


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# --- pooling and layer ---


@pytest.mark.parametrize("family", ["beit", "vit", "dinov2"])
def test_the_class_token_alone_or_before_the_mean(family: str, tiny: Callable[[str], Path]) -> None:
    folder = tiny(family)
    state = own_output(folder, X).last_hidden_state
    cls, mean = state[:, 0], state.mean(dim=1)
    close = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(embed(resolve(folder, pooling="cls"), X), cls, **close)
    both = resolve(folder, pooling="cls+mean")
    assert both.dim == 64
    torch.testing.assert_close(embed(both, X), torch.cat([cls, mean], dim=1), **close)
    assert both.options == (("pooling", "cls+mean"),)


@pytest.mark.parametrize(
    ("family", "num_others"), [("vit", 1), ("dinov2", 1), ("siglip", 0), ("swin", 0)]
)
def test_the_mean_of_patches_leaves_other_tokens_out(
    family: str, num_others: int, tiny: Callable[[str], Path]
) -> None:
    backbone = resolve(tiny(family), pooling="patches")
    mean = embed(resolve(tiny(family)), X)
    found = embed(backbone, X)
    if num_others:
        state = own_output(tiny(family), X).last_hidden_state
        torch.testing.assert_close(found, state[:, num_others:].mean(dim=1), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(found, mean, atol=1e-4)
    else:
        assert torch.equal(found, mean)
    assert backbone.options == (("pooling", "patches"),)
    assert "over patch tokens or positions" in backbone.description


@pytest.mark.parametrize(("family", "layer"), [("vit", -2), ("convnext", -2), ("swin", -2)])
def test_a_hidden_layer_is_counted_from_the_end(
    family: str, layer: int, tiny: Callable[[str], Path]
) -> None:
    folder = tiny(family)
    state = own_output(folder, X, output_hidden_states=True).hidden_states[layer]
    expected = state.mean(dim=1) if state.ndim == 3 else state.mean(dim=(2, 3))
    backbone = resolve(folder, layer=layer)
    torch.testing.assert_close(embed(backbone, X), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["vit_pooler", "convnext", "resnet"])
def test_the_models_own_pooler(family: str, tiny: Callable[[str], Path]) -> None:
    folder = tiny(family)
    expected = own_output(folder, X).pooler_output.flatten(1)
    found = embed(resolve(folder, pooling="pooler"), X)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_classifier_reads_what_the_embedding_reads(tiny: Callable[[str], Path]) -> None:
    backbone = resolve(tiny("vit"), pooling="cls")
    classifier = build_classifier(backbone, 3, 4)
    assert classifier.head_prefix == "head."
    assert classifier(X).shape == (2, 4)
    publication = Publication(backbone, Path("out"), classifier.state_dict(), ("a", "b", "c", "d"))
    with pytest.raises(UsageError, match=r"of transformers does not support pooling = cls; export"):
        backbone.publish(publication)


# --- size and bands ---


@pytest.mark.parametrize("family", ["beit", "vit", "dinov2", "swin", "clip", "siglip", "resnet"])
def test_patches_are_fed_at_another_size(family: str, tiny: Callable[[str], Path]) -> None:
    backbone = resolve(tiny(family), image_size=48)
    assert (backbone.image_size, backbone.resize_to) == (48, None)
    x = torch.randn(2, 3, 48, 48)
    found = embed(backbone, x)
    assert torch.isfinite(found).all()
    assert build_classifier(backbone, 3, 2)(x).shape == (2, 2)
    if family == "beit":
        # transformers keeps the index of positions for all models: it must have values.
        bias = transformers.models.beit.modeling_beit.BeitRelativePositionBias
        index = bias.generate_relative_position_index((6, 6))
        assert (index.device.type, index.is_inference()) == ("cpu", False)
    if family in ("beit", "vit"):
        model = transformers.AutoModel.from_pretrained(tiny(family)).eval()
        with torch.no_grad():
            state = model(pixel_values=x, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(found, state.mean(dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["beit", "convnext", "dinov2", "mobilenet_v2", "clip", "swin"])
def test_four_bands_grow_the_first_convolution(family: str, tiny: Callable[[str], Path]) -> None:
    backbone = resolve(tiny(family), bands=RGBN)
    assert len(backbone.mean) == len(backbone.std) == 4
    # Where all bands are alike, the fourth changes nothing.
    gray = X.mean(dim=1, keepdim=True)
    expected = embed(resolve(tiny(family)), gray.expand(-1, 3, -1, -1))
    found = embed(backbone, gray.expand(-1, 4, -1, -1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert build_classifier(backbone, 4, 2)(torch.zeros(1, 4, 32, 32)).shape == (1, 2)


def test_false_colour_takes_the_bands_in_the_order_that_is_given(
    tiny: Callable[[str], Path],
) -> None:
    plain = resolve(tiny("vit"))
    false = resolve(tiny("vit"), bands=("nir", "red", "green"))
    assert (false.mean, false.std) == (plain.mean, plain.std)
    plan = plan_device(precision="float32", batch_size=2, num_threads=1, device="cpu")
    patches = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32), np.uint8)
    found, _ = Embedder(false, RGBN, plan)(patches)
    turned, _ = Embedder(plain, RGB, plan)(np.ascontiguousarray(patches[:, [3, 0, 1]]))
    np.testing.assert_allclose(found, turned, rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match=r"needs the bands nir, red, green; .* has red, green, bl"):
        Embedder(false, RGB, plan)


# --- vision towers, and models that hide patches ---


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_vision_tower_of_a_model_of_images_and_text(
    family: str, tiny: Callable[[str], Path]
) -> None:
    folder = tiny(family)
    whole = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        state = whole.vision_model(pixel_values=X).last_hidden_state
    backbone = resolve(folder)
    assert backbone.family == f"{family}_vision_model"
    torch.testing.assert_close(embed(backbone, X), state.mean(dim=1), atol=1e-5, rtol=1e-4)
    parameters = sum(item.numel() for item in backbone.build(3).parameters())
    assert backbone.num_parameters == parameters
    assert backbone.publish is None


def test_a_tower_without_a_tensor_is_refused(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("clip"), tmp_path / "clip"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.post_layernorm.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"weights lack the tensor '.*post_layernorm.bias'"):
        resolve(folder).build(3)


def test_a_masked_autoencoder_sees_every_patch(tiny: Callable[[str], Path]) -> None:
    backbone = resolve(tiny("vit_mae"))
    network = backbone.build(3)
    with torch.no_grad():
        assert torch.equal(network(X), network(X))
        model = transformers.AutoModel.from_pretrained(tiny("vit_mae")).eval()
        model.config.mask_ratio = 0.0
        state = model(pixel_values=X, noise=torch.arange(16.0).expand(2, 16)).last_hidden_state
        torch.testing.assert_close(network(X), state.mean(dim=1), atol=1e-5, rtol=1e-4)


# --- code of a checkpoint ---

CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .names import KIND


class OwnConfig(PretrainedConfig):
    model_type = KIND

    def __init__(self, hidden_size=6, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size


class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    base_model_prefix = "own"

    def __init__(self, config):
        super().__init__(config)
        self.patches = torch.nn.Conv2d(3, config.hidden_size, 8, 8)
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, pixel_values):
        return BaseModelOutput(last_hidden_state=self.patches(pixel_values).flatten(2).mT)
"""


def test_code_of_a_checkpoint_runs_only_where_it_is_trusted(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(CODE)
    (folder / "names.py").write_text('KIND = "own_kind"\n')
    config = {
        "model_type": "own_kind",
        "num_channels": 3,
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(tiny("vit") / "preprocessor_config.json", folder)
    weights = {"patches.weight": torch.randn(6, 3, 8, 8), "patches.bias": torch.zeros(6)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UsageError, match=r"trust_remote_code = true under \[backbone.\"hf:/.*own\""
    ):
        resolve(folder)
    backbone = resolve(folder, trust_remote_code=True)
    assert backbone.options == (("trust_remote_code", True),)
    found = embed(backbone, X)
    expected = torch.nn.functional.conv2d(X, weights["patches.weight"], stride=8).mean(dim=(2, 3))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    before = backbone.revision()
    (folder / "names.py").write_text('KIND = "own_kind"  # other code\n')
    assert resolve(folder, trust_remote_code=True).revision() != before


# --- mistakes ---


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("convnext", {"pooling": "cls"}, r"ConvNextModel has no class token; set pooling"),
        ("siglip", {"pooling": "cls+mean"}, r"SiglipVisionModel has no class token"),
        ("vit", {"layer": -9}, r"'layer' = -9: the model has 3 layers; set -1 to -3"),
        ("vit", {"image_size": 44}, r"'image_size' = 44 is not a multiple .* of 8 px; set 40"),
        ("convnext", {"image_size": 8}, r"'convnext' does not support these .* images of 8"),
        ("vit", {"bands": ("red", "nir")}, r"'bands' names 2, but its weights take 3"),
    ],
)
def test_an_option_that_does_not_fit_is_one_clear_line(
    family: str, options: dict[str, Any], message: str, tiny: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve(tiny(family), **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x.toml")


def test_a_pooler_that_the_weights_lack_is_refused(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match=r"weights lack the tensor 'pooler.dense.bias' and 1 more"):
        resolve(tiny("vit"), pooling="pooler").build(3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("random", {"pooling": "cls"}, r"\"random\"\]: 'pooling' = 'cls': .* no class token"),
        ("random", {"layer": -6}, r"'layer' = -6: this network has 5 layers \(stages\); set -1 t"),
        ("mean_color", {"layer": -2}, r"\"mean_color\"\]: 'layer' does not apply .*: bands$"),
        ("mean_color", {"image_size": 64}, r"'image_size' does not apply .*; these do: bands"),
        ("random", {"bands": ("red",)}, r"'bands' names 1, but its weights take 3"),
    ],
)
def test_entries_of_the_catalog_take_some_options(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        find_backbone(name, where="x.toml", options=BackboneOptions(**options))


def test_entries_of_the_catalog_are_fed_otherwise() -> None:
    options = BackboneOptions(image_size=64, bands=RGBN)
    backbone = find_backbone("efficientnet_lite0", options=options)
    assert backbone.build(4)(torch.zeros(1, 4, 64, 64)).shape == (1, 1280)
    colour = find_backbone("mean_color", options=BackboneOptions(bands=("nir",)))
    assert (colour.bands, colour.dim) == (("nir",), None)


# --- the experiment ---


def content(**options: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "backbones": ["random", "mean_color"],
        "dataset": {"name": "folder", "root": "data"},
        "backbone": {"random": options},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"random": {"imagesize": 3}},
            r"x.toml \[backbone.\"random\"\]: unknown setting 'imagesize'. Did",
        ),
        ({"randm": {}}, r"\[backbone.\"randm\"\]: 'randm' is not among .* Did you mean 'random'"),
        ({"random": {"pooling": "max"}}, r"'pooling' = 'max': should be 'mean', 'patches', 'cls'"),
        ({"random": {"layer": 0}}, r"\"\]: 'layer' = 0: should be less than 0"),
        ({"random": {"bands": ["a", "a"]}}, r"'bands' = .*: 'a' is listed twice"),
        ({"random": {"bands": []}}, r"'bands' = .*at least 1 item"),
        ({"random": {"image_size": "64"}}, r"'image_size' = '64': should be a valid integer"),
        ({"random": {"trust_remote_code": 1}}, r"'trust_remote_code' = 1: should be a valid bool"),
        ({"random": 5}, r"\[backbone.\"random\"\]: should be a table"),
        ({"random": {"pooling": "pooler", "layer": -2}}, r"the pooler takes the last hidden state"),
    ],
)
def test_a_table_with_a_mistake_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build({**content(), "backbone": changes}, where="x.toml")


def test_names_are_checked_with_their_options(tmp_path: Path) -> None:
    api.check_names(build(content(image_size=64)))
    with pytest.raises(UsageError, match=r"\[backbone.\"random\"\]: 'layer' = -9: .* 5 layers"):
        api.check_names(build(content(layer=-9), where="x.toml"))
    experiment = build(content(image_size=64, bands=["nir", "green", "red"]))
    with api.open_context(experiment, store=str(tmp_path / "runs")) as context:
        random, colour = context.backbones
        assert (random.image_size, random.bands) == (64, ("nir", "green", "red"))
        assert colour.options == ()


def test_an_option_changes_the_identity_and_its_default_does_not() -> None:
    plain = find_backbone("random")
    own = find_backbone(
        "random", options=BackboneOptions(image_size=224, bands=RGB, pooling="mean", layer=-1)
    )
    assert own == plain
    assert "options" not in backbone_inputs(plain, 64)
    other = find_backbone("random", options=BackboneOptions(image_size=64))
    read = dataclasses.replace(plain, options=(("pooling", "cls"),))
    inputs = [backbone_inputs(item, 64) for item in (plain, other, read)]
    assert inputs[0] != inputs[1] != inputs[2] != inputs[0]
    assert inputs[2]["options"] == {"pooling": "cls"}


# --- weights of other bands than red, green and blue ---

NAIP = ("red", "green", "blue", "nir")


def write_of_bands(folder: Path, num_bands: int, kind: str = "vit", **processor: Any) -> str:
    """Write a tiny network of some bands; return its name."""
    if kind == "vit":
        config: Any = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=32, patch_size=16, num_channels=num_bands,
        )  # fmt: skip
        model: Any = transformers.ViTForImageClassification(config)
    else:
        config = transformers.ConvNextConfig(
            hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_channels=num_bands
        )
        model = transformers.ConvNextForImageClassification(config)
    model.save_pretrained(folder)
    square = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=square, **processor).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_weights_of_four_bands_need_their_names_and_embed_what_transformers_does(
    tmp_path: Path, kind: str
) -> None:
    name = write_of_bands(tmp_path / "four", 4, kind)
    with pytest.raises(UsageError, match=r"take 4 bands, and none are named; name at least 4"):
        find_backbone(name, where="x.toml", options=None)
    with pytest.raises(UsageError, match=r"take 4 bands, and 'bands' names 3; name at least 4"):
        find_backbone(name, where="x.toml", options=BackboneOptions(bands=NAIP[:3]))
    entry = find_backbone(name, where="x.toml", options=BackboneOptions(bands=NAIP))
    assert entry.bands == NAIP and len(entry.mean) == len(entry.std) == 4
    pixels = torch.rand(2, 4, 32, 32)
    auto: Any = transformers.AutoModel
    theirs = auto.from_pretrained(tmp_path / "four")
    with torch.inference_mode():
        states = theirs(pixels, output_hidden_states=True).hidden_states[-1]
        expected = states.mean((2, 3)) if kind == "convnext" else theirs(pixels)[0].mean(1)
        torch.testing.assert_close(entry.build(4).eval()(pixels), expected)
        assert entry.build_classifier is not None
        assert entry.build_classifier(4, 3).eval()(pixels).shape == (2, 3)


def test_a_fifth_band_widens_weights_of_four_and_one_band_stays_one(tmp_path: Path) -> None:
    name = write_of_bands(tmp_path / "four", 4)
    entry = find_backbone(name, where="", options=BackboneOptions(bands=(*NAIP, "swir")))
    assert entry.build(5)(torch.zeros(1, 5, 32, 32)).shape == (1, 16)
    name = write_of_bands(tmp_path / "one", 1, image_mean=[0.5], image_std=[0.5])
    entry = find_backbone(name, where="", options=BackboneOptions(bands=("pan",)))
    assert entry.bands == ("pan",)
    assert entry.build(1)(torch.zeros(1, 1, 32, 32)).shape == (1, 16)


def test_means_may_be_as_many_as_the_bands_of_the_weights(tmp_path: Path) -> None:
    means = [0.1, 0.2, 0.3, 0.4]
    name = write_of_bands(tmp_path / "four", 4, image_mean=means, image_std=[0.5] * 4)
    entry = find_backbone(name, where="", options=BackboneOptions(bands=NAIP))
    assert entry.mean == pytest.approx(means)
