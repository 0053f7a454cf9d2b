"""Ends a run whose cluster has lost its head, in one line and in time.

Ray would wait for a new head, and end the process a minute later without a word of why; calls that
wait for the lost cluster would not return meanwhile.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

from benchmark.errors import BenchmarkError

RAY_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
RAY_PATIENCE_S = 60.0
"""How long Ray itself waits for a head, unless that variable says otherwise."""

POLL_S = 1.0
CONNECT_TIMEOUT_S = 3.0
LEAVE_S = 15.0
"""How long a run may take to end once the head is given up."""

LOST = (
    "the cluster's head does not answer any more; what is complete is kept, "
    "run again on a new cluster to go on"
)


_was_lost = threading.Event()


class HeadLost(BenchmarkError):
    """The head of the cluster is gone (exit code 1)."""


def end_process(code: int) -> NoReturn:
    """End this process as ``sys.exit`` does; where a head was lost, at once.

    Else Ray, at the interpreter's end, waits seconds for the lost head, and prints on stdout, after
    the last word of ours, what it had kept back as repeated.
    """
    if _was_lost.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class HeadWatch:
    """A thread that tries every second whether the head of the cluster still listens."""

    def __init__(self, address: str, *, patience_s: float | None = None) -> None:
        """Begin to watch.

        Args:
            address: of the head's control service, HOST:PORT.
            patience_s: without an answer for so long the head is lost; None: half of Ray's own.
        """
        host, _, port = address.rpartition(":")
        self._place = (host.strip("[]"), int(port))
        self._patience_s = _patience_s() if patience_s is None else patience_s
        self._ended = threading.Event()
        self.is_lost = False
        threading.Thread(target=self._watch, name="head-watch", daemon=True).start()

    def stop(self) -> None:
        """End the watch: the run leaves the cluster."""
        self._ended.set()

    def answers(self) -> bool:
        """Return whether the head listens now."""
        try:
            socket.create_connection(self._place, timeout=CONNECT_TIMEOUT_S).close()
        except OSError:
            return False
        return True

    def confirm_loss(self) -> bool:
        """Return whether the head is lost, which an error of Ray may tell before the watch does."""
        if not self.is_lost and not self.answers():
            self._lose()
        return self.is_lost

    def _lose(self) -> None:
        self.is_lost = True
        _was_lost.set()

    def _watch(self) -> None:
        heard = time.monotonic()
        while not self._ended.wait(POLL_S):
            if self.answers():
                heard = time.monotonic()
            elif time.monotonic() - heard >= self._patience_s:
                self._give_up()
                return

    def _give_up(self) -> None:
        self._lose()
        # The main thread waits for Ray, in a call that Ctrl-C ends. In a job in the background that
        # is ignored, and SIGTERM is left.
        heeded = [item for item in (signal.SIGINT, signal.SIGTERM) if _is_heeded(item)]
        if heeded:
            signal.pthread_kill(threading.main_thread().ident or 0, heeded[0])
        if not self._ended.wait(LEAVE_S):
            # A call into Ray does not return. Ray would end the process likewise, but later.
            os.write(2, f"benchmark: {LOST}\n".encode())
            os._exit(HeadLost.exit_code)


def _is_heeded(number: signal.Signals) -> bool:
    return callable(signal.getsignal(number))


def _patience_s() -> float:
    return float(os.environ.get(RAY_PATIENCE, RAY_PATIENCE_S)) / 2
