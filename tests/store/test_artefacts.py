"""Artefacts are whole: files are written atomically, and the manifest last."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import CellError, UsageError
from benchmark.store.artefacts import FAILURE, MANIFEST, PLAN, Artefact, Store
from benchmark.store.checksums import checksum

FINGERPRINT = "0123456789abcdef"
OTHER = "fedcba9876543210"

NO_SPACE = (
    r"cannot be written: no space left \(No space left on device\); free some space and run again: "
    "complete artefacts are kept"
)

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


@pytest.fixture
def artefact(store: Store) -> Artefact:
    return store.artefact("embed", "toy-random", FINGERPRINT)


def on_sub_tree(tmp_path: Path) -> Store:
    store = Store("runs")
    (tmp_path / "bucket").mkdir(exist_ok=True)
    store.fs = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    store.root, store.is_local = "prefix", False
    return store


STORES: dict[str, Callable[[Path], Store]] = {
    "path": lambda tmp_path: Store(str(tmp_path / "runs")),
    "uri": lambda tmp_path: Store(f"file://{tmp_path}/runs"),
    "Arrow file system": on_sub_tree,
    "fsspec": lambda tmp_path: Store(f"memory:/{tmp_path}"),
}


@pytest.fixture(params=STORES)
def any_artefact(request: pytest.FixtureRequest, tmp_path: Path) -> Artefact:
    return STORES[request.param](tmp_path).artefact("embed", "toy-random", FINGERPRINT)


def names(artefact: Artefact) -> set[str]:
    return {path.name for path in Path(artefact.path).iterdir()}


def patches(*ids: str) -> pa.Table:
    splits = {"a": "train", "b": "val", "c": "test"}
    return pa.table({"patch_id": ids, "split": [splits[item[0]] for item in ids]})


def run_python(code: str, *arguments: object, timeout: float = 60) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_artefact_is_complete_only_with_its_manifest(any_artefact: Artefact) -> None:
    assert not any_artefact.is_complete
    any_artefact.write_bytes("part-000000.bin", b"x")
    any_artefact.write_json("plan.json", {})
    assert not any_artefact.is_complete
    any_artefact.commit({"num_patches": 1})
    assert any_artefact.is_complete
    assert any_artefact.manifest()["num_patches"] == 1


def test_the_manifest_names_the_artefact_and_its_files(any_artefact: Artefact) -> None:
    any_artefact.write_bytes("part-000001.bin", b"x")
    any_artefact.write_bytes("part-000000.bin", b"x")
    any_artefact.fail("a first try")
    any_artefact.commit({})
    assert any_artefact.manifest() == {
        "stage": "embed",
        "name": "toy-random",
        "fingerprint": FINGERPRINT,
        "files": ["part-000000.bin", "part-000001.bin"],
        "bytes": {"part-000000.bin": 1, "part-000001.bin": 1},
        "xxh3": {"part-000000.bin": checksum(b"x"), "part-000001.bin": checksum(b"x")},
    }


def test_the_folder_is_the_one_of_design(tmp_path: Path) -> None:
    artefact = Store(f"{tmp_path}/runs").artefact("embed", "toy-random", FINGERPRINT)
    artefact.commit({})
    assert (tmp_path / "runs" / "embed" / f"toy-random-{FINGERPRINT}" / MANIFEST).is_file()
    assert artefact.uri == f"{tmp_path}/runs/embed/toy-random-{FINGERPRINT}"


def test_a_relative_store_is_written_as_the_user_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    artefact = Store("runs").artefact("tune", "a", FINGERPRINT)
    assert artefact.uri == f"runs/tune/a-{FINGERPRINT}"
    monkeypatch.chdir("/")
    artefact.commit({})
    assert (tmp_path / artefact.uri / MANIFEST).is_file()


def test_a_file_is_read_as_it_was_written(any_artefact: Artefact) -> None:
    any_artefact.write_bytes("a.bin", b"\x00\xff" * 1000)
    any_artefact.write_json("a.json", {"b": [1, None], "a": 0.1})
    assert any_artefact.read_bytes("a.bin") == b"\x00\xff" * 1000
    assert any_artefact.read_json("a.json") == {"a": 0.1, "b": [1, None]}
    assert any_artefact.files() == ["a.bin", "a.json"]
    assert any_artefact.files("a.b") == ["a.bin"]
    assert any_artefact.has("a.bin")
    assert not any_artefact.has("b.bin")


def test_an_artefact_that_does_not_exist_has_no_files(any_artefact: Artefact) -> None:
    assert any_artefact.files() == []
    assert not any_artefact.has(MANIFEST)
    with pytest.raises(FileNotFoundError, match=re.escape(MANIFEST)):
        any_artefact.manifest()


def test_temporary_files_are_neither_left_nor_listed(artefact: Artefact) -> None:
    for number in range(5):
        artefact.write_bytes("a", bytes([number]) * number)
        artefact.begin({"number": number})
    assert names(artefact) == {"a", PLAN}
    (Path(artefact.path) / "part-000000.bin.tmp-dead").write_bytes(b"torn")
    assert artefact.files() == [PLAN, "a"]
    artefact.commit({})
    assert artefact.manifest()["files"] == [PLAN, "a"]


def test_a_file_is_replaced_whole_while_another_run_reads_it(artefact: Artefact) -> None:
    artefact.write_bytes("a", b"\x00" * 200_000)
    seen: set[tuple[int, int]] = set()
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            content = artefact.read_bytes("a")
            seen.add((len(content), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        artefact.write_bytes("a", bytes([number]) * 200_000)
    ended.set()
    reader.join()
    assert seen == {(200_000, 1)}


LIMITED = """
import resource, sys
from benchmark.store.artefacts import Store
from benchmark.errors import BenchmarkError
artefact = Store(sys.argv[1]).artefact("embed", "toy-random", sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    artefact.write_bytes("part-000000.bin", b"new" * 100_000)
except BenchmarkError as error:
    print(type(error).__name__, error)
try:
    artefact.write_bytes("part-000001.bin", b"new" * 100_000)
except BenchmarkError as error:
    print(type(error).__name__, error)
"""


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(artefact: Artefact) -> None:
    artefact.write_bytes("part-000000.bin", b"old")
    lines = run_python(LIMITED, artefact.store.uri, FINGERPRINT).splitlines()
    assert lines == [
        f"CellError {artefact.uri}/part-00000{number}.bin cannot be written: File too large"
        for number in (0, 1)
    ]
    assert names(artefact) == {"part-000000.bin"}
    assert artefact.read_bytes("part-000000.bin") == b"old"


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount the small disk that is to be filled")
    with tempfile.TemporaryDirectory() as folder:
        options = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
        done = subprocess.run(options, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"tmpfs cannot be mounted: {done.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_leaves_no_torn_file(tiny_disk: Path) -> None:
    artefact = Store(str(tiny_disk)).artefact("embed", "toy-random", FINGERPRINT)
    artefact.write_bytes("part-000000.bin", b"old")
    for name in ("part-000000.bin", "part-000001.bin"):
        with pytest.raises(CellError, match=NO_SPACE):
            artefact.write_bytes(name, b"x" * 500_000)
    assert names(artefact) == {"part-000000.bin"}
    assert artefact.read_bytes("part-000000.bin") == b"old"
    artefact.write_bytes("part-000001.bin", b"it fits now")


def test_a_full_disk_fails_begin_commit_and_check_in_one_line(tiny_disk: Path) -> None:
    store = Store(str(tiny_disk))
    artefact = store.artefact("embed", "toy-random", FINGERPRINT)
    artefact.write_bytes("a", b"x")
    filler = tiny_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(CellError, match=NO_SPACE):
        artefact.begin({"plan": 1})
    with pytest.raises(CellError, match=NO_SPACE):
        artefact.commit({})
    with pytest.raises(UsageError, match=rf"{NO_SPACE}\. Choose another"):
        store.check_writable()
    assert not artefact.is_complete
    assert names(artefact) == {"a"}


def _write_for_ever(artefact: Artefact) -> None:
    for number in itertools.count(1):
        artefact.write_bytes("a", bytes([number % 256]) * 3_000_000)


def test_a_process_that_is_killed_while_it_writes_leaves_no_torn_file(artefact: Artefact) -> None:
    for delay in (0.0, 0.01, 0.03, 0.05):
        writer = FORK.Process(target=_write_for_ever, args=(artefact,))
        writer.start()
        while not artefact.has("a"):
            time.sleep(0.002)
        time.sleep(delay)
        writer.kill()
        writer.join()
        content = artefact.read_bytes("a")
        assert len(content) == 3_000_000
        assert len(set(content)) == 1
        assert artefact.files() == ["a"]


def test_a_store_that_can_be_written_is_created_and_left_empty(store: Store) -> None:
    store.check_writable()
    assert Path(store.root).is_dir()
    assert list(Path(store.root).iterdir()) == []


@pytest.mark.parametrize("root", ["{file}", "{file}/below/it", "/proc/runs", "/dev/null/runs"])
def test_a_store_that_cannot_be_written_is_the_users_mistake(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    store = Store(root.format(file=tmp_path / "file"))
    with pytest.raises(UsageError, match=r"^store '.*' cannot be written: .*\. Choose another"):
        store.check_writable()


@pytest.mark.parametrize("root", ["{file}", "{file}/below/it", "/proc/runs"])
def test_a_store_that_went_away_fails_the_cell_in_one_line(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    artefact = Store(root.format(file=tmp_path / "file")).artefact("embed", "a", FINGERPRINT)
    assert artefact.status() == ("missing", "")
    for write in (
        lambda: artefact.write_bytes("a", b"x"),
        lambda: artefact.begin({}),
        lambda: artefact.commit({}),
        lambda: artefact.fail("a reason"),
    ):
        with pytest.raises(CellError, match=r"cannot be written: .") as caught:
            write()
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("uri", ["foo://bucket", "ftp://host/path", "s4://bucket/prefix"])
def test_an_unknown_scheme_is_the_users_mistake(uri: str) -> None:
    with pytest.raises(UsageError, match=rf"^store '{uri}': "):
        Store(uri)


def test_the_plan_of_the_first_run_is_the_plan_of_all(any_artefact: Artefact) -> None:
    assert any_artefact.begin({"batch_size": 4}) == {"batch_size": 4}
    assert any_artefact.begin({"batch_size": 8}) == {"batch_size": 4}
    assert any_artefact.begin({}) == {"batch_size": 4}
    assert any_artefact.files() == [PLAN]


def _race(uri: str, number: int, barrier: object, answers: object) -> None:
    artefact = Store(uri).artefact("embed", "toy-random", FINGERPRINT)
    barrier.wait()  # type: ignore[attr-defined]
    answers.put(artefact.begin({"number": number})["number"])  # type: ignore[attr-defined]


def test_two_runs_that_begin_at_once_get_one_plan(tmp_path: Path) -> None:
    for attempt in range(4):
        uri = str(tmp_path / str(attempt))
        barrier, answers = FORK.Barrier(3), FORK.Queue()
        runs = [
            FORK.Process(target=_race, args=(uri, number, barrier, answers)) for number in range(3)
        ]
        for run in runs:
            run.start()
        found = {answers.get(timeout=30) for _ in runs}
        for run in runs:
            run.join()
        assert len(found) == 1
        artefact = Store(uri).artefact("embed", "toy-random", FINGERPRINT)
        assert artefact.read_json(PLAN) == {"number": found.pop()}
        assert names(artefact) == {PLAN}


def _write_all(artefact: Artefact) -> None:
    for number in range(30):
        artefact.write_bytes(f"part-{number % 6:06d}.bin", bytes([number % 6]) * 50_000)
    artefact.commit({"num_patches": 6})


def test_two_runs_that_write_at_once_leave_one_whole_artefact(artefact: Artefact) -> None:
    runs = [FORK.Process(target=_write_all, args=(artefact,)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    parts = [f"part-{number:06d}.bin" for number in range(6)]
    assert artefact.manifest()["files"] == parts
    for number, part in enumerate(parts):
        assert artefact.read_bytes(part) == bytes([number]) * 50_000
    assert names(artefact) == {*parts, MANIFEST}


def test_an_artefact_is_missing_then_failed_then_complete(any_artefact: Artefact) -> None:
    assert any_artefact.status() == ("missing", "")
    any_artefact.begin({})
    any_artefact.write_bytes("part-000000.bin", b"x")
    assert any_artefact.status() == ("missing", "")
    any_artefact.fail("the disk is full")
    assert any_artefact.status() == ("failed", "the disk is full")
    any_artefact.fail("again")
    assert any_artefact.status() == ("failed", "again")
    any_artefact.commit({})
    assert any_artefact.status() == ("complete", "")
    assert not any_artefact.has(FAILURE)


def test_the_remark_of_a_complete_artefact_is_its_reason(any_artefact: Artefact) -> None:
    any_artefact.commit({"remark": "2 of 8 trials failed, the first: no such k"})
    assert any_artefact.status() == ("complete", "2 of 8 trials failed, the first: no such k")
    any_artefact.commit({})
    assert any_artefact.status() == ("complete", "")


def test_a_failure_does_not_touch_a_complete_artefact(artefact: Artefact) -> None:
    artefact.commit({})
    artefact.fail("a late neighbour")
    assert artefact.status() == ("complete", "")
    assert names(artefact) == {MANIFEST}


def test_an_artefact_is_stale_where_only_other_settings_are_complete(store: Store) -> None:
    artefact = store.artefact("embed", "toy-random", FINGERPRINT)
    other = store.artefact("embed", "toy-random", OTHER)
    other.write_bytes("part-000000.bin", b"x")
    assert artefact.status() == ("missing", "")
    other.commit({})
    assert artefact.status() == ("stale", f"computed with other settings ({OTHER})")
    assert store.other_fingerprints(artefact) == [OTHER]
    assert store.other_fingerprints(other) == []


@pytest.mark.parametrize("name", ["toy-random-2", "other-toy-random", "toy", "random"])
def test_a_neighbour_of_a_similar_name_makes_nothing_stale(store: Store, name: str) -> None:
    store.artefact("embed", name, OTHER).commit({})
    store.artefact("tune", "toy-random", OTHER).commit({})
    assert store.artefact("embed", "toy-random", FINGERPRINT).status() == ("missing", "")


def test_a_table_is_read_sorted_by_patch_id_whatever_the_order_of_its_parts(
    any_artefact: Artefact,
) -> None:
    any_artefact.write_table("part-000000.parquet", patches("c1", "a2"))
    any_artefact.write_table("part-000001.parquet", patches("b1", "a1"))
    assert any_artefact.read_table()["patch_id"].to_pylist() == ["a1", "a2", "b1", "c1"]


def test_a_table_is_filtered_by_split_and_column(any_artefact: Artefact) -> None:
    any_artefact.write_table("part-000000.parquet", patches("a1", "b1"))
    any_artefact.write_table("part-000001.parquet", patches("c1", "a2"))
    any_artefact.write_table("trials.parquet", pa.table({"trial": [0]}))
    read = any_artefact.read_table(columns=["patch_id"], splits=("train", "val"))
    assert read.to_pydict() == {"patch_id": ["a1", "a2", "b1"]}
    test = any_artefact.read_table(splits=("test",))
    assert test.to_pydict() == {"patch_id": ["c1"], "split": ["test"]}
    assert any_artefact.read_table(names=["trials.parquet"]).to_pydict() == {"trial": [0]}
    assert any_artefact.read_table(splits=("none",)).num_rows == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.text(max_size=3), max_size=5), min_size=1, max_size=4))
def test_any_ids_come_back_sorted_by_their_bytes(parts: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        artefact = Store(folder).artefact("embed", "toy", FINGERPRINT)
        for number, ids in enumerate(parts):
            table = pa.table({"patch_id": pa.array(ids, pa.string())})
            artefact.write_table(f"part-{number:06d}.parquet", table)
        found = artefact.read_table()["patch_id"].to_pylist()
    assert found == sorted((item for ids in parts for item in ids), key=str.encode)


def test_the_metadata_and_types_of_a_table_survive(any_artefact: Artefact) -> None:
    table = patches("a1").replace_schema_metadata({"summary": "{}"})
    any_artefact.write_table("part-000000.parquet", table)
    read = any_artefact.read_table()
    assert read.schema.metadata[b"summary"] == b"{}"
    schema = pq.read_schema(
        any_artefact.file("part-000000.parquet"), filesystem=any_artefact.store.fs
    )
    assert schema.equals(table.schema)


def test_the_same_table_is_the_same_bytes(any_artefact: Artefact) -> None:
    any_artefact.write_table("one", patches("a1", "b1"))
    any_artefact.write_table("other", patches("a1", "b1"))
    assert any_artefact.read_bytes("one") == any_artefact.read_bytes("other")


def test_a_pickled_artefact_writes_to_the_same_place(any_artefact: Artefact) -> None:
    copy = pickle.loads(pickle.dumps(any_artefact))
    copy.write_bytes("a", b"x")
    copy.commit({})
    assert any_artefact.read_bytes("a") == b"x"
    assert any_artefact.is_complete
    assert copy.path == any_artefact.path


def test_another_process_writes_through_a_pickled_artefact(artefact: Artefact) -> None:
    code = """
    import pickle, sys
    artefact = pickle.loads(bytes.fromhex(sys.argv[1]))
    artefact.write_bytes("a", b"x")
    artefact.commit({"written": True})
    """
    run_python(code, pickle.dumps(artefact).hex())
    assert artefact.manifest()["written"] is True
    assert artefact.manifest()["files"] == ["a"]


def test_json_is_written_sorted_so_that_two_runs_write_the_same_bytes(artefact: Artefact) -> None:
    artefact.write_json("a", {"b": 1, "a": 2})
    artefact.write_json("b", {"a": 2, "b": 1})
    assert artefact.read_bytes("a") == artefact.read_bytes("b")
    assert json.loads(artefact.read_bytes("a")) == {"a": 2, "b": 1}
