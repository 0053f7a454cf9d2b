"""ONNX: the graph equals torch, and what cannot become one is refused.

Where onnx, onnxscript and onnxruntime are absent, the graph is compared as torch traces it, and a
stand-in runs it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.naive_bayes import GaussianNB

import benchmark as bm
from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.heads import HEADS
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.exporting import onnx, running, standalone
from benchmark.exporting.folder import export
from benchmark.exporting.onnx import FixedPreprocessing, fixed_weights
from benchmark.exporting.running import open_model
from benchmark.networks.classifier import build_classifier
from benchmark.networks.embedder import Preprocessing
from benchmark.tables import check_table, predictions_schema
from tests.exporting.cells import CLASSES, NUM_TEST, NUM_TRAIN, RGB, write_cell, write_patches
from tests.exporting.test_folder import write_finetuned
from tests.toys import toy

Open = Callable[..., Context]
HAS_ONNX = all(find_spec(name) for name in onnx.PACKAGES)


class Session:
    """Runs what ``write_stand_in`` has written, as ONNX Runtime runs a graph."""

    shift = 0.0

    def __init__(self, path: Path) -> None:
        self._program = torch.export.load(path).module()

    def run(self, names: list[str], given: dict[str, Any]) -> list[Any]:
        assert names == ["probabilities"]
        with torch.inference_mode():
            found = self._program(torch.from_numpy(given["pixels"]))
        return [found.numpy() + self.shift]


def write_stand_in(program: Any, args: tuple[()], path: Path, **options: Any) -> None:
    assert options["input_names"] == ["pixels"] and args == ()
    with path.open("wb") as file:
        torch.export.save(program, file)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    """Replace the exporter of torch and ONNX Runtime by torch's own programs."""
    monkeypatch.setattr(onnx, "check_packages", lambda: None)
    monkeypatch.setattr(torch.onnx, "export", write_stand_in)
    monkeypatch.setattr(running, "open_session", Session)
    monkeypatch.setattr(Session, "shift", 0.0)
    return Session


def write_predictions(context: Context, classifier: torch.nn.Module) -> np.ndarray:
    """Add stored predictions to a fine-tuned cell; return the probabilities (n, K)."""
    pixels, _ = write_patches(context)
    backbone = context.backbones[0]
    with torch.inference_mode():
        x = Preprocessing(backbone, RGB)(torch.from_numpy(pixels[NUM_TRAIN:]))
        scores = classifier(x).softmax(1).numpy()
    table = pa.table(
        {
            "patch_id": [f"p{i:04}" for i in range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)],
            "y_pred": scores.argmax(1).astype(np.int32),
            "y_score": pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), 3),
        }
    )
    checked = check_table(table, predictions_schema(3), what="predictions")
    context.finetuned(backbone, 0).write_table("part-000000.parquet", checked)
    return scores


@pytest.mark.parametrize("patch_size", [32, 48, 64])
@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 48, "interpolation": "bilinear"},
        {"image_size": 48, "interpolation": "bicubic"},
        {"image_size": 40, "resize_to": 47, "interpolation": "bicubic"},
        {"image_size": 40, "resize_to": 47, "crops_like_torchvision": True},
        {"image_size": None},
    ],
    ids=str,
)
def test_resizing_by_matrices_equals_interpolation(
    settings: dict[str, Any], patch_size: int
) -> None:
    backbone = replace(toy("toy"), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1), **settings)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (4, 3, patch_size, patch_size)).astype(np.uint8))
    expected = Preprocessing(backbone, RGB)(pixels)
    found = FixedPreprocessing(backbone, RGB, patch_size)(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def test_rounding_follows_resizing_alone() -> None:
    backbone = replace(toy("toy"), image_size=48, interpolation="bicubic", is_rounded=True)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8))
    prepare = FixedPreprocessing(backbone, RGB, 32)
    levels = (prepare(pixels) - prepare.shift) / prepare.scale
    expected = Preprocessing(backbone, RGB)(pixels)
    differs = (prepare(pixels) - expected).abs() / prepare.scale
    assert float(differs.max()) < 1.01 and float((differs > 0.5).float().mean()) < 0.005
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert levels.min() >= -1e-4 and levels.max() <= 255.0001
    assert fixed_weights(backbone, 48) is None


@pytest.mark.parametrize("flips_bands", [True, False])
@pytest.mark.parametrize("resize_to", [48, 40, None])
@pytest.mark.parametrize("is_rounded", [True, False])
def test_a_folder_prepares_pixels_as_the_experiment_does(
    is_rounded: bool, resize_to: int | None, flips_bands: bool
) -> None:
    backbone = replace(
        toy("toy"),
        image_size=40,
        resize_to=resize_to,
        is_rounded=is_rounded,
        flips_bands=flips_bands,
        mean=(0.1, 0.2, 0.3),
        std=(0.2, 0.3, 0.4),
    )
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8))
    expected = Preprocessing(backbone, RGB)(pixels)
    given = {**vars(backbone), "rounds_margin": False}
    torch.testing.assert_close(standalone.prepare(pixels, given), expected)
    found = FixedPreprocessing(backbone, RGB, 32)(pixels)
    one_level = 1.01 / (255 * 0.2) if is_rounded else 1e-4
    torch.testing.assert_close(found, expected, atol=one_level, rtol=0)
    if flips_bands:
        straight = replace(backbone, flips_bands=False)
        assert torch.equal(Preprocessing(straight, RGB)(pixels.flip(1)), expected)


@pytest.mark.parametrize("head", ["logistic_regression", "mlp", "knn", "majority"])
@pytest.mark.parametrize("kind", ["packaged", "mean_color"])
def test_a_head_becomes_a_graph_from_pixels_to_probabilities(
    open_small: Open, tmp_path: Path, stand_in: type[Session], head: str, kind: str
) -> None:
    backbone = toy("toy") if kind == "packaged" else BACKBONES.get(kind)
    context = open_small(backbones=[backbone], heads=[HEADS.get(head)])
    cell = write_cell(context, head)
    out = tmp_path / "out"
    export(context, backbone=backbone.name, method=head, seed=0, out=out, format="onnx")
    described = json.loads((out / "benchmark.json").read_text())
    assert described["kind"] == "onnx" and described["takes_batches"]
    assert described["largest_difference"] <= 1e-5
    assert {path.name for path in out.iterdir()} == {"README.md", "benchmark.json", "model.onnx"}
    found = open_model(out).predict(cell.pixels)
    np.testing.assert_allclose(found, cell.scores, atol=1e-5)
    assert len(open_model(out).predict(cell.pixels[:0])) == 0
    frame = bm.predict(out, cell.pixels)
    assert frame["label"].tolist() == [CLASSES[k] for k in cell.scores.argmax(1)]


def test_a_finetuned_network_without_a_class_of_transformers_becomes_a_graph(
    open_small: Open, tmp_path: Path, stand_in: type[Session]
) -> None:
    context = open_small(backbones=[replace(toy("toy"), is_floor=False)], finetune={})
    classifier = write_finetuned(context, context.backbones[0])
    scores = write_predictions(context, classifier)
    out = tmp_path / "out"
    export(context, backbone="toy", method="finetune", seed=0, out=out, format="onnx")
    pixels, _ = write_patches_again(context)
    np.testing.assert_allclose(open_model(out).predict(pixels), scores, atol=1e-5)
    card = (out / "README.md").read_text()
    assert 'library_name: "onnx"' in card and "onnxruntime.InferenceSession" in card
    with pytest.raises(UsageError, match=r"given patches of 16 x 16 px; the graph takes 32 x 32"):
        open_model(out).predict(pixels[:, :, :16, :16])


def write_patches_again(context: Context) -> tuple[Any, Any]:
    from tests.exporting.cells import draw

    pixels, labels = draw(NUM_TRAIN + NUM_TEST)
    return pixels[NUM_TRAIN:], labels[NUM_TRAIN:]


def test_a_graph_that_computes_something_else_is_refused_and_not_kept(
    open_small: Open, tmp_path: Path, stand_in: type[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_small(backbones=[toy("toy")])
    write_cell(context)
    monkeypatch.setattr(Session, "shift", 2e-4)
    with pytest.raises(UsageError, match=r"in ONNX Runtime .* 'toy' differ by up to 2\.\de-04"):
        export_toy(context, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def export_toy(context: Context, out: Path, format: str = "onnx") -> Path:
    return export(
        context, backbone="toy", method="logistic_regression", seed=0, out=out, format=format
    )


def test_what_cannot_become_a_graph_is_refused(
    open_small: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_small(backbones=[toy("toy")])
    write_cell(context, model=GaussianNB())
    monkeypatch.setattr(onnx, "check_packages", lambda: None)
    with pytest.raises(UsageError, match="of a kind that this package does not translate"):
        export_toy(context, tmp_path / "out")
    with pytest.raises(UsageError, match="--format 'tflite': choose one of: folder, onnx"):
        export_toy(context, tmp_path / "out", "tflite")
    assert not (tmp_path / "out").exists()


def test_absent_packages_are_named_before_anything_is_written(
    open_small: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_small(backbones=[toy("toy")])
    write_cell(context)
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UsageError, match=r"needs onnxscript: pip install .*\[onnx\]"):
        export_toy(context, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_opening_a_graph_without_onnx_runtime_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = {"kind": "onnx", "classes": ["a"], "bands": ["red"]}
    (tmp_path / "benchmark.json").write_text(json.dumps(described))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match="needs onnxruntime: pip install onnxruntime"):
        open_model(tmp_path)


@pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript and onnxruntime are not installed")
@pytest.mark.parametrize("head", ["logistic_regression", "mlp", "knn"])
def test_onnx_runtime_computes_what_torch_computes(
    open_small: Open, tmp_path: Path, head: str
) -> None:
    backbone = replace(toy("toy"), image_size=48, interpolation="bicubic", mean=(0.4,), std=(0.2,))
    context = open_small(backbones=[backbone], heads=[HEADS.get(head)])
    cell = write_cell(context, head)
    out = tmp_path / "out"
    export(context, backbone="toy", method=head, seed=0, out=out, format="onnx")
    np.testing.assert_allclose(open_model(out).predict(cell.pixels), cell.scores, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript and onnxruntime are not installed")
def test_onnx_runtime_computes_what_a_finetuned_network_computes(
    open_small: Open, tmp_path: Path
) -> None:
    backbone = BACKBONES.get("efficientnet_lite0")
    context = open_small(backbones=[backbone], finetune={})
    scores = write_predictions(context, write_finetuned(context, backbone))
    out = tmp_path / "out"
    export(context, backbone=backbone.name, method="finetune", seed=0, out=out, format="onnx")
    pixels, _ = write_patches_again(context)
    np.testing.assert_allclose(open_model(out).predict(pixels), scores, atol=1e-4)


@pytest.mark.slow
def test_the_graph_of_a_packaged_network_can_be_traced_and_equals_it() -> None:
    backbone = BACKBONES.get("efficientnet_lite0")
    classifier = build_classifier(backbone, 3, 4).eval()
    prepare = FixedPreprocessing(backbone, RGB, 64)
    whole = onnx._Whole(prepare, classifier, torch.nn.Softmax(dim=1)).eval()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), np.uint8))
    program, takes_batches = onnx.export_program(whole, pixels)
    assert takes_batches
    with torch.inference_mode():
        expected = classifier(Preprocessing(backbone, RGB)(pixels)).softmax(1)
        found = program.module()(pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
