"""A Ray cluster of several machines on this one, in a process of its own that a test commands.

So its environment, tokens among it, is not that of the test's Ray. Each machine is a raylet with
its workers, and is lost as a machine is: everything at once, without a word.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests import forked_workers

ROOT = Path(__file__).parents[1]
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
    "timeout_ms_task_wait_for_death_info": 30_000,
}
"""A machine that is gone, which refuses connections, is taken for dead after seconds; a slow one
gets Ray's usual time. Who called a dead actor waits for the cause, which takes longer than Ray's
one second beside other load: it would be told of no cause."""

LAZY = {
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",
    forked_workers.FOLDER: forked_workers.shared_folder(),
}
"""Environment of a Ray that starts no process before it is needed, since tests need few, whose
workers are not starved by the tests of the other process (Ray's own niceness is 15), and are forks
where `forked_workers.install` has said so."""

KERNELS = ("OPENBLAS_", "MKL_", "OMP_", "ATEN_", "DNNL_", "ONEDNN_", "NPY_")
"""How the names of settings begin that choose a CPU's instructions, on which last bits depend."""


def kernel_settings() -> dict[str, str]:
    """Return those of this process: a cluster that has others computes other last bits."""
    return {name: value for name, value in os.environ.items() if name.startswith(KERNELS)}


OWN_PORTS = range(20_000, 32_000)
"""Below the ports of Linux's choice (32,768 to 60,999), above those of Ray's (10,002 to 19,999)."""


class Machines:
    """The cluster, as the test sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        begun = self._receive()
        self.address: str = begun["address"]
        self.url: str = f"http://{begun['url']}"
        self.raylets: list[int] = []
        """The process of each machine but the head, of lost ones too."""
        self.alive: list[int] = []
        """The numbers of those that are not lost."""

    def add(self, **size: Any) -> int:
        """Start a machine and return its number, once the head knows it."""
        self.raylets.append(self._ask("add", **size)["raylet"])
        self.alive.append(len(self.raylets) - 1)
        return self.alive[-1]

    def lose(self, number: int) -> None:
        """Kill a machine, and return once the head has noticed."""
        self._ask("lose", number=number)
        self.alive.remove(number)

    def lose_head(self) -> None:
        """Kill the head, which is not noticed by anybody that could tell."""
        self._ask("lose_head")

    def place_of(self, pid: int) -> int | None:
        """Return on which machine a process runs; None: on the head, or on none."""
        ancestors = ancestors_of(pid)
        return next((n for n, raylet in enumerate(self.raylets) if raylet in ancestors), None)

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the cluster has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def start_machines(env: Mapping[str, str], **head: Any) -> Iterator[Machines]:
    """Run a cluster that consists of a head, with job server; its processes get ``env``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.machines", json.dumps(head)],
        cwd=ROOT,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Machines(process)
    finally:
        # It shuts the cluster down when nobody commands it any more.
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=60)


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens at.

    They are none of those that the system gives to connections, which might take one of them
    before it is listened at, nor those that Ray gives to its workers.
    """
    candidates = random.SystemRandom().sample(OWN_PORTS, len(OWN_PORTS))
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            item = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                item.bind(("127.0.0.1", candidates.pop()))
                found.append(item.getsockname()[1])
        return found


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine still runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def family_of(pid: int) -> list[psutil.Process]:
    """Return all that a process has started, the forks of its workers too; none if it has ended."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(pid).children(recursive=True)
    for fork in forked_workers.forks_of({item.pid for item in found}):
        with contextlib.suppress(psutil.Error):
            found += [psutil.Process(fork), *family_of(fork)]
    return found


def ancestors_of(pid: int) -> set[int]:
    """Return what has started a process, from its parent to the first of all."""
    found: set[int] = set()
    with contextlib.suppress(psutil.Error):
        found = {item.pid for item in psutil.Process(pid).parents()}
    for item in (pid, *found):
        if (starter := forked_workers.starter_of(item)) is not None:
            return {starter} | ancestors_of(starter)
    return found


def kill_all(processes: Iterable[psutil.Process], timeout_s: float = 10) -> None:
    """Kill processes and wait for their ends: some may have ended since they were listed."""
    listed = list(processes)
    for process in listed:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(listed, timeout=timeout_s)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    # What Ray says is no answer.
    os.dup2(2, 1)
    from ray._private.utils import write_ray_address
    from ray.cluster_utils import Cluster

    forked_workers.install()

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    # Short: sockets lie below it, whose paths have at most 107 characters.
    folder = tempfile.mkdtemp(prefix="m", dir="/tmp")
    dashboard_port, agent_port = free_ports(2)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "dashboard_port": dashboard_port,
            "dashboard_agent_listen_port": agent_port,
            "temp_dir": f"{folder}/h",
            "_system_config": QUICK,
            "include_dashboard": True,
            **json.loads(sys.argv[1]),
        },
    )
    # Jobs look for their cluster there; in Ray's own folder it would be the one begun last.
    write_ray_address(cluster.address, f"{folder}/h")
    nodes: list[Any] = []
    answer(address=cluster.address, url=cluster.webui_url)
    for line in sys.stdin:
        asked = json.loads(line)
        command = asked.pop("command")
        if command == "add":
            # Each unpacks working directories in a folder of its own, as other disks would be.
            nodes.append(cluster.add_node(temp_dir=f"{folder}/{len(nodes)}", **asked))
            answer(raylet=_raylet(nodes[-1]))
        elif command == "lose":
            _lose(cluster, nodes[asked["number"]])
            answer()
        else:
            _kill(cluster, cluster.head_node)
            answer()
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _lose(cluster: Any, node: Any) -> None:
    # As without power: no process is heard of any more, and none is heard to end, before its
    # machine is taken for dead.
    workers = family_of(_raylet(node))
    for process in workers:
        with contextlib.suppress(psutil.Error):
            process.suspend()
    cluster.remove_node(node, allow_graceful=False)
    deadline = time.monotonic() + 60
    while any(
        item["Alive"] and item["NodeID"] == node.node_id
        for item in cluster.global_state.node_table()
    ):
        assert time.monotonic() < deadline, "the head does not notice"
        time.sleep(0.05)
    kill_all(workers)


def _kill(cluster: Any, node: Any) -> None:
    workers = family_of(_raylet(node))
    cluster.remove_node(node, allow_graceful=False)
    kill_all(workers)


if __name__ == "__main__":
    main()
