"""Several calls of one embedding actor at once, as on a GPU, without Ray; the order of events."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from benchmark.cluster import incidents
from benchmark.cluster.pools import Pool
from benchmark.errors import UsageError
from benchmark.experiment.flipped import FlippedPatches
from benchmark.flipping import FLIPS, flip_images
from benchmark.networks.devices import Asked, plan_device
from benchmark.networks.embedder import Embedder
from benchmark.specs import Backbone, Processor
from benchmark.stages.embed import workers
from benchmark.stages.embed.calls import Parts, Task, join_parts
from benchmark.stages.embed.preparing import (
    Preparation,
    Readers,
    plan_readers,
    why_too_large,
)
from benchmark.stages.embed.starting import Job
from benchmark.stages.embed.workers import EmbedActor, ReadParts, WriteParts, read_part_summary
from benchmark.store.artefacts import Artefact, Store
from benchmark.tables import images_array, vectors_array
from tests.toys import _Pooled, build_not_finite, build_sided, draw_samples, toy, write_patches

BANDS, SIDE, PART = ("red", "green", "blue"), 16, 10
NAMES = [f"part-{number:06d}.parquet" for number in range(4)]
GROUPS: list[Parts] = [tuple((name, PART) for name in NAMES[i : i + 2]) for i in (0, 2)]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="pretends that there is a GPU")


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "is_restarted", lambda: False)
    monkeypatch.setattr(incidents, "_attempt", lambda: 0)


@pytest.fixture
def patches(tmp_path: Path) -> Artefact:
    artefact = Store(str(tmp_path)).artefact("patches", "toy", "0" * 16)
    return write_patches(artefact, {"train": draw_samples(4 * PART)}, num_parts=4)


@pytest.fixture
def make_job(patches: Artefact, tmp_path: Path) -> Callable[..., Job]:
    def make(
        backbone: Backbone, *, uses_gpu: bool = True, flip: str = "", plain: Artefact | None = None
    ) -> Job:
        name = f"{backbone.name}{flip}"
        return Job(
            backbone=backbone,
            artefact=Store(str(tmp_path)).artefact("embeddings", name, "0" * 16),
            flipped=FlippedPatches(flip, ("train",)) if flip else None,
            plain=plain,
            patches=patches,
            bands=BANDS,
            shape=(3, SIDE, SIDE),
            num_threads=1,
            asked=Asked(batch_size=8),
            num_patches=4 * PART,
            num_in_all=4 * PART,
            uses_gpu=uses_gpu,
        )

    return make


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Events:
    """What has happened so far, in order; a thread can wait until something has."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._changed = threading.Condition()

    def add(self, event: str) -> None:
        with self._changed:
            self.seen.append(event)
            self._changed.notify_all()

    def wait(self, event: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: event in self.seen, timeout=20):
                raise TimeoutError(f"{event} did not happen: {self.seen}")


def read(patches: Artefact, job: int, parts: Parts, missing: tuple[str, ...] = ()) -> pa.Table:
    return ReadParts(patches)(Task(job, parts, missing or tuple(name for name, _ in parts)))


def pixels_of(patches: Artefact, parts: Parts) -> NDArray[np.uint8]:
    # Without their identities, the parts are not sorted into each other.
    table = patches.read_table(names=[name for name, _ in parts], columns=["image"])
    return images_array(table["image"], (3, SIDE, SIDE))


def alone(backbone: Backbone, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    plan = plan_device(device="cpu", precision="float32", batch_size=8)
    return Embedder(backbone, BANDS, plan)(pixels)[0]


def embeddings_of(row: pa.Table) -> NDArray[np.float32]:
    assert row["reason"][0].as_py() == ""
    summary = json.loads(row["summary"][0].as_py())
    flat = np.frombuffer(row["embedding"][0].as_py(), np.float32)
    return flat.reshape(summary["num_rows"], summary["dim"])


def test_the_next_part_is_loaded_and_the_last_handed_over_while_one_computes(
    patches: Artefact,
    make_job: Callable[..., Job],
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = Events()
    calls = {pixels_of(patches, group)[0].tobytes(): i for i, group in enumerate(GROUPS)}
    load, launch, fetch = Embedder.load, Embedder.launch, Embedder.fetch
    numbers: dict[int, int] = {}

    def noted_load(self: Embedder, pixels: Any) -> Any:
        loaded = load(self, pixels)
        if len(pixels) == 2 * PART:
            numbers[id(loaded)] = calls[pixels[0].tobytes()]
            events.add(f"loaded {numbers[id(loaded)]}")
        return loaded

    def held_launch(self: Embedder, loaded: Any, on_batch: Any = None) -> Any:
        number = numbers[id(loaded)]
        events.add(f"computes {number}")
        if number == 0:
            events.wait("loaded 1")
        launched = launch(self, loaded, on_batch)
        numbers[id(launched)] = number
        return launched

    def held_fetch(self: Embedder, launched: Any) -> Any:
        if numbers[id(launched)] == 0:
            events.wait("computes 1")
        events.add(f"fetched {numbers[id(launched)]}")
        return fetch(self, launched)

    for name, method in (("load", noted_load), ("launch", held_launch), ("fetch", held_fetch)):
        monkeypatch.setattr(Embedder, name, method)
    good = toy("good")
    actor = EmbedActor([make_job(good)])
    first = pool.submit(actor, read(patches, 0, GROUPS[0]))
    events.wait("computes 0")
    second = pool.submit(actor, read(patches, 0, GROUPS[1]))
    rows = [first.result(), second.result()]
    order = [events.seen.index(text) for text in ("computes 0", "loaded 1", "computes 1")]
    assert order == sorted(order)
    monkeypatch.undo()
    for row, group in zip(rows, GROUPS, strict=True):
        np.testing.assert_array_equal(embeddings_of(row), alone(good, pixels_of(patches, group)))


class _Held(_Pooled):
    """Waits for an event in its second pass: the first is the warm-up."""

    def __init__(self, num_bands: int, events: Events, event: str) -> None:
        super().__init__(num_bands)
        self.calls, self.events, self.event = 0, events, event

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 2:
            self.events.add("computes")
            self.events.wait(self.event)
        return super().forward(x)


def noted(events: Events, name: str) -> Callable[[int], torch.nn.Module]:
    def build(num_bands: int) -> torch.nn.Module:
        events.add(f"built {name}")
        return _Pooled(num_bands)

    return build


def test_the_next_network_is_built_while_a_gpu_computes(
    patches: Artefact, make_job: Callable[..., Job], pool: ThreadPoolExecutor
) -> None:
    events = Events()
    backbones = [
        toy("held", lambda num_bands: _Held(num_bands, events, "built next")),
        toy("next", noted(events, "next")),
    ]
    actor = EmbedActor([make_job(backbone) for backbone in backbones], order=[0, 1])
    row = pool.submit(actor, read(patches, 0, GROUPS[0])).result()
    np.testing.assert_array_equal(
        embeddings_of(row), alone(toy("good"), pixels_of(patches, GROUPS[0]))
    )
    embeddings_of(actor(read(patches, 1, GROUPS[0])))
    assert events.seen.count("built next") == 1


@pytest.mark.parametrize("uses_gpu", [True, False])
def test_flips_are_embedded_with_the_network_and_the_plan_of_the_patches(
    patches: Artefact, make_job: Callable[..., Job], uses_gpu: bool
) -> None:
    events = Events()
    net, other = toy("net", build_sided), toy("other", noted(events, "other"))
    plain = make_job(net, uses_gpu=uses_gpu)
    flips = [
        make_job(net, uses_gpu=uses_gpu, flip=flip, plain=plain.artefact) for flip in FLIPS["all"]
    ]
    actor = EmbedActor([plain, *flips, make_job(other, uses_gpu=uses_gpu)], order=range(5))
    pixels, held = pixels_of(patches, GROUPS[0]), []
    for number, job in enumerate([plain, *flips]):
        row = actor(read(patches, number, GROUPS[0]))
        version = pixels if job.flipped is None else flip_images(pixels, job.flipped.flip)
        np.testing.assert_array_equal(embeddings_of(row), alone(net, version))
        held.append(actor._embedder)
        assert job.artefact.plan() == plain.artefact.plan()
    assert all(item is held[0] for item in held), "the network was built again"
    embeddings_of(actor(read(patches, 4, GROUPS[0])))
    assert events.seen == ["built other"]
    # Another process begins with a flip, in the mode of the patches.
    later = make_job(net, uses_gpu=uses_gpu, flip="both", plain=plain.artefact)
    later = replace(later, asked=Asked(batch_size=3), artefact=replace(later.artefact, name="new"))
    row = EmbedActor([later])(read(patches, 0, GROUPS[0]))
    np.testing.assert_array_equal(embeddings_of(row), alone(net, flip_images(pixels, "both")))
    assert later.artefact.plan() == plain.artefact.plan()


def test_an_older_plan_keeps_the_kernels_that_it_had(
    patches: Artefact, make_job: Callable[..., Job]
) -> None:
    kernels = []
    for name, is_older in (("new", False), ("older", True)):
        job = make_job(toy(name, build_sided), uses_gpu=False)
        if is_older:
            plan = plan_device(device="cpu", batch_size=8).to_json()
            job.artefact.begin({key: plan[key] for key in plan if key != "fast_pointwise"})
        actor = EmbedActor([job])
        embeddings_of(actor(read(patches, 0, GROUPS[0])))
        kernels.append(actor._embedder.plan.fast_pointwise)
    assert kernels == [True, False]


def test_nothing_is_built_ahead_on_a_cpu(patches: Artefact, make_job: Callable[..., Job]) -> None:
    events = Events()
    jobs = [make_job(toy(name, noted(events, name)), uses_gpu=False) for name in ("first", "next")]
    actor = EmbedActor(jobs, order=[0, 1])
    embeddings_of(actor(read(patches, 0, GROUPS[0])))
    actor._builder.shutdown(wait=True)
    assert events.seen == ["built first"]


def test_calls_for_two_backbones_at_once_get_each_its_own(
    patches: Artefact, make_job: Callable[..., Job], pool: ThreadPoolExecutor
) -> None:
    """Whatever their order: a backbone changes once none of its calls is in the actor."""
    plain, scaled = toy("plain"), replace(toy("scaled"), mean=(0.2,), std=(0.7,))
    actor = EmbedActor([make_job(plain), make_job(scaled)], order=[0, 1])
    asked = [(job, group) for _ in range(3) for group in GROUPS for job in (0, 1)]
    rows = list(pool.map(lambda pair: actor(read(patches, *pair)), asked))
    for (job, group), row in zip(asked, rows, strict=True):
        expected = alone((plain, scaled)[job], pixels_of(patches, group))
        np.testing.assert_array_equal(embeddings_of(row), expected)


class _Failing(_Pooled):
    """Fails in its fourth pass: the warm-up and two batches succeed."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 4:
            raise RuntimeError("CUDA error: an illegal memory access")
        return super().forward(x)


@pytest.mark.parametrize(
    ("build", "reason"),
    [(_Failing, "an illegal memory access"), (build_not_finite, "20 of 20 embeddings are not")],
)
def test_a_batch_that_fails_fails_its_backbone_alone(
    patches: Artefact,
    make_job: Callable[..., Job],
    pool: ThreadPoolExecutor,
    build: Any,
    reason: str,
) -> None:
    bad, good = toy("bad", build), toy("good")
    actor = EmbedActor([make_job(bad), make_job(good)], order=[0, 1])
    blocks = [read(patches, job, group) for job in (0, 1) for group in GROUPS]
    calls: list[Future[pa.Table]] = [pool.submit(actor, block) for block in blocks]
    rows = [call.result() for call in calls]
    assert any(reason in row["reason"][0].as_py() for row in rows[:2])
    again = actor(blocks[0])
    assert reason in again["reason"][0].as_py(), "not tried again"
    for row, group in zip(rows[2:], GROUPS, strict=True):
        expected = alone(good, pixels_of(patches, group))
        np.testing.assert_array_equal(embeddings_of(row), expected)


def test_only_missing_parts_are_written_with_the_bits_of_a_whole_run(
    patches: Artefact, make_job: Callable[..., Job]
) -> None:
    job = make_job(toy("good"))
    (group,) = join_parts([{"name": name, "num_rows": PART} for name in NAMES], 3 * SIDE**2)
    write = WriteParts([job.outputs])
    (status,) = write(EmbedActor([job])(read(patches, 0, group))).to_pylist()
    assert list(json.loads(status["checksums"])) == NAMES
    tables = [job.artefact.read_table(names=[name]) for name in NAMES]
    together = np.concatenate([vectors_array(table["embedding"]) for table in tables])
    np.testing.assert_array_equal(together, alone(toy("good"), pixels_of(patches, group)))
    for name, table in zip(NAMES, tables, strict=True):
        ids = patches.read_table(names=[name], columns=["patch_id"])["patch_id"]
        assert table["patch_id"].to_pylist() == ids.to_pylist()
    summaries = [read_part_summary(job.artefact, name) for name in NAMES]
    assert [item["num_rows"] for item in summaries] == [PART] * 4
    assert [item["setup_s"] > 0 for item in summaries] == [True, False, False, False]
    assert sum(item["input"]["count"] for item in summaries) == 4 * PART * 3 * SIDE**2

    (Path(job.artefact.path) / NAMES[2]).unlink()
    block = read(patches, 0, group, missing=(NAMES[2],))
    (status,) = write(EmbedActor([job])(block)).to_pylist()
    assert list(json.loads(status["checksums"])) == [NAMES[2]]
    assert job.artefact.read_table(names=[NAMES[2]])["embedding"] == tables[2]["embedding"]


class _Prepare:
    """Shrinks patches to their even pixels, and keeps the threads that it ran in."""

    def __init__(self, fails: bool = False) -> None:
        self.threads: set[str] = set()
        self.fails = fails

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.threads.add(threading.current_thread().name)
        if self.fails:
            raise UsageError("transformers cannot use its processor")
        return (pixels[:, :, ::2, ::2] / 255 - 0.5).astype(np.float32)


def processed(name: str, prepare: _Prepare) -> Backbone:
    entry = toy(name, build_sided)
    processor = Processor("Halver", "{}", prepare, 1.0)
    return replace(entry, bands=BANDS[::-1], processor=processor)


@pytest.mark.parametrize("flip", ["", "both"])
def test_a_processor_runs_where_patches_are_read_and_never_in_the_actor(
    patches: Artefact, make_job: Callable[..., Job], pool: ThreadPoolExecutor, flip: str
) -> None:
    prepare = _Prepare()
    jobs = [make_job(processed("halved", prepare), flip=flip), make_job(toy("good"))]
    plain = pixels_of(patches, GROUPS[0])
    version = flip_images(plain, flip) if flip else plain
    expected = alone(jobs[0].backbone, version)
    prepare.threads.clear()
    actor, preparation = EmbedActor(jobs), Preparation.of(jobs[0])
    assert preparation.bytes_per_patch() == 3 * (SIDE // 2) ** 2 * 4
    reader = threading.current_thread().name
    blocks = [
        ReadParts(patches, {0: preparation})(Task(number, GROUPS[0], ())) for number in (0, 1)
    ]
    rows = [pool.submit(actor, block).result() for block in blocks]
    assert prepare.threads == {reader}
    np.testing.assert_array_equal(embeddings_of(rows[0]), expected)
    np.testing.assert_array_equal(embeddings_of(rows[1]), alone(toy("good"), plain))
    # Not prepared, it is the actor's: too large for Ray's object store.
    row = pool.submit(actor, read(patches, 0, GROUPS[0])).result()
    np.testing.assert_array_equal(embeddings_of(row), expected)
    assert len(prepare.threads) > 1


def test_a_processor_that_fails_fails_its_backbone_alone(
    patches: Artefact, make_job: Callable[..., Job]
) -> None:
    jobs = [make_job(processed("bad", _Prepare(fails=True))), make_job(toy("good"))]
    reader, actor = ReadParts(patches, {0: Preparation.of(jobs[0])}), EmbedActor(jobs)
    row = actor(reader(Task(0, GROUPS[0], ())))
    assert row["reason"][0].as_py() == "transformers cannot use its processor"
    embeddings_of(actor(reader(Task(1, GROUPS[0], ()))))


@pytest.mark.parametrize(
    ("pool", "num_cpus", "expected"),
    [
        (Pool(2, 0.5, 0.0, 1, ""), 2.0, Readers(0.25, "")),
        (Pool(1, 1.0, 1.0, 15, ""), 16.0, Readers(1.0, "")),
        (Pool(16, 0.937, 0.0, 1, ""), 16.0, Readers(0.25, "4 tasks at once read for 16 actors")),
    ],
)
def test_readers_prepare_where_as_many_run_as_actors(
    pool: Pool, num_cpus: float, expected: Readers
) -> None:
    assert plan_readers(pool, num_cpus) == expected


def test_prepared_patches_take_half_of_the_object_store_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"object_store_memory": 1.6e9})
    assert why_too_large(100_000_000, num_actors=2) == ""
    assert why_too_large(110_000_000, num_actors=2) == (
        "prepared patches would take 0.88 of the 1.6 GB of Ray's object store"
    )


def parts_of(*rows: int) -> list[dict[str, Any]]:
    return [{"name": str(number), "num_rows": count} for number, count in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "patch_bytes", "sizes"),
    [
        ([256] * 9, 65_536, [4, 4, 1]),
        ([192] * 7, 65_536, [6, 1]),
        ([64] * 40, 3_072, [16, 16, 8]),
        ([1500, 10, 2000], 1_000, [1, 2]),
        ([16] * 5, 16 * 2**20, [1, 1, 1, 1, 1]),
        ([], 1_000, []),
    ],
)
def test_parts_are_joined_until_a_call_of_a_gpu_pays(
    rows: list[int], patch_bytes: int, sizes: list[int]
) -> None:
    parts = parts_of(*rows)
    joined = join_parts(parts, patch_bytes)
    assert [len(group) for group in joined] == sizes
    assert [pair for group in joined for pair in group] == [
        (part["name"], part["num_rows"]) for part in parts
    ]
