"""Identity of a process, so that another on the same machine can check whether it still runs."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A unique identity of a process on some machine."""

    host: str
    place: str
    """The machine's boot id and process-id namespace; empty without /proc."""
    pid: int
    started: str
    """Start time in ticks since the boot, because process ids are reused."""

    @classmethod
    def this(cls) -> Process:
        """Return this process."""
        pid = os.getpid()
        return cls(host=platform.node(), place=_place(), pid=pid, started=_started(pid) or "")

    @property
    def is_gone(self) -> bool:
        """Whether it has certainly ended; False if this machine cannot know."""
        return self._is_here and _started(self.pid) != self.started

    @property
    def is_alive(self) -> bool:
        """Whether it certainly runs; False if this machine cannot know."""
        return self._is_here and _started(self.pid) == self.started

    @property
    def _is_here(self) -> bool:
        return bool(self.place) and (self.host, self.place) == (platform.node(), _place())


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Return the start time of a process of this machine; None if it has ended."""
    try:
        # The process name, in brackets, may contain any character.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
