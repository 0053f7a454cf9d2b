"""Runs in processes of their own, which are killed, or run out of disk."""

import json
import os
import shutil
import signal
import subprocess
import time

import pyarrow.parquet as pq
import pytest

import benchmark as bm
from benchmark.cli.commands import invoke
from tests.forked_workers import BENCHMARK

pytestmark = pytest.mark.slow

SETTINGS = """
name = "killed"
backbones = ["mean_color"]
heads = ["logistic_regression"]
[dataset]
name = "chesapeake"
root = "{root}"
patch_size = 32
per_region = 16
[embed]
num_actors = 1
[tune]
num_trials = 1
max_concurrent = 1
[evaluate]
num_resamples = 20
"""


@pytest.fixture(scope="module")
def toml(scenes, tmp_path_factory):
    path = tmp_path_factory.mktemp("killed") / "killed.toml"
    path.write_text(SETTINGS.format(root=scenes))
    return path


def start(toml, store):
    # A group of its own, so that the whole tree can be killed.
    return subprocess.Popen(
        [*BENCHMARK, "run", str(toml), "--store", str(store), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def run_here(toml, store, *settings):
    """Run in this process, where Ray need not start, and return the scores."""
    result = bm.run(bm.load(toml, settings), store=str(store))
    assert {cell.status for cell in result.cells} == {"complete"}
    return pq.read_table(result.scores)


@pytest.fixture(scope="module")
def undisturbed(ray_session, toml, tmp_path_factory):
    store = tmp_path_factory.mktemp("undisturbed") / "runs"
    return run_here(toml, store), store


@pytest.mark.timeout(600)
def test_killed_runs_complete_with_identical_scores(toml, undisturbed, tmp_path, capsys):
    expected, _ = undisturbed
    store = tmp_path / "runs"
    moments = ("patches/*/_tables/candidates-*", "embed/*/part-*", "tune/*/part-*")
    seen = {}
    for pattern in moments:
        process = start(toml, store)
        deadline = time.monotonic() + 200
        while not list(store.glob(pattern)) and process.poll() is None:
            assert time.monotonic() < deadline, "the run did not come so far"
            time.sleep(0.05)
        kill(process)
        # What was complete at an earlier kill has not been written again.
        now = {path: path.stat().st_mtime_ns for path in store.glob("*/*/_manifest.json")}
        assert seen.items() <= now.items()
        seen = now
    assert invoke(["run", str(toml), "--store", str(store), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    document = json.loads(out)
    assert {cell["status"] for cell in document["cells"]} == {"complete"}
    assert pq.read_table(document["scores"]).equals(expected)
    after = {path: path.stat().st_mtime_ns for path in store.glob("*/*/_manifest.json")}
    assert seen.items() <= after.items()
    for path in store.rglob("*.parquet"):
        if ".tmp-" not in path.name:
            pq.read_table(path)


@pytest.mark.timeout(400)
def test_a_full_disk_fails_in_one_line_and_keeps_what_is_complete(
    toml, undisturbed, tmp_path, capsys
):
    _, complete = undisturbed
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        shutil.copytree(complete / "patches", disk / "runs" / "patches")
        kept = {p: p.stat().st_mtime_ns for p in (disk / "runs").rglob("*") if p.is_file()}
        # Leave some room for manifests, none for embeddings.
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(b"x" * (free - 60_000))
        code = invoke(["run", str(toml), "--store", str(disk / "runs"), "--json"])
        out, err = capsys.readouterr()
        assert code == 1, err
        assert "Traceback" not in err
        assert "no space left" in err
        assert {cell["status"] for cell in json.loads(out)["cells"]} == {"failed"}
        assert all(path.stat().st_mtime_ns == kept[path] for path in kept)
        (disk / "ballast").unlink()
        run_here(toml, disk / "runs", 'heads=["majority"]')
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
