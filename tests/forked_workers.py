"""Workers of Ray as forks of a process that holds their imports already.

Each Python process of Ray imports Ray twice, then torch, pandas and scikit-learn: 2 to 4 CPU
seconds, of which a fork takes 0.02. Ray runs this file in place of its own ``setup_worker.py``,
with the command of a worker, which starts what is missing of the following and asks for a fork:

- the seed, one for a session of tests, holds the packages that workers import, but not Ray,
- a template, a fork of the seed for each job on each machine, holds Ray, which reads its job and
  machine when it is imported; its forks are the workers.

A fork is no descendant of its raylet, as the process is that asked for it: `starter_of` names that.
A worker of another Python, or with more than a working directory and variables, starts as usual.
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
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

BENCHMARK = (
    *(sys.executable, "-c"),
    "from tests.forked_workers import install; install(); "
    "from benchmark.cli.commands import main; main()",
)
"""Starts `benchmark` in a process of its own, whose Ray forks its workers."""

SEED = "--seed"
AGENT = "--agent"
MODULES = (
    *("pandas", "pyarrow.dataset", "pyarrow.fs", "pyarrow.json", "pyarrow.parquet", "pydantic"),
    *("sklearn.linear_model", "sklearn.neighbors", "sklearn.pipeline", "sklearn.preprocessing"),
    *("sklearn.neural_network", "optuna", "PIL.Image", "psutil", "rasterio", "scipy.special"),
    *("timm", "torch", "IPython", "pydantic.v1", "platformdirs", "tenacity", "xxhash"),
    *("transformers.modeling_utils", "transformers.video_processing_utils"),
)
"""Only other packages: each worker imports the tested one itself."""

RAY_MODULES = (
    *("ray._private.node", "ray._private.worker", "ray.data", "ray.train", "ray.tune"),
    *("ray.util.state", "ray._private.arrow_serialization"),
    "ray.data._internal.execution.operators.hash_shuffle",
)

FOLDER = "BENCHMARK_TESTS_FORKS"
"""Names the folder of the seeds' sockets, and of a link from each worker to its starter."""

KEYS = (
    *("PYTHON", "LD_", "OMP_", "OPENBLAS_", "MKL_", "CUDA", "ATEN_", "DNNL_", "ONEDNN_", "NPY_"),
    *("HF_", "HOME", "TORCH", "XDG_"),
)
"""How the variables begin that other packages read when they are imported."""


def shared_folder() -> str:
    """Return the folder of this session of tests; its seeds end with who asked first."""
    if FOLDER not in os.environ:
        import atexit
        import shutil
        import tempfile

        # Short: the path of a socket has at most 107 characters.
        os.environ[FOLDER] = tempfile.mkdtemp(prefix=f"forks-{os.getpid()}-", dir="/tmp")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
    return os.environ[FOLDER]


def starter_of(pid: int) -> int | None:
    """Return the process, a child of its raylet, for which a fork was made; None: it is none."""
    import psutil

    link = Path(shared_folder(), f"fork-{pid}")
    with contextlib.suppress(OSError, psutil.Error):
        # A process that began later has got the number of a fork that has ended.
        if psutil.Process(pid).create_time() < link.lstat().st_mtime + 1:
            return int(link.readlink().name)
    return None


def forks_of(starters: set[int]) -> list[int]:
    """Return the forks that were made for processes."""
    forks = [int(path.name[5:]) for path in Path(shared_folder()).glob("fork-*")]
    return [pid for pid in forks if starter_of(pid) in starters]


def install(*, has_metrics: bool = False) -> None:
    """Make every Ray that this process starts fork its workers.

    It goes without the processes that copy logs to the driver, add machines and serve Ray's own
    client, also where `ray start` asks for them; where there is no dashboard, also without its
    server and, unless it ``has_metrics``, its agent.
    """
    from ray._private import node, parameter, services

    parameter.RayParams = partial(parameter.RayParams, setup_worker_path=__file__)
    python_command = services._build_python_executable_command_memory_profileable

    class Node(node.Node):
        def start_log_monitor(self) -> None: ...

        def start_monitor(self) -> None: ...

        def start_ray_client_server(self) -> None: ...

        def start_api_server(self, *, include_dashboard: bool | None, **options: Any) -> None:
            if include_dashboard:
                super().start_api_server(include_dashboard=include_dashboard, **options)

        def start_raylet(self, *arguments: Any, **options: Any) -> None:
            def command_of(component: str, *others: Any, **more: Any) -> list[str]:
                is_needed = has_metrics or self._ray_params.include_dashboard
                if component == "dashboard_agent" and not is_needed:
                    return [sys.executable, "-S", __file__, AGENT]
                return list(python_command(component, *others, **more))

            services._build_python_executable_command_memory_profileable = command_of
            try:
                super().start_raylet(*arguments, **options)
            finally:
                services._build_python_executable_command_memory_profileable = python_command

    node.Node = Node


def stand_in(arguments: list[str]) -> None:
    """Do what the agent of a dashboard does in a minimal Ray: say that it listens nowhere."""
    given = dict(item.split("=", 1) for item in arguments if "=" in item)
    for name in ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port"):
        path = Path(given["--session-dir"], f"{name}_{os.environ['RAY_NODE_ID']}")
        path.with_suffix(".new").write_text("-1")
        path.with_suffix(".new").rename(path)
    # A raylet ends without its agent; the other end of this pipe is the raylet's.
    sys.stdin.read()


def start_worker(arguments: list[str]) -> None:
    """Start a worker by its command, and end when it has ended."""
    request = read_request(arguments)
    # One that spills objects has no job.
    if request is None or not {FOLDER, "RAY_JOB_ID"} <= os.environ.keys():
        from ray._private.workers import setup_worker

        os.execv(sys.executable, [sys.executable, setup_worker.__file__, *arguments])
    (name,) = (item for item in arguments if item.startswith("--raylet-name="))
    template = _reach(f"{name.partition('=')[2]}-{os.environ['RAY_JOB_ID']}", _start_template)
    _ask(template, {**request, "env": dict(os.environ)}, [0, 1, 2])
    # The worker has joined this group, and holds its end of the connection as long as it lives.
    while template.recv(1):
        pass


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
        "starter": os.getpid(),
        "variables": variables,
    }


def _reach(path: str, start: Callable[[socket.socket], None]) -> socket.socket:
    """Connect to who listens at a path; if nobody does, start somebody."""
    found = socket.socket(socket.AF_UNIX)
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):
            found.connect(path)
            return found
        Path(path).unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(64)
        start(listening)
        found.connect(path)
        return found


def _start_template(listening: socket.socket) -> None:
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEYS)}
    for name in ("PYTHONPATH", "PYTHONBREAKPOINT", "PYTHONSAFEPATH"):
        # Each worker reads it itself.
        kept.pop(name, None)
    # A process can join no group of another session.
    key = json.dumps([os.getsid(0), sys.executable, sorted(kept.items())])
    seed = _reach(f"{os.environ[FOLDER]}/seed-{zlib.crc32(key.encode()):x}", _start_seed)
    with seed:
        _ask(seed, {"env": dict(os.environ)}, [listening.fileno()])


def _start_seed(listening: socket.socket) -> None:
    if (child := os.fork()) == 0:
        # Nobody's child, in a group of its own: it outlives this worker, its group and raylet.
        listening.set_inheritable(True)
        command = [sys.executable, __file__, SEED, str(listening.fileno())]
        os.posix_spawn(sys.executable, command, os.environ, setpgroup=0)
        os._exit(0)
    os.waitpid(child, 0)


def _ask(asked: socket.socket, request: dict[str, Any], files: list[int]) -> None:
    body = json.dumps(request).encode()
    socket.send_fds(asked, [len(body).to_bytes(4, "big")], files)
    asked.sendall(body)


class Fork(NamedTuple):
    """What a fork was asked for."""

    request: dict[str, Any]
    files: list[int]
    asked: socket.socket


def serve_as_seed(listening: socket.socket) -> None:
    """Import what workers import, and serve; return in the workers."""
    # Nobody waits for the end of what the first worker inherited.
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    import_all(MODULES)
    session = int(Path(os.environ[FOLDER]).name.split("-")[1])
    if fork := serve(listening, session):
        serve_as_template(fork)


def serve_as_template(fork: Fork) -> None:
    """Be the template of a job; return in the workers."""
    os.setpgid(0, 0)
    fork.asked.close()
    _take_environment(fork.request["env"])
    import ray  # noqa: F401

    raylet = int(os.environ["RAY_RAYLET_PID"])
    if found := serve(socket.socket(fileno=fork.files[0]), raylet, RAY_MODULES):
        become(found)


def serve(listening: socket.socket, owner: int, modules: Sequence[str] = ()) -> Fork | None:
    """Fork for every request, and return that in the fork; None once the owner has ended.

    ``modules`` are imported before the second fork: the first may be the only one.
    """
    num_forks = 0
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening.settimeout(1)
    while _is_alive(owner):
        try:
            asked, _ = listening.accept()
        except TimeoutError:
            continue
        if num_forks == 1:
            import_all(modules)
        num_forks += 1
        head, files, _, _ = socket.recv_fds(asked, 4, 3)
        with asked.makefile("rb") as stream:
            request = json.loads(stream.read(int.from_bytes(head, "big")))
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            return Fork(request, files, asked)
        asked.close()
        for file in files:
            os.close(file)
    return None


def import_all(modules: Sequence[str]) -> None:
    """Import what workers import."""
    import importlib

    # As Ray sets it for a worker of one CPU, before that imports anything else.
    os.environ["OMP_NUM_THREADS"] = "1"
    with own_ids() if "ray" in sys.modules else contextlib.nullcontext():
        for name in modules:
            # What is missing, a worker will miss itself if it needs it.
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    # Each fork gets the variables of its own worker.
    del os.environ["OMP_NUM_THREADS"]
    # The garbage collector would touch, and so copy, the memory that forks share.
    gc.freeze()


@contextlib.contextmanager
def own_ids() -> Iterator[None]:
    """Draw ids without Ray's generator: it is seeded when it is used first, for all forks."""
    import ray.actor

    class ClassID(ray.actor.ActorClassID):
        @classmethod
        def from_random(cls) -> Any:
            return ids(os.urandom(ids.size()))

    ids, ray.actor.ActorClassID = ray.actor.ActorClassID, ClassID
    yield
    ray.actor.ActorClassID = ids


def become(fork: Fork) -> None:
    """Run the worker of a request in this process."""
    import runpy

    from ray._raylet import Config

    request = fork.request
    os.setpgid(0, request["group"])
    link = Path(os.environ[FOLDER], f"fork-{os.getpid()}")
    # The number may have been that of another fork.
    link.unlink(missing_ok=True)
    link.symlink_to(str(request["starter"]))
    # Stays open until the worker ends, which tells its starter.
    fork.asked.detach()
    for number, file in enumerate(fork.files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    _take_environment(request["env"], request["variables"])
    # Ray read its own variables when it was imported.
    Config.initialize("")
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    sys.argv = request["argv"]
    if not os.environ.get("PYTHONSAFEPATH"):
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


def _take_environment(env: dict[str, str], variables: dict[str, str] | None = None) -> None:
    """Get other variables, changed as a runtime environment says, and their import path."""
    before = _python_path()
    os.environ.clear()
    os.environ.update(env)
    if variables:
        from ray._private.utils import update_envs

        update_envs(variables)
    sys.path[:] = [*_python_path(), *(item for item in sys.path if item not in before)]


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
    if sys.argv[1] == SEED:
        serve_as_seed(socket.socket(fileno=int(sys.argv[2])))
    elif sys.argv[1] == AGENT:
        stand_in(sys.argv[2:])
    else:
        start_worker(sys.argv[1:])
