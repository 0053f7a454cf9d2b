"""Fine-tuning on a real Ray: cells, resumption, several workers, and refused settings."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from benchmark.errors import UsageError
from benchmark.experiment.rates import Rates
from benchmark.stages.estimating import estimate
from benchmark.stages.evaluate import EvaluateStage
from benchmark.stages.finetune import FinetuneStage
from benchmark.store.names import beside
from benchmark.tables import CURVES, TRIALS, check_table, predictions_schema, vectors_array
from tests.toys import (
    build_blocks,
    build_forgetful,
    build_nan_gradients,
    build_slow,
    build_suicidal,
    toy,
)

ROOT = Path(__file__).parents[2]

RECIPE = {"num_epochs": 2, "batch_size": 32, "learning_rate": 0.01, "backbone_ratio": 1.0}


@pytest.fixture(scope="module")
def patches_store(new_store):
    return new_store()


@pytest.fixture
def opened(open_small, patches_store):
    """Open contexts on stores that hold the patches, by default on one for all."""

    def open_with(backbones, store=patches_store, **recipe):
        # Toys are made from a floor, which is fine-tuned only by name.
        table = {**RECIPE, "backbones": [item.name for item in backbones], **recipe}
        return open_small(store=store, backbones=backbones, finetune=table)

    return open_with


def _run(context):
    return {item.cell.backbone: item for item in FinetuneStage().run(context).cells}


def _predictions(context, backbone, seed=0):
    return context.finetuned(backbone, seed).read_table()


@pytest.fixture(scope="module")
def trained(open_small_session, patches_store):
    """One run of a good backbone, one whose loss breaks, and one short of memory."""
    backbones = [
        toy("searched"), toy("nan", build_nan_gradients), toy("forgetful", build_forgetful)
    ]  # fmt: skip
    table = {**RECIPE, "backbones": [item.name for item in backbones], "num_trials": 3}
    context = open_small_session(store=patches_store, backbones=backbones, finetune=table)
    return (
        context,
        dict(zip(("searched", "nan", "forgetful"), backbones, strict=True)),
        _run(context),
    )


def test_a_search_writes_predictions_trials_a_curve_and_the_best_weights(trained):
    context, backbones, cells = trained
    assert cells["searched"].status == "complete"
    rate = Rates(context.cluster.place).find("finetune", "searched", "full", "32 px")
    assert (rate.num_patches, rate.num_items % context.num_train) == (context.num_train, 0)
    artefact = context.finetuned(backbones["searched"], 0)
    splits = context.patches.read_table(columns=["patch_id", "split"]).to_pandas()
    table = check_table(artefact.read_table(), predictions_schema(5), what="predictions")
    wanted = splits.loc[splits["split"] != "train", "patch_id"].tolist()
    assert table["patch_id"].to_pylist() == wanted
    np.testing.assert_allclose(vectors_array(table["y_score"]).sum(axis=1), 1, atol=1e-4)
    trials = check_table(artefact.read_table(names=[beside("trials")]), TRIALS, what="trials")
    first = json.loads(trials["params"][0].as_py())
    assert first["learning_rate"] == 0.01 and first["num_epochs"] == 2
    assert trials.num_rows == 3
    curve = check_table(artefact.read_table(names=[beside("curve")]), CURVES, what="curve")
    manifest = artefact.manifest()
    assert manifest["val_score"] == pytest.approx(max(curve["val_score"].to_pylist()))
    assert manifest["seconds"]["device"] > 0
    assert manifest["method"] == "finetune"
    assert manifest["peak_memory_bytes"] > 50e6
    assert manifest["energy"].keys() in ({"joules", "reason"}, {"joules", "told_by"})
    # Only the best weights are left.
    left = set(artefact.files())
    assert left == {
        "_manifest.json", "_model.safetensors", "_plan.json", "_tables/curve.parquet",
        "_tables/trials.parquet", "part-000000.parquet",
    }  # fmt: skip


def test_a_loss_that_is_not_finite_fails_its_cell_and_leaves_the_neighbours(trained):
    _, _, cells = trained
    assert cells["searched"].status == cells["forgetful"].status == "complete"
    assert cells["nan"].status == "failed"
    assert "the loss became nan in epoch 1" in cells["nan"].reason


def test_too_little_memory_halves_the_micro_batch_and_says_so(trained):
    context, backbones, _ = trained
    (note,) = context.finetuned(backbones["forgetful"], 0).manifest()["notes"]
    assert note == "forgetful: out of memory: the micro-batch was halved to 4"


def test_fine_tuned_cells_are_scored(trained):
    context, _, _ = trained
    assert EvaluateStage().run(context).cells[0].status == "complete"
    scores = context.scores().read_table(names=["scores.parquet"]).to_pandas()
    assert set(scores["backbone"]) == {"searched", "forgetful"}
    assert set(scores["method"]) == {"finetune"}


@pytest.fixture(scope="module")
def killed(open_small_session, new_store, tmp_path_factory):
    """One run of a network whose process dies once, in the second epoch, and of the same calm."""
    folder = tmp_path_factory.mktemp("killed")
    dying, calm = (
        toy(name, partial(build_suicidal, str(folder / name), 25)) for name in ("dying", "calm")
    )
    # With the flag raised already it never dies.
    (folder / "calm").write_text("")
    table = {**RECIPE, "backbones": ["dying", "calm"]}
    context = open_small_session(store=new_store(), backbones=[dying, calm], finetune=table)
    assert {name: item.status for name, item in _run(context).items()} == {
        "dying": "complete",
        "calm": "complete",
    }
    assert (folder / "dying").exists()
    return context, dying, calm


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint_to_the_same_result(killed):
    """A process that dies once, in the second epoch, costs at most its current epoch."""
    context, dying, calm = killed
    assert context.finetuned(dying, 0).manifest()["incidents"] == [
        {"kind": "trial_repeated", "count": 1, "detail": "its process died"}
    ]
    assert _predictions(context, dying).equals(_predictions(context, calm))
    curves = [
        context.finetuned(item, 0)
        .read_table(names=[beside("curve")])
        .drop(["seconds", "train_seconds"])
        for item in (dying, calm)
    ]
    assert curves[0].equals(curves[1])


@pytest.fixture(scope="module")
def pairs(open_small_session, new_store, tmp_path_factory):
    """One run with two workers of a network that kills one of them, and of one that fails."""
    flag = tmp_path_factory.mktemp("pairs") / "died"
    pair = toy("pair", partial(build_suicidal, str(flag), 13))
    broken = toy("nan pair", build_nan_gradients)
    table = {**RECIPE, "backbones": ["pair", "nan pair"], "num_workers": 2}
    context = open_small_session(store=new_store(), backbones=[pair, broken], finetune=table)
    cells = _run(context)
    assert flag.exists()
    return context, pair, cells


@pytest.mark.slow
def test_two_workers_score_as_one_and_survive_a_kill(killed, pairs):
    context, pair, cells = pairs
    assert cells["pair"].status == "complete"
    (incident,) = context.finetuned(pair, 0).manifest()["incidents"]
    assert incident == {"kind": "process_restarted", "count": 1, "detail": ""}
    assert len(context.finetuned(pair, 0).files("part-")) == 2
    # The same network, trained by one worker.
    one, _, calm = killed
    predictions = _predictions(context, pair), _predictions(one, calm)
    tables = [vectors_array(item["y_score"]) for item in predictions]
    np.testing.assert_allclose(tables[0], tables[1], atol=2e-3)


@pytest.mark.slow
def test_an_error_of_one_of_two_workers_ends_its_cell_without_a_hang(pairs):
    _, _, cells = pairs
    assert cells["nan pair"].status == "failed"
    assert "the loss became nan in epoch 1" in cells["nan pair"].reason


@pytest.mark.slow
def test_train_streamed_gives_every_patch_once_and_a_result(opened):
    from benchmark.stages.finetune.stream import StreamFeed
    from benchmark.training.feeds import Shard

    backbone = toy("streamed")
    context = opened([backbone], ingest="stream")
    ids = context.patches.read_table(columns=["patch_id"], splits=("train",))["patch_id"]
    seen = []
    for rank in range(2):
        feed = StreamFeed(
            context.patches, (4, 32, 32), ("train",), batch_size=16, seed=0,
            shard=Shard(rank, 2), window=40,
        )  # fmt: skip
        batches = list(feed.batches(1))
        assert len(batches) == feed.num_steps
        resumed = list(feed.batches(1, first_step=2))
        assert [list(b.ids) for b in resumed] == [list(b.ids) for b in batches[2:]]
        other = [str(i) for batch in feed.batches(2) for i in batch.ids]
        mine = [str(i) for batch in batches for i in batch.ids]
        assert mine != other and sorted(mine) == sorted(other)
        seen += mine
    assert sorted(seen) == ids.to_pylist()
    assert _run(context)["streamed"].status == "complete"


@pytest.mark.slow
def test_a_batch_is_no_larger_than_train_and_a_mode_leaves_out_what_it_does_not_suit(
    opened, monkeypatch
):
    linear, convolutions = toy("linear", build_blocks), toy("convolutions")
    context = opened([linear, convolutions], mode="lora", batch_size=4000, num_trials=1)
    said = []
    monkeypatch.setattr(context.progress, "message", said.append)
    cells = {item.cell.backbone: item for item in FinetuneStage().run(context).cells}
    assert cells["convolutions"].status == "left out"
    assert "no linear layers; use" in cells["convolutions"].reason
    assert sum("left out" in text and "'convolutions'" in text for text in said) == 1
    # The store says so, too, to whoever does not look at the network; nothing has failed.
    artefact = cells["convolutions"].cell.artefact
    assert artefact.status() == ("left out", cells["convolutions"].reason)
    assert not context.failures
    assert context.why_missing(artefact).startswith("finetune is left out: [finetune] mode")
    artefact.fail("no room")
    assert artefact.status() == ("failed", "no room")
    assert cells["linear"].status == "complete", cells["linear"].reason
    (note,) = cells["linear"].cell.artefact.manifest()["notes"]
    assert note == (
        f"linear: batch_size = 4000 was lowered to {context.num_train}, the number of train patches"
    )
    assert cells["linear"].cell.artefact.manifest()["plan"]["batch_size"] == context.num_train


def test_more_workers_than_cpus_are_refused(opened):
    context = opened([toy("crowded")], num_workers=5)
    with pytest.raises(UsageError, match=r"num_workers = 5: the cluster has 2 CPUs"):
        FinetuneStage().check(context)


def test_the_only_mode_that_does_not_suit_is_left_out_before_anything_starts(opened):
    context = opened([toy("convolutions")], mode="lora")
    FinetuneStage().check(context)
    (reason,) = context.left_out.values()
    assert "'convolutions' has no linear layers" in reason


@pytest.mark.parametrize("backbone", ["small", "large", "broken"])
def test_a_mode_that_does_not_suit_is_foreseen_where_a_network_is_quickly_built(opened, backbone):
    networks = {
        "small": toy("small"),
        "large": replace(toy("large"), num_parameters=10**9),
        "broken": toy("broken", lambda num_bands: num_bands.absent),
    }
    context = opened([networks[backbone], toy("linear", build_blocks)], modes=["lora", "full"])
    results = FinetuneStage().status(context)
    found = {(item.cell.backbone, item.cell.method): item for item in results}
    foreseen = {key for key, item in found.items() if item.status == "left out"}
    assert foreseen == ({(backbone, "finetune-lora")} if backbone == "small" else set())
    assert {item.status for item in results} <= {"missing", "stale", "left out"}
    assert not found[backbone, "finetune-lora"].cell.artefact.files()
    left = [item.cell.label for item in results if item.status not in ("complete", "left out")]
    estimated = estimate(context, results, Rates("local", Path("absent")))
    assert sum(item.num_cells for item in estimated.stages) == len(left)


def test_of_several_modes_only_the_one_that_does_not_suit_is_left_out(opened, monkeypatch):
    context = opened([toy("convolutions")], modes=["lora", "full"])
    said = []
    monkeypatch.setattr(context.progress, "message", said.append)
    for _ in range(2):
        FinetuneStage().check(context)
    (text,) = said
    assert text.startswith(
        "finetune: left out: [finetune] mode = \"lora\": backbone 'convolutions'"
    )


def test_missing_patches_block_the_cells(ray_session, open_small):
    backbone = replace(toy("early"), version=99)
    context = open_small(backbones=[backbone], finetune={**RECIPE, "backbones": ["early"]})
    (item,) = FinetuneStage().run(context).cells
    assert (item.status, item.reason) == (
        "failed",
        "patches is missing: run `benchmark patches` first",
    )


DRIVER = """
import json, sys
from benchmark.api import open_context
from benchmark.config import build
from benchmark.stages.estimating import estimate
from benchmark.stages.evaluate import EvaluateStage
from benchmark.stages.finetune import FinetuneStage
from tests.toys import build_slow, toy

content = {
    "name": "killed", "backbones": ["random"], "heads": ["majority"],
    "dataset": {"name": "chesapeake", "root": sys.argv[1], "patch_size": 32, "per_region": 40},
    "finetune": json.loads(sys.argv[3]),
}
with open_context(build(content), store=sys.argv[2], address=sys.argv[4]) as context:
    context.backbones = (toy("random", build_slow),)
    FinetuneStage().run(context)
"""


@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(opened, patches_store, scenes):
    slow, table = toy("random", build_slow), {"num_epochs": 3}
    context = opened([slow], **table)
    content = json.dumps({**RECIPE, **table, "backbones": ["random"]})
    # On the Ray of this process, which outlives the driver as a cluster does.
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, str(scenes), str(patches_store), content, address]
    process = subprocess.Popen(command, start_new_session=True, cwd=ROOT)
    folder = Path(context.finetuned(slow, 0).path)
    deadline = time.monotonic() + 100
    # The checkpoint of an epoch follows its log, and takes a second.
    while not (folder / "trial-000-last.safetensors").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = json.loads((folder / "trial-000-log.json").read_text())["curve"]
    assert 1 <= len(before) < 3
    assert _run(context)["random"].status == "complete"
    curve = pq.read_table(folder / "_tables/curve.parquet").to_pylist()
    # Complete epochs are not computed again: their seconds are the same.
    assert len(curve) == 3
    assert [row["seconds"] for row in curve[: len(before)]] == [row["seconds"] for row in before]
