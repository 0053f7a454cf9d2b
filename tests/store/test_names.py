"""Names of files: those of today, and older stores, which are read as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from benchmark.errors import CellError
from benchmark.store import names
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.checksums import SEAL, seal
from benchmark.store.names import (
    FAILURE,
    FITTED,
    HEAD,
    MANIFEST,
    PLAN,
    SCORES_CSV,
    WEIGHTS,
    beside,
    current_name,
    older_name,
)
from tests.object_store import KEYS, ObjectStore, serve_objects

FINGERPRINT = "0123456789abcdef"
PART = "part-000000.parquet"
TABLE = pa.table({"patch_id": ["a", "b"], "split": ["val", "test"]})
TRIALS = pa.table({"trial": [0, 1]})
NAMES = {
    **{FAILURE: "failure.json", MANIFEST: "manifest.json", PLAN: "plan.json"},
    **{HEAD: "head.skops", WEIGHTS: "model.safetensors", FITTED: "fitted.safetensors"},
    SCORES_CSV: "scores.csv",
    **{
        beside(name): f"{name}.parquet"
        for name in (
            *("trials", "curve", "candidates-000012"),
            *("confusion", "calibration", "ranking", "comparison"),
        )
    },
    PART: PART,
    "scores.parquet": "scores.parquet",
    "index.html": "index.html",
    "trial-001-last.safetensors": "trial-001-last.safetensors",
}


@pytest.mark.parametrize("name", NAMES)
def test_each_name_has_an_older_one(name: str) -> None:
    assert older_name(name) == NAMES[name]
    assert current_name(NAMES[name]) == current_name(name) == name


def test_all_names_of_the_module_have_one() -> None:
    found = {value for key, value in vars(names).items() if key.isupper() and "." in str(value)}
    assert found <= NAMES.keys() | {
        names.PARTS,
        names._OLDER_DOCUMENT,
        names._OLDER_TABLE,
        names._OWN,
    }


def write(artefact: Artefact) -> Artefact:
    artefact.begin({"batch_size": 8})
    artefact.write_table(PART, TABLE)
    artefact.write_table(beside("trials"), TRIALS)
    artefact.write_bytes(HEAD, b"a head")
    return artefact


def make_older(artefact: Artefact) -> None:
    """Rename the files as an older version would have named them, also in the manifest."""
    for name in artefact.files():
        Path(artefact.file(older_name(name))).write_bytes(artefact.read_bytes(name))
        if name != older_name(name):
            Path(artefact.file(name)).unlink()
    path = Path(artefact.file("manifest.json"))
    if path.exists():
        content = json.loads(path.read_text())
        content.pop(SEAL)
        content["files"] = sorted(older_name(name) for name in content["files"])
        for key in ("bytes", "xxh3"):
            content[key] = {older_name(name): value for name, value in content[key].items()}
        path.write_text(json.dumps(seal(content)))


@pytest.fixture
def artefact(tmp_path: Path) -> Artefact:
    return Store(str(tmp_path / "runs")).artefact("tune", "toy", FINGERPRINT)


@pytest.fixture
def older(artefact: Artefact) -> Artefact:
    """A complete artefact of an older store."""
    write(artefact).commit({"plan": {"batch_size": 8}})
    make_older(artefact)
    assert on_disk(artefact) == {"manifest.json", "plan.json", PART, "trials.parquet", "head.skops"}
    return artefact


def on_disk(artefact: Artefact) -> set[str]:
    root = Path(artefact.path)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_an_artefact_of_an_older_store_is_complete_and_read(older: Artefact) -> None:
    before = {name: older.read_bytes(name) for name in on_disk(older)}
    assert older.is_complete
    assert older.status() == ("complete", "")
    assert older.damage() == {}
    assert older.verify() == ({}, True)
    assert older.manifest()["fingerprint"] == FINGERPRINT
    assert older.plan() == older.begin({"batch_size": 9}) == {"batch_size": 8}
    assert older.read_table().equals(TABLE)
    assert older.read_table(names=[beside("trials")]).equals(TRIALS)
    assert older.read_metadata(beside("trials")).num_rows == 2
    assert older.read_schema(beside("trials")).names == ["trial"]
    assert older.read_verified(HEAD) == older.read_bytes(HEAD) == b"a head"
    assert older.has(HEAD)
    assert not older.has(FITTED)
    older.fail("no reason")
    older.discard_damage(by_part=True) if older.damage() else None
    assert {name: older.read_bytes(name) for name in on_disk(older)} == before
    other = older.store.artefact("tune", "toy", "f" * 16)
    assert other.status()[0] == "stale"


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "cut": lambda content: content[:-1],
    "emptied": lambda content: b"",
    "removed": lambda content: None,
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["plan.json", PART, "trials.parquet", "head.skops"])
def test_damage_of_an_older_store_is_found_by_the_name_of_the_file(
    older: Artefact, name: str, kind: str
) -> None:
    path = Path(older.file(name))
    content = DAMAGES[kind](path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    assert list(older.verify()[0]) == [name]
    if kind != "flipped":
        assert list(older.damage()) == [name]
        assert older.status()[0] == "missing"
        assert f"damaged: {name} " in older.status()[1]
    if name == "head.skops" and kind != "removed":
        with pytest.raises(CellError, match=r"/head\.skops is damaged \(its checksum differs\)"):
            older.read_verified(HEAD)


@pytest.mark.parametrize("kind", ["flipped", "cut", "emptied"])
def test_a_damaged_older_manifest_is_found(older: Artefact, kind: str) -> None:
    path = Path(older.file("manifest.json"))
    path.write_bytes(DAMAGES[kind](path.read_bytes()) or b"")
    assert list(older.verify()[0]) == ["manifest.json"]
    assert older.status()[0] == "missing"
    with pytest.raises(CellError, match=r"/manifest\.json is damaged"):
        older.manifest()


def test_in_a_run_a_damaged_file_of_an_older_store_is_removed(older: Artefact) -> None:
    older.store.discards_damage = True
    Path(older.file("trials.parquet")).write_bytes(b"torn")
    with pytest.raises(CellError, match=r"/trials\.parquet is damaged .*: it was removed"):
        older.read_table(names=[beside("trials")])
    assert "trials.parquet" not in on_disk(older)
    Path(older.file("plan.json")).write_bytes(b"[]")
    with pytest.raises(CellError, match=r"/plan\.json is damaged .*: it was removed"):
        older.plan()
    assert "plan.json" not in on_disk(older)


@pytest.mark.parametrize("by_part", [True, False])
def test_damage_of_an_older_store_is_computed_again_with_its_plan(
    older: Artefact, by_part: bool
) -> None:
    Path(older.file(PART)).write_bytes(b"torn")
    older.discard_damage(by_part=by_part)
    kept = {"plan.json"} | ({"trials.parquet", "head.skops"} if by_part else set())
    assert on_disk(older) == kept
    assert older.begin({"batch_size": 9}) == {"batch_size": 8}
    write(older).commit({})
    # What the older version had begun has today's names now.
    assert on_disk(older) == {MANIFEST, PLAN, PART, beside("trials"), HEAD}
    assert older.plan() == {"batch_size": 8}
    assert older.verify() == ({}, True)


def test_a_lost_plan_of_an_older_store_comes_from_its_manifest(older: Artefact) -> None:
    Path(older.file("plan.json")).unlink()
    older.discard_damage(by_part=True)
    assert older.plan() == {"batch_size": 8}
    assert on_disk(older) == {PLAN, PART, "trials.parquet", "head.skops"}


def test_what_an_older_version_began_goes_on_with_its_plan_and_files(artefact: Artefact) -> None:
    write(artefact)
    make_older(artefact)
    assert not artefact.is_complete
    assert artefact.begin({"batch_size": 9}) == {"batch_size": 8}
    assert set(map(current_name, artefact.files())) >= {beside("trials"), PLAN}
    # A file of each version: today's is the later one.
    artefact.write_bytes(HEAD, b"another head")
    artefact.write_table("part-000001.parquet", TABLE)
    artefact.commit({}, needs=(HEAD, beside("trials")))
    assert on_disk(artefact) == {
        *(MANIFEST, PLAN, HEAD, beside("trials")),
        *(PART, "part-000001.parquet"),
    }
    assert artefact.read_bytes(HEAD) == b"another head"
    assert artefact.read_table(names=[beside("trials")]).equals(TRIALS)
    assert artefact.verify() == ({}, True)


def test_a_failure_of_an_older_version_is_told_and_forgotten(artefact: Artefact) -> None:
    artefact.write_bytes("failure.json", b'{"reason": "no memory"}')
    assert artefact.status() == ("failed", "no memory")
    artefact.fail("no disk")
    assert artefact.status() == ("failed", "no disk")
    write(artefact).commit({})
    assert artefact.status() == ("complete", "")
    assert not {FAILURE, "failure.json"} & on_disk(artefact)


# --- requests to an object store ---


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    with serve_objects() as found:
        yield found


@pytest.fixture
def remote(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Artefact:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    path = os.environ["PYTEST_CURRENT_TEST"].partition("::")[2].partition(" ")[0]
    return Store(objects.uri(path)).artefact("tune", "toy", FINGERPRINT)


def requests(objects: ObjectStore, use: Callable[[], object]) -> list[str]:
    objects.faults.seen.clear()
    use()
    seen = objects.faults.seen
    return ["LIST" if "list-type" in item.path else item.method for item in seen]


def test_one_listing_tells_the_status_of_either_kind(
    objects: ObjectStore, remote: Artefact
) -> None:
    assert requests(objects, lambda: remote.is_complete) == ["LIST"]
    assert requests(objects, remote.plan) == ["LIST"]
    assert requests(objects, remote.damage) == ["LIST"]
    write(remote).commit({})
    for is_older in (False, True):
        if is_older:
            content = remote.manifest()
            for name in remote.files():
                if name != MANIFEST:
                    remote.store.move(
                        f"{remote.folder}/{name}", f"{remote.folder}/{older_name(name)}"
                    )
            remote.delete(MANIFEST)
            for key in ("bytes", "xxh3"):
                content[key] = {older_name(name): value for name, value in content[key].items()}
            remote.write_json("manifest.json", seal(content))
            assert MANIFEST not in remote.files()
        assert requests(objects, lambda: remote.is_complete) == ["LIST"]
        # Arrow asks for the size of what it reads.
        assert requests(objects, remote.status) == ["LIST", "HEAD", "GET"]
        assert requests(objects, remote.damage) == ["LIST", "HEAD", "GET"]
        assert remote.status() == ("complete", "")
        assert remote.verify() == ({}, True)
        assert remote.read_table(names=[beside("trials")]).equals(TRIALS)


def test_what_an_older_version_began_on_s3_gets_todays_names(remote: Artefact) -> None:
    remote.write_bytes("plan.json", b'{"batch_size": 8}')
    remote.write_table("candidates-000000.parquet", TABLE)
    assert remote.begin({"batch_size": 9}) == {"batch_size": 8}
    remote.write_table(PART, TABLE)
    remote.commit({})
    assert remote.files() == [MANIFEST, PLAN, beside("candidates-000000"), PART]
    assert remote.verify() == ({}, True)


def test_a_move_that_went_through_before_its_answer_was_lost_is_no_error(
    artefact: Artefact,
) -> None:
    store = artefact.store
    store.write("a", b"x")
    store.move("a", "b/c")
    store.move("a", "b/c")
    assert store.read("b/c") == b"x"
    with pytest.raises(CellError, match="cannot be written"):
        store.move("a", "d")


def test_a_disk_is_asked_for_the_manifest_alone(
    older: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing asks for the size of every part."""
    monkeypatch.setattr(older.store, "sizes", lambda folder: pytest.fail("listed"))
    assert older.is_complete
    assert older.plan() == {"batch_size": 8}
