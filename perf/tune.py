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
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from benchmark.catalog.heads import HEADS
from benchmark.search.bookkeeping import Search
from benchmark.search.fitting import Rows, fit_segment
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


class Measured(NamedTuple):
    """One run of the stage: seconds, best val scores, share of time that slots were busy."""

    seconds: float
    best: dict[str, float]
    busy: float


def stage(
    data, heads: list[str], num_trials: int, *, pruning: bool, seeds: int = 1, slots: int = 0
) -> Measured:
    """Run the stage, Ray's start and end included."""
    from benchmark.stages import tune

    with tempfile.TemporaryDirectory() as folder:
        context = open_noise(
            folder,
            3000,
            backbones=["random"],
            heads=heads,
            seeds=list(range(seeds)),
            tune={"num_trials": num_trials, "pruning": pruning},
        )
        _write(context, data)
        began = time.perf_counter()
        with context.cluster:
            context.cluster.connect(**({"num_cpus": slots} if slots else {}))
            from benchmark.stages.tune import searcher

            shares = []
            whole = searcher.search
            searcher.search = lambda *arguments: shares.append(whole(*arguments))
            result = tune.TuneStage().run(context)
            searcher.search = whole
        seconds = time.perf_counter() - began
        assert all(item.status == "complete" for item in result.cells), result.cells
        manifests = [cell.artefact.manifest() for cell in context.prediction_cells()]
        best = {item["head"]: item["val_score"] for item in manifests if item["seed"] == 0}
        return Measured(seconds, best, shares[0])


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
    context.patches.commit({"class_counts": [{"split": "train", "counts": {"a": SIZES["train"]}}]})
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
        one = stage(data, heads, options.trials, pruning=False)
        two = stage(data, heads, options.trials, pruning=True)
        whole.append(one.seconds / loop_s)
        pruned.append(two.seconds / loop_s)
        print(f"{number}: loop {loop_s:.1f} s {loop_best}")
        print(f"   stage  {one.seconds:.1f} s, slots busy {one.busy:.2f} {one.best}")
        print(f"   pruned {two.seconds:.1f} s, slots busy {two.busy:.2f} {two.best}", flush=True)
    for name, ratios in (("stage / loop", whole), ("pruned stage / loop", pruned)):
        print(
            f"{name}: median {statistics.median(ratios):.2f} "
            f"(min {min(ratios):.2f}, max {max(ratios):.2f})"
        )
    small = {split: (x[:3000], y[:3000]) for split, (x, y) in data.items()}
    many = stage(small, heads, options.trials, pruning=True, seeds=4, slots=8)
    print(f"8 slots, 8 searches: slots busy {many.busy:.2f}")


if __name__ == "__main__":
    main()
