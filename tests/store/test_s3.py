"""A store on S3: a real server of its protocol, behind a network that fails now and then."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

import benchmark as bm
from benchmark import api
from benchmark.cli.commands import main
from benchmark.errors import CellError, UsageError
from benchmark.progress import LoggedProgress, StageProgress
from benchmark.store.artefacts import MANIFEST, Artefact, Store
from benchmark.store.leases import Leases
from tests.forked_workers import BENCHMARK
from tests.object_store import BUCKET, DENIED, EXPIRED, KEYS, SLOW_DOWN, Faults, ObjectStore
from tests.object_store import serve_objects as serve

FINGERPRINT = "0123456789abcdef"
BIG = b"x" * 25_000_000
"""More than Arrow uploads at once."""


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with serve() as found:
        yield found


@pytest.fixture
def objects(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The server, with credentials in the environment and without faults."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server.faults.reset()
    yield server
    server.faults.reset()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name.partition('[')[0]}-{time.time_ns()}"


@pytest.fixture
def artefact(objects: ObjectStore, prefix: str) -> Artefact:
    return Store(objects.uri(prefix)).artefact("embed", "toy-random", FINGERPRINT)


@pytest.fixture
def faults(objects: ObjectStore) -> Faults:
    return objects.faults


def refuse(error: tuple[int, str, str], *, method: str = "", part: str = ""):
    return lambda verb, path: error if verb.startswith(method) and part in path else None


EXPERIMENT = """
name = "toy"
backbones = ["random"]
store = "{store}"
[dataset]
name = "synthetic"
root = "scenes"
"""


def test_an_experiment_file_may_lie_in_the_store(objects, prefix, capsys):
    uri = objects.uri(prefix)
    root, mark, query = uri.partition("?")
    store = Store(uri)
    store.write("experiments/toy.toml", EXPERIMENT.format(store=uri).encode())
    store.write("experiments/huge.toml", b"#" * 2**21)
    store.write("experiments/wide.toml", "\ufeffname".encode())
    kept = f"{root}/experiments/toy.toml{mark}{query}"
    # `Path`, as the command line makes it, writes one slash for two.
    for given in (kept, Path(kept)):
        experiment = bm.load(given)
        assert (experiment.name, experiment.store, experiment.path) == ("toy", uri, kept)
    for name, reason in {
        "none": "no such experiment file",
        "huge": "2,097,152 bytes; an experiment file has at most 1,048,576",
        "wide": "byte order mark",
    }.items():
        with pytest.raises(UsageError, match=reason) as caught:
            bm.load(f"{root}/experiments/{name}.toml{mark}{query}")
        assert f"{root}/experiments/{name}.toml" in str(caught.value)
    with pytest.raises(UsageError, match="unsupported scheme 'http'"):
        bm.load("http://localhost/x.toml")
    with pytest.raises(SystemExit, match="2"):
        main(["run", kept, "--dry-run"])
    assert "root = 'scenes'" in capsys.readouterr().err


def test_a_file_is_read_as_it_was_written_in_one_request(artefact, faults):
    artefact.write_bytes("a.bin", b"\x00\xff" * 1000)
    assert [item.method for item in faults.seen] == ["PUT", "HEAD"]
    assert artefact.read_bytes("a.bin") == b"\x00\xff" * 1000
    artefact.write_table("part-000000.parquet", pa.table({"patch_id": ["a", "b"]}))
    assert artefact.read_table().num_rows == 2
    artefact.write_bytes("big", BIG)
    assert artefact.read_bytes("big") == BIG
    artefact.commit({})
    assert artefact.manifest()["bytes"]["big"] == len(BIG)


def test_an_artefact_is_named_so_that_arrow_opens_it(artefact, objects, prefix):
    artefact.write_bytes("a", b"x")
    assert artefact.file_uri("a").startswith(f"s3://{BUCKET}/{prefix}/embed/toy-random-")
    fs, path = pafs.FileSystem.from_uri(artefact.file_uri("a"))
    assert fs.get_file_info(path).size == 1


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_may_come_from_the_environment(objects, prefix, monkeypatch, name):
    monkeypatch.setenv(name, objects.endpoint)
    store = Store(f"s3://{BUCKET}/{prefix}")
    store.check_writable()
    assert objects.faults.seen


PROBE = """
import pickle, sys
artefact = pickle.loads(bytes.fromhex(sys.argv[1]))
artefact.write_bytes("a", b"from elsewhere")
"""


def test_a_worker_without_that_environment_writes_through_a_pickled_artefact(
    objects, prefix, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", objects.endpoint)
    artefact = Store(f"s3://{BUCKET}/{prefix}").artefact("embed", "a", FINGERPRINT)
    bare = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    command = [sys.executable, "-c", PROBE, pickle.dumps(artefact).hex()]
    subprocess.run(command, check=True, env=bare, timeout=60)
    assert artefact.read_bytes("a") == b"from elsewhere"


def test_no_secret_is_in_what_the_store_says_of_itself(artefact, objects):
    texts = [repr(artefact), str(vars(artefact)), artefact.uri, repr(artefact.store)]
    assert not [text for text in texts if KEYS["AWS_SECRET_ACCESS_KEY"] in text]
    with pytest.raises(UsageError, match="must not hold credentials") as caught:
        Store(f"s3://key:hidden@{BUCKET}/x")
    assert "hidden" not in str(caught.value)


def test_an_unknown_setting_of_the_uri_is_the_users_mistake(objects):
    with pytest.raises(UsageError, match=r"'endpoint'\. Did you mean 'endpoint_override'"):
        Store(f"s3://{BUCKET}/x?endpoint=localhost")


def test_slow_downs_cuts_and_slow_reads_change_nothing(artefact, faults):
    faults.slow_down_every, faults.cut_every, faults.delay_s = 6, 3, 0.02
    content = {f"part-{number:06d}": bytes([number]) * 50_000 for number in range(6)}
    for name, value in content.items():
        artefact.write_bytes(name, value)
    artefact.commit({"done": True})
    assert {name: artefact.read_bytes(name) for name in artefact.files("part-")} == content
    assert artefact.manifest()["done"] is True
    assert faults.count(503) > 1
    assert faults.count(0) > 0


@pytest.mark.parametrize("status", [502, 429])
def test_what_arrow_gives_up_on_at_once_is_tried_again(artefact, faults, status, caplog):
    left = [2]

    def some(method: str, path: str) -> tuple[int, str, str] | None:
        left[0] -= method == "PUT"
        return (status, "", "busy") if method == "PUT" and left[0] >= 0 else None

    faults.refuse = some
    with caplog.at_level(logging.INFO, "benchmark"):
        artefact.write_bytes("a", b"x")
    assert artefact.read_bytes("a") == b"x"
    assert "try 2 of 6 failed" in caplog.text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DENIED, "access denied; check the credentials"),
        (EXPIRED, "the credentials have expired"),
        ((404, "NoSuchBucket", "The specified bucket does not exist"), "there is no such bucket"),
        ((403, "InvalidAccessKeyId", "unknown"), "the credentials are wrong"),
        ((403, "SignatureDoesNotMatch", "unknown"), "the credentials are wrong"),
    ],
)
def test_what_does_not_pass_is_one_line_and_is_not_tried_again(artefact, faults, error, reason):
    faults.refuse = refuse(error, method="PUT")
    with pytest.raises(UsageError, match=rf"cannot be written: {reason}.*Choose another"):
        artefact.store.check_writable()
    faults.seen.clear()
    with pytest.raises(CellError, match=f"cannot be written: {reason}") as caught:
        artefact.write_bytes("a", b"x")
    assert len(str(caught.value).splitlines()) == 1
    assert faults.count(error[0], "PUT") == 1


def test_what_may_not_be_read_is_one_line(artefact, faults):
    faults.refuse = refuse(DENIED)
    for read in (artefact.files, artefact.status, lambda: artefact.read_bytes("a")):
        with pytest.raises(CellError, match="cannot be read: access denied"):
            read()


def test_a_bucket_that_does_not_exist_is_the_users_mistake(objects, prefix):
    uri = objects.uri(prefix).replace(f"s3://{BUCKET}/", "s3://another/")
    with pytest.raises(UsageError, match="there is no such bucket"):
        Store(uri).check_writable()


def test_an_endpoint_that_does_not_answer_is_one_line(objects, monkeypatch):
    monkeypatch.setattr("benchmark.store.retries.NUM_TRIES", 2)
    monkeypatch.setattr("benchmark.store.filesystems.NUM_ATTEMPTS", 1)
    store = Store(f"s3://{BUCKET}/x?endpoint_override=127.0.0.1:9&scheme=http")
    with pytest.raises(UsageError, match="cannot be reached; check the endpoint"):
        store.check_writable()


@pytest.mark.parametrize("part", ["big?u", "partNumber=2", "partNumber=", "uploadId="])
def test_an_upload_of_which_a_part_fails_leaves_the_old_object(artefact, faults, part):
    artefact.write_bytes("big", b"old")
    faults.refuse = refuse(DENIED, part=part)
    with pytest.raises(CellError, match="access denied"):
        artefact.write_bytes("big", BIG)
    assert artefact.read_bytes("big") == b"old"


def test_an_upload_that_is_interrupted_leaves_no_part_of_it(artefact, monkeypatch):
    class Interrupted:
        """An Arrow file system whose user presses Ctrl-C in the middle of a write."""

        def __init__(self, fs: pafs.FileSystem) -> None:
            self._fs = fs

        def __getattr__(self, name: str) -> object:
            return getattr(self._fs, name)

        def open_output_stream(self, path: str) -> object:
            stream = self._fs.open_output_stream(path)

            class Stream:
                def __enter__(self) -> Stream:
                    return self

                def __exit__(self, *_: object) -> None:
                    stream.close()

                def write(self, content: bytes) -> None:
                    stream.write(content[:11_000_000])
                    raise KeyboardInterrupt

            return Stream()

    monkeypatch.setattr(artefact.store, "fs", Interrupted(artefact.store.fs))
    with pytest.raises(KeyboardInterrupt):
        artefact.write_bytes("big", BIG)
    assert not artefact.has("big")


def test_a_failure_before_the_manifest_leaves_the_artefact_incomplete(artefact, faults):
    artefact.write_bytes("part-000000.bin", b"x")
    faults.refuse = refuse(DENIED, part=MANIFEST)
    with pytest.raises(CellError, match="access denied"):
        artefact.commit({})
    faults.refuse = refuse(SLOW_DOWN, part="nothing")
    assert not artefact.is_complete
    assert artefact.files() == ["part-000000.bin"]
    artefact.commit({})
    assert artefact.manifest()["files"] == ["part-000000.bin"]


def test_an_artefact_with_an_empty_part_is_not_committed(artefact):
    artefact.write_bytes("part-000000.bin", b"")
    with pytest.raises(
        CellError, match=r"part-000000.bin.* is damaged .the file is empty.: delete this file"
    ):
        artefact.commit({})
    assert not artefact.is_complete


def test_runs_share_cells_on_s3_too(objects, prefix):
    uri = objects.uri(prefix)
    done: list[str] = []

    def work() -> None:
        store = Store(uri)
        left = [store.artefact("embed", "toy", f"{number:016x}") for number in range(6)]
        with Leases(store, group="x") as leases:
            while left := [item for item in left if not item.is_complete]:
                for item in leases.acquire(left, most=1):
                    done.append(item.path)
                    item.commit({})
                    leases.release([item])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == len(set(done)) == 6
    assert Store(uri).sizes("leases") == {}


SETTINGS = """
name = "small"
backbones = ["mean_color", "hog"]
heads = ["logistic_regression"]
[dataset]
name = "chesapeake"
root = "{root}"
patch_size = 32
per_region = 12
[embed]
num_actors = 1
[tune]
num_trials = 1
max_concurrent = 1
[evaluate]
num_resamples = 20
"""


@pytest.fixture(scope="module")
def toml(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("s3") / "small.toml"
    path.write_text(SETTINGS.format(root=scenes))
    return path


class Counted(LoggedProgress):
    """Progress that counts the cells that are done."""

    num_done = 0

    def stage(self, name: str, **counts: Any) -> StageProgress:
        stage = super().stage(name, **counts)
        done = stage.done

        def count(cell: str) -> None:
            self.num_done += "/" not in name
            done(cell)

        stage.done = count
        return stage


@pytest.fixture(scope="module")
def shared(ray_session: None, toml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local store that two runs have filled at once, one here and one in another process."""
    store = tmp_path_factory.mktemp("shared") / "runs"
    process = subprocess.Popen(
        [*BENCHMARK, "run", str(toml), "--store", str(store), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(store.glob("leases/owner.*")) and process.poll() is None:
        time.sleep(0.02)
    progress = Counted()
    mine = bm.run(bm.load(toml), store=str(store), progress=progress)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert not mine.failed
    assert json.loads(out)["scores"] == mine.scores
    others = sum(map(int, re.findall(r"^\w+: (\d+)/.* s$", err, re.MULTILINE)))
    # Patches aside, each cell was computed by one of them, and nothing is left of the leases.
    assert progress.num_done + others == len(list(store.glob("*/*/_manifest.json"))) - 1 == 6
    assert not (store / "leases").exists()
    return store


def read_manifests(uri: str) -> dict[str, bytes]:
    """Return every manifest of a store, by its path."""
    store = Store(uri)
    found = store.fs.get_file_info(pafs.FileSelector(store.root, recursive=True))
    names = [info.path.removeprefix(f"{store.root}/") for info in found if info.is_file]
    assert not [name for name in names if name.startswith("leases/")]
    return {name: store.read(name) for name in names if name.endswith(MANIFEST)}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_through_a_failing_network_goes_on_where_it_failed_and_gets_equal_scores(
    shared, objects, prefix, toml, caplog
):
    experiment = bm.load(toml)
    faults, uri = objects.faults, objects.uri(prefix)
    expected = bm.scores(experiment, store=str(shared)).drop(columns="artefact")

    # Every part of the embeddings is written, but neither manifest. The workers of the session's
    # Ray have none of this environment.
    api.run_stage("patches", experiment, store=uri)
    faults.refuse = lambda verb, path: (
        DENIED if verb == "PUT" and "/embed/" in path and MANIFEST in path else None
    )
    result, _ = api.run_stage("embed", experiment, store=uri)
    assert {item.status for item in result.cells} == {"failed"}
    assert all("access denied" in item.reason for item in result.cells)

    faults.reset()
    faults.slow_down_every, faults.cut_every, faults.delay_s = 80, 30, 0.01
    with caplog.at_level(logging.INFO, "benchmark"):
        result = bm.run(experiment, store=uri)
    assert not result.failed
    assert bm.scores(experiment, store=uri).drop(columns="artefact").equals(expected)
    assert faults.count(503) > 3
    assert faults.count(0) > 0

    puts = [item.path for item in faults.seen if item.method == "PUT" and item.status == 200]
    assert not [path for path in puts if "/embed/" in path and "/part-" in path]
    manifests = [path for path in puts if MANIFEST in path]
    assert len(manifests) == len(set(manifests)) == 2 + 2 + 2
    found = read_manifests(uri)
    assert len(found) == 7
    secret = KEYS["AWS_SECRET_ACCESS_KEY"]
    assert not [path for path, content in found.items() if secret.encode() in content]
    assert secret not in caplog.text
