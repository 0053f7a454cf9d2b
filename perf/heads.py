"""Time and memory of one fit of each head on many embeddings.

python -m perf.heads [--rows 100000 1000000] [--val-rows 20000] [--dim 768] [--heads mlp ...]

SIMULATED embeddings: 20 classes, normally distributed around centres that lie so close that a
logistic regression errs in about one case of ten. Each fit runs in a process of its own, with one
thread as a trial has, that maps the embeddings from a file, as trials map them from Ray's object
store: what is printed as memory is the largest private memory beside them, sampled every 5 ms.

python -m perf.heads --solvers [--photographs FOLDER --backbones lbp_glcm=64 hf:FOLDER=96 ...]

Logistic regression without scaler: CPU seconds of the head's fit against those of scikit-learn's
own, and both val scores, in turns in one process with one thread (10 CPU minutes). On SIMULATED
embeddings with columns of unequal variance; or on those of 64 px crops of photographs (a folder
for each class) by backbones, each with the size that crops are resized to; every fifth photograph
is val.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

NUM_CLASSES = 20
SAVED = ", refitted and saved"
"""Cases that fit on train and val, score few rows of val and test, and serialise the head as the
stage does."""
NUM_SCORED_IF_SAVED = 200
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "logistic_regression, scaled": (
        "logistic_regression", {"C": 1.0, "scaler": "standard", "class_weight": "none"},
    ),
    "logistic_regression, not scaled": (
        "logistic_regression", {"C": 1.0, "scaler": "none", "class_weight": "none"},
    ),
    "mlp, one epoch": (
        "mlp", {"width": 256, "alpha": 1e-4, "learning_rate": 1e-3, "scaler": "standard"},
    ),
    "knn": ("knn", {"n_neighbors": 10, "weights": "distance", "scaler": "l2"}),
    "ridge": ("ridge", {"alpha": 1.0, "scaler": "standard", "class_weight": "balanced"}),
    "linear_svm": ("linear_svm", {"C": 1.0, "scaler": "standard", "class_weight": "none"}),
    "lda": ("lda", {"shrinkage": 0.1, "priors": "equal", "scaler": "standard"}),
    "nearest_centroid": ("nearest_centroid", {}),
    "hist_gradient_boosting": (
        "hist_gradient_boosting",
        {"max_iter": 60, "learning_rate": 0.1, "max_leaf_nodes": 16, "max_features": 0.1,
         "l2_regularization": 1.0, "class_weight": "none"},
    ),
    "cosine_knn": ("cosine_knn", {}),
}  # fmt: skip
CASES |= {name + SAVED: CASES[name] for name in ("logistic_regression, scaled", "knn")}


def write_rows(folder: Path, num_rows: int, dim: int, num_val: int) -> None:
    """Write simulated train and val embeddings in blocks, so that memory stays small."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(NUM_CLASSES, dim)).astype(np.float32) * (3.3 / dim**0.5)
    for name, count in (("train", num_rows), ("val", num_val)):
        labels = generator.integers(0, NUM_CLASSES, count, np.int32)
        np.save(folder / f"y_{name}.npy", labels)
        shape = (count, dim)
        found = np.lib.format.open_memmap(folder / f"x_{name}.npy", "w+", np.float32, shape)
        for first in range(0, count, 50_000):
            part = labels[first : first + 50_000]
            noise = generator.standard_normal((len(part), dim), np.float32)
            found[first : first + 50_000] = centres[part] + noise
        found.flush()


def fit(folder: Path, case: str) -> None:
    """Fit one head as a trial does, and print its seconds, memory and val score as JSON."""
    from benchmark.catalog.heads import HEADS
    from benchmark.search.bookkeeping import Segment
    from benchmark.search.fitting import Rows, fit_segment, refit
    from benchmark.search.lean import torch_kept_away

    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    # Read once: pages in the cache of the system are as fast as Ray's shared memory.
    for item in arrays.values():
        item.max()
    empty = np.zeros(0, np.str_)
    rows = Rows(**arrays, x_test=arrays["x_val"], ids_val=empty, ids_test=empty)
    name, params = CASES[case]
    with torch_kept_away():
        import skops.io
    meter = Meter()
    began = time.perf_counter()
    head = HEADS.get(name)
    if case.endswith(SAVED):
        few = slice(NUM_SCORED_IF_SAVED)
        rows = rows._replace(x_val=rows.x_val[few], y_val=rows.y_val[few], x_test=rows.x_test[few])
        model, *_ = refit(head, rows, Segment("refit", 0, params, 0, 1), seed=0, on="train+val")
        skops.io.dumps(model)
        score = float("nan")
    else:
        outcome, _ = fit_segment(head, rows, Segment("fit", 0, params, 0, 1), seed=0)
        score = outcome.scores[-1]
    seconds = time.perf_counter() - began
    mapped = sum(item.nbytes for item in arrays.values())
    answer = {
        "seconds": seconds,
        "peak_gib": meter.stop() / 2**30,
        "rows_gib": mapped / 2**30,
        "score": score,
    }
    sys.stdout.write(json.dumps(answer) + "\n")


class Meter:
    """Samples the private memory of this process."""

    def __init__(self) -> None:
        """Begin."""
        self._first = self._peak = private_bytes()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ends.wait(0.005):
            self._peak = max(self._peak, private_bytes())

    def stop(self) -> int:
        """Return the largest increase since the begin, in bytes."""
        self._ends.set()
        self._thread.join()
        return self._peak - self._first


def simulate_unequal(num_classes: int, spread: float) -> list[np.ndarray]:
    """Return train and val, rows and labels; ``spread`` of the logarithm of a column's scale."""
    generator = np.random.default_rng(num_classes)
    centres = generator.normal(size=(num_classes, 40)) * 0.55
    mix, scale = generator.normal(size=(40, 1024)) / 6, np.exp(spread * generator.normal(size=1024))
    offset, found = generator.normal(size=1024) * scale, []
    for count in (11_135, 10_000):
        y = generator.integers(0, num_classes, count, np.int32)
        inner = (centres[y] + generator.normal(size=(count, 40))) @ mix
        x = (inner + 0.3 * generator.normal(size=(count, 1024))) * scale + offset
        found += [x.astype(np.float32), y]
    return found


def embed_crops(folder: Path, backbone: Any, size: int) -> list[np.ndarray]:
    """Return train and val, rows and labels, of overlapping crops of 64 px, resized to ``size``."""
    import torch
    from PIL import Image

    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(path, label) for label, item in enumerate(classes) for path in sorted(item.iterdir())]
    vectors, labels, is_val = [], [], []
    module = backbone.build(3).eval()
    for number, (path, label) in enumerate(files):
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        crops = pixels.unfold(1, 64, 48).unfold(2, 64, 48).permute(1, 2, 0, 3, 4)
        crops = crops.reshape(-1, 3, 64, 64).float() / 255
        if size != 64:
            crops = torch.nn.functional.interpolate(crops * 2 - 1, size=(size, size))
        with torch.inference_mode():
            vectors.append(np.asarray(module(crops), np.float32).reshape(len(crops), -1))
        labels += [label] * len(crops)
        is_val += [number % 5 == 4] * len(crops)
    x, y, held = np.concatenate(vectors), np.array(labels, np.int32), np.array(is_val)
    return [x[~held], y[~held], x[held], y[held]]


def compare_solvers(name: str, data: list[np.ndarray], strengths: list[float]) -> None:
    """Print CPU seconds and val scores of both fits for each C."""
    from sklearn.metrics import balanced_accuracy_score

    from benchmark.catalog.heads import HEADS

    head, (x, y, x_val, y_val) = HEADS.get("logistic_regression"), data
    totals, bests = [0.0, 0.0], [0.0, 0.0]
    for strength in strengths:
        params = {"C": strength, "scaler": "none", "class_weight": "none"}
        spent, scores, steps = [], [], []
        for fit_one in (lambda model, *rows: model.fit(*rows), head.fit_unscaled):
            model = head.build(params, 0)[-1]
            began = time.process_time()
            fit_one(model, x, y)
            spent.append(time.process_time() - began)
            scores.append(100 * balanced_accuracy_score(y_val, model.predict(x_val)))
            steps.append(int(model.n_iter_[0]))
        totals = [a + b for a, b in zip(totals, spent, strict=True)]
        bests = [max(a, b) for a, b in zip(bests, scores, strict=True)]
        print(
            f"{name} {x.shape} C={strength:g}: {spent[0]:.2f} s ({steps[0]}), val {scores[0]:.2f}; "
            f"head {spent[1]:.2f} s ({steps[1]}), val {scores[1]:.2f} "
            f"({scores[1] - scores[0]:+.2f}); ratio {spent[1] / spent[0]:.2f}",
            flush=True,
        )
    print(
        f"{name}: all {totals[0]:.1f} and {totals[1]:.1f} s, ratio {totals[1] / totals[0]:.2f}; "
        f"best val {bests[0]:.2f} and {bests[1]:.2f} ({bests[1] - bests[0]:+.2f})",
        flush=True,
    )


def compare_all(photographs: Path | None, backbones: list[str], strengths: list[float]) -> None:
    """Compare the fits on embeddings of photographs, or on simulated ones."""
    import warnings

    from benchmark.catalog.backbones import find_backbone

    warnings.simplefilter("ignore")
    if photographs is None:
        for num_classes, spread in ((5, 1.5), (10, 2.0)):
            data = simulate_unequal(num_classes, spread)
            compare_solvers(f"SIMULATED, {num_classes} classes", data, strengths)
        return
    for item in backbones:
        name, _, size = item.rpartition("=")
        data = embed_crops(photographs, find_backbone(name), int(size))
        compare_solvers(f"{Path(name).name} at {size} px", data, strengths)


def private_bytes() -> int:
    """Return the memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--val-rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--heads", nargs="+", default=[])
    parser.add_argument("--fit", nargs=2, metavar=("FOLDER", "CASE"), help=argparse.SUPPRESS)
    parser.add_argument("--solvers", action="store_true")
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--backbones", nargs="+", default=["lbp_glcm=64", "efficientnet_lite0=96"])
    parser.add_argument("--strengths", type=float, nargs="+", default=[1e-4, 1e-2, 1.0, 1e2, 1e4])
    given = parser.parse_args()
    if given.solvers:
        with threadpool_limits(1):
            compare_all(given.photographs, given.backbones, given.strengths)
        return
    if given.fit:
        fit(Path(given.fit[0]), given.fit[1])
        return
    for num_rows in given.rows:
        with tempfile.TemporaryDirectory(prefix="heads-") as folder:
            write_rows(Path(folder), num_rows, given.dim, given.val_rows)
            for case in CASES:
                if given.heads and not any(case.startswith(name) for name in given.heads):
                    continue
                command = [sys.executable, "-m", "perf.heads", "--fit", folder, case]
                # Ray gives a trial one CPU, and its libraries one thread.
                one = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, capture_output=True, text=True, env=one)
                if done.returncode:
                    last = (done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1]
                    print(f"SIMULATED {num_rows:,} x {given.dim}: {case}: {last}", flush=True)
                    continue
                found = json.loads(done.stdout)
                print(
                    f"SIMULATED {num_rows:,} x {given.dim} ({found['rows_gib']:.2f} GiB): {case}: "
                    f"{found['seconds']:.1f} s, {found['peak_gib']:.2f} GiB beside the embeddings"
                    + ("" if case.endswith(SAVED) else f", val {found['score']:.4f}"),
                    flush=True,
                )


if __name__ == "__main__":
    main()
