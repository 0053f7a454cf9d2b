"""The entry points, alone and through the job server of a real Ray head with tokens."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from benchmark.stages import STAGES

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMMANDS = ["run", *(entry.name for entry in STAGES)]
START_TIMEOUT_S = 60
JOB_TIMEOUT_S = 150


def run(
    *arguments: str, env: dict[str, str] | None = None, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s
    )


def test_every_command_that_computes_has_one_job() -> None:
    files = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert files == {"__init__", "probe", *COMMANDS}


@pytest.mark.parametrize("command", [*COMMANDS, "probe"])
def test_a_job_is_short_and_opens_with_its_command(command: str) -> None:
    text = (ROOT / "jobs" / f"{command}.py").read_text()
    assert len(text.splitlines()) <= 25
    docstring = text.split('"""')[1]
    assert f"python -m jobs.{command} " in docstring
    assert "Cost: " in docstring


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    done = run(sys.executable, "-m", f"jobs.{command}", "--help")
    assert done.returncode == 0
    entry = next((entry for entry in STAGES if entry.name == command), None)
    assert (entry.help if entry else "Run all stages") in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_is_one_line_and_exits_with_2(command: str) -> None:
    done = run(sys.executable, "-m", f"jobs.{command}", "nowhere.toml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"benchmark: nowhere\.toml: .*\n", done.stderr)


def test_an_unknown_option_exits_with_2() -> None:
    done = run(sys.executable, "-m", "jobs.run", "nowhere.toml", "--stoer", "x")
    assert done.returncode == 2
    assert "--stoer" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@dataclass(frozen=True)
class Head:
    """A Ray head of this test: where its job server listens, and the environment of its users."""

    url: str
    env: dict[str, str]

    def call(self, *arguments: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Run `benchmark`; return the exit code, and what went to stdout and stderr."""
        command = (str(BIN / "benchmark"), *(str(item) for item in arguments))
        done = run(*command, env=self.env | (env or {}), timeout_s=JOB_TIMEOUT_S)
        return done.returncode, done.stdout, done.stderr

    def submit(self, *entrypoint: str, env: dict[str, str] | None = None) -> tuple[int, str]:
        """Submit a job with Ray's own command; return the exit code and what was printed."""
        command = ("job", "submit", "--address", self.url, "--working-dir", ".", "--")
        done = run(
            str(BIN / "ray"), *command, *entrypoint, env=env or self.env, timeout_s=JOB_TIMEOUT_S
        )
        return done.returncode, done.stdout + done.stderr


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


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
    """End a head and all that it started; never by `ray stop`, which ends everybody's Ray."""
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(started.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait(timeout=10)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
    # A process that was starting meanwhile is in no list yet.
    deadline = time.monotonic() + 20
    while (left := processes_of(home)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=2)
    assert not left, f"still running: {left}"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Ray's sockets lie below it, and a socket's path has at most 107 characters.
    home = Path(tempfile.mkdtemp(prefix="bb", dir="/tmp"))
    env = {
        # The entrypoint's `python` is the first on the head's PATH.
        "PATH": f"{BIN}{os.pathsep}{os.defpath}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    token = run(str(BIN / "ray"), "get-auth-token", "--generate", env=env)
    assert token.returncode == 0, token.stderr

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
                *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"),
                *("--include-dashboard=true", "--dashboard-host=127.0.0.1"),
                # Ports of the system's choice for workers, where Ray's default is 10002 to 19999.
                *("--min-worker-port=0", "--max-worker-port=0"),
                f"--object-store-memory={300 * 10**6}",
                *(f"--{name}={port}" for name, port in ports.items()),
                f"--temp-dir={home / 'ray'}",
            ],
            cwd=home,
            env=env,
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
        yield Head(url=url, env=env)
    finally:
        stop(started, home)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Write 24 small pictures in two classes, which brightness tells apart, and an experiment."""
    generator = np.random.default_rng(0)
    for name, brightness in (("dark", 60), ("light", 180)):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for index in range(12):
            texture = generator.integers(0, 60, (32, 32, 3)) + brightness
            Image.fromarray(texture.astype(np.uint8)).save(folder / f"{index:02}.png")
    path = tmp_path / "tiny.toml"
    path.write_text(
        f"""
        name = "tiny"
        backbones = ["mean_color"]
        heads = ["majority", "knn"]

        [dataset]
        name = "folder"
        root = "{tmp_path / "images"}"
        patch_size = 32

        [tune]
        num_trials = 2

        [evaluate]
        num_resamples = 50
        """
    )
    return path


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + JOB_TIMEOUT_S)
def test_a_failing_run_fails_its_job_with_one_line(
    head: Head, experiment: Path, tmp_path: Path
) -> None:
    code, log = head.submit(
        *("python", "-m", "jobs.run", str(experiment)),
        *("--store", str(tmp_path / "store"), "--set", "heads=['knnn']"),
    )
    assert code != 0
    # `ray job submit` shows the log as it grows, and once more when the job has failed.
    (said,) = {line for line in log.splitlines() if line.startswith("benchmark: ")}
    assert said == f"benchmark: {experiment}: unknown head 'knnn'. Did you mean 'knn'?"
    assert "exit code 2" in log
    assert "Traceback" not in log
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 60)
def test_without_the_token_nothing_is_submitted(head: Head, tmp_path: Path) -> None:
    assert status_of(f"{head.url}/api/jobs/") == 401
    stranger = head.env | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    proof = tmp_path / "proof"
    code, log = head.submit("touch", str(proof), env=stranger)
    assert code != 0
    assert "401" in log or "uthenticat" in log, log
    assert not proof.exists()


def manifests(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.glob("*/*/manifest.json")}


def log_of(head: Head, job: str) -> str:
    done = run(str(BIN / "ray"), "job", "logs", job, "--address", head.url, env=head.env)
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 4 * JOB_TIMEOUT_S)
def test_a_submitted_run_that_was_stopped_goes_on_to_the_scores_of_a_local_run(
    head: Head, experiment: Path, tmp_path: Path, ray_session: None
) -> None:
    from benchmark import api

    store = tmp_path / "store"
    common = ("submit", experiment, "--address", head.url, "--store", store, "--set", "seeds=[3]")
    # Patches and embeddings do not depend on the trials, which would take hours.
    code, out, err = head.call(*common, "--set", "tune.num_trials=20000", "--json")
    assert code == 0, err
    document = json.loads(out)
    job = document["submission_id"]
    assert re.fullmatch(r"tiny-\d{8}-\d{6}-[0-9a-f]{4}", job)
    assert {item["level"] for item in document["checks"]} == {"ok"}
    assert document["shipped"]["num_bytes"] < 5_000_000

    deadline = time.monotonic() + JOB_TIMEOUT_S
    while not list(store.glob("tune/*/*")):
        assert time.monotonic() < deadline, log_of(head, job)
        time.sleep(0.2)
    done = run(str(BIN / "ray"), "job", "stop", job, "--address", head.url, env=head.env)
    assert "was stopped" in done.stdout + done.stderr
    assert "benchmark: interrupted; what is complete is kept" in log_of(head, job)
    kept = manifests(store)
    assert {path.parts[-3] for path in kept} >= {"patches", "embed"}

    code, out, err = head.call(*common, "--follow")
    assert code == 0, err
    assert out.splitlines()[-1] == str(store)
    assert "Traceback" not in err
    assert kept.items() <= manifests(store).items()
    (report,) = re.findall(rf"^({re.escape(str(store))}/report/\S+\.html)$", err, re.M)
    assert "<html" in Path(report).read_text()

    local = api.load(experiment, ["seeds=[3]"])
    for stage in ("patches", "embed", "tune", "evaluate"):
        api.run_stage(stage, local, store=str(tmp_path / "local"))
    scores = api.scores(local, store=str(store))
    assert scores.equals(api.scores(local, store=str(tmp_path / "local")))
    best = scores[(scores["metric"] == "balanced_accuracy") & (scores["split"] == "test")]
    assert dict(zip(best["method"], best["value"], strict=True)) == {"majority": 0.5, "knn": 1.0}


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 2 * JOB_TIMEOUT_S)
def test_following_a_run_that_fails_ends_with_its_exit_code(
    head: Head, experiment: Path, tmp_path: Path
) -> None:
    next(tmp_path.glob("images/dark/*.png")).write_bytes(b"no picture")
    code, out, err = head.call(
        *("submit", experiment, "--address", head.url, "--store", tmp_path / "store"),
        *("--follow", "--json"),
    )
    assert code == 1, err
    assert "cells failed" in err
    assert "Traceback" not in err
    document = json.loads(out)
    assert (document["status"], document["exit_code"]) == ("FAILED", 1)


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + JOB_TIMEOUT_S)
def test_what_the_cluster_lacks_is_found_before_the_run_is_sent(
    head: Head, experiment: Path, tmp_path: Path
) -> None:
    code, out, err = head.call(
        *("submit", experiment, "--address", head.url, "--store", "/proc/store"),
        *("--set", "dataset.root=/nowhere", "--set", "embed.num_actors=99"),
    )
    assert code == 2
    assert out == ""
    said = err.splitlines()[-1]
    assert "store '/proc/store' cannot be written on " in said
    assert "[dataset] root = '/nowhere' does not exist on " in said
    assert "[embed] num_actors = 99: the cluster has 2 CPUs" in said
    assert "was submitted" not in err


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 60)
def test_a_wrong_token_and_a_missing_one_are_one_line(
    head: Head, experiment: Path, tmp_path: Path
) -> None:
    submit = ("submit", experiment, "--address", head.url, "--store", tmp_path / "store")
    for env, message in (
        ({"RAY_AUTH_TOKEN": "s3cr3t" * 8}, "refuses our token"),
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token: set RAY_AUTH_MODE=token"),
    ):
        code, out, err = head.call(*submit, env=env)
        assert (code, out) == (2, "")
        (line,) = err.splitlines()
        assert line.startswith(f"benchmark: --address {head.url}: the job server {message}")
        assert "s3cr3t" not in line
