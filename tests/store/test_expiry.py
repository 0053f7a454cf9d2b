"""Credentials that expire end a run soon, with one line; with new credentials it resumes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from benchmark.cli.commands import invoke
from benchmark.errors import CellError
from benchmark.store.artefacts import MANIFEST, Store
from tests.object_store import KEYS, ObjectStore, serve_objects
from tests.scenes import SMALLEST

EXPIRED = (403, "ExpiredToken", "The provided token has expired.")
LONGEST_S = 90
"""Most seconds until a run with expired credentials ends, on a busy machine."""


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with serve_objects() as found:
        yield found


def expire_at(objects: ObjectStore, part: str) -> None:
    """Refuse everything from the first write on whose path holds ``part``."""
    is_over = False

    def refuse(method: str, path: str) -> tuple[int, str, str] | None:
        nonlocal is_over
        is_over = is_over or (method == "PUT" and part in path)
        return EXPIRED if is_over else None

    objects.faults.refuse = refuse


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired"])
def test_every_operation_says_what_to_do(
    objects: ObjectStore, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(objects.uri("runs")).write("a/b", b"x")
    # Arrow repeats what it takes for a clock that is wrong.
    monkeypatch.setattr("benchmark.store.filesystems.NUM_ATTEMPTS", 1)
    store = Store(objects.uri("runs"))
    objects.faults.refuse = lambda method, path: (status, code, "expired")
    for use in (
        lambda: store.write("a/c", b"x"),
        lambda: store.read("a/b"),
        lambda: store.has("a/b"),
        lambda: store.sizes("a"),
        lambda: store.delete("a/b"),
    ):
        with pytest.raises(CellError, match="the credentials have expired; renew them and run ag"):
            use()


def manifests(objects: ObjectStore) -> dict[str, bytes]:
    store = Store(objects.uri("runs", is_direct=True))
    found = store.fs.get_file_info(pafs.FileSelector(store.root, recursive=True))
    names = [info.path.removeprefix(f"{store.root}/") for info in found if info.is_file]
    return {name: store.read(name) for name in names if name.endswith(MANIFEST)}


def forget_leases(objects: ObjectStore) -> None:
    """Delete the leases that a run could not give back.

    Those of a process that has ended are taken over at once; this process goes on.
    """
    store = Store(objects.uri("runs", is_direct=True))
    for name in store.sizes("leases"):
        store.delete(f"leases/{name}")


@pytest.mark.slow
@pytest.mark.timeout(4 * LONGEST_S)
def test_a_run_ends_soon_in_one_line_and_the_next_goes_on(
    objects: ObjectStore,
    ray_session: None,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALLEST.format(root=scenes))
    run = ["run", str(path), "--store", objects.uri("runs"), "--json"]
    kept: dict[str, bytes] = {}
    num_complete = []
    for part in ("/embed/", "/report/"):
        expire_at(objects, part)
        began = time.monotonic()
        assert invoke(run) == 1, part
        assert time.monotonic() - began < LONGEST_S, part
        err = capsys.readouterr().err
        last = err.splitlines()[-1]
        assert last.startswith("benchmark: "), err
        assert "the credentials have expired; renew them and run again" in last, err
        assert "Traceback" not in err
        objects.faults.refuse = lambda method, path: None
        forget_leases(objects)
        now = manifests(objects)
        assert kept.items() <= now.items()
        kept = now
        num_complete.append(len(kept))
    assert num_complete == sorted(set(num_complete))
    assert invoke(run) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [item["status"] for item in cells] == ["complete"]
    assert kept.items() <= manifests(objects).items()
    # No manifest was written twice: nothing complete was computed again.
    put = Counter(
        item.path.partition("?")[0]
        for item in objects.faults.seen
        if item.method == "PUT" and item.status == 200 and MANIFEST in item.path
    )
    assert set(put.values()) == {1}
