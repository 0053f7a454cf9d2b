"""A head that is gone ends a run; one that answers again in time does not."""

from __future__ import annotations

import contextlib
import signal
import socket
import time

import pytest

from benchmark.headwatch import HeadWatch


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
