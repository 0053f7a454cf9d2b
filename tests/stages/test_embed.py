import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import UsageError
from benchmark.experiment.rates import Rates
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder
from benchmark.stages.embed import EmbedStage
from benchmark.tables import images_array, vectors_array
from tests.toys import (
    build_constant,
    build_dawdling,
    build_killer,
    build_mortal,
    build_not_finite,
    processed,
    processes_of,
    toy,
)

AUTO = {"num_actors": "auto"}


@pytest.fixture(scope="module")
def patches_store(new_store):
    return new_store()


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    """The folder that names the processes of a backbone with an image processor."""
    return tmp_path_factory.mktemp("noted")


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def embedded(open_small_session, patches_store, noted, said):
    """One pipeline of good, broken and constant backbones; most tests look at it."""
    good, nan, flat = toy("good"), toy("nan", build_not_finite), toy("flat", build_constant)
    backbones = [nan, good, flat, processed("halved", noted)]
    context = open_small_session(store=patches_store, backbones=backbones, embed=AUTO)
    context.progress.message = said.append
    return context, good, EmbedStage().run(context)


@pytest.fixture
def opened(open_small, patches_store):
    """Open contexts on one store that holds the patches."""
    return partial(open_small, store=patches_store)


def _statuses(result):
    return {item.cell.backbone: item.status for item in result.cells}


def _embeddings(context, backbone):
    table = context.embeddings(backbone).read_table()
    return table["patch_id"].to_pylist(), vectors_array(table["embedding"])


def test_embeddings_equal_the_bare_network(embedded):
    context, backbone, _ = embedded
    ids, embeddings = _embeddings(context, backbone)
    patches = context.patches.read_table()
    assert ids == patches["patch_id"].to_pylist()
    plan = plan_device(precision="float32", batch_size=4, num_threads=1, device="cpu")
    bare = Embedder(backbone, context.source.bands, plan)
    expected, _ = bare(images_array(patches["image"], (4, 32, 32)))
    np.testing.assert_allclose(embeddings, expected, rtol=1e-5, atol=1e-6)


def test_a_processor_runs_in_the_tasks_that_read_and_changes_no_bit(embedded, noted, said):
    context, _, _ = embedded
    readers, actors = processes_of(noted, "prepared"), processes_of(noted, "built")
    # This process has prepared a patch, to know its size.
    assert readers - {os.getpid()} and actors and not readers & actors
    (line,) = [text for text in said if "Halver" in text]
    assert line == (
        "embed: halved: its Halver, which no setting describes, prepares patches on the CPU, "
        "about 500 patches/s in one process, in the tasks that read them"
    )
    backbone = context.backbones[-1]
    artefact = context.embeddings(backbone)
    manifest = artefact.manifest()
    plan = plan_device(
        precision="float32", batch_size=manifest["device"]["batch_size"], num_threads=1,
        device="cpu",
    )  # fmt: skip
    bare = Embedder(backbone, context.source.bands, plan)
    lowest = []
    for name in artefact.files("part-"):
        pixels = images_array(context.patches.read_table(names=[name])["image"], (4, 32, 32))
        expected, stats = bare(pixels)
        found = vectors_array(artefact.read_table(names=[name])["embedding"])
        np.testing.assert_array_equal(found, expected)
        lowest.append(stats.summary()["min"])
    assert manifest["input"]["min"] == min(lowest)


def test_the_manifest_records_what_the_backbone_was_fed_and_its_cost(embedded):
    context, backbone, _ = embedded
    manifest = context.embeddings(backbone).manifest()
    fed = manifest["input"]
    assert -1.000001 <= fed["min"] < fed["mean"] < fed["max"]
    assert manifest["input"]["max"] <= 1.000001
    assert manifest["num_patches"] == 240
    assert manifest["dim"] == 16
    assert manifest["peak_memory_bytes"] > 50e6
    assert manifest["energy"].keys() in ({"joules", "reason"}, {"joules", "told_by"})
    assert manifest["seconds"]["device"] > 0
    assert manifest["device"]["device"] in ("cpu", "cuda")


def test_the_rate_is_kept_for_estimates(embedded):
    context, _, _ = embedded
    rates = Rates(context.cluster.place)
    rate = rates.find("embed", "good", "32 px")
    assert (rate.num_items, rate.num_patches) == (240, 240)
    assert rate.num_bytes >= 240 * 16 * 4
    assert 0 < rate.seconds < 60
    assert rates.find("embed", "nan", "32 px") is None
    # Of the patches, another file's may have been measured since in this process.
    assert rates.find("patches", "chesapeake", "32 px").num_patches > 0


def test_a_broken_backbone_fails_by_name_and_leaves_its_neighbours_alone(embedded):
    context, _, result = embedded
    assert _statuses(result) == {
        "nan": "failed", "good": "complete", "flat": "failed", "halved": "complete"
    }  # fmt: skip
    reasons = {item.cell.backbone: item.reason for item in result.cells}
    assert "backbone 'nan'" in reasons["nan"] and "not finite" in reasons["nan"]
    assert "backbone 'flat'" in reasons["flat"] and "are the same" in reasons["flat"]
    assert context.embeddings(context.backbones[0]).status()[0] == "failed"


@pytest.mark.slow
def test_a_backbone_that_kills_its_process_fails_alone(opened, monkeypatch):
    from benchmark.stages.embed import pipeline

    good, killer = toy("survivor"), toy("killer", build_killer)
    context = opened(backbones=[killer, good])
    monkeypatch.setattr(pipeline, "RESTARTS", {"max_restarts": 1, "max_task_retries": 1})
    result = EmbedStage().run(context)
    assert _statuses(result) == {"killer": "failed", "survivor": "complete"}
    reason = next(item.reason for item in result.cells if item.cell.backbone == "killer")
    assert "process" in reason
    survivor = context.embeddings(good).manifest()["incidents"]
    assert [item["count"] for item in survivor if item["kind"] == "pipeline_repeated"] == [1]


def test_a_pipeline_that_ray_refuses_fails_with_what_ray_says(opened, monkeypatch):
    from benchmark.stages.embed import pipeline

    def refuse(self, tasks, channel):
        raise ValueError("You must provide `batch_size`")

    context = opened(backbones=[toy("refused")])
    monkeypatch.setattr(pipeline.Run, "_rows", refuse)
    (item,) = EmbedStage().run(context).cells
    assert item.status == "failed"
    assert item.reason == (
        "the pipeline stopped repeatedly: ValueError: You must provide `batch_size`"
    )


@pytest.mark.slow
def test_a_process_that_dies_once_is_replaced_and_counted(opened, tmp_path):
    mortal, calm = toy("mortal", partial(build_mortal, str(tmp_path / "died"))), toy("calm")
    context = opened(backbones=[mortal, calm])
    assert _statuses(EmbedStage().run(context)) == {"mortal": "complete", "calm": "complete"}
    mine, other = (context.embeddings(item) for item in (mortal, calm))
    assert mine.read_table()["embedding"].equals(other.read_table()["embedding"])
    counts = {item["kind"]: item["count"] for item in mine.manifest()["incidents"]}
    assert counts["process_restarted"] == 1
    assert "process_restarted" not in {item["kind"] for item in other.manifest()["incidents"]}


def test_cpus_that_something_else_holds_do_not_hang_the_pipeline(opened, monkeypatch):
    import ray

    from benchmark.cluster import connection as cluster

    class Holder:
        def ping(self):
            return True

    context = opened(backbones=[toy("patient")], embed=AUTO)
    monkeypatch.setattr(cluster.Cluster.wait_for_cpus, "__kwdefaults__", {"timeout_s": 0.5})
    holder = ray.remote(num_cpus=1)(Holder).remote()
    try:
        assert ray.get(holder.ping.remote())
        assert _statuses(EmbedStage().run(context)) == {"patient": "complete"}
    finally:
        ray.kill(holder)
    assert context.embeddings(context.backbones[0]).manifest()["pool"]["num_actors"] == 1


def test_an_interrupted_embedding_goes_on_from_its_parts_with_its_plan(
    embedded, open_small, tmp_path
):
    whole, backbone, _ = embedded
    # Other batches and actors are not another result; the batches of the begin go on.
    half = open_small(store=tmp_path / "half", backbones=[backbone], embed={"batch_size": 3})
    assert half.embeddings(backbone).fingerprint == whole.embeddings(backbone).fingerprint
    shutil.copytree(whole.patches.path, half.patches.path)
    folder = Path(half.embeddings(backbone).path)
    shutil.copytree(whole.embeddings(backbone).path, folder)
    parts = sorted(folder.glob("part-*"))
    (folder / "_manifest.json").unlink()
    for part in parts[1::2]:
        part.unlink()
    kept = {part.name: part.stat().st_mtime_ns for part in parts[::2]}
    assert _statuses(EmbedStage().run(half)) == {"good": "complete"}
    assert {p.name: p.stat().st_mtime_ns for p in sorted(folder.glob("part-*"))[::2]} == kept
    assert half.embeddings(backbone).manifest()["plan"]["batch_size"] == 4
    assert half.embeddings(backbone).manifest()["pool"]["num_actors"] == 1
    assert whole.embeddings(backbone).manifest()["pool"]["num_actors"] == 2
    np.testing.assert_array_equal(_embeddings(whole, backbone)[1], _embeddings(half, backbone)[1])


def test_missing_patches_block_the_stage_and_say_what_to_run(ray_session, open_small, tmp_path):
    context = open_small(store=tmp_path / "empty", backbones=[toy("toy_missing")])
    (item,) = EmbedStage().run(context).cells
    assert item.status == "failed"
    assert item.reason == "patches is missing: run `benchmark patches` first"
    assert not Path(context.embeddings(toy("toy_missing")).path).exists()


def test_a_missing_band_is_refused_before_any_work(open_small):
    from dataclasses import replace

    thermal = replace(toy("thermal"), bands=("thermal",))
    with pytest.raises(UsageError, match=r"backbone 'thermal' needs the bands thermal"):
        EmbedStage().run(open_small(backbones=[thermal]))


def test_parts_read_as_fixed_size_lists_everywhere(embedded):
    import duckdb
    import polars
    import pyarrow.parquet as pq

    context, backbone, _ = embedded
    path = next(Path(context.embeddings(backbone).path).glob("part-*"))
    kind = pq.read_table(path).schema.field("embedding").type
    assert str(kind) == "fixed_size_list<element: float>[16]"
    assert polars.read_parquet(path)["embedding"].to_numpy().shape[1] == 16
    rows = duckdb.sql(f"SELECT embedding::FLOAT[16] AS e FROM '{path}'").fetchnumpy()["e"]
    assert len(rows[0]) == 16
    assert len(pq.read_table(path).to_pandas()["embedding"][0]) == 16
    assert json.loads(pq.read_schema(path).metadata[b"summary"])["dim"] == 16


class Recorder:
    """Keeps when items were reported, and how many."""

    def __init__(self):
        self.reports, self.began = [], time.monotonic()

    def stage(self, name, **_):
        return self

    def advance(self, count):
        self.reports.append((time.monotonic() - self.began, count))

    def ignore(self, *_):
        pass

    start = done = failed = close = message = ignore


def test_a_slow_backbone_shows_its_patches_before_its_parts_end(opened, embedded):
    slow, recorder = toy("dawdling", build_dawdling), Recorder()
    context = opened(backbones=[slow])
    context.progress = recorder
    assert _statuses(EmbedStage().run(context)) == {"dawdling": "complete"}
    rows = [part["num_rows"] for part in context.patches.manifest()["parts"]]
    counts = [count for _, count in recorder.reports]
    # A part takes 2.6 s: without the counts of batches there would be one report for each.
    assert len(counts) > len(rows)
    assert counts[0] < rows[0]
    assert sum(counts) == sum(rows)
    times = [seconds for seconds, _ in recorder.reports]
    assert max(np.diff(times)) < 5
    whole, good, _ = embedded
    np.testing.assert_array_equal(_embeddings(context, slow)[1], _embeddings(whole, good)[1])
