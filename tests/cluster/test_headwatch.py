"""A head that is gone ends a run; one that answers again in time does not."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from benchmark.cluster import headwatch
from benchmark.cluster.headwatch import LOST, HeadWatch
from benchmark.environment import RAY_PATIENCE
from tests.machines import LAZY, start_machines

RUN = """
import sys, time
import benchmark.api
from benchmark.cli.commands import main

def run(_, *, address, **others):
    with address as cluster:
        cluster.connect()
        from ray._private.ray_logging import stdout_deduplicator
        from ray._private.utils import publish_error_to_driver
        from ray._private.worker import global_worker
        for text in ("Last 20 lines of the Raylet logs: W x.cc", *["machine 7 is dead"] * 3):
            publish_error_to_driver("raylet_died", text, gcs_client=global_worker.gcs_client)
        while not any(item.count == 2 for item in stdout_deduplicator.recent.values()):
            time.sleep(0.1)
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)

benchmark.api.load = lambda *_: None
benchmark.api.run = run
main(["run", "x.toml", "--json", "--address", sys.argv[1]])
"""
"""A command that waits for its cluster, of which Ray tells one thing once and another repeatedly:
that one Ray keeps back and prints on stdout when the process ends."""


@pytest.fixture(autouse=True)
def heeds_ctrl_c():
    """Ctrl-C is ignored where tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def listening(port: int = 0):
    with socket.create_server(("127.0.0.1", port)) as server:
        yield server.getsockname()[1]


def test_a_head_that_is_gone_interrupts_the_main_thread():
    with listening() as port:
        watch = HeadWatch(f"127.0.0.1:{port}", patience_s=0.5)
        assert watch.answers()
    try:
        with pytest.raises(KeyboardInterrupt):
            time.sleep(30)
    finally:
        watch.stop()
    assert watch.is_lost
    assert watch.confirm_loss()


def test_the_loss_in_one_test_does_not_end_the_process_in_the_next():
    assert not headwatch._was_lost.is_set()
    with pytest.raises(SystemExit):
        headwatch.end_process(0)


@pytest.mark.parametrize("modules", ["ray, duckdb", "ray, onnx", "duckdb"])
def test_a_process_ends_without_a_word_on_what_packages_leave(modules):
    code = f"import {modules}\nfrom benchmark.cluster.headwatch import end_process\nend_process(3)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_where_ctrl_c_is_ignored_it_is_sigterm_that_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with listening() as port:
        watch = HeadWatch(f"127.0.0.1:{port}", patience_s=0.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            time.sleep(12)
    finally:
        watch.stop()
        signal.signal(signal.SIGTERM, before)


def test_a_head_that_comes_back_in_time_is_not_lost():
    with listening() as port:
        watch = HeadWatch(f"127.0.0.1:{port}", patience_s=60)
    try:
        assert not watch.answers()
        with listening(port):
            assert not watch.confirm_loss()
            assert not watch.is_lost
    finally:
        watch.stop()


def test_a_run_that_has_left_is_not_interrupted():
    with listening() as port:
        watch = HeadWatch(f"127.0.0.1:{port}", patience_s=0.0)
        watch.stop()
    time.sleep(2.5)
    assert not watch.is_lost


@pytest.mark.timeout(120)
def test_a_command_whose_head_is_lost_has_the_last_word_and_nothing_on_stdout():
    env = {**os.environ, **LAZY, "RAY_AUTH_MODE": "disabled", RAY_PATIENCE: "4"}
    with start_machines(env, num_cpus=1, object_store_memory=80_000_000) as machines:
        run = subprocess.Popen(
            [sys.executable, "-c", RUN, machines.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        said = list(iter(run.stderr.readline, "ready\n"))
        machines.lose_head()
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (1, ""), err
    assert "machine 7 is dead" in "".join(said)
    assert "Raylet logs" not in "".join(said) + err
    assert err.splitlines()[-1] == f"benchmark: {LOST}"
