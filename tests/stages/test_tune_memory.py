"""Heads and memory: what a trial books, what fits, and embeddings that are there once."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from benchmark.catalog.heads import HEADS
from benchmark.cluster.connection import Node, Resources
from benchmark.errors import BenchmarkError, CellError
from benchmark.experiment.train_sets import ALL, ChosenPatches
from benchmark.specs import UNMEASURED, HeadMemory
from benchmark.stages.embed import EmbedStage
from benchmark.stages.searching import CellSearcher
from benchmark.stages.tune import TuneStage, searcher, shelf, vectors
from benchmark.stages.tune.job import Job
from benchmark.stages.tune.memory import Booking, Sizes, book_trial, estimate_trial, plan_memory
from benchmark.stages.tune.shelf import load_rows
from benchmark.store.artefacts import Store
from benchmark.tables import embeddings_column, vectors_array

MILLION = Sizes(num_train=1_000_000, num_val=20_000, num_test=20_000, dim=768, num_classes=20)
USUAL = Sizes(num_train=8_000, num_val=1_500, num_test=1_635, dim=768, num_classes=6)


def cluster(*nodes: tuple[float, float]) -> Resources:
    """Return a cluster of machines, each with its CPUs and GB for trials."""
    machines = tuple(Node(cpus, 0.0, 1e9 * memory) for cpus, memory in nodes)
    return Resources(sum(cpus for cpus, _ in nodes), 0.0, 0.0, nodes=machines)


def plan(needed: float, resources: Resources, *, loaded: float = 0.0, most: float = math.inf):
    found = plan_memory(1e9 * needed, 1e9 * loaded, resources, most_trials=most, what="head 'x'")
    return found.num_bytes / 1e9, found.most


@pytest.mark.parametrize("name", HEADS.names())
@pytest.mark.parametrize("refit", ["train", "train+val"])
def test_usual_sizes_book_nothing_on_a_small_machine(name: str, refit: str) -> None:
    needed = estimate_trial(HEADS.get(name).memory, USUAL, refit=refit)
    assert needed < 0.6e9
    for machine in (cluster((2, 4)), cluster((64, 0.1))):
        found = plan_memory(needed, USUAL.num_bytes, machine, most_trials=math.inf, what="")
        assert found == Booking(0.0)


def test_an_estimate_grows_with_rows_and_more_for_code_that_nobody_measured() -> None:
    linear = HEADS.get("logistic_regression").memory
    one = estimate_trial(linear, MILLION, refit="train")
    assert MILLION.num_train * 768 * 4 < one < 2 * MILLION.num_bytes
    assert one < estimate_trial(linear, MILLION, refit="train+val")
    assert one < estimate_trial(linear, MILLION._replace(num_classes=1000), refit="train")
    assert one < estimate_trial(UNMEASURED, MILLION, refit="train")
    none = HeadMemory(copies=0.0)
    joined = estimate_trial(none, MILLION, refit="train+val")
    assert joined - estimate_trial(none, MILLION, refit="train") == 4 * 768 * 1_020_000


def test_trials_book_the_share_of_a_cpu_and_more_where_memory_is_scarce() -> None:
    assert plan(3, cluster((2, 6))) == (3, 0)
    assert plan(3, cluster((8, 80))) == (10, 0)
    assert plan(3, cluster((8, 6)), most=2) == (3, 0)
    assert plan(3, cluster((8, 10))) == (pytest.approx(10 / 3), 3)
    # Who loads the embeddings needs memory beside the trials.
    assert plan(3, cluster((2, 8)), loaded=3) == (8, 1)
    # The share of the machine with the least for a CPU: each takes as many trials as CPUs.
    assert plan(1, cluster((2, 10), (2, 3))) == (1.5, 0)
    # A small machine of the cluster takes none, or fewer.
    assert plan(3, cluster((2, 10), (2, 2))) == (pytest.approx(10 / 3), 3)
    # Machines without a CPU run no trials; where Ray does not tell, nothing is known.
    assert plan(3, cluster((2, 6), (0, 1))) == (3, 0)
    assert plan(3, cluster((2, 0))) == (0, 0)


def test_a_head_that_no_machine_can_hold_is_refused_in_one_line() -> None:
    with pytest.raises(
        BenchmarkError, match=r"^head 'x': one trial needs about 7\.0 GB, and the"
    ) as error:
        plan(4, cluster((2, 3), (2, 6.4)), loaded=3)
    assert "has 6.4 GB for it" in str(error.value)
    assert "[dataset] per_class" in str(error.value)


def test_a_trial_books_a_cpu_and_its_memory() -> None:
    assert book_trial({"memory": 5e9}).bundles == [{"CPU": 1.0, "memory": 5e9}]
    assert book_trial({"memory": 0.0}).bundles == [{"CPU": 1.0}]


def write_tables(folder: Path, *, dim: int = 6, num_parts: int = 4, part_rows: int = 25):
    """Write patches and their embeddings, whose first value is the number of the patch."""
    store = Store(str(folder))
    number = num_parts * part_rows
    ids = np.array([f"p{i:06d}" for i in range(number)])
    splits = np.array(["train", "val", "test", "train"])[np.arange(number) % 4]
    patches = store.artefact("patches", "toy", "0")
    labels = pa.array(np.arange(number) % 3, pa.int32())
    patches.write_table(
        "part-000000.parquet", pa.table({"patch_id": ids, "split": splits, "label": labels})
    )
    embeddings = store.artefact("embed", "toy", "0")
    # Each part holds rows of everywhere, not sorted.
    order = np.random.default_rng(0).permutation(number).reshape(num_parts, part_rows)
    for part, rows in enumerate(order):
        values = np.zeros((part_rows, dim), np.float32)
        values[:, 0] = rows
        column = embeddings_column(values)
        embeddings.write_table(
            f"part-{part:06d}.parquet", pa.table({"patch_id": ids[rows], "embedding": column})
        )
    return patches, embeddings


def test_rows_are_in_the_order_of_their_identities(tmp_path: Path) -> None:
    rows = load_rows(*write_tables(tmp_path))
    assert rows.x_train[:, 0].tolist() == [i for i in range(100) if i % 4 in (0, 3)]
    assert rows.x_val[:, 0].tolist() == list(range(1, 100, 4))
    assert rows.x_test[:, 0].tolist() == list(range(2, 100, 4))
    assert rows.y_val.tolist() == [i % 3 for i in range(1, 100, 4)]
    assert rows.ids_test.tolist() == [f"p{i:06d}" for i in range(2, 100, 4)]


def test_loading_holds_the_rows_once_and_a_part(tmp_path: Path, monkeypatch) -> None:
    patches, embeddings = write_tables(tmp_path, dim=768, num_parts=20, part_rows=500)
    load_rows(patches, embeddings)  # Imports take memory too.
    before, held = pa.total_allocated_bytes(), []

    def watched(column):
        held.append(pa.total_allocated_bytes() - before)
        return vectors_array(column)

    monkeypatch.setattr(vectors, "vectors_array", watched)
    tracemalloc.start()
    try:
        rows = load_rows(patches, embeddings)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = rows.x_train.nbytes + rows.x_val.nbytes + rows.x_test.nbytes
    assert peak < 1.4 * whole
    assert len(held) == 20 and max(held) < 0.3 * whole


def test_parts_of_another_length_are_damage(tmp_path: Path) -> None:
    patches, embeddings = write_tables(tmp_path)
    column = embeddings_column(np.zeros((1, 1), np.float32))
    table = pa.table({"patch_id": ["p000000"], "embedding": column})
    embeddings.write_table("part-000009.parquet", table)
    with pytest.raises(CellError, match="its embeddings have another length"):
        load_rows(patches, embeddings)


@pytest.mark.slow
def test_a_head_that_fits_nowhere_fails_alone_and_one_that_fits_once_runs(
    new_store, open_small, monkeypatch
) -> None:
    """The first is refused before a trial; the trials of the second run one after another."""
    store = new_store()
    context = open_small(store=store)
    EmbedStage().run(context)
    rows, num_classes = context.patches.manifest()["num_patches"], len(context.source.classes)
    (machine,) = context.cluster.connect().nodes
    sizes = [int(share * machine.memory / rows / num_classes) for share in (2.0, 0.6)]
    knn = HEADS.get("knn")
    heads = [
        replace(knn, name=name, memory=HeadMemory(bytes_per_score=size))
        for name, size in zip(("huge", "large"), sizes, strict=True)
    ]
    searchers, messages = [], []

    def watched(*given):
        searchers.append(CellSearcher(*given))
        return searchers[-1]

    monkeypatch.setattr(searcher, "CellSearcher", watched)
    context = open_small(store=store, heads=heads, tune={"num_trials": 6, "max_concurrent": "auto"})
    monkeypatch.setattr(context.progress, "message", messages.append)
    result = TuneStage().run(context)
    found = {item.cell.method: (item.status, item.reason) for item in result.cells}
    assert found["large"] == ("complete", "")
    status, reason = found["huge"]
    assert status == "failed"
    wanted = rf"^head 'huge' on {rows} x 8 embeddings: one trial needs about \d+\.\d GB, and "
    assert re.match(wanted, reason), reason
    assert any("at most 1 trial at once on a machine" in text for text in messages)
    spans = sorted(searchers[0]._spans)
    assert len(spans) == 7
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


@pytest.mark.parametrize("error", [OutOfDiskError, ObjectStoreFullError])
def test_embeddings_that_ray_cannot_hold_are_refused_in_one_line(
    tmp_path: Path, monkeypatch, error
) -> None:
    patches, embeddings = write_tables(tmp_path)
    rows = load_rows(patches, embeddings)

    def full(value):
        raise error("full")

    monkeypatch.setattr(shelf.ray, "put", full)
    with pytest.raises(CellError, match=r"embeddings need 0\.0 GB in Ray's object store, which is"):
        shelf.share_rows(rows, what=embeddings.uri)


def check_shared(folder: Path) -> None:
    """Two tasks of the connected Ray map one copy of the rows."""
    patches, embeddings = write_tables(folder, dim=768, num_parts=80, part_rows=500)
    job: Any = Job(None, 0, "train", 3, ChosenPatches(patches, ALL, 0), embeddings, None)
    actor = shelf.Shelf.options(num_cpus=0).remote([job])

    @ray.remote
    def look():
        def private():
            lines = Path("/proc/self/status").read_text().splitlines()
            return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

        import benchmark.search.fitting  # noqa: F401

        before = private()
        (reference,) = ray.get(actor.rows.remote(0))
        rows = ray.get(reference)
        total = float(rows.x_train.sum()) + float(rows.x_val.sum()) + float(rows.x_test.sum())
        x = rows.x_train
        copies = (private() - before) / x.nbytes
        return total, x.flags.writeable, x.flags.owndata, copies, reference.hex()

    one, two = ray.get([look.remote() for _ in range(2)])
    assert one[0] == two[0] > 0, (one, two)
    assert one[4] == two[4], "two objects"
    for found in (one, two):
        assert not found[1] and not found[2] and found[3] < 0.3, found


@pytest.mark.slow
def test_trials_map_one_copy(ray_session: None, tmp_path: Path) -> None:
    check_shared(tmp_path)


SMALL_STORE = """
import sys
from pathlib import Path

import ray
from tests.forked_workers import install
from tests.stages.test_tune_memory import check_shared

install()
ray.init(
    address="local",
    num_cpus=2,
    object_store_memory=80_000_000,
    include_dashboard=False,
    log_to_driver=False,
)
check_shared(Path(sys.argv[1]))
print("shared")
"""


@pytest.mark.slow
def test_trials_map_one_copy_where_the_object_store_is_too_small(tmp_path: Path) -> None:
    """Ray maps a file on disk where 123 MB do not fit into its store of 80 MB."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL_STORE, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.strip().endswith("shared"), done.stderr[-2000:]
