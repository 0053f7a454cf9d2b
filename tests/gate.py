"""Holds back requests before an object store, so that what a test does then hits its moment."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable

import psutil

from tests.machines import is_alive
from tests.object_store import Faults

TIMEOUT_S = 240.0


class Gate:
    """Lets the first matching requests pass and holds the others until it is opened.

    What a process that has died meanwhile had asked for is dropped, as the network would have.
    """

    def __init__(
        self,
        faults: Faults,
        *,
        method: str,
        parts: tuple[str, ...],
        passes: int,
        note: Callable[[int], object] = id,
        noted: str = "",
    ) -> None:
        """Begin to hold requests of a method whose path has all these parts.

        Args:
            faults: of the store.
            method: e.g. ``PUT``.
            parts: of the path.
            passes: so many are not held.
            note: is told the process of each.
            noted: requests whose path has this part are told as well.
        """
        self.pids: list[int] = []
        """The process of each matching request, held or not."""
        self._matches = lambda verb, path: verb == method and all(item in path for item in parts)
        self._passes = passes
        self._note = note
        self._is_noted = lambda verb, path: verb == method and bool(noted) and noted in path
        self._opened = threading.Event()
        self._lock = threading.Lock()
        faults.hold = self._hold

    def await_held(self, run: subprocess.Popen[str] | None = None) -> int:
        """Return the process of the first request that is held, which ``run`` leads to.

        One that has died meanwhile holds nothing any more: what replaces it is held as well.
        """
        deadline = time.monotonic() + TIMEOUT_S
        while not (held := [pid for pid in self.pids[self._passes :] if is_alive(pid)]):
            assert run is None or run.poll() is None, run.communicate()[1]
            assert time.monotonic() < deadline, "nothing came to be held"
            time.sleep(0.05)
        return held[0]

    def open(self) -> None:
        """Let everything pass."""
        self._opened.set()

    def _hold(self, method: str, path: str, port: int) -> bool:
        is_matching = self._matches(method, path)
        if not is_matching and not self._is_noted(method, path):
            return True
        pid = _owner(port)
        self._note(pid)
        if not is_matching:
            return is_alive(pid)
        with self._lock:
            self.pids.append(pid)
            passes = len(self.pids) <= self._passes
        if not passes:
            self._opened.wait(TIMEOUT_S)
        return is_alive(pid)


def _owner(port: int) -> int:
    """Return the process of this machine that is connected to this one from a port of its own.

    Connections of others, to elsewhere, may have the same port at their own end.
    """
    found = [item for item in psutil.net_connections("tcp") if item.pid and item.raddr]
    ours = {
        (item.raddr, item.laddr)
        for item in found
        if item.pid == os.getpid() and item.raddr.port == port
    }
    for item in found:
        if (item.laddr, item.raddr) in ours:
            return int(item.pid)
    raise ProcessLookupError(f"no process has port {port}")
