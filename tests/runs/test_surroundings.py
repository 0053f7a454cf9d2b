"""A run does not depend on where it is started: in a batch system, a container, beside any file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machines import LAZY
from tests.scenes import write_scenes

BIN = Path(sys.executable).parent

SMALL_SHM = "mount -t tmpfs -o size=64m tmpfs /dev/shm"

EXPERIMENT = """
name = "small"
backbones = ["mean_color"]
heads = ["knn"]
store = "Läufe"

[dataset]
name = "chesapeake"
root = "Daten Übersicht"
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

SHADOWS = ("benchmark", "email", "numpy", "pandas", "random", "ray", "socket", "torch")
"""Names of files beside the data that are those of modules."""


def write_folder(folder: Path) -> Path:
    """Write an experiment and its scenes into a new folder."""
    write_scenes(folder / "Daten Übersicht")
    (folder / "small.toml").write_text(EXPERIMENT)
    return folder


def nasty(command: str) -> list[str]:
    """Return a command on one core, with 256 open files, and 64 MB of shared memory if it may."""
    lines = ["umask 077", "ulimit -n 256"]
    if shutil.which("taskset"):
        core = min(os.sched_getaffinity(0))
        command = f"taskset -c {core} {command}"
    shell = ["bash", "-c", "; ".join([*lines, f"exec {command}"])]
    if shutil.which("unshare") is None:
        return shell
    try_mount = ["unshare", "-m", "bash", "-c", SMALL_SHM]
    if subprocess.run(try_mount, capture_output=True, timeout=20).returncode:
        return shell
    return ["unshare", "-m", "bash", "-c", f"{SMALL_SHM}; {shell[2]}"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux's limits and locales")
def test_a_run_in_bad_surroundings_completes(tmp_path: Path) -> None:
    """Files that hide modules, a long temporary folder, no home, dead proxies, and small limits."""
    folder = write_folder(tmp_path / "Größe und Übung")
    for name in SHADOWS:
        (folder / f"{name}.py").write_text("raise SystemExit('it was imported')\n")
    temporary = tmp_path / ("t" * 60)
    temporary.mkdir()
    dead = {
        f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https", "HTTP", "HTTPS", "all")
    }
    done = subprocess.run(
        nasty(f"{BIN}/benchmark run small.toml --json"),
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": "/proc/none",
            "TMPDIR": str(temporary),
            "LC_ALL": "C",
            "BENCHMARK_PROGRESS_TIMEOUT_S": "90",
            **dead,
            **LAZY,
        },
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads(done.stdout)
    assert {cell["status"] for cell in result["cells"]} == {"complete"}
    assert len(list(folder.glob("Läufe/report/*/index.html"))) == 1
    # What Ray needed is gone.
    assert list(temporary.iterdir()) == []
    assert not (folder / "~").exists()
