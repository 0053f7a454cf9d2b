"""Workers of Ray as forks of one process that holds their imports already.

Each Python process of Ray imports Ray twice, then torch, pandas and scikit-learn: 2 to 4 CPU
seconds, of which a fork takes 0.02. Ray runs this file in place of its own ``setup_worker.py``,
with the command of a worker. The first worker of a job on a machine starts the template as its
child, and all ask the template for a fork, so that workers stay descendants of their raylet. A
worker of another Python, or with more than a working directory and variables, starts as usual.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import shlex
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

BENCHMARK = (
    *(sys.executable, "-c"),
    "from tests.forked_workers import install; install(); "
    "from benchmark.cli.commands import main; main()",
)
"""Starts `benchmark` in a process of its own, whose Ray forks its workers."""

TEMPLATE = "--template"
MODULES = (
    *("ray._private.node", "ray._private.worker", "ray.data", "ray.train", "ray.tune"),
    *("pandas", "pyarrow.dataset", "pyarrow.fs", "pyarrow.parquet", "pydantic", "optuna"),
    *("sklearn.linear_model", "sklearn.neighbors", "sklearn.pipeline", "sklearn.preprocessing"),
    *("PIL.Image", "rasterio", "scipy.special", "timm", "torch"),
)
"""Only other packages: each worker imports the tested one itself."""


def install() -> None:
    """Make every Ray that this process starts fork its workers.

    It goes without the process that copies logs to the driver and the one that adds machines.
    """
    from ray._private import parameter

    parameter.RayParams = partial(
        parameter.RayParams,
        setup_worker_path=__file__,
        include_log_monitor=False,
        no_monitor=True,
    )


def start_worker(arguments: list[str]) -> None:
    """Start a worker by its command, and end when it has ended."""
    request, job = read_request(arguments), os.environ.get("RAY_JOB_ID")
    # One that spills objects has no job.
    if request is None or job is None:
        from ray._private.workers import setup_worker

        os.execv(sys.executable, [sys.executable, setup_worker.__file__, *arguments])
    (name,) = (item for item in arguments if item.startswith("--raylet-name="))
    # Ray reads the job of a worker when it is imported.
    template, process = _connect(f"{name.partition('=')[2]}-{job}")
    body = json.dumps({**request, "env": dict(os.environ)}).encode()
    socket.send_fds(template, [len(body).to_bytes(4, "big")], [0, 1, 2])
    template.sendall(body)
    # The worker has joined this group, and holds its end of the connection as long as it lives.
    if template.recv(1) and process:
        # Ray may end the group with its worker: the template's parent stays with the template.
        os.setpgid(0, process)
        template.recv(1)
        os.waitpid(process, 0)
    else:
        template.recv(1)


def read_request(arguments: list[str]) -> dict[str, Any] | None:
    """Return what a worker differs in from the template; None: in more than a fork can."""
    given = dict(item.split("=", 1) for item in arguments if item.startswith("--") and "=" in item)
    context = json.loads(given.get("--serialized-runtime-env-context") or "{}")
    prefix = context.pop("command_prefix", [])
    variables = context.pop("env_vars", {})
    is_own = context.pop("py_executable", sys.executable) != sys.executable
    # A working directory is entered: cd FOLDER &&
    is_odd = prefix and [len(prefix), prefix[0], prefix[-1]] != [3, "cd", "&&"]
    if is_own or is_odd or any(context.values()):
        return None
    if given.get("--language") != "PYTHON":
        return None
    setup = ("--serialized-runtime-env-context", "--language")
    return {
        "argv": [item for item in arguments if not item.startswith(setup)],
        "folder": shlex.split(prefix[1])[0] if prefix else str(Path.cwd()),
        "group": os.getpgrp(),
        "variables": variables,
    }


def _connect(path: str) -> tuple[socket.socket, int]:
    """Return a connection to the template, and its process id if it was started for it."""
    template = socket.socket(socket.AF_UNIX)
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):
            template.connect(path)
            return template, 0
        Path(path).unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(64)
        listening.set_inheritable(True)
        command = [sys.executable, __file__, TEMPLATE, str(listening.fileno())]
        # In a group of its own: that of a worker ends with it.
        process = os.posix_spawn(sys.executable, command, os.environ, setpgroup=0)
        template.connect(path)
        return template, process


def serve(listening: socket.socket) -> None:
    """Fork for every request until the raylet has ended; return in the forks."""
    import ray  # noqa: F401

    raylet, num_forks = int(os.environ["RAY_RAYLET_PID"]), 0
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening.settimeout(1)
    while _is_alive(raylet):
        try:
            asked, _ = listening.accept()
        except TimeoutError:
            continue
        if num_forks == 1:
            # Not for the first, which may be the only one.
            import_all()
        num_forks += 1
        with asked:
            head, files, _, _ = socket.recv_fds(asked, 4, 3)
            with asked.makefile("rb") as stream:
                request = json.loads(stream.read(int.from_bytes(head, "big")))
            if os.fork() == 0:
                listening.close()
                os.setpgid(0, request["group"])
                asked.send(b"!")
                # Stays open until the worker ends, which tells its starter.
                asked.detach()
                become(request, files)
                return
        for file in files:
            os.close(file)


def import_all() -> None:
    """Import what workers import."""
    import importlib

    import ray.actor

    # As Ray sets it for a worker of one CPU, before that imports anything else.
    os.environ["OMP_NUM_THREADS"] = "1"

    class ClassID(ray.actor.ActorClassID):
        @classmethod
        def from_random(cls) -> Any:
            return ids(os.urandom(ids.size()))

    # Ray's own generator is seeded when it is used first: all forks would draw the same ids.
    ids, ray.actor.ActorClassID = ray.actor.ActorClassID, ClassID
    for name in MODULES:
        importlib.import_module(name)
    ray.actor.ActorClassID = ids
    del os.environ["OMP_NUM_THREADS"]
    # The garbage collector would touch, and so copy, the memory that forks share.
    gc.freeze()


def become(request: dict[str, Any], files: list[int]) -> None:
    """Run the worker of a request in this process."""
    import runpy

    from ray._private.utils import update_envs
    from ray._raylet import Config

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    before = _python_path()
    os.environ.clear()
    os.environ.update(request["env"])
    update_envs(request["variables"])
    # Ray read its own variables when it was imported.
    Config.initialize("")
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    sys.argv = request["argv"]
    own = [] if sys.flags.safe_path else [str(Path(sys.argv[0]).parent)]
    sys.path[:] = [*own, *_python_path(), *(item for item in sys.path if item not in before)]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _python_path() -> list[str]:
    return [item for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    if not sys.flags.safe_path:
        # The folder of this file, whose packages are named like those of others.
        del sys.path[0]
    if sys.argv[1] == TEMPLATE:
        serve(socket.socket(fileno=int(sys.argv[2])))
    else:
        start_worker(sys.argv[1:])
