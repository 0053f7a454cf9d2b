"""What a command's processes do, and when: python -m perf.timeline [--every S] COMMAND [ARG ...]

    python -m perf.timeline benchmark run experiments/quickstart.toml

Prints the lines that the command writes, each with its second, and then a row for each process of
its tree: when it was there, its processor time, and the names that it had (Ray renames workers).
On a shared machine processor seconds compare; wall seconds do only in turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

LONGEST_NAME = 60


@dataclass
class Lived:
    """One process: when it was seen first and last, and its processor seconds until then."""

    first: float
    last: float = 0.0
    cpu_s: float = 0.0
    names: list[tuple[float, float, str]] = field(default_factory=list)
    """Seconds since the start, processor seconds until then, and the new name."""


class Tree:
    """Samples the processes of a tree until it has ended."""

    def __init__(self, pid: int, every_s: float = 0.1) -> None:
        """Begin with the process ``pid`` and all that descend from it."""
        self.processes: dict[tuple[int, float], Lived] = {}
        self._began = time.monotonic()
        self._every_s = every_s
        self._root = psutil.Process(pid)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all processes, so far."""
        # A copy: the thread may add a process meanwhile.
        return sum(item.cpu_s for item in list(self.processes.values()))

    def stop(self) -> None:
        """End the sampling."""
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(self._every_s):
            with suppress(psutil.Error):
                for process in (self._root, *self._root.children(recursive=True)):
                    with suppress(psutil.Error):
                        self._sample(process)

    def _sample(self, process: psutil.Process) -> None:
        now = time.monotonic() - self._began
        key = (process.pid, process.create_time())
        with process.oneshot():
            times, command = process.cpu_times(), process.cmdline()
        if not command:
            return
        item = self.processes.setdefault(key, Lived(first=now))
        item.last, item.cpu_s = now, times.user + times.system
        name = short(command)
        if not item.names or item.names[-1][2] != name:
            item.names.append((now, item.cpu_s, name))


def short(command: list[str]) -> str:
    """Return a command's name without folders and without what Ray passes to its processes."""
    words = [word.rpartition("/")[2] for word in " ".join(command).split() if word[0] != "-"]
    return " ".join(words)[:LONGEST_NAME]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=float, default=0.1, metavar="S")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    began = time.monotonic()
    running = subprocess.Popen(
        options.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    tree = Tree(running.pid, options.every)
    for line in running.stdout or ():
        print(f"{time.monotonic() - began:6.1f} | {line}", end="", flush=True)
    code = running.wait()
    wall_s = time.monotonic() - began
    tree.stop()
    print(f"{wall_s:.1f} s, {tree.cpu_s:.1f} processor seconds, exit code {code}")
    print("  from     to    cpu  names (second, processor seconds until then)")
    for item in sorted(tree.processes.values(), key=lambda item: item.first):
        names = " > ".join(f"{name} ({at:.1f}, {cpu:.1f})" for at, cpu, name in item.names)
        print(f"{item.first:6.1f} {item.last:6.1f} {item.cpu_s:6.1f}  {names}")
    sys.exit(code)


if __name__ == "__main__":
    main()
