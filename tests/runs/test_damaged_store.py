"""Every file of a finished store, damaged in four ways: found, computed again, equal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import benchmark as bm
from benchmark import api
from benchmark.config import Experiment, build
from benchmark.errors import BenchmarkError
from benchmark.store.names import MANIFEST
from tests.store_document import TABLES, matching
from tests.test_store_document import READERS, assert_documented

pytestmark = pytest.mark.slow

UNREAD = ("usage", "experiments", "leases")
"""Folders of the store that hold no artefacts."""


def flip(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": flip,
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "removed": lambda content: None,
}


def damage(path: Path, kind: str) -> None:
    content = DAMAGES[kind](path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def experiment(experiment_content: dict[str, Any]) -> Experiment:
    """Backbones with and without a fitted state."""
    content = {**experiment_content, "backbones": ["mean_color", "pca"], "heads": ["mlp"]}
    content["dataset"] = {**content["dataset"], "per_region": 20}
    return build({**content, "tune": {"num_trials": 1}, "evaluate": {"num_resamples": 20}})


@pytest.fixture(scope="module")
def finished(
    ray_session: None, experiment: Experiment, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    store = tmp_path_factory.mktemp("finished") / "runs"
    assert not bm.run(experiment, store=str(store)).failed
    return store


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def artefact_files(store: Path) -> list[Path]:
    files = sorted(
        path
        for path in store.glob("*/*/**/*")
        if path.is_file() and path.relative_to(store).parts[0] not in UNREAD
    )
    assert {path.relative_to(store).parts[0] for path in files} == {
        "patches",
        "embed",
        "tune",
        "evaluate",
        "report",
    }
    return files


def contents(experiment: Experiment, store: Path) -> dict[str, Any]:
    """Return all that was computed, without times."""
    with api.open_context(experiment, store=str(store)) as context:
        found: dict[str, Any] = {}
        for item in (context.patches, *(context.embeddings(one) for one in context.backbones)):
            table = item.read_table()
            found[item.folder] = table.replace_schema_metadata(None)
        for cell in context.prediction_cells():
            found[cell.artefact.folder] = cell.artefact.read_table()
        found["scores"] = context.scores().read_table(names=["scores.parquet"])
        return found


def test_every_file_is_described_and_every_folder_is_a_table(
    experiment: Experiment, finished: Path
) -> None:
    for result in bm.status(experiment, store=str(finished)):
        artefact = result.cell.artefact
        described = {name: matching(artefact.stage, name) for name in artefact.files()}
        assert None not in described.values(), described
        for name, item in described.items():
            if item and item.table:
                assert_documented(pq.read_schema(artefact.file(name)), TABLES[item.table])
        if artefact.stage != "report":
            prefix = "scores." if artefact.stage == "evaluate" else "part-"
            num_rows = artefact.read_table(names=artefact.files(prefix)).num_rows
            for reader, count in READERS.items():
                assert count(artefact.path) == num_rows > 0, (artefact.folder, reader)


@pytest.mark.parametrize("kind", DAMAGES)
def test_no_damage_of_any_file_escapes_the_status(
    experiment: Experiment, store: Path, kind: str
) -> None:
    """Checked one after another: each is put back before the next."""
    everything = bm.status(experiment, store=str(store))
    assert {item.status for item in everything} == {"complete"}
    artefacts = {Path(item.cell.artefact.path).name: item.cell.artefact for item in everything}
    for path in artefact_files(store):
        content = path.read_bytes()
        _, folder, *names = path.relative_to(store).parts
        artefact, name = artefacts[folder], "/".join(names)
        damage(path, kind)
        if kind == "flipped" or name == MANIFEST:
            # A manifest that is gone is an artefact that is not computed.
            found, _ = artefact.verify()
        else:
            assert artefact.status()[0] == "missing", path
            found = artefact.damage()
        assert list(found) == [name], path
        path.write_bytes(content)


def test_status_verify_names_what_is_damaged(experiment: Experiment, store: Path) -> None:
    checked = bm.status(experiment, store=str(store), verify=True)
    assert [item.is_verified for item in checked] == [True] * len(checked)
    (head,) = store.glob("tune/*pca-mlp*/_head.skops")
    damage(head, "flipped")
    (wrong,) = (
        item for item in bm.status(experiment, store=str(store), verify=True) if item.reason
    )
    assert (wrong.status, wrong.is_verified) == ("missing", False)
    assert wrong.reason == (
        "damaged: _head.skops has another content than was written: delete it and run again"
    )
    with pytest.raises(BenchmarkError, match=r"_head\.skops is damaged \(its checksum differs\)"):
        api.export(experiment, backbone="pca", method="mlp", out=store / "out", store=str(store))
    assert not (store / "out").exists()


def first(store: Path, pattern: str) -> Path:
    return sorted(store.glob(pattern))[0]


WITHOUT_A_READER = (
    "patches/*/_tables/candidates-*",
    "tune/*pca*/_head.skops",
    "embed/*pca*/_plan.json",
)
READ_IN_TURN = (
    "patches/*/part-*",
    "embed/*pca*/part-*",
    "tune/*pca-mlp*/part-*",
    "evaluate/*/scores.parquet",
    "report/*/index.html",
)


def test_flipped_files_that_are_read_one_after_another_are_all_computed_again(
    experiment: Experiment, finished: Path, store: Path
) -> None:
    """The scores need predictions, which need embeddings, which need patches."""
    paths = [first(store, pattern) for pattern in READ_IN_TURN]
    for path in paths:
        damage(path, "flipped")
    result = bm.run(experiment, store=str(store))
    assert [item.reason for item in result.failed] == []
    assert contents(experiment, store) == contents(experiment, finished)
    checked = bm.status(experiment, store=str(store), verify=True)
    assert [item.is_verified for item in checked] == [True] * len(checked)


def test_what_is_cut_emptied_or_removed_is_computed_again_alone(
    experiment: Experiment, finished: Path, store: Path
) -> None:
    times = {path: path.stat().st_mtime_ns for path in artefact_files(store)}
    paths = [first(store, pattern) for pattern in (*WITHOUT_A_READER, *READ_IN_TURN)]
    for path, kind in zip(paths, cycle(["cut", "emptied", "removed"]), strict=False):
        damage(path, kind)
    result = bm.run(experiment, store=str(store))
    assert [item.reason for item in result.failed] == []
    assert contents(experiment, store) == contents(experiment, finished)
    checked = bm.status(experiment, store=str(store), verify=True)
    assert [item.is_verified for item in checked] == [True] * len(checked)
    # What was sound stays as it is: other parts, other embeddings, other heads.
    kept = [path for path in times if "mean_color" in str(path)]
    kept += [path for path in store.glob("patches/*/part-*") if path not in paths]
    assert len(kept) > 5
    assert all(path.stat().st_mtime_ns == times[path] for path in kept)


@pytest.mark.parametrize("first_kind", range(2))
def test_damaged_manifests_lose_nothing(
    experiment: Experiment, finished: Path, store: Path, first_kind: int
) -> None:
    kinds = islice(cycle(DAMAGES), 2 * first_kind, None)
    manifests = sorted(store.glob("*/*/_manifest.json"))
    assert len(manifests) == 7
    for path, kind in zip(manifests, kinds, strict=False):
        damage(path, kind)
    result = bm.run(experiment, store=str(store))
    assert [item.reason for item in result.failed] == []
    assert contents(experiment, store) == contents(experiment, finished)
