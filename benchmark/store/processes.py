"""Which process this is, so that another on the same machine can tell whether it still runs."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process of some machine, by what is never used twice."""

    host: str
    place: str
    """The machine's boot and the namespace of its process ids; empty where there is no /proc."""
    pid: int
    started: str
    """When it started, in ticks since the boot: process ids are used again."""

    @classmethod
    def this(cls) -> Process:
        """Return this process."""
        pid = os.getpid()
        return cls(host=platform.node(), place=_place(), pid=pid, started=_started(pid) or "")

    @property
    def is_gone(self) -> bool:
        """Whether it has ended for certain; False where that cannot be known from here."""
        is_here = bool(self.place) and (self.host, self.place) == (platform.node(), _place())
        return is_here and _started(self.pid) != self.started


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Return when a process of this machine started; None where it has ended."""
    try:
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
