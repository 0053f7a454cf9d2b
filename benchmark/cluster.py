"""Connect to Ray or start it, and tell what it has."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import BenchmarkError, UsageError
from benchmark.headwatch import LOST, HeadLost, HeadWatch

logger = logging.getLogger("benchmark")

PROGRESS_TIMEOUT_S = float(os.environ.get("BENCHMARK_PROGRESS_TIMEOUT_S", "600"))
"""A data pipeline without progress for so long ends with an error instead of hanging."""

RELEASE_TIMEOUT_S = 20.0
"""How long a new pool waits for CPUs that an earlier stage is still giving back."""


class Node(NamedTuple):
    """What one machine of the cluster has."""

    num_cpus: float
    num_gpus: float


class Resources(NamedTuple):
    """What the cluster has, or what a stage may book of it."""

    num_cpus: float
    num_gpus: float
    memory: float
    node_cpus: float = 0.0
    """Of the largest node; 0 where it is not known."""
    nodes: tuple[Node, ...] = ()
    """Every machine; empty where they are not known."""


@dataclass
class Cluster:
    """A connection to Ray, made on first use, so that a run with nothing to do starts nothing.

    ``address`` None starts Ray on this machine (or, inside a Ray job, joins its cluster).
    """

    address: str | None = None
    _owns: bool = False
    _head: HeadWatch | None = None

    def connect(self, **options: Any) -> Resources:
        """Connect once and return the resources of the cluster.

        Args:
            options: of ``ray.init`` where Ray is started here, e.g. ``num_cpus``.

        Raises:
            UsageError: the address does not answer.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        # Else the first Ctrl-C during a search, or after one, is swallowed.
        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
        # A traceback for each trial that begins again; its cell's manifest counts them.
        os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_SYNCER", "1")
        import ray

        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS") or "local"
            # A local Ray makes a token and switches to it by itself; a cluster's token is used
            # only in this mode.
            if address != "local" and has_token():
                os.environ.setdefault("RAY_AUTH_MODE", "token")
            settings = {"include_dashboard": False, **options} if address == "local" else {}
            try:
                with _quiet_backend(), _kept_sigterm(), _loopback_only(address == "local"):
                    ray.init(
                        address=address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        **settings,
                    )
            except (ConnectionError, ValueError, RuntimeError) as error:
                first = str(error).strip().splitlines()[0]
                if address == "local":
                    raise BenchmarkError(f"Ray did not start on this machine: {first}") from None
                raise UsageError(
                    f"--address {address}: no Ray cluster lets us in: {first} Check "
                    "the address, and the token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
                ) from None
            self._owns = True
            self._head = HeadWatch(ray.get_runtime_context().gcs_address)
            _protect_token()
            _quieten()
        found = ray.cluster_resources()
        nodes = tuple(
            Node(float(each["Resources"].get("CPU", 0.0)), float(each["Resources"].get("GPU", 0.0)))
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
        """Return how many CPUs are free, having waited a while for ``num_cpus`` of them.

        Ray gives the CPUs of a finished stage back with a delay, and on a shared cluster others
        hold some. Actors planned on CPUs that are not free leave none for the tasks that feed
        them, and the pipeline hangs in silence.
        """
        import ray

        deadline = time.monotonic() + timeout_s
        while True:
            free = float(ray.available_resources().get("CPU", 0.0))
            if free >= num_cpus:
                return free
            if time.monotonic() >= deadline:
                logger.warning(
                    "%g of %g CPUs are free; the rest is held by something else", free, num_cpus
                )
                return free
            time.sleep(0.1)

    def close(self) -> None:
        """Shut down what ``connect`` started."""
        if self._head is not None:
            self._head.stop()
        if self._owns:
            import ray

            # Without a head there is nobody to take leave of, which Ray would wait for.
            if self._head is None or not self._head.is_lost:
                ray.shutdown()
            self._owns = False

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


@contextmanager
def _quiet_backend() -> Iterator[None]:
    """Silence Ray's C++ lines on stderr, among them one of level E for every pool.

    It is harmless (https://github.com/ray-project/ray/issues/53727) and cannot be switched off
    but by a level whose own notice is printed at the start; that one line is dropped here, and
    everything else that was written meanwhile is passed on.
    """
    if "RAY_BACKEND_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    with tempfile.TemporaryFile() as caught:
        stderr = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)


@contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Keep what the command line does at SIGTERM: Ray puts a handler of its own in its place."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(ours) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


@contextmanager
def _loopback_only(is_local: bool) -> Iterator[None]:
    """Let a Ray that no other machine can join listen on 127.0.0.1 alone.

    On Linux its ports are open on every interface, behind the token; on macOS and Windows it keeps
    to the loopback by itself, by a switch that is read when Ray is imported. A user who sets that
    switch decides.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    if is_local and ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR not in os.environ:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _quieten() -> None:
    # Ray's own progress lines would stand between ours.
    for name in ("ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _protect_token() -> None:
    # Ray makes it readable for everybody on this machine, who could then run code as us.
    path = Path("~/.ray/auth_token").expanduser()
    with suppress(OSError):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def has_token() -> bool:
    """Return whether this machine holds a token for Ray clusters."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return Path("~/.ray/auth_token").expanduser().is_file()
