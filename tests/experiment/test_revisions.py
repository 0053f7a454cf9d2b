"""Results of versions that read large weights at three places only are kept while they hold."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.catalog.backbones import BACKBONES
from benchmark.experiment.places import Place, Places
from benchmark.specs import Backbone
from benchmark.store import provenance
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.digest import WHOLE_BYTES, FileRevision, digest_file, fingerprint


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(WHOLE_BYTES + 1))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


def inputs_of(revision: str) -> dict[str, Any]:
    return {"patches": "p", "backbone": {"name": "random", "revision": revision}}


def artefact(store: Store, revision: str) -> Artefact:
    return store.artefact("embed", "x-random", fingerprint(inputs_of(revision)))


def chosen(store: Store, weights: Path) -> str:
    """Return the revision of the result that is used."""
    backbone: Backbone = dataclasses.replace(
        BACKBONES.get("random"), revision=FileRevision(lambda: [weights])
    )
    return find(store, backbone).revision


def find(store: Store, backbone: Backbone) -> Place:
    return Places(store, "x").find("embed", backbone, lambda place: inputs_of(place.revision))


def later(manifest: dict[str, Any], by_s: float) -> dict[str, Any]:
    written = provenance.datetime.fromtimestamp(time.time() + by_s, provenance.UTC)
    return {**manifest, "provenance": {"written": written.isoformat(timespec="seconds")}}


def test_a_result_that_is_younger_than_the_weights_is_kept(store: Store, weights: Path) -> None:
    former = digest_file(weights)
    assert chosen(store, weights) != former
    artefact(store, former).commit(later({}, 5))
    assert chosen(store, weights) == former


def test_a_result_of_weights_that_changed_since_is_not(store: Store, weights: Path) -> None:
    """The change is none of the three samples, and size and time are kept."""
    former, stat = digest_file(weights), weights.stat()
    artefact(store, former).commit(later({}, -5))
    with weights.open("r+b") as file:
        file.seek(2**20 + 1)
        file.write(b"x")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest_file(weights) == former
    assert chosen(store, weights) == FileRevision(lambda: [weights])() != former


@pytest.mark.parametrize("manifest", [{}, {"provenance": {"written": "soon"}}])
def test_a_result_of_no_known_time_is_not(
    store: Store, weights: Path, manifest: dict[str, Any]
) -> None:
    former = digest_file(weights)
    artefact(store, former).commit(manifest)
    assert chosen(store, weights) != former


def test_a_result_of_this_version_comes_first(store: Store, weights: Path) -> None:
    former, ours = digest_file(weights), FileRevision(lambda: [weights])()
    artefact(store, former).commit(later({}, 5))
    artefact(store, ours).commit({})
    assert chosen(store, weights) == ours


def test_small_weights_and_other_revisions_have_one_identity(store: Store, weights: Path) -> None:
    weights.write_bytes(b"small")
    assert chosen(store, weights) == digest_file(weights)
    plain = dataclasses.replace(BACKBONES.get("random"), revision=lambda: "commit")
    assert find(store, plain) == Place("random", "commit", "random")
    assert not Path(store.root).exists()
