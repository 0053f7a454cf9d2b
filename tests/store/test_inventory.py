"""What lies in a store is told from what is somebody else's, and deleted alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmark.search.bookkeeping import Segment
from benchmark.store.artefacts import Store
from benchmark.store.inventory import delete_entries, list_files, take_stock
from benchmark.store.names import FAILURE, HEAD, MANIFEST, PLAN, is_own
from benchmark.training.segment import LAST, SMALLER, segment_name
from tests.object_store import KEYS, serve_objects
from tests.store_document import KINDS

PRINT = "0123456789abcdef"
STAGES = ("patches", "embed", "tune")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


def write(store: Store, *paths: str) -> None:
    for path in paths:
        store.write(path, b"12345")


def kinds(store: Store) -> dict[str, str]:
    return {item.path: item.kind for item in take_stock(store, STAGES, ("usage",))}


def test_every_documented_file_is_an_artefacts_own() -> None:
    for kind in KINDS:
        for item in kind.items:
            name = item.pattern.replace("N-TITLE", "03-confusion-a-b").replace("N", "000001")
            assert is_own(name), name
            assert is_own(name.removeprefix("_tables/").removeprefix("_")), "of older stores"
    segments = (Segment("fit", 0, {}, 1, 2), Segment("refit", 3, {}, 0, 5))
    names = [MANIFEST, FAILURE, PLAN, "manifest.json", SMALLER, f"trial-003{LAST}"]
    names += ["trial-003-best.safetensors", "trial-003-log.json", *map(segment_name, segments)]
    for name in names:
        assert is_own(name), name
    for name in ("notes.txt", "data.json", "a/part-1.parquet", "Part-1.parquet", "x.safetensors"):
        assert not is_own(name), name


def test_kinds_are_told_by_names(store: Store) -> None:
    temporary = "x.json.tmp-" + "0" * 32
    write(
        store,
        f"embed/a-b-{PRINT}/part-000000.parquet",
        f"embed/a-b-{PRINT}/{PLAN}",
        f"embed/a-b-{PRINT}/{temporary}",
        f"embed/only-{PRINT}/{temporary}",
        f"embed/mine-{PRINT}/notes.txt",
        f"embed/mine-{PRINT}/{MANIFEST}",
        "embed/no-print/part-000000.parquet",
        "embed/readme.txt",
        f"arrays/a-{PRINT}/images.npy",
        f"arrays/b-{PRINT}/images.npy",
        f"arrays/b-{PRINT}/mine.npy",
        "arrays/.writing-x/made/images.npy",
        ".probe-" + "0" * 32,
        f"usage/{temporary}",
        "usage/small.json",
        "photographs/a.png",
    )
    assert kinds(store) == {
        ".probe-" + "0" * 32: "temporary",
        "arrays/.writing-x": "temporary",
        f"arrays/a-{PRINT}": "arrays",
        f"arrays/b-{PRINT}": "foreign",
        f"embed/a-b-{PRINT}": "artefact",
        f"embed/a-b-{PRINT}/{temporary}": "temporary",
        f"embed/mine-{PRINT}": "foreign",
        "embed/no-print": "foreign",
        f"embed/only-{PRINT}": "temporary",
        "embed/readme.txt": "foreign",
        f"usage/{temporary}": "temporary",
    }
    (entry,) = [item for item in take_stock(store, STAGES, ()) if item.path == f"embed/a-b-{PRINT}"]
    assert (entry.num_bytes, entry.stage, entry.name) == (10, "embed", "a-b")
    assert abs(entry.changed_s - time.time()) < 60


def test_what_is_linked_from_elsewhere_is_left(store: Store, tmp_path: Path) -> None:
    elsewhere = Store(str(tmp_path / "disk"))
    write(elsewhere, f"a-{PRINT}/{MANIFEST}", f"inner/b-{PRINT}/{MANIFEST}")
    write(store, f"embed/c-{PRINT}/{MANIFEST}")
    (tmp_path / "runs" / "embed" / f"a-{PRINT}").symlink_to(tmp_path / "disk" / f"a-{PRINT}")
    (tmp_path / "runs" / "tune").symlink_to(tmp_path / "disk" / "inner")
    found = take_stock(store, STAGES, ())
    assert {item.path: item.kind for item in found} == {
        f"embed/a-{PRINT}": "foreign",
        f"embed/c-{PRINT}": "artefact",
        f"tune/b-{PRINT}": "foreign",
    }
    assert [item.path for item in delete_entries(store, found)] == [f"embed/c-{PRINT}"]
    assert len(list_files(elsewhere, "inner")) == 1
    assert (tmp_path / "disk" / f"a-{PRINT}" / MANIFEST).is_file()
    # A store that is itself reached by a link is a store like any other.
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    write(store, f"embed/c-{PRINT}/{MANIFEST}")
    found = take_stock(Store(str(tmp_path / "link")), STAGES, ())
    assert [item.path for item in found if item.kind == "artefact"] == [f"embed/c-{PRINT}"]


def test_the_manifest_is_deleted_first_and_empty_folders_go(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("_tables/trials.parquet", "part-000000.parquet", HEAD, MANIFEST)
    write(store, *(f"tune/a-{PRINT}/{name}" for name in names), f"tune/b-{PRINT}/{MANIFEST}")
    deleted: list[str] = []
    delete = store.delete
    monkeypatch.setattr(store, "delete", lambda path: (deleted.append(path), delete(path)))
    found = [item for item in take_stock(store, STAGES, ()) if item.path == f"tune/a-{PRINT}"]
    assert list(delete_entries(store, found)) == found
    assert deleted[0] == f"tune/a-{PRINT}/{MANIFEST}"
    assert len(deleted) == 4
    assert [path.name for path in (tmp_path / "runs" / "tune").iterdir()] == [f"b-{PRINT}"]


def test_an_object_store_is_listed_and_cleaned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with serve_objects() as objects:
        check_object_store(Store(objects.uri("inventory/runs")))


def check_object_store(store: Store) -> None:
    write(store, f"tune/a-{PRINT}/{HEAD}", f"tune/a-{PRINT}/{MANIFEST}", f"tune/mine-{PRINT}/a.txt")
    write(store, "usage/x.json", ".probe-" + "0" * 32)
    found = take_stock(store, STAGES, ("usage",))
    assert {item.path: item.kind for item in found} == {
        ".probe-" + "0" * 32: "temporary",
        f"tune/a-{PRINT}": "artefact",
        f"tune/mine-{PRINT}": "foreign",
    }
    assert len(list(delete_entries(store, found))) == 2
    left = [item.path for folder in ("", "tune", "usage") for item in list_files(store, folder)]
    assert left == [f"tune/mine-{PRINT}/a.txt", "usage/x.json"]
