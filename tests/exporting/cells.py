"""Complete cells of frozen backbones, made without Ray, and the lines of their cards."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import skops.io

from benchmark.catalog.heads import HEADS
from benchmark.experiment.context import Context
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder
from benchmark.networks.fitted import write_fitted
from benchmark.specs import Fitted
from benchmark.tables import check_table, images_column, patches_schema, predictions_schema
from tests.forks import serve_forks

CLASSES = ("water", "trees|shrubs", "roads <5 m>")
RGB = ("red", "green", "blue")
PROVENANCE = {"versions": {"torch": "2.14"}, "code": "abc123", "machine": "a chip, 2 cores"}
NUM_TRAIN, NUM_TEST = 60, 24

PARAMS: Mapping[str, Mapping[str, Any]] = {
    "logistic_regression": {"C": 0.05, "scaler": "standard", "class_weight": "none"},
    "mlp": {"width": 16, "alpha": 1e-3, "learning_rate": 1e-2, "scaler": "standard"},
    "knn": {"n_neighbors": 5, "weights": "distance", "scaler": "standard"},
    "majority": {},
}
"""A configuration of each head."""

RUN_ALONE = """\
import os
import sys

os.chdir({cwd!r})
sys.stdout, sys.stderr = (open(name, "w") for name in ("printed.txt", "errors.txt"))
assert "benchmark" not in sys.modules

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "benchmark":
            raise ImportError("this package is not installed here")

sys.meta_path.insert(0, Blocker())
"""
"""What makes ``import benchmark`` fail in a process, and keeps what it prints."""


class Cell(NamedTuple):
    """What a cell's stored predictions belong to."""

    pixels: np.ndarray
    """Of test, uint8 (n, C, H, W)."""
    scores: np.ndarray
    """Stored probabilities, float32 (n, K)."""
    model: Any


def draw(num: int, *, size: int = 32, num_bands: int = 3, seed: int = 0) -> tuple[Any, Any]:
    """Return smooth pictures whose colours and textures depend on their class, and the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % len(CLASSES)
    coarse = rng.integers(0, 120, (num, num_bands, size // 4, size // 4))
    # Brightness varies more than the colours of the classes: no head is ever quite sure.
    coarse += rng.integers(0, 90, (num, num_bands, 1, 1))
    coarse += 20 * (labels[:, None, None, None] == np.arange(num_bands)[:, None, None] % 3)
    pixels = coarse.repeat(4, axis=2).repeat(4, axis=3) + rng.integers(0, 16, (num, 1, size, size))
    return pixels.astype(np.uint8), labels.astype(np.int32)


def write_patches(
    context: Context, *, size: int = 32, bands: tuple[str, ...] = RGB, split: str = "test"
) -> tuple[Any, Any]:
    """Complete the table ``patches``; return all pixels and labels, those of train first."""
    pixels, labels = draw(NUM_TRAIN + NUM_TEST, size=size, num_bands=len(bands))
    schema = patches_schema(len(bands), size)
    splits = ["train"] * NUM_TRAIN + [split] * NUM_TEST
    content: dict[str, Any] = {
        "patch_id": [f"p{i:04}" for i in range(len(splits))],
        "split": splits,
        "label": labels,
        "image": images_column(pixels),
    }
    content |= {name: [None] * len(splits) for name in schema.names if name not in content}
    table = check_table(pa.table(content), schema, what="patches")
    context.patches.write_table("part-000000.parquet", table)
    counts = [
        {"split": "train", "region": "", "counts": dict.fromkeys(CLASSES, NUM_TRAIN // 3)},
        {"split": "test", "region": "ohio", "counts": dict.fromkeys(CLASSES, NUM_TEST // 3)},
    ]
    context.patches.commit(
        {
            "classes": list(CLASSES),
            "bands": list(bands),
            "patch_size": size,
            "is_synthetic": False,
            "dataset_digest": "d" * 16,
            "class_counts": counts,
            "notes": [],
        }
    )
    return pixels, labels


def write_cell(
    context: Context,
    head: str = "logistic_regression",
    params: Mapping[str, Any] | None = None,
    *,
    model: Any = None,
    labels: Any = None,
    size: int = 32,
    bands: tuple[str, ...] = RGB,
    precision: str = "float32",
    shift: float = 0.0,
    split: str = "test",
) -> Cell:
    """Complete the patches and one cell: the first backbone of the context with a head.

    ``shift`` is added to the stored embeddings of test, ``split`` is the name of that split.
    """
    pixels, known = write_patches(context, size=size, bands=bands, split=split)
    labels = known if labels is None else labels
    backbone = context.backbones[0]
    state = None
    train = slice(0, NUM_TRAIN)
    if backbone.fit is not None:
        rng = np.random.default_rng(0)
        import torch

        state = {
            "mean": torch.rand(len(bands) * 128**2),
            "axes": torch.from_numpy(rng.normal(size=(6, len(bands) * 128**2)) / 100).float(),
        }
        write_fitted(context.embeddings(backbone), Fitted(state, {}))
    context.embeddings(backbone).begin({"precision": precision})
    plan = plan_device(precision="float32", num_threads=1, device="cpu")
    embeddings, _ = Embedder(backbone, bands, plan, state)(pixels)
    given = dict(PARAMS[head] if params is None else params)
    model = HEADS.get(head).build(given, 0) if model is None else model
    model.fit(embeddings[train], labels[train])
    scores = np.zeros((NUM_TEST, len(CLASSES)), np.float32)
    scores[:, model.classes_] = model.predict_proba(embeddings[NUM_TRAIN:] + np.float32(shift))
    ids = [f"p{i:04}" for i in range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)]
    artefact = context.predictions(backbone, HEADS.get(head), 0)
    table = pa.table(
        {
            "patch_id": ids,
            "y_pred": scores.argmax(1).astype(np.int32),
            "y_score": pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), 3),
        }
    )
    checked = check_table(table, predictions_schema(3), what="predictions")
    artefact.write_table("part-000000.parquet", checked)
    artefact.write_bytes("head.skops", skops.io.dumps(model))
    artefact.commit(
        {
            "head": head,
            "seed": 0,
            "params": given,
            "num_epochs": None,
            "val_score": 0.75,
            "num_trials": 3,
            "refit": "train+val",
            "seconds": {"trials": 1.0, "refit": 0.1, "device": 1.1},
            "provenance": PROVENANCE,
        }
    )
    return Cell(pixels[NUM_TRAIN:], scores, model)


def code_of(folder: Path, number: int = 0) -> str:
    """Return the lines of a model card, with the folder's place."""
    card = (folder / "README.md").read_text()
    code = card.split("```python\n")[1 + number].split("```")[0]
    return code.replace("path/to/this/folder", str(folder))


def run_alone(code: str, *, cwd: Path) -> str:
    """Run lines in a process without this package and network, and return what they print.

    It is a fork of one that holds other packages, which take seconds to import.
    """
    serve_forks()
    lines = f"{RUN_ALONE.format(cwd=str(cwd))}\n{code}"
    forks = multiprocessing.get_context("forkserver")
    process = forks.Process(target=exec, args=(lines, {"__name__": "__main__"}))
    process.start()
    process.join()
    assert process.exitcode == 0, (cwd / "errors.txt").read_text()
    return (cwd / "printed.txt").read_text().strip()
