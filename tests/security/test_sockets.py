"""A Ray of this machine alone listens on the loopback, and on nothing else."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

LISTENING = """
import contextlib
import json
import psutil
import ray  # as stages do, before they connect
from benchmark.cluster.connection import Cluster

with Cluster() as cluster:
    cluster.connect(num_cpus=1, object_store_memory=100_000_000)

    @ray.remote
    class Actor:
        def address(self):
            return ray.util.get_node_ip_address()

    actor = Actor.remote()
    address = ray.get(actor.address.remote())
    found = []
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        # One that has ended since it was listed listens no more.
        with contextlib.suppress(psutil.NoSuchProcess):
            for item in process.net_connections("inet"):
                if item.status == "LISTEN":
                    found.append([process.name(), item.laddr.ip, item.laddr.port])
    lines = [" ".join(process.cmdline()) for process in me.children()]
print(json.dumps({"address": address, "found": found, "lines": lines}))
"""


def start_ray() -> dict[str, Any]:
    """Start Ray in a process of its own; return its address, what listens, and command lines."""
    # Ray's sockets lie below it, and a socket's path has at most 107 characters.
    home = Path(tempfile.mkdtemp(prefix="bl", dir="/tmp"))
    try:
        done = subprocess.run(
            [sys.executable, "-c", LISTENING],
            env={"PATH": os.environ["PATH"], "HOME": str(home), "RAY_TMPDIR": str(home)},
            capture_output=True,
            text=True,
            timeout=200,
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@pytest.mark.slow
def test_nothing_of_our_local_ray_listens_beyond_the_loopback_or_adds_machines() -> None:
    started = start_ray()
    found = started["found"]
    assert started["address"] == "127.0.0.1"
    # GCS, raylet, agents, the driver and the actor: what is looked for is there.
    assert len({name for name, _, _ in found}) >= 5, found
    assert [item for item in found if not is_loopback(item[1])] == []
    # The process that adds machines to a cluster is gone; others of Ray are there.
    assert any("log_monitor.py" in line for line in started["lines"])
    assert not any("autoscaler" in line for line in started["lines"]), started["lines"]
