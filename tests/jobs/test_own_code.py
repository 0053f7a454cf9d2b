"""A stranger's package, with network, head, metric and reader of its own, runs as a job."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.heads import BIN, JOB_TIMEOUT_S, START_TIMEOUT_S, Head, start_head
from tests.strangers import EXPERIMENT, FILES, write, write_arrays


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with start_head(is_forking=True) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the package and data, from which the stranger submits."""
    write(tmp_path / "work", FILES)
    write_arrays(tmp_path / "images", num_scenes=12)
    text = EXPERIMENT.format(store=tmp_path / "store", root=tmp_path / "images")
    write(tmp_path / "work", {"own.toml": text})
    return tmp_path / "work"


def submit(head: Head, folder: Path) -> tuple[int, str]:
    """Submit the experiment from its folder; return the exit code and the log."""
    done = subprocess.run(
        [str(BIN / "benchmark"), "submit", "own.toml", "--address", head.url, "--follow"],
        cwd=folder,
        env=head.env,
        capture_output=True,
        text=True,
        timeout=JOB_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def fingerprints(store: Path, stage: str) -> set[str]:
    return {path.parent.name for path in store.glob(f"{stage}/*/_manifest.json")}


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 4 * JOB_TIMEOUT_S)
def test_a_strangers_package_runs_as_a_job_and_a_change_in_it_is_noticed(
    head: Head, folder: Path
) -> None:
    store = folder.parent / "store"
    code, log = submit(head, folder)
    assert code == 0, log
    assert "Traceback" not in log
    assert re.search(r"shipping .*experiments/", log)
    first = {stage: fingerprints(store, stage) for stage in ("patches", "embed", "tune")}
    assert {stage: len(found) for stage, found in first.items()} == {
        "patches": 1,
        "embed": 2,
        "tune": 4,
    }
    scores = next(store.glob("evaluate/*/_scores.csv")).read_text()
    assert "stranger.metrics:worst_recall" in scores

    # Only the cells of the changed network are computed again.
    path = folder / "stranger/layers.py"
    path.write_text(path.read_text().replace("x.mean(", "x.amax("))
    code, log = submit(head, folder)
    assert code == 0, log
    second = {stage: fingerprints(store, stage) for stage in first}
    added = {stage: second[stage] - first[stage] for stage in first}
    assert {stage: len(found) for stage, found in added.items()} == {
        "patches": 0,
        "embed": 1,
        "tune": 2,
    }
    assert all("stranger.nets-build" in name for name in added["embed"] | added["tune"])

    # Its own error, with file and line.
    path.write_text(path.read_text().replace("return x", "return x.nothing"))
    code, log = submit(head, folder)
    assert code == 1, log
    assert "stranger/layers.py, line 6: AttributeError: 'Tensor' object has no attribute" in log
