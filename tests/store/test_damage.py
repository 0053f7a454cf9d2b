"""Damaged files, full disks and folders that cannot be used: one line with the cause."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import CellError, UsageError
from benchmark.store import retries
from benchmark.store.artefacts import FAILURE, MANIFEST, PLAN, Artefact, Store
from benchmark.store.checksums import checksum
from benchmark.store.damage import AGAIN
from benchmark.store.names import FITTED, HEAD
from tests.object_store import KEYS, ObjectStore, serve_objects

FINGERPRINT = "0123456789abcdef"
PART = "part-000000.parquet"
TABLE = pa.table(
    {
        "patch_id": [f"p{number:04d}" for number in range(500)],
        "split": ["train", "val"] * 250,
        "embedding": [[float(number), 0.5] for number in range(500)],
    }
)


@pytest.fixture
def artefact(tmp_path: Path) -> Artefact:
    found = Store(str(tmp_path / "runs")).artefact("embed", "toy", FINGERPRINT)
    found.write_table(PART, TABLE)
    found.commit({})
    return found


def one_line(use: Callable[[], object], match: str) -> None:
    with pytest.raises(CellError, match=match) as caught:
        use()
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) <= 2000


# --- damaged files ---


def flip(content: bytes) -> bytes:
    """Change one byte in the middle of the values, which no decoder notices without a checksum."""
    at = content.index(pa.array([[300.0, 0.5]]).flatten().buffers()[1].to_pybytes())
    return content[: at + 6] + bytes([content[at + 6] ^ 1]) + content[at + 7 :]


DAMAGES = {
    "flip": (flip, "CRC checksum verification failed"),
    "cut": (lambda content: content[:-20], "Parquet magic bytes not found in footer"),
    "short": (lambda content: content[:6], "Parquet"),
    "empty": (lambda content: b"", "Parquet file size is 0 bytes"),
    "text": (lambda content: b"<html>not found</html>" * 9, "Parquet magic bytes not found"),
    "footer": (lambda content: content[:-60] + b"\xff" * 50 + content[-10:], "."),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_table_names_its_file_its_cause_and_what_to_do(
    artefact: Artefact, kind: str
) -> None:
    damage, cause = DAMAGES[kind]
    path = Path(artefact.file(PART))
    path.write_bytes(damage(path.read_bytes()))
    expected = (
        rf"^{re.escape(artefact.file_uri(PART))} is damaged \(.*{cause}.*\): "
        r"delete this file and run again$"
    )
    one_line(artefact.read_table, expected)
    if kind != "flip":
        one_line(lambda: artefact.read_metadata(PART), expected)
        one_line(lambda: artefact.read_schema(PART), expected)
    else:
        assert not pq.read_table(path).equals(TABLE)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_changed_byte_of_the_values_is_read_without_an_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        artefact = Store(folder).artefact("embed", "toy", FINGERPRINT)
        artefact.write_table(PART, TABLE)
        path = Path(artefact.file(PART))
        content = bytearray(path.read_bytes())
        size = int.from_bytes(content[-8:-4], "little")
        at = data.draw(st.integers(4, len(content) - size - 9))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        try:
            assert artefact.read_table().equals(TABLE)
        except CellError as error:
            assert "is damaged (" in str(error)
            assert len(str(error).splitlines()) == 1


def test_a_file_without_checksums_is_read_as_before(artefact: Artefact) -> None:
    pq.write_table(TABLE, artefact.file(PART))
    assert artefact.read_table().equals(TABLE)


def test_a_wrong_question_is_no_damage(artefact: Artefact) -> None:
    artefact.write_table(PART, TABLE.drop(["split"]))
    with pytest.raises(pa.ArrowInvalid, match="split"):
        artefact.read_table(splits=("train",))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b"null"])
@pytest.mark.parametrize("name", [MANIFEST, PLAN])
def test_a_damaged_document_is_one_line(artefact: Artefact, name: str, content: bytes) -> None:
    Path(artefact.file(name)).write_bytes(content)
    read = artefact.manifest if name == MANIFEST else artefact.plan
    one_line(read, rf"{name} is damaged \(.+\): delete this file and run again$")
    if name == PLAN:
        one_line(lambda: artefact.begin({}), "is damaged")
    else:
        status, reason = artefact.status()
        assert (status, "is damaged" in reason) == ("missing", True)


def test_a_damaged_record_of_a_failure_is_still_a_failure(artefact: Artefact) -> None:
    artefact.delete(MANIFEST)
    artefact.write_bytes(FAILURE, b"{")
    status, reason = artefact.status()
    assert status == "failed"
    assert "failure.json is damaged (not JSON: " in reason


def test_a_missing_part_is_named(artefact: Artefact) -> None:
    Path(artefact.file(PART)).unlink()
    one_line(lambda: artefact.read_table(names=[PART]), f"{PART} is missing: run again$")
    one_line(artefact.read_table, f"{PART} is missing: run again$")
    artefact.delete(MANIFEST)
    one_line(artefact.read_table, r"part-\* is damaged \(there is no such file\): ")


def test_a_complete_artefact_with_a_missing_or_cut_file_is_not_complete(artefact: Artefact) -> None:
    assert artefact.damage() == {}
    assert artefact.status() == ("complete", "")
    path = Path(artefact.file(PART))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    wrong = f"has {size - 1} bytes instead of {size}"
    assert artefact.damage() == {PART: wrong}
    assert artefact.status() == ("missing", f"damaged: {PART} {wrong}: run again")
    path.unlink()
    assert artefact.status() == ("missing", f"damaged: {PART} is missing: run again")
    assert artefact.is_complete


def test_a_changed_byte_anywhere_is_found_by_its_checksum(artefact: Artefact) -> None:
    artefact.delete(MANIFEST)
    artefact.begin({"plan": 1})
    artefact.write_bytes(HEAD, b"a head" * 100)
    # One checksum from who wrote the file; the others are read.
    artefact.commit({}, checksums={PART: checksum(artefact.read_bytes(PART))})
    assert artefact.verify() == ({}, True)
    for name in (PART, HEAD, PLAN):
        path = Path(artefact.file(name))
        sound = path.read_bytes()
        for at in (0, len(sound) // 2, len(sound) - 1):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            assert artefact.status() == ("complete", "")
            wrong = {name: "has another content than was written"}
            assert artefact.verify() == (wrong, True)
            one_line(lambda name=name: artefact.read_verified(name), "its checksum differs")
        path.write_bytes(sound)
    path = Path(artefact.file(MANIFEST))
    path.write_text(path.read_text().replace('"name": "toy"', '"name": "tox"'))
    one_line(artefact.manifest, r"manifest.json is damaged \(its checksum differs\)")
    assert artefact.status()[0] == "missing"


def test_an_artefact_without_checksums_is_not_verified(artefact: Artefact) -> None:
    content = {k: v for k, v in artefact.manifest().items() if k != "xxh3"}
    artefact.write_json(MANIFEST, content)
    assert artefact.verify() == ({}, False)
    assert artefact.read_verified(PART) == artefact.read_bytes(PART)


def test_a_damaged_part_that_is_found_is_not_committed(artefact: Artefact) -> None:
    artefact.delete(MANIFEST)
    path = Path(artefact.file(PART))
    path.write_bytes(flip(path.read_bytes()))
    one_line(lambda: artefact.commit({}), "CRC checksum verification failed")
    assert not artefact.is_complete


def test_an_artefact_whose_files_were_removed_is_not_committed(artefact: Artefact) -> None:
    shutil.rmtree(artefact.store.root)
    one_line(lambda: artefact.commit({}, needs=(PART,)), f"{PART} is missing: run again$")
    assert not artefact.is_complete


def test_in_a_run_a_damaged_file_is_removed(artefact: Artefact) -> None:
    artefact.store.discards_damage = True
    path = Path(artefact.file(PART))
    path.write_bytes(flip(path.read_bytes()))
    one_line(artefact.read_table, f"is damaged .*: it was removed, and {AGAIN}$")
    assert not path.exists()
    assert artefact.status() == ("missing", f"damaged: {PART} is missing: run again")


@pytest.mark.parametrize("by_part", [True, False])
def test_what_is_damaged_is_discarded_alone(artefact: Artefact, by_part: bool) -> None:
    artefact.delete(MANIFEST)
    artefact.write_bytes("part-000001.parquet", Path(artefact.file(PART)).read_bytes())
    artefact.begin({"batch_size": 8})
    artefact.commit({"plan": {"batch_size": 8}})
    Path(artefact.file(PART)).write_bytes(b"PAR1")
    Path(artefact.file(PLAN)).write_bytes(b"{}")
    artefact.discard_damage(by_part=by_part)
    assert artefact.files() == ([PLAN, "part-000001.parquet"] if by_part else [])
    # The manifest of what is computed by parts holds the plan, too.
    assert artefact.plan() == ({"batch_size": 8} if by_part else None)


@pytest.mark.parametrize("discards", [False, True])
def test_without_a_manifest_only_tables_are_kept(artefact: Artefact, discards: bool) -> None:
    # In a run, the damaged manifest is gone once it was read.
    artefact.store.discards_damage = discards
    Path(artefact.file(MANIFEST)).write_bytes(b"{")
    assert list(artefact.damage()) == [MANIFEST]
    artefact.discard_damage(by_part=True)
    assert artefact.files() == [PART]
    artefact.write_bytes(FITTED, b"x")
    artefact.commit({})
    Path(artefact.file(MANIFEST)).write_bytes(b"{")
    assert list(artefact.damage()) == [MANIFEST]
    artefact.discard_damage(by_part=True)
    assert artefact.files() == []


def test_a_manifest_without_sizes_names_no_damage(artefact: Artefact) -> None:
    content = {k: v for k, v in artefact.manifest().items() if k != "bytes"}
    artefact.write_json(MANIFEST, content)
    Path(artefact.file(PART)).unlink()
    assert artefact.damage() == {}
    assert artefact.status() == ("complete", "")


def test_the_status_of_a_complete_artefact_is_cheap(artefact: Artefact) -> None:
    def measure() -> float:
        began = time.perf_counter()
        for _ in range(20):
            artefact.status()
        return (time.perf_counter() - began) / 20

    # The fastest of several: the machine may be busy.
    assert min(measure() for _ in range(10)) < 0.001


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    with serve_objects() as found:
        yield found


def test_damage_and_an_unreadable_store_are_told_apart_on_s3(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    store = Store(objects.uri("damage"))
    store.check_writable()
    store.check_readable()
    missing = Store(objects.uri("damage").replace("//bucket/", "//another/"))
    for check in (missing.check_readable, missing.check_writable):
        with pytest.raises(UsageError, match="there is no such bucket; check the URI"):
            check()
    artefact = store.artefact("embed", "toy", FINGERPRINT)
    artefact.write_table(PART, TABLE)
    artefact.commit({})
    assert artefact.status() == ("complete", "")
    store.check_readable()
    content = artefact.read_bytes(PART)
    artefact.write_bytes(PART, flip(content))
    one_line(artefact.read_table, r"is damaged \(.*CRC checksum verification failed")
    artefact.write_bytes(PART, content)
    assert artefact.read_table().equals(TABLE)
    objects.faults.refuse = lambda method, path: (403, "AccessDenied", "Access Denied")
    try:
        one_line(artefact.read_table, "cannot be read: access denied")
        with pytest.raises(UsageError, match="cannot be read: access denied"):
            store.check_readable()
        objects.faults.refuse = lambda method, path: (
            (507, "XMinioStorageFull", "full") if method == "PUT" else None
        )
        objects.faults.seen.clear()
        one_line(lambda: artefact.write_bytes("a", b"x"), "no space left .*; free some space")
        assert objects.faults.count(507, "PUT") <= 4
    finally:
        objects.faults.reset()


# --- full disks ---


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ENOSPC, r"no space left \(No space left on device\)"),
        (errno.EDQUOT, r"the quota is used up \(Disk quota exceeded\)"),
    ],
)
def test_a_full_disk_is_tried_once_and_says_what_to_do(
    artefact: Artefact, number: int, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def fail(final: str, content: bytes) -> None:
        tries.append(final)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(artefact.store, "_write_whole", fail)
    one_line(
        lambda: artefact.write_bytes("a", b"x"),
        f"cannot be written: {cause}; free some space and run again: complete artefacts are kept$",
    )
    assert len(tries) == 1
    assert not retries.is_transient(OSError("HTTP status 507: XMinioStorageFull"))
    assert retries.is_transient(OSError("HTTP status 503"))


def test_a_file_that_cannot_be_synced_fails_the_commit_in_one_line(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    artefact.delete(MANIFEST)
    monkeypatch.setattr(os, "fsync", fail)
    one_line(lambda: artefact.commit({}), f"{PART} cannot be written: no space left")
    assert not artefact.is_complete


# --- folders that cannot be used ---


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("loop", "Too many levels of symbolic links"),
        ("loop/x", "Too many levels of symbolic links"),
        ("file", "it is a file, not a folder"),
        ("file/x", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, name: str, cause: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"x")
    store = Store(str(tmp_path / name))
    for use, done in ((store.check_writable, "written"), (store.check_readable, "read")):
        with pytest.raises(UsageError, match=rf"cannot be {done}: {cause}\. Choose") as caught:
            use()
        assert len(str(caught.value).splitlines()) == 1


def test_a_store_that_does_not_exist_yet_can_be_read(tmp_path: Path) -> None:
    Store(str(tmp_path / "a" / "b")).check_readable()
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_can_be_read_and_not_written(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a read-only folder")
    options = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(tmp_path)]
    done = subprocess.run(options, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"tmpfs cannot be mounted: {done.stderr.strip()}")
    try:
        store = Store(str(tmp_path))
        store.check_readable()
        with pytest.raises(UsageError, match="cannot be written: read-only file system"):
            store.check_writable()
        artefact = store.artefact("embed", "toy", FINGERPRINT)
        one_line(lambda: artefact.write_bytes("a", b"x"), "read-only file system")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_store_that_is_removed_in_the_middle_is_one_line(artefact: Artefact) -> None:
    shutil.rmtree(artefact.store.root)
    assert artefact.status() == ("missing", "")
    one_line(artefact.read_table, r"part-\* is damaged \(there is no such file\)")
    one_line(lambda: artefact.read_table(names=[PART]), f"{PART} is missing: run again$")
    artefact.begin({"plan": 1})
    artefact.write_table(PART, TABLE)
    assert json.loads(Path(artefact.file(PLAN)).read_text()) == {"plan": 1}
