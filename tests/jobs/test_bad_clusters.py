"""A cluster that cannot run an experiment is refused before the run starts, in one line."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.heads import JOB_TIMEOUT_S, START_TIMEOUT_S, Head, start_head
from tests.machines import family_of, free_ports, kill_all

MISSING = "timm"


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment without one of this one's packages; return its folder of programs."""
    folder = tmp_path_factory.mktemp("lacking")
    command = [sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)]
    subprocess.run(command, check=True, timeout=60)
    (packages,) = folder.glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(MISSING):
            (packages / path.name).symlink_to(path)
    return folder / "bin"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def cluster(lacking: Path, store: Path) -> Iterator[Head]:
    """Two nodes without the package: a head, and a GPU node with its own disk."""
    own_disk = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*own_disk, "true"], capture_output=True).returncode:
        pytest.skip("no user may have mounts of their own here")
    names = (
        *("node-manager-port", "object-manager-port", "metrics-export-port"),
        *("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port"),
    )
    with start_head(folder=lacking) as head:
        start = [
            *(str(lacking / "python"), "-m", "ray.scripts.scripts", "start", "--block"),
            *(f"--address=127.0.0.1:{head.port}", "--num-cpus=2", "--num-gpus=1"),
            *("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"),
            *(f"--{name}={port}" for name, port in zip(names, free_ports(len(names)), strict=True)),
        ]
        script = f'mount -t tmpfs none "{store}" && exec "$@"'
        with (head.home / "node.log").open("wb") as log:
            node = subprocess.Popen(
                [*own_disk, "sh", "-c", script, "sh", *start],
                cwd=head.home,
                env=head.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while b"Ray runtime started" not in (head.home / "node.log").read_bytes():
                text = (head.home / "node.log").read_text()
                assert node.poll() is None, f"the node ended: {text}"
                assert time.monotonic() < deadline, text
                time.sleep(0.2)
            yield head
        finally:
            family = family_of(node.pid)
            node.kill()
            kill_all(family)
            node.wait(timeout=10)


@pytest.mark.slow
@pytest.mark.timeout(3 * START_TIMEOUT_S + JOB_TIMEOUT_S)
def test_a_lacking_package_an_unshared_store_and_too_many_gpus_are_found_first(
    cluster: Head, store: Path, tmp_path: Path
) -> None:
    experiment = tmp_path / "toy.toml"
    experiment.write_text(
        f'name = "toy"\nbackbones = ["mean_color"]\nstore = "{store}"\n'
        f'[dataset]\nname = "folder"\nroot = "{tmp_path}"\n[embed]\nnum_actors = 3\n'
    )
    code, out, err = cluster.call("submit", experiment, "--address", cluster.url)
    assert (code, out) == (2, ""), err
    last = err.splitlines()[-1]
    assert last.startswith("benchmark: submit: ")
    assert re.search(rf"{MISSING} is missing on [\d.]+ \(\S+ here\): install it there, or", last)
    assert "[embed] num_actors = 3: the cluster has 1 GPU" in last
    assert re.search(rf"store '{store}' is not shared: \S+ cannot read what \S+ writes", last)
    assert "was submitted" not in err
    assert "Traceback" not in err
    assert list(store.iterdir()) == []
