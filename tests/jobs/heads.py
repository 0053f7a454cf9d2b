"""A real Ray head with job server and tokens; all its processes end with it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.machines import LAZY, family_of, free_ports, kill_all

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_TIMEOUT_S = 60
JOB_TIMEOUT_S = 150


def run(
    *arguments: str, env: dict[str, str] | None = None, timeout_s: float = 60, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout_s
    )


FORKING = f"""
import sys
sys.path.append({str(ROOT)!r})
from ray.scripts.scripts import main
from tests.forked_workers import install
install()
main()
"""
"""Does what `ray` does."""


@dataclass(frozen=True)
class Head:
    """A Ray head of this test: address of its job server and environment of its users."""

    url: str
    env: dict[str, str]
    home: Path
    port: int
    """Port of its GCS, which nodes join."""

    def call(
        self, *arguments: object, env: dict[str, str] | None = None, folder: Path = ROOT
    ) -> tuple[int, str, str]:
        """Run `benchmark` in a folder; return the exit code, stdout and stderr."""
        command = (str(BIN / "benchmark"), *(str(item) for item in arguments))
        env = self.env | (env or {})
        done = run(*command, env=env, timeout_s=JOB_TIMEOUT_S, folder=folder)
        return done.returncode, done.stdout, done.stderr

    def submit(self, *entrypoint: str, env: dict[str, str] | None = None) -> tuple[int, str]:
        """Submit a job with Ray's own command; return the exit code and the output."""
        command = ("job", "submit", "--address", self.url, "--working-dir", ".", "--")
        done = run(
            str(BIN / "ray"), *command, *entrypoint, env=env or self.env, timeout_s=JOB_TIMEOUT_S
        )
        return done.returncode, done.stdout + done.stderr


def status_of(url: str, timeout_s: float = 5) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def processes_of(home: Path) -> list[psutil.Process]:
    """Return the processes that name a folder in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = [*process.cmdline(), *process.environ().values()]
            if any(str(home) in word for word in words) and process.pid != os.getpid():
                found.append(process)
    return found


def stop(started: subprocess.Popen[bytes], home: Path) -> None:
    """End a head and its processes; never by `ray stop`, which ends all Ray of the machine."""
    family = family_of(started.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait(timeout=10)
    kill_all(family)
    # A process that started meanwhile is not in the list yet.
    deadline = time.monotonic() + 20
    while (left := processes_of(home)) and time.monotonic() < deadline:
        kill_all(left, timeout_s=2)
    assert not left, f"still running: {left}"


@contextlib.contextmanager
def start_head(
    *options: str,
    folder: Path = BIN,
    env: dict[str, str] | None = None,
    is_forking: bool = False,
) -> Iterator[Head]:
    """Start a head with tokens; end it and all its processes on exit.

    Args:
        options: more options of `ray start`.
        folder: folder of its `python` and `ray`.
        env: more environment variables of the head and its users.
        is_forking: its workers are forks of one process, which come sooner.
    """
    # Contains Ray's sockets, whose paths have at most 107 characters.
    home = Path(tempfile.mkdtemp(prefix="bb", dir="/tmp"))
    whole = {
        # The entrypoint's `python` is the first on the head's PATH.
        "PATH": f"{folder}{os.pathsep}{os.defpath}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        **LAZY,
        **(env or {}),
    }
    # As `ray get-auth-token --generate` does, which is a process that imports Ray.
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text(secrets.token_hex(32))

    names = (
        "port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
        "ray-client-server-port",
        "node-manager-port",
        "object-manager-port",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    url = f"http://127.0.0.1:{ports['dashboard-port']}"
    with (home / "head.log").open("wb") as log:
        started = subprocess.Popen(
            [
                str(folder / "python"),
                *(("-c", FORKING) if is_forking else ("-m", "ray.scripts.scripts")),
                *("start", "--head", "--block", "--num-cpus=2", *options),
                *("--include-dashboard=true", "--dashboard-host=127.0.0.1"),
                # The system chooses the ports of workers; Ray's default is 10002 to 19999.
                *("--min-worker-port=0", "--max-worker-port=0"),
                f"--object-store-memory={300 * 10**6}",
                *(f"--{name}={port}" for name, port in ports.items()),
                f"--temp-dir={home / 'ray'}",
            ],
            cwd=home,
            env=whole,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while status_of(f"{url}/api/version") not in (200, 401, 403):
            text = (home / "head.log").read_text()
            assert started.poll() is None, f"the head ended: {text}"
            assert time.monotonic() < deadline, f"no job server at {url}: {text}"
            time.sleep(0.3)
        yield Head(url=url, env=whole, home=home, port=ports["port"])
    finally:
        stop(started, home)
        shutil.rmtree(home, ignore_errors=True)
