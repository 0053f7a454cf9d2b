"""Connect to Ray or start it, and report its resources."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmark.cluster.addresses import find_head
from benchmark.cluster.folders import TOKEN_PATH, prepare_folders, prepare_token, token_file
from benchmark.cluster.headwatch import LOST, HeadLost, HeadWatch
from benchmark.cluster.importing import worker_path
from benchmark.errors import BenchmarkError, UsageError, first_line

logger = logging.getLogger("benchmark")

ATTEMPT = re.compile(rb"\[[^\]]* [IWE] \d+ \d+\] ")
"""The beginning of a log line of Ray's C++ code."""

LOCAL = "local"

SAFE_PATH = "PYTHONSAFEPATH"

RELEASE_TIMEOUT_S = 20.0
"""How long a new pool waits for CPUs that an earlier stage is still releasing."""

ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A worker that books no GPU keeps its CUDA_VISIBLE_DEVICES, without Ray's warning about it.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # No reports, log files or uploads of Ray Tune beside our own.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    # No traceback for each restarted trial; the manifest of its cell counts them.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Otherwise the first Ctrl-C during or after a search is swallowed.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # No traceback of a task whose result nobody fetched; its cell says why it failed.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    # Not the last 20 lines of a lost machine's C++ log; the line that names the machine stays.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "lines of the Raylet logs:",
}
"""Variables that are set before Ray is imported, unless the user has set them."""


class Node(NamedTuple):
    """The resources of one machine of the cluster."""

    num_cpus: float
    num_gpus: float
    memory: float = 0.0
    """Bytes for processes: what was free when Ray started, without its object store; 0: unknown."""


class Resources(NamedTuple):
    """What the cluster has, or what a stage may book."""

    num_cpus: float
    num_gpus: float
    memory: float
    node_cpus: float = 0.0
    """Of the largest node; 0: unknown."""
    nodes: tuple[Node, ...] = ()
    """Every machine; empty: unknown."""


def count_of(number: float, unit: str) -> str:
    """Return a number with its unit, e.g. ``1 GPU`` or ``2 GPUs``."""
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


@dataclass
class Cluster:
    """A connection to Ray, made on first use, so that a run with nothing to do starts nothing.

    ``address`` None starts Ray on this machine (or, inside a Ray job, joins its cluster).
    """

    address: str | None = None
    _owns: bool = False
    _head: HeadWatch | None = None
    _stack: ExitStack = field(default_factory=ExitStack)
    """Deletes the folders of a local Ray."""

    @property
    def place(self) -> str:
        """Where a run is: the address of its cluster, or ``local`` for a Ray of its own."""
        return self.address or os.environ.get("RAY_ADDRESS") or LOCAL

    def connect(self, **options: Any) -> Resources:
        """Connect once and return the resources of the cluster.

        Args:
            options: of ``ray.init`` if Ray is started here, e.g. ``num_cpus``.

        Raises:
            UsageError: the address does not answer, its cluster denies access, or a local Ray
                finds no folder.
        """
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray

        if not ray.is_initialized():
            option = "--address" if self.address else "RAY_ADDRESS"
            address = self.place
            is_local = address == LOCAL
            is_on_loopback = is_local or find_head(address, option=option)
            if not is_local:
                use_token()
            settings: dict[str, Any] = {}
            if is_local:
                prepare_token(self._stack)
                folders = prepare_folders(self._stack)
                settings = {"include_dashboard": False, **folders, **options}
            try:
                with (
                    _quiet_backend(),
                    _kept_sigterm(),
                    _loopback_only(is_on_loopback),
                    _safe_path(),
                ):
                    ray.init(
                        address=address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        job_config=_job_config(is_local),
                        **settings,
                    )
            except Exception as error:
                if is_local:
                    # Of any type: Ray raises Exception itself if it waited too long.
                    reason = first_line(error)
                    raise BenchmarkError(f"Ray did not start on this machine: {reason}") from None
                if not isinstance(error, (OSError, ValueError, RuntimeError)):
                    raise
                first, *others = (line.strip() for line in str(error).strip().splitlines())
                if first.startswith("Version mismatch"):
                    raise UsageError(
                        f"{option} {address}: {' '.join((first, *others))}; install the cluster's "
                        "versions here, or send the run there with `benchmark submit`"
                    ) from None
                raise UsageError(
                    f"{option} {address}: something listens there, but Ray cannot connect to it: "
                    f"{first.rstrip('.')}. Check that this is the head's port, and the token "
                    "in RAY_AUTH_TOKEN or ~/.ray/auth_token"
                ) from None
            self._owns = True
            self._head = HeadWatch(ray.get_runtime_context().gcs_address)
            _protect_token()
            if is_local:
                _end_autoscaler()
            # Ray's own progress lines would mix with ours.
            for name in ("ray.data", "ray.tune"):
                logging.getLogger(name).setLevel(logging.ERROR)
        found = ray.cluster_resources()
        nodes = tuple(
            Node(*(float(each["Resources"].get(name, 0.0)) for name in ("CPU", "GPU", "memory")))
            for each in ray.nodes()
            if each["Alive"]
        )
        return Resources(
            num_cpus=float(found.get("CPU", 0.0)),
            num_gpus=float(found.get("GPU", 0.0)),
            memory=float(found.get("memory", 0.0)),
            node_cpus=max(node.num_cpus for node in nodes),
            nodes=nodes,
        )

    def wait_for_cpus(self, num_cpus: float, *, timeout_s: float = RELEASE_TIMEOUT_S) -> float:
        """Return how many CPUs are free, after waiting at most ``timeout_s`` for ``num_cpus``.

        Ray releases the CPUs of a finished stage with a delay, and other jobs hold some on a
        shared cluster. Actors planned on CPUs that are not free leave none for the tasks that
        feed them, and the pipeline hangs silently.
        """
        import ray

        deadline = time.monotonic() + timeout_s
        while True:
            free = float(ray.available_resources().get("CPU", 0.0))
            if free >= num_cpus:
                return free
            if time.monotonic() >= deadline:
                logger.warning(
                    "%g of %g CPUs are free; other stages or jobs hold the rest", free, num_cpus
                )
                return free
            time.sleep(0.1)

    def close(self) -> None:
        """Shut down what ``connect`` started."""
        if self._head is not None:
            self._head.stop()
        if self._owns:
            import ray

            # Ray's shutdown would wait for a head that is lost.
            if self._head is None or not self._head.is_lost:
                ray.shutdown()
            self._owns = False
        self._stack.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        del kind, trace
        is_lost = (
            error is not None
            and not isinstance(error, BenchmarkError)
            and self._head is not None
            and self._head.confirm_loss()
        )
        self.close()
        if is_lost:
            raise HeadLost(LOST) from None


def _end_autoscaler() -> None:
    """End the process that would add machines: here it has none, and delays the end by 1 s."""
    from ray._private import worker

    node: Any = worker._global_node
    node.kill_monitor(check_alive=False)


@contextmanager
def _quiet_backend() -> Iterator[None]:
    """Silence Ray's C++ lines on stderr, among them one of level E for every pool.

    That line is harmless (https://github.com/ray-project/ray/issues/53727). Only a log level
    switches it off, and Ray prints a notice of the level at the start. The notice is dropped here;
    all other output of that time is passed on.
    """
    if "RAY_BACKEND_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    is_over = False
    with tempfile.TemporaryFile() as caught:
        stderr = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
            is_over = True
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                # If Ray did not start, drop the line of each attempt; the error says the same.
                if b"RAY_BACKEND_LOG_LEVEL" not in line and (is_over or not ATTEMPT.match(line)):
                    os.write(2, line)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Keep the current folder off the import path of all that Ray's processes start (-c, -m)."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


class _Fixed(list[str]):
    """Folders that Ray cannot extend by the script's and the current one, which it puts first."""

    def extend(self, _: object) -> None:
        """Add nothing."""


def _job_config(is_local: bool) -> Any:
    """Return what tells the workers where to import from; None leaves it to a job's settings."""
    from ray.job_config import JobConfig

    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    config = JobConfig()
    config._py_driver_sys_path = _Fixed(worker_path(is_local=is_local))
    return config


@contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Keep the SIGTERM handler of the command line, which Ray replaces by its own."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(ours) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


@contextmanager
def _loopback_only(is_on_loopback: bool) -> Iterator[None]:
    """Make a local Ray, which no other machine can join, listen only on 127.0.0.1; or join one.

    On Linux its ports are open on every interface, protected by the token. On macOS and Windows it
    uses only the loopback, by a switch that is read when Ray is imported. A user's own setting of
    that switch is kept.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    if is_on_loopback and ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR not in os.environ:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def use_token() -> None:
    """Send our token, if we have one, to a cluster; Ray itself does so only for local ones.

    If ``RAY_AUTH_MODE`` is set, it decides.
    """
    if has_token() and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        from ray._raylet import Config  # type: ignore[attr-defined]

        # Ray read the variable when it was imported; this reads it again.
        Config.initialize("")


def _protect_token() -> None:
    # Ray makes it readable for all users of this machine, who could then run code as us.
    path = token_file()
    with suppress(OSError):
        if path is not None and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def has_token() -> bool:
    """Return whether this machine holds a token for Ray clusters."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get(TOKEN_PATH):
        return True
    path = token_file()
    return path is not None and path.is_file()
