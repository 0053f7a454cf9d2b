"""Runs on a Ray of several machines that lose one in each stage, their driver, or the head.

Every loss hits its moment: a request of the stage is held at the object store until it is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

import benchmark as bm
from benchmark import api
from benchmark.cluster.headwatch import LOST
from benchmark.environment import RAY_PATIENCE
from benchmark.store.artefacts import Store
from benchmark.store.names import beside
from tests.gate import Gate
from tests.machines import LAZY, Machines, is_alive, kernel_settings, start_machines
from tests.object_store import KEYS, ObjectStore, serve_objects

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
SIZE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
SETTINGS = """
name = "losses"
backbones = ["random"]
heads = ["logistic_regression"]
[backbone.random]
image_size = 32
[dataset]
name = "chesapeake"
root = "{root}"
patch_size = 32
per_region = 32
[tune]
num_trials = 2
[evaluate]
num_resamples = 50
"""
FINETUNE = """
[finetune]
backbones = ["random"]
num_epochs = 2
num_trials = 2
batch_size = 32
"""
ONE_ACTOR = "embed.num_actors=1"
"""Where nothing depends on how many there are: each takes seconds to start."""


@pytest.fixture(scope="module")
def toml(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("losses") / "losses.toml"
    path.write_text(SETTINGS.format(root=scenes) + FINETUNE)
    return path


@pytest.fixture(scope="module")
def frozen(toml: Path) -> Path:
    """The same experiment without its fine-tuning, which takes longest."""
    path = toml.with_name("frozen.toml")
    path.write_text(toml.read_text().removesuffix(FINETUNE))
    return path


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    """A store on S3, with credentials in the environment of this process."""
    with serve_objects() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield found


@dataclass(frozen=True)
class Cluster:
    """Machines, the environment of who uses them, and the store that everything goes to."""

    machines: Machines
    env: Mapping[str, str]
    objects: ObjectStore

    def call(self, *arguments: object, **env: str) -> subprocess.Popen[str]:
        """Begin `benchmark`."""
        command = [str(BIN / "benchmark"), *(str(item) for item in arguments)]
        return subprocess.Popen(
            command,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hold(self, *parts: str, **options: Any) -> Gate:
        """Hold writes at the store whose path has these parts."""
        return Gate(self.objects.faults, method="PUT", parts=parts, **options)

    def lose_worker(self, pid: int) -> int:
        """Kill the machine of a process, start another, and return the killed one's number."""
        number = self.machines.place_of(pid)
        assert number is not None, "what was held runs on no machine but the head"
        self.machines.lose(number)
        self.machines.add(**SIZE)
        return number


@pytest.fixture(scope="module")
def cluster(ray_session: None, objects: ObjectStore) -> Iterator[Cluster]:
    """A head without CPUs and two machines with one each, with job server.

    It has the home folder of the session, whose Ray has written a token there.
    """
    env = {
        # The entry point's `python` is the first on the head's PATH.
        "PATH": f"{BIN}{os.pathsep}{os.defpath}",
        "HOME": os.environ["HOME"],
        "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"],
        "LANG": "C.UTF-8",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENCHMARK_PROGRESS_TIMEOUT_S": "90",
        **LAZY,
        **kernel_settings(),
        **KEYS,
    }
    with start_machines(env, **{**SIZE, "num_cpus": 0}) as machines:
        for _ in range(2):
            machines.add(**SIZE)
        yield Cluster(machines, env, objects)


@pytest.fixture(scope="module")
def undisturbed(ray_session: None, toml: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    store = str(tmp_path_factory.mktemp("undisturbed") / "runs")
    result = bm.run(bm.load(toml, [ONE_ACTOR]), store=store)
    assert not result.failed
    return store


def read_results(toml: Path, store: str) -> dict[str, pa.Table]:
    """Return every table of embeddings, predictions and trials, by stage and name."""
    with api.open_context(bm.load(toml), store=store) as context:
        artefacts = [context.embeddings(item) for item in context.backbones]
        artefacts += [cell.artefact for cell in context.prediction_cells()]
        found = {f"{item.stage}/{item.name}": item.read_table() for item in artefacts}
        # Of the schema's metadata a part's holds how long it took.
        tables = {name: table.replace_schema_metadata(None) for name, table in found.items()}
        for cell in context.prediction_cells():
            trials = cell.artefact.read_table(names=[beside("trials")])
            tables[f"trials of {cell.artefact.name}"] = trials.drop_columns(["seconds"])
        return tables


def read_scores(toml: Path, store: str) -> pa.Table:
    with api.open_context(bm.load(toml), store=store) as context:
        return context.scores().read_table(names=["scores.parquet"])


def read_incidents(toml: Path, store: str) -> dict[str, dict[str, int]]:
    """Return how often each kind of incident happened, by stage."""
    with api.open_context(bm.load(toml), store=store) as context:
        artefacts = [context.patches, *(context.embeddings(item) for item in context.backbones)]
        artefacts += [cell.artefact for cell in context.prediction_cells()]
        found: dict[str, dict[str, int]] = {}
        for item in artefacts:
            counts = found.setdefault(item.stage, {})
            for incident in item.manifest()["incidents"]:
                counts[incident["kind"]] = counts.get(incident["kind"], 0) + incident["count"]
        return found


def read_reasons(toml: Path, store: str, kind: str) -> list[str]:
    """Return why each incident of a kind happened in the cells of a run."""
    with api.open_context(bm.load(toml), store=store) as context:
        found = [cell.artefact.manifest()["incidents"] for cell in context.prediction_cells()]
    return [item["detail"] for items in found for item in items if item["kind"] == kind]


def manifests(uri: str) -> dict[str, Any]:
    """Return when each manifest of a store was written, by its path."""
    import pyarrow.fs as pafs

    store = Store(uri)
    found = store.fs.get_file_info(pafs.FileSelector(store.root, recursive=True))
    return {item.path: item.mtime_ns for item in found if item.path.endswith("_manifest.json")}


def job_driver(store: str) -> psutil.Process:
    """Return the process of a job that runs the experiment on a store."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "jobs.run" in words and store in words and "-m" in words:
                return process
    raise AssertionError("the job has no driver")


@contextlib.contextmanager
def telling(cluster: Cluster, job: str) -> Iterator[None]:
    """Add the log of a job to what fails meanwhile."""
    try:
        yield
    except AssertionError as error:
        command = [BIN / "ray", "job", "logs", job, "--address", cluster.machines.url]
        done = subprocess.run(command, env=cluster.env, capture_output=True, text=True)
        raise AssertionError(f"{error}: {done.stdout}") from None


@pytest.mark.timeout(600)
def test_a_submitted_run_that_loses_a_machine_in_each_stage_and_its_driver(
    cluster: Cluster, toml: Path, undisturbed: str
) -> None:
    """It ends with the scores of an undisturbed local run, and its report says what happened."""
    store = cluster.objects.uri("submitted")
    submit = ("submit", toml, "--address", cluster.machines.url, "--store", store)

    gate = cluster.hold("/patches/", "candidates-", passes=1)
    first = cluster.call(*submit, "--json")
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    job = json.loads(out)["submission_id"]

    with telling(cluster, job):
        cluster.lose_worker(gate.await_held())
        following = cluster.hold("/embed/", "part-", passes=1)
        gate.open()
        cluster.lose_worker(following.await_held())
        gate, following = following, cluster.hold("/tune/", "part-", passes=0)
        gate.open()
        held = following.await_held()
    job_driver(store).kill()
    wait_until(lambda: not is_alive(held))
    following.open()
    before = manifests(store)
    assert {path.split("/")[2] for path in before} == {"patches", "embed"}

    gate = cluster.hold("/tune/", "part-", passes=0)
    second = cluster.call(*submit, "--follow", "--json")
    cluster.lose_worker(gate.await_held(second))
    following = cluster.hold("/finetune/", "-last.safetensors", passes=1)
    gate.open()
    cluster.lose_worker(following.await_held(second))
    following.open()
    out, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    assert "Traceback" not in err

    assert before.items() <= manifests(store).items()
    assert read_results(toml, store) == read_results(toml, undisturbed)
    assert read_scores(toml, store) == read_scores(toml, undisturbed)
    incidents = read_incidents(toml, store)
    assert {stage: counts["node_lost"] for stage, counts in incidents.items()} == {
        "patches": 1, "embed": 1, "tune": 1, "finetune": 1,
    }  # fmt: skip
    assert incidents["patches"]["task_repeated"] >= 1
    assert incidents["tune"]["trial_repeated"] == incidents["finetune"]["trial_repeated"] == 1
    assert incidents["tune"]["cell_taken_over"] == 1
    assert read_reasons(toml, store, "trial_repeated") == ["its machine was lost"] * 2
    with api.open_context(bm.load(toml), store=store) as context:
        page = context.report().read_bytes("index.html").decode()
    assert "Recovered failures" in page
    assert "4 machines lost" in page
    assert "its machine was lost" in page
    assert "1 cell taken over from a dead run" in page


def wait_until(condition: Any, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


BLOCKER = """
import sys
import numpy as np, ray
from ray._private.internal_api import memory_summary
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ray.init(address=sys.argv[1], log_to_driver=False)
(place,) = [item["NodeID"] for item in ray.nodes() if item["Alive"] and "CPU" in item["Resources"]]

@ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(place, soft=False))
class Blocker:
    def hold(self, sizes):
        # What is being read can be neither spilled nor evicted.
        self.views = [ray.get(ray.put(np.ones(size, np.uint8))) for size in sizes]
        return True

blocker = Blocker.remote()
assert ray.get(blocker.hold.remote([10**6] * 79 + [10**5] * 7))
for _ in sys.stdin:
    summary = memory_summary(address=sys.argv[1], stats_only=True)
    print(summary.split("objects, ")[1].partition("%")[0], flush=True)
"""


@contextlib.contextmanager
def blocked_store(cluster: Cluster) -> Iterator[Callable[[], float]]:
    """Fill the object store of the only machine; yields what tells how full all stores are, %."""
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKER, cluster.machines.address],
        env=dict(cluster.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None

    def percent() -> float:
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    try:
        yield percent
    finally:
        process.stdin.close()
        process.wait(timeout=60)


@pytest.mark.timeout(600)
def test_a_full_object_store_and_a_late_machine_are_no_matter_and_without_a_head_a_run_ends(
    cluster: Cluster, frozen: Path, undisturbed: str
) -> None:
    """It ends in one line and goes on elsewhere. The last of this file: it leaves no cluster."""
    machines = cluster.machines
    only, *others = machines.alive
    for number in others:
        machines.lose(number)
    store = cluster.objects.uri("headless")
    places: set[int | None] = set()
    with blocked_store(cluster) as percent:
        # Of two stores of 80 MB, that of the head is empty: less is left than a block takes.
        assert percent() > 49.8
        gate = cluster.hold("/patches/", "candidates-", passes=1)
        run = cluster.call(
            *("run", frozen, "--address", machines.address, "--store", store, "--json"),
            **{RAY_PATIENCE: "10"},
        )
        assert machines.place_of(gate.await_held(run)) == only
        late = machines.add(**SIZE)
        following = cluster.hold(
            *("/embed/", "part-"),
            passes=1,
            noted="part-",
            note=lambda pid: places.add(machines.place_of(pid)),
        )
        gate.open()
        following.await_held(run)
        assert percent() > 33.2
    wait_until(lambda: late in places)
    before = manifests(store)
    machines.lose_head()
    out, err = run.communicate(timeout=60)
    following.open()
    assert (run.returncode, out) == (1, ""), err
    assert err.splitlines()[-1] == f"benchmark: {LOST}"
    assert "Traceback" not in err
    assert {path.split("/")[2] for path in before} == {"patches"}
    # It ended by itself, and left no lease behind.
    assert Store(store).sizes("leases") == {}

    # Another cluster: that of this process.
    assert not bm.run(bm.load(frozen, [ONE_ACTOR]), store=store).failed
    assert before.items() <= manifests(store).items()
    assert read_results(frozen, store) == read_results(frozen, undisturbed)
    incidents = read_incidents(frozen, store)
    assert incidents["embed"]["part_found"] >= 1
    assert "lost" not in str(incidents)
