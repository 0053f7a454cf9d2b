"""``predict``: files, arrays and PIL images of any layout, as one frame."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image

import benchmark as bm
from benchmark.catalog.backbones import BACKBONES
from benchmark.experiment.context import Context
from benchmark.exporting import predicting
from benchmark.exporting.folder import export
from benchmark.networks.embedder import Preprocessing
from tests.exporting.cells import CLASSES, write_patches
from tests.exporting.test_folder import write_finetuned

SIDE = 8
RGB = ("red", "green", "blue")
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, SIDE, SIDE), np.uint8)


class Model:
    """A model whose probabilities are the shares of its bands, so that their order shows."""

    def __init__(self, bands: tuple[str, ...] = RGB, patch_size: int | None = SIDE) -> None:
        self.bands, self.patch_size = bands, patch_size
        self.classes = tuple(f"mostly {band}" for band in bands)
        self.sizes: list[tuple[int, ...]] = []

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert pixels.dtype == np.uint8
        self.sizes.append(pixels.shape)
        sums = pixels.sum(axis=(2, 3), dtype=np.float64)
        return (sums / sums.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Model]:
    """Let ``predict`` open a model of these bands and size."""

    def use(*args: Any, **settings: Any) -> Model:
        model = Model(*args, **settings)
        monkeypatch.setattr(predicting, "open_model", lambda *_, **__: model)
        return model

    return use


def shares(frame: Any) -> Any:
    return frame.filter(like="p_").to_numpy()


def expected(pixels: NDArray[np.uint8] = PIXELS) -> Any:
    return Model().predict(pixels)


def test_a_frame_has_label_confidence_and_a_probability_per_class(use: Any) -> None:
    use()
    frame = bm.predict("model", PIXELS)
    wanted = expected()
    assert list(frame.columns) == [
        "label", "confidence", "p_mostly red", "p_mostly green", "p_mostly blue",
    ]  # fmt: skip
    assert frame.index.tolist() == [0, 1, 2, 3, 4] and frame.index.name == "image"
    np.testing.assert_array_equal(shares(frame), wanted)
    assert frame["label"].tolist() == [f"mostly {RGB[k]}" for k in wanted.argmax(axis=1)]
    np.testing.assert_array_equal(frame["confidence"], wanted.max(axis=1))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(PIXELS, id="NCHW"),
        pytest.param(PIXELS.transpose(0, 2, 3, 1), id="NHWC"),
        pytest.param(list(PIXELS), id="list of CHW"),
        pytest.param([item.transpose(1, 2, 0) for item in PIXELS], id="list of HWC"),
        pytest.param([Image.fromarray(p.transpose(1, 2, 0)) for p in PIXELS], id="list of PIL"),
        pytest.param((item for item in PIXELS), id="generator"),
        pytest.param(torch.from_numpy(PIXELS.copy()), id="tensor"),
    ],
)
def test_all_layouts_give_the_same(given: Any, use: Any) -> None:
    use()
    np.testing.assert_array_equal(shares(bm.predict("model", given)), expected())


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(PIXELS[0], id="CHW"),
        pytest.param(PIXELS[0].transpose(1, 2, 0), id="HWC"),
        pytest.param(Image.fromarray(PIXELS[0].transpose(1, 2, 0)), id="PIL"),
    ],
)
def test_a_single_image_is_one_row(given: Any, use: Any) -> None:
    use()
    np.testing.assert_array_equal(shares(bm.predict("model", given)), expected(PIXELS[:1]))


def test_batches_do_not_change_the_rows(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = use()
    monkeypatch.setattr(predicting, "BATCH", 2)
    np.testing.assert_array_equal(shares(bm.predict("model", PIXELS)), expected())
    assert [shape[0] for shape in model.sizes] == [2, 2, 1]


def test_files_and_folders_are_named_by_their_paths(use: Any, tmp_path: Path) -> None:
    use()
    (tmp_path / "sub").mkdir()
    paths = [tmp_path / name for name in ("b.png", "a.png", "sub/c.png")]
    for path, pixels in zip(paths, PIXELS, strict=False):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    frame = bm.predict("model", [str(paths[0]), paths[1]])
    assert frame.index.tolist() == [str(paths[0]), str(paths[1])]
    np.testing.assert_array_equal(shares(frame), expected(PIXELS[:2]))
    assert bm.predict("model", paths[2]).index.tolist() == [str(paths[2])]
    whole = bm.predict("model", tmp_path)
    assert whole.index.tolist() == [str(paths[k]) for k in (1, 0, 2)]
    np.testing.assert_array_equal(shares(whole), expected(PIXELS[[1, 0, 2]]))


def write_tiff(path: Path, pixels: NDArray[Any], names: tuple[str, ...] = ()) -> Path:
    bands, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands, dtype=pixels.dtype
    ) as file:
        file.write(pixels)
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)
    return path


def test_bands_of_a_file_are_found_by_name(use: Any, tmp_path: Path) -> None:
    use()
    more = np.concatenate([PIXELS[1], PIXELS[2, :1]])
    backwards = write_tiff(tmp_path / "a.tif", PIXELS[0][::-1], RGB[::-1])
    with_nir = write_tiff(tmp_path / "b.tif", more)
    frame = bm.predict("model", [backwards, with_nir])
    np.testing.assert_array_equal(shares(frame), expected(PIXELS[:2]))


def test_a_gray_image_is_taken_as_red_green_and_blue(use: Any) -> None:
    use()
    gray = [PIXELS[0, 0], PIXELS[:1, 0], Image.fromarray(PIXELS[0, 0])]
    for item in gray:
        np.testing.assert_allclose(shares(bm.predict("model", [item])), 1 / 3, atol=1e-6)


def test_other_pixels_are_scaled_as_in_the_experiment(use: Any, tmp_path: Path) -> None:
    use()
    path = write_tiff(tmp_path / "a.tif", PIXELS[0].astype(np.uint16) * 10)
    with pytest.raises(
        bm.UsageError, match=r"a\.tif' holds uint16 pixels from \d+ to 2\d\d\d; give value_range="
    ):
        bm.predict("model", path)
    np.testing.assert_array_equal(
        shares(bm.predict("model", path, value_range=(0, 2550))), expected(PIXELS[:1])
    )
    with pytest.raises(bm.UsageError, match=r"image 0 holds float64 pixels from 0 to 1; give val"):
        bm.predict("model", np.linspace(0, 1, 192).reshape(1, 3, 8, 8))


def test_an_image_of_another_size_is_resized_and_told(
    use: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = use()
    large = PIXELS.repeat(2, axis=2).repeat(2, axis=3)
    with caplog.at_level(logging.WARNING, logger="benchmark"):
        frame = bm.predict("model", [PIXELS[0], large[1]])
        assert model.sizes == [(2, 3, SIDE, SIDE)]
        np.testing.assert_allclose(shares(frame), expected(PIXELS[:2]), atol=0.02)
        assert caplog.messages == [
            "predict: 1 of 2 images are not 8 x 8 px, the model's patches: the centre square of "
            "each was resized"
        ]
        caplog.clear()
        bm.predict("model", PIXELS)
        assert not caplog.messages


def test_images_keep_their_sizes_if_the_model_names_none(use: Any) -> None:
    model = use(patch_size=None)
    large = PIXELS.repeat(2, axis=2).repeat(2, axis=3)
    bm.predict("model", [PIXELS[0], PIXELS[1], large[0], PIXELS[2]])
    assert [shape[::2] for shape in model.sizes] == [(2, 8), (1, 16), (1, 8)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, r"bm\.predict: images = 3: give a path, an array"),
        (None, r"bm\.predict: images = None: give a path"),
        ({"a": 1}, r"bm\.predict: images = \{'a': 1\}: give a path"),
        (b"x.png", r"bm\.predict: images = b'x\.png': give a path"),
        ([], r"bm\.predict: images = \[\]: there are no images"),
        (np.empty((0, 3, 8, 8), np.uint8), r"there are no images"),
        ("", r"bm\.predict: images = '': it is empty"),
        ("nothing.png", r"image 'nothing\.png' cannot be opened: No such file"),
        ([PIXELS[0], 7], r"image 1 is 7: give a path"),
        ([["a.png"]], r"image 0 is \['a\.png'\]: give a path"),
        (PIXELS[:, :2], r"image 0 has 2 bands; the model takes red, green, blue, in this order"),
        (np.zeros((5, 4, 8, 8), np.uint8), r"image 0 has 4 bands; the model takes red, green"),
        (np.zeros((1, 1, 3, 8, 8), np.uint8), r"array of shape \(1, 1, 3, 8, 8\); give \(C, H"),
        (np.zeros(8, np.uint8), r"image 0 is an array of shape \(\); give"),
        (np.zeros((3, 9, 3), np.uint8), r"can be read as \(C, H, W\) and as \(H, W, C\); give"),
        (np.zeros((3, 8, 8), bool), r"image 0 holds bool pixels; give numbers"),
        (np.full((3, 8, 8), "a"), r"image 0 holds .* pixels; give numbers"),
    ],
)
def test_what_is_no_image_is_one_clear_line(given: Any, message: str, use: Any) -> None:
    use()
    with pytest.raises(bm.UsageError, match=message):
        bm.predict("model", given)


def test_an_array_of_many_images_is_not_ambiguous(use: Any) -> None:
    use(patch_size=None)
    narrow = PIXELS[..., :3]
    np.testing.assert_array_equal(shares(bm.predict("model", narrow)), expected(narrow))


@pytest.mark.parametrize(
    "value_range", [3, (1,), (2, 1), (0, "a"), (True, 2), (0, 1, 2), (float("nan"), 1)]
)
def test_a_value_range_that_is_none_is_refused(value_range: Any, use: Any) -> None:
    use()
    with pytest.raises(bm.UsageError, match=r"bm\.predict: value_range = "):
        bm.predict("model", PIXELS, value_range=value_range)


@pytest.mark.slow
def test_a_fine_tuned_folder_gives_the_probabilities_of_its_network(
    open_small: Callable[..., Context], tmp_path: Path
) -> None:
    backbone = replace(BACKBONES.get("random"), is_floor=False)
    context = open_small(backbones=[backbone], finetune={})
    write_patches(context)
    network = write_finetuned(context, backbone)
    side = backbone.image_size
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, side, side), np.uint8)
    folder = export(context, backbone="random", method="finetune", seed=0, out=tmp_path / "out")
    frame = bm.predict(folder, pixels)
    with torch.inference_mode():
        given = Preprocessing(backbone, RGB)(torch.from_numpy(pixels))
        wanted = network(given).softmax(dim=1).numpy()
    np.testing.assert_allclose(frame[[f"p_{name}" for name in CLASSES]], wanted, atol=1e-4)
    assert frame["label"].tolist() == [CLASSES[k] for k in wanted.argmax(axis=1)]


def test_a_folder_that_was_not_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bm.UsageError, match=r"bm\.predict: model = 3: give a folder that"):
        bm.predict(3, PIXELS)
    with pytest.raises(bm.UsageError, match=r"was not exported; give a folder that"):
        bm.predict(tmp_path, PIXELS)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(bm.UsageError, match=r"was not exported; give a folder that"):
        bm.predict(tmp_path, PIXELS)


def test_values_without_data_are_black_as_in_the_experiment(tmp_path: Path) -> None:
    import rasterio

    from benchmark.catalog.folder.decoding import decode
    from benchmark.exporting.predicting import _of_file

    path = tmp_path / "x.tif"
    pixels = np.array([[[5, 9]]] * 3, np.int16)
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=1, width=2, dtype="int16", nodata=9
    ) as file:
        file.write(pixels)
    found, names = _of_file(decode(path), ("red", "green", "blue"))
    assert names == ("red", "green", "blue")
    assert found[:, 0].tolist() == [[5, -32768]] * 3
