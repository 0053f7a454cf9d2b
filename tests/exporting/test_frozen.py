"""Frozen winners: folded into a pipeline, or as a program that runs without this package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from typer.testing import CliRunner

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.heads import HEADS
from benchmark.catalog.huggingface.resolve import resolve_huggingface
from benchmark.catalog.torchgeo.models import describe_rcf
from benchmark.cli.commands import app
from benchmark.errors import BenchmarkError, UsageError
from benchmark.experiment.context import Context
from benchmark.exporting.folder import export
from benchmark.exporting.running import open_model
from benchmark.exporting.usage import summarise
from benchmark.options import BackboneOptions
from benchmark.specs import Backbone
from benchmark.store.names import FITTED, HEAD
from tests.catalog.test_huggingface import MEAN, SIDES, STD, VIT, write_checkpoint
from tests.exporting.cells import (
    CLASSES,
    NUM_TEST,
    NUM_TRAIN,
    RGB,
    Cell,
    code_of,
    run_alone,
    write_cell,
)
from tests.toys import toy

Open = Callable[..., Context]

SMALL = VIT | SIDES
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2": ("Dinov2", SMALL),
    "dinov2_with_registers": ("Dinov2WithRegisters", SMALL | {"num_register_tokens": 2}),
    "deit": ("DeiT", SMALL),
    "ijepa": ("IJepa", SMALL),
    "vit_msn": ("ViTMSN", SMALL),
    "resnet": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
    "regnet": ("RegNet", {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4}),
    "swin": (
        "Swin",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 2,
        },
    ),
}
"""Further families of transformers: the names of their classes, and what is small of them."""


def write_family(folder: Path, kind: str) -> Path:
    """Write a tiny classifier of a family, with weights drawn at random."""
    if kind not in FAMILIES:
        return write_checkpoint(folder, kind)
    name, small = FAMILIES[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**small, num_labels=3)
    getattr(transformers, f"{name}ForImageClassification")(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size, image_mean=MEAN, image_std=STD).save_pretrained(
        folder
    )
    return folder


def pooled(folder: Path, kind: str, pooling: Any = "mean") -> Backbone:
    path = write_family(folder / kind, kind)
    options = BackboneOptions(pooling=pooling)
    return resolve_huggingface(f"hf:{path}", where="x.toml", options=options)


def alone(open_small: Open, backbone: Backbone) -> Context:
    """Open a context of one backbone and all heads."""
    return open_small(backbones=[backbone], heads=list(HEADS))


def exported(context: Context, out: Path, head: str = "logistic_regression") -> dict[str, Any]:
    name = context.backbones[0].name
    export(context, backbone=name, method=head, seed=0, out=out)
    found: dict[str, Any] = json.loads((out / "benchmark.json").read_text())
    return found


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def save_patches(cell: Cell, folder: Path, count: int = 3) -> list[str]:
    """Save the first patches of test as pictures; return the names of the files."""
    names = [f"patch{i}.png" for i in range(count)]
    for name, pixels in zip(names, cell.pixels, strict=False):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / name)
    return names


def run_card(folder: Path, cell: Cell, *, cwd: Path, number: int = 0) -> np.ndarray:
    """Run the card's lines on three patches without this package: probabilities (3, K)."""
    found = []
    names = save_patches(cell, cwd)
    code = "\n".join(code_of(folder, number).replace("patch.png", name) for name in names)
    for line in run_alone(code, cwd=cwd).splitlines():
        scores = {item["label"]: item["score"] for item in eval(line)}
        found.append([scores[name] for name in CLASSES])
    return np.array(found)


# --- what is folded ---


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [
        ("mobilevit", "mean"),
        ("resnet", "mean"),
        ("regnet", "mean"),
        ("swin", "mean"),
        ("ijepa", "mean"),
        ("dinov2", "mean"),
        ("dinov2", "cls"),
        ("dinov2", "cls+mean"),
        ("dinov2_with_registers", "cls"),
        ("vit", "cls"),
        ("deit", "cls"),
        ("vit_msn", "cls"),
        ("beit", "pooler"),
    ],
)
def test_a_linear_head_is_folded_where_the_classifier_reads_the_embedding(
    kind: str, pooling: str, open_small: Open, tmp_path: Path
) -> None:
    backbone = pooled(tmp_path, kind, pooling)
    context = alone(open_small, backbone)
    cell = write_cell(context, size=backbone.image_size or 32)
    out = tmp_path / "out"
    described = exported(context, out)
    assert described["kind"] == "pipeline"
    assert described["largest_difference"] <= 1e-5
    assert {"model.safetensors", "config.json", "preprocessor_config.json"} <= files(out)
    assert not {"head.skops", "predict.py"} & files(out)
    np.testing.assert_allclose(open_model(out).predict(cell.pixels), cell.scores, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("vit", "mean"), ("beit", "mean"), ("dinov2_with_registers", "mean"), ("vit", "cls+mean")],
)
def test_another_pooling_than_the_classifiers_gives_a_program(
    kind: str, pooling: str, open_small: Open, tmp_path: Path
) -> None:
    backbone = pooled(tmp_path, kind, pooling)
    context = alone(open_small, backbone)
    cell = write_cell(context)
    out = tmp_path / "out"
    described = exported(context, out)
    assert described["kind"] == "program"
    assert any("reads another pooling" in reason for reason in described["reasons"])
    assert files(out) == {"README.md", "benchmark.json", "predict.py", "program.pt2"}
    np.testing.assert_allclose(open_model(out).predict(cell.pixels), cell.scores, atol=1e-4)


def test_the_lines_of_a_pipelines_card_give_the_stored_predictions_alone(
    open_small: Open, tmp_path: Path
) -> None:
    context = alone(open_small, pooled(tmp_path, "vit", "cls"))
    cell = write_cell(context)
    out = tmp_path / "out"
    described = exported(context, out)
    np.testing.assert_allclose(run_card(out, cell, cwd=tmp_path), cell.scores[:3], atol=1e-5)
    card = (out / "README.md").read_text()
    assert 'library_name: "transformers"' in card
    assert "The head is folded into the network's own classifier. On 16 patches" in card
    assert f"at most {described['largest_difference']:.1e} from those of the experiment." in card
    assert summarise(described).startswith("for the image-classification pipeline of transformers;")


def test_images_that_are_resized_as_bytes_need_no_program(open_small: Open, tmp_path: Path) -> None:
    context = alone(open_small, pooled(tmp_path, "vit", "cls"))
    cell = write_cell(
        context, params={"C": 10.0, "scaler": "standard", "class_weight": "none"}, size=48
    )
    out = tmp_path / "out"
    described = exported(context, out)
    assert described["kind"] == "pipeline"
    assert described["largest_difference"] <= 1e-4
    np.testing.assert_allclose(open_model(out).predict(cell.pixels), cell.scores, atol=1e-4)
    by_pipeline = run_card(out, cell, cwd=tmp_path)
    np.testing.assert_allclose(by_pipeline, cell.scores[:3], atol=1e-4)


def test_two_classes_and_a_class_without_train_patches_keep_their_probabilities(
    open_small: Open, tmp_path: Path
) -> None:
    context = alone(open_small, pooled(tmp_path, "vit", "cls"))
    labels = np.arange(NUM_TRAIN + NUM_TEST) % 2 * 2
    cell = write_cell(context, labels=labels)
    assert list(cell.model.classes_) == [0, 2]
    out = tmp_path / "out"
    assert exported(context, out)["kind"] == "pipeline"
    found = open_model(out).predict(cell.pixels)
    np.testing.assert_allclose(found, cell.scores, atol=1e-5)
    assert not found[:, 1].any()


def test_a_network_of_timm_takes_a_linear_head(open_small: Open, tmp_path: Path) -> None:
    backbone = replace(BACKBONES.get("random"), image_size=32)
    context = alone(open_small, backbone)
    cell = write_cell(context)
    out = tmp_path / "out"
    # Pixels that are not resized are the same everywhere.
    assert exported(context, out)["kind"] == "pipeline"
    np.testing.assert_allclose(open_model(out).predict(cell.pixels), cell.scores, atol=1e-5)


# --- what becomes a program ---


@pytest.mark.parametrize("scaler", ["none", "standard", "l2"])
@pytest.mark.parametrize(
    ("head", "params"),
    [
        ("logistic_regression", {"C": 1.0, "class_weight": "balanced"}),
        ("mlp", {"width": 16, "alpha": 1e-3, "learning_rate": 1e-2}),
        ("knn", {"n_neighbors": 5, "weights": "uniform"}),
        ("knn", {"n_neighbors": 7, "weights": "distance"}),
        ("majority", {}),
    ],
)
def test_a_program_gives_what_each_head_gives(
    head: str, params: dict[str, Any], scaler: str, open_small: Open, tmp_path: Path
) -> None:
    context = alone(open_small, BACKBONES.get("mean_color"))
    cell = write_cell(context, head, {**params, "scaler": scaler})
    described = exported(context, tmp_path / "out", head)
    assert described["kind"] == "program"
    assert described["largest_difference"] <= 1e-5
    found = open_model(tmp_path / "out").predict(cell.pixels)
    np.testing.assert_allclose(found, cell.scores, atol=1e-4)
    assert cell.scores.std(axis=0).max() > 0.01 or head == "majority"


@pytest.mark.parametrize("head", ["mlp", "knn", "logistic_regression"])
def test_a_program_knows_which_classes_a_head_has_seen(
    head: str, open_small: Open, tmp_path: Path
) -> None:
    context = alone(open_small, BACKBONES.get("mean_color"))
    cell = write_cell(context, head, labels=np.arange(NUM_TRAIN + NUM_TEST) % 2 * 2)
    exported(context, tmp_path / "out", head)
    found = open_model(tmp_path / "out").predict(cell.pixels)
    np.testing.assert_allclose(found, cell.scores, atol=1e-4)


def make(name: str, folder: Path) -> Backbone:
    if name == "convnext":
        return pooled(folder, name)
    return describe_rcf("torchgeo:rcf")


@pytest.mark.parametrize(
    ("name", "head", "size"),
    [
        ("convnext", "logistic_regression", 48),
        ("rcf", "knn", 32),
    ],
)
def test_the_lines_of_a_programs_card_give_the_stored_predictions_alone(
    name: str, head: str, size: int, open_small: Open, tmp_path: Path
) -> None:
    context = alone(open_small, make(name, tmp_path))
    cell = write_cell(context, head, size=size)
    out = tmp_path / "out"
    assert exported(context, out, head)["kind"] == "program"
    np.testing.assert_allclose(run_card(out, cell, cwd=tmp_path), cell.scores[:3], atol=1e-4)


def test_predict_is_a_command_that_reads_pictures_and_arrays(
    open_small: Open, tmp_path: Path
) -> None:
    bands = (*RGB, "nir")
    context = alone(open_small, BACKBONES.get("mean_color"))
    cell = write_cell(context, "mlp", bands=bands)
    out = tmp_path / "out"
    exported(context, out, "mlp")
    np.save(tmp_path / "patch.npy", cell.pixels[0])
    best = CLASSES[cell.scores[0].argmax()]
    command = f"runpy.run_path({str(out / 'predict.py')!r}, run_name='__main__')"
    printed = run_alone(f"import runpy; sys.argv[1:] = ['patch.npy']; {command}", cwd=tmp_path)
    assert printed == f"patch.npy\t{best}\t{cell.scores[0].max():.4f}"
    assert 'Classifier()("patch.npy")' in code_of(out)
    with pytest.raises(UsageError, match=r"given uint8 \(24, 3, 32, 32\); give uint8 \(N, 4, H, W"):
        open_model(out).predict(cell.pixels[:, :3])
    with pytest.raises(UsageError, match=r"of 32 x 32 px, the bands red, green, blue, nir"):
        open_model(out).predict(cell.pixels[..., :16])


# --- what needs this package ---


def test_what_cannot_be_exported_needs_this_package_and_says_why(
    open_small: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    context = alone(open_small, BACKBONES.get("hog"))
    cell = write_cell(context, size=128)
    out = tmp_path / "out"
    described = exported(context, out)
    assert described["kind"] == "package"
    assert files(out) == {"README.md", "benchmark.json", "config.json", "head.skops"}
    np.testing.assert_allclose(open_model(out).predict(cell.pixels), cell.scores, atol=1e-6)
    card = (out / "README.md").read_text()
    assert "It needs this package, since transformers has no class for this network;" in card
    assert "The weights of the backbone are not in this folder." in card
    save_patches(cell, tmp_path, 1)
    code = code_of(out).replace("patch.png", "patch0.png")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.strip() == CLASSES[cell.scores[0].argmax()]


def test_a_head_that_is_not_known_keeps_its_file(open_small: Open, tmp_path: Path) -> None:
    context = alone(open_small, BACKBONES.get("pca"))
    cell = write_cell(context, model=make_pipeline(GaussianNB()))
    out = tmp_path / "out"
    described = exported(context, out)
    assert described["kind"] == "package"
    assert described["reasons"][-1] == "the head is of a kind that this package does not translate"
    assert "fitted.safetensors" in files(out)
    np.testing.assert_allclose(open_model(out).predict(cell.pixels), cell.scores, atol=1e-6)


# --- what is compared with what ---


def test_embeddings_in_bfloat16_are_compared_in_float32(open_small: Open, tmp_path: Path) -> None:
    context = alone(open_small, BACKBONES.get("mean_color"))
    write_cell(context, precision="bfloat16", shift=0.003)
    described = exported(context, tmp_path / "out")
    assert described["kind"] == "program"
    assert described["largest_difference"] <= 1e-5
    card = (tmp_path / "out/README.md").read_text()
    assert "those stored, of embeddings in bfloat16, differ by at most" in card
    assert "those stored, of embeddings in bfloat16, differ by" in summarise(described)


def test_a_cell_without_patches_to_compare_is_refused(open_small: Open, tmp_path: Path) -> None:
    context = alone(open_small, BACKBONES.get("mean_color"))
    write_cell(context, split="train")
    with pytest.raises(UsageError, match=r"holds no patches of test or val to compare"):
        exported(context, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_head_and_a_lost_fit_name_their_artefact(
    open_small: Open, tmp_path: Path
) -> None:
    context = alone(open_small, BACKBONES.get("pca"))
    write_cell(context)
    embeddings = context.embeddings(context.backbones[0])
    embeddings.delete(FITTED)
    with pytest.raises(UsageError, match=r"holds no fitted.safetensors: run `benchmark embed`"):
        exported(context, tmp_path / "out")
    predictions = context.predictions(context.backbones[0], context.heads[0], 0)
    predictions.write_bytes(HEAD, b"torn")
    with pytest.raises(BenchmarkError, match=r"_head.skops is damaged .*: delete this file"):
        exported(context, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- opening folders ---


def test_folders_that_are_not_exported_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none: there is no such folder"):
        open_model(tmp_path / "none")
    with pytest.raises(UsageError, match=r"was not exported; give a folder"):
        open_model(tmp_path)
    (tmp_path / "benchmark.json").write_text("{")
    with pytest.raises(UsageError, match=r"benchmark.json: cannot be read"):
        open_model(tmp_path)
    content = {"kind": "program", "classes": ["a"], "bands": ["red"]}
    (tmp_path / "benchmark.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"cannot be opened .*; export it again"):
        open_model(tmp_path)


def test_a_backbone_that_runs_its_own_code_is_opened_with_trust_alone(tmp_path: Path) -> None:
    content = {
        "head": "knn", "classes": ["a", "b"], "bands": list(RGB),
        "backbone": "hf:org/own", "options": {"trust_remote_code": True},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"'hf:org/own' runs code of its own; read it and, if you"):
        open_model(tmp_path)


@pytest.mark.parametrize("backbone", [toy("toy"), BACKBONES.get("pca")], ids=["toy", "pca"])
def test_a_network_that_transformers_does_not_know_becomes_a_program(
    backbone: Backbone, open_small: Open, tmp_path: Path
) -> None:
    context = alone(open_small, backbone)
    cell = write_cell(context)
    described = exported(context, tmp_path / "out")
    assert described["kind"] == "program"
    assert re.match(
        "backbone 'toy': the weights do not|transformers has no", described["reasons"][0]
    )
    found = open_model(tmp_path / "out").predict(cell.pixels)
    np.testing.assert_allclose(found, cell.scores, atol=1e-4)


def test_a_program_of_others_is_run_with_trust_alone(
    open_small: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = alone(open_small, BACKBONES.get("mean_color"))
    cell = write_cell(context)
    exported(context, tmp_path / "out")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of somebody else"))
    with pytest.raises(UsageError, match=r"was not exported by you .*: if you trust it, open"):
        open_model(tmp_path / "out")
    found = open_model(tmp_path / "out", trust_code=True).predict(cell.pixels)
    np.testing.assert_allclose(found, cell.scores, atol=1e-4)


def test_the_command_says_what_kind_of_folder_it_wrote(
    open_small: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = alone(open_small, BACKBONES.get("mean_color"))
    write_cell(context)
    out = tmp_path / "out"
    exported(context, out)
    monkeypatch.setattr("benchmark.api.load", lambda *_: context.experiment)
    monkeypatch.setattr("benchmark.api.export", lambda *_, **__: (out, None))
    command = ["export", "x.toml", "--backbone", "mean_color", "--out", str(out)]
    first, last = CliRunner().invoke(app, command).stdout.splitlines()
    assert first.startswith("a program of torch; predict.py in it runs without this package;")
    assert last == str(out)
    answer = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert answer == {"path": str(out), "kind": "program", "pushed": None}
