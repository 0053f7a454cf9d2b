"""Head search through Ray Tune against a plain Optuna loop: python -m perf.tune

Ten trials each of logistic regression and MLP on 11,135 x 768 embeddings (made here, not real);
about 5 minutes on two cores. The loop has its BLAS threads free and fits the same trials; the
stage's time includes starting Ray.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import numpy as np
import pyarrow as pa

from benchmark.catalog.heads import HEADS
from benchmark.fitting import Rows, fit_segment
from benchmark.search import Search
from benchmark.tables import embeddings_column
from perf.toys import open_noise

SIZES = {"train": 11_135, "val": 2_088, "test": 2_586}
SHARES = (0.155, 0.602, 0.232, 0.003, 0.008)
DIM = 768


def make_rows(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return embeddings and labels per split: overlapping classes of the study's rarity."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 40)) * 0.55
    mix = rng.normal(size=(40, DIM)) / 6
    found = {}
    for split, count in SIZES.items():
        labels = rng.choice(5, count, p=SHARES)
        labels[:25] = np.arange(25) % 5
        inner = centres[labels] + rng.normal(size=(count, 40)) + 0.1 * (split != "train")
        x = inner @ mix + 0.3 * rng.normal(size=(count, DIM))
        found[split] = (x.astype(np.float32), labels.astype(np.int32))
    return found


def plain_loop(data, heads: list[str], num_trials: int) -> tuple[float, dict[str, float]]:
    """Return seconds and best val scores of one process that fits trial after trial."""
    ids = np.array(["x"])
    (x_train, y_train), (x_val, y_val), (x_test, _) = (data[split] for split in SIZES)
    rows = Rows(x_train, y_train, x_val, y_val, x_test, ids, ids)
    began = time.perf_counter()
    best = {}
    for name in heads:
        head = HEADS.get(name)
        search = Search(head, num_trials=num_trials, seed=0)
        while not search.is_searched:
            segment = search.next()
            outcome, _ = fit_segment(head, rows, segment, seed=0)
            search.tell(segment, outcome)
        best[name] = search.best.val_score
    return time.perf_counter() - began, best


def stage(data, heads: list[str], num_trials: int, *, pruning: bool):
    """Return seconds, best val scores and the share of time that trial slots were busy."""
    from benchmark.stages.tune import TuneStage

    with tempfile.TemporaryDirectory() as folder:
        context = open_noise(
            folder,
            3000,
            backbones=["random"],
            heads=heads,
            tune={"num_trials": num_trials, "pruning": pruning},
        )
        _write(context, data)
        began = time.perf_counter()
        with context.cluster:
            resources = context.cluster.connect()
            searching = time.perf_counter()
            result = TuneStage().run(context)
            ended = time.perf_counter()
        assert all(item.status == "complete" for item in result.cells), result.cells
        manifests = [cell.artefact.manifest() for cell in context.prediction_cells()]
        best = {item["head"]: item["val_score"] for item in manifests}
        busy = sum(item["seconds"]["device"] for item in manifests)
        return ended - began, best, busy / (ended - searching) / resources.num_cpus


def _write(context, data) -> None:
    ids, splits, labels, vectors = [], [], [], []
    for split, (x, y) in data.items():
        ids += [f"{split}-{row:06d}" for row in range(len(y))]
        splits += [split] * len(y)
        labels.append(y)
        vectors.append(x)
    table = pa.table({"patch_id": ids, "split": splits, "label": np.concatenate(labels)}).sort_by(
        "patch_id"
    )
    context.patches.write_table("part-000000.parquet", table)
    context.patches.commit({})
    embeddings = pa.table(
        {"patch_id": ids, "embedding": embeddings_column(np.concatenate(vectors))}
    )
    order = pa.array(np.argsort(ids))
    artefact = context.embeddings(context.backbones[0])
    artefact.write_table("part-000000.parquet", embeddings.take(order))
    artefact.commit({})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=10)
    options = parser.parse_args()
    data, heads = make_rows(), ["logistic_regression", "mlp"]
    whole, pruned = [], []
    for number in range(options.rounds):
        loop_s, loop_best = plain_loop(data, heads, options.trials)
        whole_s, whole_best, whole_busy = stage(data, heads, options.trials, pruning=False)
        pruned_s, pruned_best, pruned_busy = stage(data, heads, options.trials, pruning=True)
        whole.append(whole_s / loop_s)
        pruned.append(pruned_s / loop_s)
        print(
            f"{number}: loop {loop_s:.1f} s {loop_best}\n"
            f"   stage {whole_s:.1f} s, slots busy {whole_busy:.2f} {whole_best}\n"
            f"   pruned {pruned_s:.1f} s, slots busy {pruned_busy:.2f} {pruned_best}",
            flush=True,
        )
    for name, ratios in (("stage / loop", whole), ("pruned stage / loop", pruned)):
        print(
            f"{name}: median {statistics.median(ratios):.2f} "
            f"(min {min(ratios):.2f}, max {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
