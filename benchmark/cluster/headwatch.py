"""Stop the run when the head node is lost, promptly and with an error of one line.

Ray would wait for a new head, and end the process a minute later without a reason; until then,
calls to the lost cluster would not return.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

from benchmark.environment import RAY_PATIENCE, read_seconds
from benchmark.errors import BenchmarkError

POLL_S = 1.0
CONNECT_TIMEOUT_S = 3.0
LEAVE_S = 15.0
"""How long a run may take to end once the head is lost."""

LOST = (
    "the cluster's head node no longer answers; completed results are kept: "
    "run again on a new cluster to continue"
)

_was_lost = threading.Event()


class HeadLost(BenchmarkError):
    """The head node of the cluster is lost (exit code 1)."""


def end_process(code: int) -> NoReturn:
    """End this process as ``sys.exit`` does; at once if a head was lost.

    Otherwise Ray, at the interpreter's end, waits seconds for the lost head, and prints on stdout,
    after our last line, the messages that it held back as repeated.
    """
    if _was_lost.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if "ray" in sys.modules and not _has_nanobind():
        # The interpreter would search for garbage once more among all that was imported: 0.6 CPU s.
        gc.freeze()
    sys.exit(code)


def _has_nanobind() -> bool:
    """Return whether a package that was made with nanobind is imported, such as duckdb or onnx.

    Its types are garbage at the end; it reports those that are not searched for on stderr.
    """
    return any(type(item).__module__ == "nanobind" for item in gc.get_objects())


class HeadWatch:
    """A thread that checks every second whether the head of the cluster still listens."""

    def __init__(self, address: str, *, patience_s: float | None = None) -> None:
        """Start watching.

        Args:
            address: of the head's control service, HOST:PORT.
            patience_s: the head is lost after this long without an answer; None: half of Ray's.
        """
        host, _, port = address.rpartition(":")
        self._place = (host.strip("[]"), int(port))
        if patience_s is None:
            patience_s = read_seconds(RAY_PATIENCE) / 2
        self._patience_s = patience_s
        self._ended = threading.Event()
        self.is_lost = False
        threading.Thread(target=self._watch, name="head-watch", daemon=True).start()

    def stop(self) -> None:
        """Stop watching: the run leaves the cluster."""
        self._ended.set()

    def answers(self) -> bool:
        """Return whether the head listens now."""
        try:
            socket.create_connection(self._place, timeout=CONNECT_TIMEOUT_S).close()
        except OSError:
            return False
        return True

    def confirm_loss(self) -> bool:
        """Return whether the head is lost; an error of Ray may come before the watch notices."""
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
        # The main thread waits in a call to Ray, which Ctrl-C ends. A background job ignores
        # Ctrl-C, but not SIGTERM.
        heeded = [
            item for item in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(item))
        ]
        if heeded:
            signal.pthread_kill(threading.main_thread().ident or 0, heeded[0])
        if not self._ended.wait(LEAVE_S):
            # A call to Ray does not return. Ray too would end the process, but later.
            os.write(2, f"benchmark: {LOST}\n".encode())
            os._exit(HeadLost.exit_code)
