"""The largest memory of a process since some work began."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Let the peak begin anew, where the system can; otherwise it is that of the whole process."""
    with suppress(OSError):
        # 5 sets the peak to the present size: proc_pid_clear_refs(5).
        CLEAR.write_text("5")


def peak_memory_bytes() -> int:
    """Return the peak resident set size of this process since ``reset_peak`` (bytes).

    Memory that processes share, such as Ray's object store, counts in each that has read it.
    """
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024
