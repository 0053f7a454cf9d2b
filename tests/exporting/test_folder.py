"""``export``: a cell as a folder that others can use, all of it or nothing, and its card."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from benchmark.catalog.backbones import BACKBONES
from benchmark.errors import BenchmarkError, UsageError
from benchmark.experiment.context import Context
from benchmark.exporting.folder import export, push
from benchmark.networks.classifier import build_classifier
from benchmark.networks.embedder import Preprocessing
from benchmark.specs import Backbone, Publication
from benchmark.tables import CONFUSION, SCORES
from tests.toys import toy

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("water", "trees|shrubs", "roads <5 m>")
RGB = ("red", "green", "blue")
PROVENANCE = {"versions": {"torch": "2.14"}, "code": "abc123", "machine": "a chip, 2 cores"}


def publish_toy(publication: Publication) -> None:
    (publication.folder / "classes.json").write_text(json.dumps(publication.classes))
    (publication.folder / "names.json").write_text(json.dumps(sorted(publication.state)))


def publish_failing(publication: Publication) -> None:
    publish_toy(publication)
    raise UsageError("the last file cannot be made")


def published(name: str = "toy", publish: Any = publish_toy) -> Backbone:
    return replace(toy(name), is_floor=False, publish=publish, hub_id="org/toy")


def write_patches(context: Context, *, is_synthetic: bool = False) -> None:
    counts = [
        {"split": "train", "region": "", "counts": dict(zip(CLASSES, (50, 60, 0), strict=True))},
        {"split": "val", "region": "delaware", "counts": dict.fromkeys(CLASSES, 9)},
        {"split": "test", "region": "ohio", "counts": dict(zip(CLASSES, (70, 80, 1), strict=True))},
        {"split": "test", "region": "iowa", "counts": dict(zip(CLASSES, (0, 9, 1), strict=True))},
    ]
    context.patches.commit(
        {
            "classes": list(CLASSES),
            "bands": list(RGB),
            "patch_size": 32,
            "is_synthetic": is_synthetic,
            "dataset_digest": "d" * 16,
            "class_counts": counts,
            "notes": ["The split is random."],
        }
    )


def write_finetuned(
    context: Context, backbone: Backbone, *, seed: int = 0, method: str = "finetune"
) -> torch.nn.Module:
    torch.manual_seed(seed)
    classifier = build_classifier(backbone, 3, len(CLASSES)).eval()
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if name.startswith(classifier.head_prefix):
                parameter.normal_()
    artefact = context.finetuned(backbone, seed, method=method)
    artefact.write_bytes("model.safetensors", save(classifier.state_dict()))
    artefact.commit(
        {
            "method": "finetune",
            "seed": seed,
            "params": {"learning_rate": 1e-3},
            "mode": "full",
            "num_epochs": 5,
            "val_score": 0.875,
            "num_trials": 2,
            "failed_trials": 1,
            "refit": "train",
            "seconds": {"trials": 10.0, "refit": 0.0, "device": 10.0},
            "provenance": PROVENANCE,
        }
    )
    return classifier


def write_scores(context: Context, backbone: str, method: str) -> None:
    key = {
        "dataset": context.dataset.name, "backbone": backbone, "method": method,
        "train_set": "all", "seed": 0,
    }  # fmt: skip
    rows = [
        {
            **key, "split": split, "metric": metric, "value": value, "ci_low": low,
            "ci_high": 0.9, "num_patches": 161, "fingerprint": "f", "artefact": "tune/x",
        }
        for split, value in (("val", 0.111), ("test", 0.812))
        for metric, low in (("balanced_accuracy", 0.7), ("recall/trees|shrubs", None))
    ]  # fmt: skip
    other = [{**row, "backbone": "another", "value": 0.222} for row in rows]
    counts = [[70, 0, 0], [8, 81, 0], [1, 1, 0]]
    table = {"counts": counts, "classes": ["a", "b", "c"]}
    confusion = [{**key, **table, "split": split} for split in ("val", "test")]
    artefact = context.scores()
    artefact.write_table("scores.parquet", pa.Table.from_pylist(other + rows, schema=SCORES))
    artefact.write_table("confusion.parquet", pa.Table.from_pylist(confusion, schema=CONFUSION))
    artefact.commit({"intervals": {"test": {"kind": "scene", "reason": "over 12 scenes."}}})


@pytest.fixture
def finetuned(open_small: Callable[..., Context]) -> Context:
    """A context with one complete fine-tuned cell of two seeds."""
    context = open_small(backbones=[published()], finetune={}, seeds=[0, 1])
    write_patches(context)
    write_finetuned(context, context.backbones[0])
    return context


def test_a_finetuned_backbone_is_published_with_its_classes(
    finetuned: Context, tmp_path: Path
) -> None:
    out = tmp_path / "a/b/out"
    assert export(finetuned, backbone="toy", method="finetune", seed=None, out=out) == out
    assert json.loads((out / "classes.json").read_text()) == list(CLASSES)
    assert json.loads((out / "names.json").read_text()) == [
        "body.conv.bias", "body.conv.weight", "head.bias", "head.weight",
    ]  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_the_card_says_what_it_is_and_how_well_it_works(finetuned: Context, tmp_path: Path) -> None:
    import yaml

    write_scores(finetuned, "toy", "finetune")
    export(finetuned, backbone="toy", method="finetune", seed=0, out=tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    _, matter, body = card.split("---\n", 2)
    assert yaml.safe_load(matter) == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "remote-sensing", "backbone-benchmark"],
        "base_model": "org/toy",
    }
    for line in (
        "# small: toy / finetune",
        "| class | train | val | test |",
        "|---|---:|---:|---:|",
        "| water | 50 | 9 | 70 |",
        "| trees\\|shrubs | 60 | 9 | 89 |",
        "| roads &lt;5 m> | 0 | 9 | 2 |",
        "Regions: val delaware; test ohio, iowa.",
        "The split is random.",
        "- Mode `full`, 5 epochs, 2 trial(s) of the search (1 failed), seed 0.",
        '- Settings: `{"learning_rate": 0.001}`',
        "- 10 device-seconds in all, on a chip, 2 cores.",
        "| balanced_accuracy | 0.812 | 0.700 to 0.900 |",
        "| recall/trees\\|shrubs | 0.812 | - to 0.900 |",
        "| metric | value | 95 % interval |",
        "161 patches, one seed. over 12 scenes.",
        "| | water | trees\\|shrubs | roads &lt;5 m> | ",
        "|---|---:|---:|---:|",
        "| trees\\|shrubs | 8 | 81 | 0 |",
        "- Few test patches, so their scores are rough: roads &lt;5 m> (2).",
        "- No patches in train: roads &lt;5 m>.",
        "- One of several seeds; the report has their spread.",
        "| torch | 2.14 |",
        "| code | abc123 |",
    ):
        assert line in body.splitlines(), line
    assert "0.111" not in card
    assert "0.222" not in card
    assert "ynthetic" not in card
    assert "\n\n\n" not in body
    # A table needs its lines together, and an empty line before it.
    for header in re.findall(r"(?m)^(.*)\n(\|.*\|.*)\n\|---", body):
        assert header[0] == ""


def test_a_card_without_scores_says_so(finetuned: Context, tmp_path: Path) -> None:
    export(finetuned, backbone="toy", method="finetune", seed=0, out=tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "Not evaluated." in card
    assert "It was not evaluated on test" in card
    assert "Confusion matrix" not in card


def test_the_card_of_a_synthetic_data_set_says_so(
    open_small: Callable[..., Context], tmp_path: Path
) -> None:
    context = open_small(backbones=[published()], finetune={})
    write_patches(context, is_synthetic=True)
    write_finetuned(context, context.backbones[0])
    export(context, backbone="toy", method="finetune", seed=0, out=tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "**Synthetic data: a program made the pictures for training and testing." in card
    assert "(synthetic), patches of each class" in card


@pytest.mark.slow
def test_an_exported_backbone_runs_without_the_benchmark(
    open_small: Callable[..., Context], tmp_path: Path
) -> None:
    backbone = replace(BACKBONES.get("random"), is_floor=False)
    context = open_small(backbones=[backbone], finetune={})
    write_patches(context)
    classifier = write_finetuned(context, backbone)
    out = tmp_path / "out"
    export(context, backbone="random", method="finetune", seed=0, out=out)
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC).save(out / "patch.png")
    card = (out / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", ".")
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; assert 'benchmark' not in sys.modules"],
        cwd=out,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    given = torch.from_numpy(np.array(Image.open(out / "patch.png")).transpose(2, 0, 1)[None])
    with torch.inference_mode():
        expected = classifier(Preprocessing(backbone, RGB)(given)).softmax(dim=1)[0]
    found = {item["label"]: item["score"] for item in eval(done.stdout)}
    assert [found[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=0.02)


# --- mistakes ---


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"backbone": "tot"}, r"^small.toml: unknown backbone 'tot'. Did you mean 'toy'\?"),
        ({"method": "finetun"}, r"unknown method 'finetun'. Did you mean 'finetune'\?"),
        (
            {"method": "nothing"},
            r"unknown method 'nothing'. Known: finetune, logistic_regression, m",
        ),
        ({"seed": 7}, r"unknown seed 7; choose one of: 0, 1"),
        ({"seed": 1}, r"'toy' with 'finetune', seed 1, is not complete \(finetune is missing"),
        (
            {"method": "majority"},
            r"is not complete \(tune is missing.*run `benchmark run small.toml",
        ),
    ],
)
def test_a_cell_that_is_not_there_is_one_clear_line(
    names: dict[str, Any], message: str, finetuned: Context, tmp_path: Path
) -> None:
    given = {"backbone": "toy", "method": "finetune", "seed": 0, **names}
    with pytest.raises(UsageError, match=message):
        export(finetuned, **given, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_experiment_without_finetuning_says_what_to_add(
    open_small: Callable[..., Context], tmp_path: Path
) -> None:
    context = open_small()
    with pytest.raises(UsageError, match=r"does not fine-tune; add a table \[finetune\]"):
        export(context, backbone="mean_color", method="finetune", seed=0, out=tmp_path / "out")


def test_folds_are_not_exported(open_small: Callable[..., Context], tmp_path: Path) -> None:
    context = open_small(backbones=[published()], protocol={"cross_validation": 3})
    with pytest.raises(UsageError, match=r"'cross_validation' trains a model for each fold, .*re"):
        export(context, backbone="toy", method="knn", seed=0, out=tmp_path / "model")


def test_a_backbone_that_is_not_finetuned_names_those_that_are(
    open_small: Callable[..., Context], tmp_path: Path
) -> None:
    context = open_small(backbones=[published(), BACKBONES.get("mean_color")], finetune={})
    with pytest.raises(UsageError, match=r"'mean_color' is not fine-tuned; .* choose one of: toy"):
        export(context, backbone="mean_color", method="finetune", seed=0, out=tmp_path / "out")


def test_of_several_modes_one_is_named(open_small: Callable[..., Context], tmp_path: Path) -> None:
    context = open_small(backbones=[published()], finetune={"modes": ["lora", "full"]})
    write_patches(context)
    write_finetuned(context, context.backbones[0], method="finetune-lora")
    out = export(context, backbone="toy", method="finetune-lora", seed=0, out=tmp_path / "out")
    assert "# small: toy / finetune-lora" in (out / "README.md").read_text()
    assert json.loads((out / "benchmark.json").read_text())["method"] == "finetune-lora"
    with pytest.raises(UsageError, match=r"'toy' with 'finetune-full', seed 0, is not complete"):
        export(context, backbone="toy", method="finetune-full", seed=0, out=tmp_path / "b")
    with pytest.raises(UsageError, match=r"unknown method 'finetune'\..*finetune-lora"):
        export(context, backbone="toy", method="finetune", seed=0, out=tmp_path / "b")
    single = open_small(backbones=[published()], finetune={"mode": "lora"})
    with pytest.raises(UsageError, match=r"unknown method 'finetune-lora'\..*'finetune'"):
        export(single, backbone="toy", method="finetune-lora", seed=0, out=tmp_path / "b")


def test_a_backbone_without_a_class_of_transformers_names_those_with_one(
    open_small: Callable[..., Context], tmp_path: Path
) -> None:
    backbones = [published(), published("other", publish=None)]
    context = open_small(backbones=backbones, finetune={})
    with pytest.raises(UsageError, match=r"transformers has no class for it; .*one of: toy"):
        export(context, backbone="other", method="finetune", seed=0, out=tmp_path / "out")


def test_a_folder_that_is_not_empty_is_left_alone(finetuned: Context, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"--out .*out: is not empty; name a new folder"):
        export(finetuned, backbone="toy", method="finetune", seed=0, out=out)
    with pytest.raises(UsageError, match=r"mine.txt: is a file"):
        export(finetuned, backbone="toy", method="finetune", seed=0, out=out / "mine.txt")
    with pytest.raises(UsageError, match=r"--out .*: cannot be written"):
        export(finetuned, backbone="toy", method="finetune", seed=0, out=out / "mine.txt/sub")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_an_export_that_fails_leaves_nothing(
    open_small: Callable[..., Context], tmp_path: Path
) -> None:
    context = open_small(backbones=[published(publish=publish_failing)], finetune={})
    write_patches(context)
    write_finetuned(context, context.backbones[0])
    target = tmp_path / "exports"
    with pytest.raises(UsageError, match=r"the last file cannot be made"):
        export(context, backbone="toy", method="finetune", seed=0, out=target / "out")
    assert list(target.iterdir()) == []


def test_damaged_weights_name_their_artefact(finetuned: Context, tmp_path: Path) -> None:
    artefact = finetuned.finetuned(finetuned.backbones[0], 0)
    artefact.write_bytes("_model.safetensors", b"torn")
    with pytest.raises(BenchmarkError, match=r"model.safetensors is damaged .*: delete this file"):
        export(finetuned, backbone="toy", method="finetune", seed=0, out=tmp_path / "out")


# --- the hub ---


class Hub:
    """Stands for the hub: remembers what it was told, or refuses."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._error = error

    def create_repo(self, repo: str, **options: Any) -> str:
        if self._error:
            raise self._error
        self.calls.append((repo, options))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> None:
        self.calls.append((repo_id, {"files": sorted(p.name for p in folder_path.iterdir())}))


def test_a_push_makes_a_private_repository(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("card")
    hub = Hub()
    assert push(tmp_path, "me/model", api=hub) == "https://huggingface.co/me/model"
    assert hub.calls == [
        ("me/model", {"private": True, "exist_ok": True}),
        ("me/model", {"files": ["README.md"]}),
    ]


def test_a_push_without_a_token_says_how_to_log_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"not logged in .* `hf auth login`, or set HF_TOKEN"):
        push(tmp_path, "me/model")


@pytest.mark.parametrize("repo", ["model", "a/b/c", "", "me/mo del"])
def test_a_push_to_no_repository_says_what_one_is(repo: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not the name of a repository; write ORG/NAME"):
        push(tmp_path, repo, api=Hub())


def test_a_push_that_fails_says_that_the_folder_is_there(tmp_path: Path) -> None:
    hub = Hub(ConnectionError("no route"))
    with pytest.raises(BenchmarkError, match=r"cannot be reached \(.*no route\); .* is written"):
        push(tmp_path, "me/model", api=hub)


def test_a_push_that_is_refused_says_how_to_log_in(tmp_path: Path) -> None:
    from huggingface_hub import errors

    response: Any = type("Response", (), {"status_code": 403, "headers": {}, "request": None})()
    hub = Hub(errors.HfHubHTTPError("403 Forbidden", response=response))
    with pytest.raises(UsageError, match=r"your token may not write there; log in again"):
        push(tmp_path, "me/model", api=hub)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, benchmark.exporting.folder\n"
        "print([m for m in ('torch', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
