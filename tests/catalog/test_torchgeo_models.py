"""Networks of torchgeo as backbones: bands, preprocessing, weights, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchgeo.models import get_model, get_weight

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.torchgeo import weights as torchgeo_weights
from benchmark.catalog.torchgeo.models import RCF_FEATURES, WAVELENGTHS, describe
from benchmark.catalog.torchgeo.weights import WeightsFile
from benchmark.errors import UsageError
from benchmark.networks.bands import band_indices
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder, Preprocessing
from benchmark.options import BackboneOptions
from benchmark.specs import Backbone

RGB = ("red", "green", "blue")
RGBN = (*RGB, "nir")

MOCO = "resnet18/ResNet18_Weights.SENTINEL2_RGB_MOCO"
ALL_MOCO = "resnet18/ResNet18_Weights.SENTINEL2_ALL_MOCO"
NAIP = "swin_v2_b/Swin_V2_B_Weights.NAIP_RGB_MI_SATLAS"
DOFA = "dofa_base_patch16_224/DOFABase16_Weights.DOFA_MAE"
SCALE_MAE = "scalemae_large_patch16/ScaleMAELarge16_Weights.FMOW_RGB"
VIT = "vit_small_patch16_224/ViTSmall16_Weights.LANDSAT_TM_TOA_MOCO"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """No network, and a function that puts a file into torch's cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torchgeo_weights, "is_reachable", lambda address: False)
    (tmp_path / "checkpoints").mkdir()

    def put(name: str, state: Any) -> Path:
        url = get_weight(name.partition("/")[2]).url
        path = tmp_path / "checkpoints" / url.rpartition("/")[2]
        torch.save(state, path)
        return path

    return put


def hollow(name: str, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return tensors of the right names and shapes that take no room."""
    return {key: torch.zeros(1).expand(value.shape) for key, value in model.state_dict().items()}


def resolve(name: str, **options: Any) -> Backbone:
    given = BackboneOptions(**options) if options else None
    return find_backbone(f"torchgeo:{name}", where="x.toml", options=given)


def test_the_embedding_is_what_torchgeo_pools(cache: Callable[..., Path]) -> None:
    torch.manual_seed(0)
    own = get_model("resnet18", in_chans=3, num_classes=0).eval()
    path = cache(MOCO, own.state_dict())
    backbone = pickle.loads(pickle.dumps(resolve(MOCO)))
    assert (backbone.image_size, backbone.resize_to, backbone.dim) == (224, 256, 512)
    assert (backbone.bands, backbone.family) == (RGB, "resnet")
    assert len(backbone.revision()) == 32
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.build(3)(x), own(x))
    plan = plan_device(precision="float32", batch_size=2, num_threads=1, device="cpu")
    patches = np.random.default_rng(0).integers(0, 256, (2, 4, 64, 64), np.uint8)
    embeddings, _ = Embedder(backbone, RGBN, plan)(patches)
    assert embeddings.shape == (2, 512)
    before = backbone.revision()
    torch.save({**own.state_dict(), "more": torch.zeros(1)}, path)
    assert resolve(MOCO).revision() != before
    with pytest.raises(UsageError, match=r"resnet18_.*\.pth do not fit the model"):
        backbone.build(3)


@pytest.mark.parametrize("name", [MOCO, NAIP, SCALE_MAE, "earthloc/SENTINEL2_RESNET50"])
def test_preprocessing_is_that_of_the_weights(name: str) -> None:
    model, _, weights = name.partition("/")
    full = weights if "." in weights else f"EarthLoc_Weights.{weights}"
    entry = describe("x", model, full, "x")
    side = entry.resize_to or entry.image_size
    pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    # Reflectance x 10,000 where the weights were trained on it.
    largest = 10_000 if "MOCO" in name else 255
    expected = get_weight(full).transforms(pixels.float() * largest / 255)
    found = Preprocessing(entry, RGBN)(torch.cat([pixels, pixels[:, :1]], dim=1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_bands_have_the_names_of_data_sets() -> None:
    naip = describe("x", "swin_v2_b", NAIP.partition("/")[2], "x")
    assert naip.bands == RGB
    landsat = describe("x", "vit_small_patch16_224", VIT.partition("/")[2], "x")
    assert landsat.bands == ("blue", "green", "red", "nir", "B5", "B6", "B7")
    satlas = describe("x", "swin_v2_t", "Swin_V2_T_Weights.SENTINEL2_SI_MS_SATLAS", "x")
    assert satlas.bands == (*RGB, "B5", "B6", "B7", "nir", "B11", "B12")
    assert satlas.mean == (0.0,) * 9
    softcon = describe("x", "resnet50", "ResNet50_Weights.SENTINEL2_ALL_SOFTCON", "x")
    assert softcon.mean[1] == pytest.approx(0.13976)
    assert "255 stands for 10,000" in softcon.description


def test_thirteen_bands_are_refused_on_pictures(cache: Callable[..., Path]) -> None:
    cache(ALL_MOCO, {})
    with pytest.raises(UsageError, match=r"needs the bands B1, blue, .*; the data set has red, gr"):
        band_indices(resolve(ALL_MOCO), RGB)
    with pytest.raises(UsageError, match=r"'bands' names 3, but its weights take 13"):
        resolve(ALL_MOCO, bands=RGB)


@pytest.mark.parametrize(
    ("name", "model", "num_bands"),
    [
        ("swin_v2_t/Swin_V2_T_Weights.SENTINEL2_MI_RGB_SATLAS", "swin_v2_t", 3),
        (DOFA, "dofa_base_patch16_224", 3),
        (SCALE_MAE, "scalemae_large_patch16", 3),
        (VIT, "vit_small_patch16_224", 7),
    ],
)
def test_weights_of_the_right_names_are_loaded_and_others_are_not(
    name: str, model: str, num_bands: int, cache: Callable[..., Path]
) -> None:
    arguments = {"in_chans": 7} if num_bands == 7 else {}
    if not name.startswith("swin"):
        arguments["num_classes"] = 0
    with torch.device("meta"):
        state = hollow(name, get_model(model, **arguments))
        path = cache(name, state)
        backbone = resolve(name)
        network = backbone.build(num_bands)
        size = backbone.image_size
        assert network(torch.zeros(1, num_bands, size, size)).shape == (1, backbone.dim)
        state.pop(next(key for key in state if "blocks" in key or "features" in key))
        torch.save(state, path)
        with pytest.raises(UsageError, match=r"do not fit the model: \S"):
            backbone.build(num_bands)


def test_dofa_is_told_the_wavelengths_of_any_bands(cache: Callable[..., Path]) -> None:
    cache(DOFA, {})
    four = resolve(DOFA, bands=("nir", *RGB))
    assert four.mean == pytest.approx((0.449, 0.485, 0.456, 0.406), abs=1e-3)
    assert four.options == (("bands", ("nir", *RGB)),)
    assert resolve(DOFA, bands=RGB).options == ()
    one = resolve(DOFA, bands=("nir",))
    assert (one.bands, one.dim) == (("nir",), 768)
    with pytest.raises(UsageError, match=r"the wavelength of 'nirr' is unknown. Did you mean 'n"):
        resolve(DOFA, bands=("red", "nirr"))
    with pytest.raises(UsageError, match=r"dofa_base_patch16_224 cannot take 3 bands of 128 px"):
        resolve(DOFA, image_size=128)
    assert set(WAVELENGTHS) >= set(RGBN)


def test_other_sizes_and_bands(cache: Callable[..., Path]) -> None:
    own = get_model("resnet18", in_chans=3, num_classes=0)
    cache(MOCO, own.state_dict())
    backbone = resolve(MOCO, image_size=64, bands=RGBN)
    assert (backbone.image_size, backbone.resize_to, backbone.bands) == (64, None, RGBN)
    network = backbone.build(4)
    torch.testing.assert_close(network.conv1.weight[:, :3], own.conv1.weight * 0.75)
    cache(VIT, {})
    cache(SCALE_MAE, {})
    assert resolve(VIT, image_size=128).dim == 384
    assert resolve(SCALE_MAE, image_size=128).dim == 1024
    with pytest.raises(UsageError, match=r"\[backbone.\"torchgeo:rcf\"\]: 'layer' does not apply"):
        resolve("rcf", layer=-2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet19/X",
            r"backbone 'torchgeo:resnet19/X': torchgeo has no model 'resnet19'. Did you",
        ),
        ("rfc", r"no model 'rfc'. Did you mean 'rcf'"),
        (
            "resnet18",
            r"the weights are missing; write torchgeo:resnet18/WEIGHTS. Known: ResN",
        ),
        (
            "resnet18/ResNet18_Weights.SENTINEL2_RGB_MOKO",
            r"no weights 'ResNet18_Weights.SENTINEL2_RGB_MOKO' for 'resnet18'. Did you .*_MOCO'",
        ),
        ("unet/Unet_Weights.X", r"'unet' takes several images or returns maps"),
        ("dofa_small_patch16_224/X", r"no pretrained weights for 'dofa_small_patch16_224'"),
        ("resnet50/SENTINEL1_ALL_MOCO", r"radar backscatter in decibels \(VV, VH\)"),
        (
            MOCO,
            r"resnet18_\S+\.pth is not in .*checkpoints and its server cannot be reached; with "
            r"network access, run `python -c \"from torchgeo.models import get_weight; get_weig",
        ),
    ],
)
def test_a_name_that_means_nothing_is_one_clear_line(
    name: str, message: str, cache: Callable[..., Path]
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_nothing_but_tensors_is_read(cache: Callable[..., Path], tmp_path: Path) -> None:
    cache(MOCO, {"code": Path("x")})
    with pytest.raises(UsageError, match=r"is invalid or holds more than tensors .*; delete it"):
        resolve(MOCO).build(3)


def test_a_file_is_fetched_where_its_server_answers(
    cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(url: str, path: str, digest: str | None, *, progress: bool) -> None:
        asked.append((url, digest))
        torch.save({}, path)

    monkeypatch.setattr(torchgeo_weights, "is_reachable", lambda address: True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    file = WeightsFile(what="x", name="y", url="https://example.org/net-0123abcd.pth")
    file.check()
    assert not asked
    assert file.load() == {}
    assert asked == [(file.url, "0123abcd")]
    assert file.fetched() == tmp_path / "checkpoints/net-0123abcd.pth"
    assert len(asked) == 1


def test_random_convolutional_features_need_no_weights() -> None:
    backbone = pickle.loads(pickle.dumps(resolve("rcf")))
    assert not backbone.is_trainable
    plan = plan_device(precision="float32", batch_size=2, num_threads=1, device="cpu")
    patches = np.random.default_rng(0).integers(0, 256, (3, 4, 32, 32), np.uint8)
    first, _ = Embedder(backbone, RGBN, plan)(patches)
    again, _ = Embedder(backbone, RGBN, plan)(patches)
    assert first.shape == (3, RCF_FEATURES)
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first, axis=0)) == 3
    some = resolve("rcf", bands=("nir",))
    assert Embedder(some, RGBN, plan)(patches)[0].shape == (3, RCF_FEATURES)
    assert band_indices(some, RGBN) == (3,)
