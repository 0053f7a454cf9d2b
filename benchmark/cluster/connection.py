"""Connect to Ray or start it, and tell what it has."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.cluster.addresses import find_head
from benchmark.cluster.headwatch import LOST, HeadLost, HeadWatch
from benchmark.errors import BenchmarkError, UsageError

logger = logging.getLogger("benchmark")

PROGRESS_TIMEOUT_S = float(os.environ.get("BENCHMARK_PROGRESS_TIMEOUT_S", "600"))
"""A data pipeline without progress for so long ends with an error instead of hanging."""

ATTEMPT = re.compile(rb"\[[^\]]* [IWE] \d+ \d+\] ")
"""How a line of Ray's C++ begins."""

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

    def connect(self, **options: Any) -> Resources:
        """Connect once and return the resources of the cluster.

        Args:
            options: of ``ray.init`` where Ray is started here, e.g. ``num_cpus``.

        Raises:
            UsageError: the address does not answer, or its cluster does not let us in.
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
        # Of a machine that is lost Ray prints the last 20 lines of its C++ log, besides a line that
        # names the machine, which stays.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "lines of the Raylet logs:")
        import ray

        if not ray.is_initialized():
            option = "--address" if self.address else "RAY_ADDRESS"
            address = self.address or os.environ.get("RAY_ADDRESS") or "local"
            is_local = address == "local"
            is_on_loopback = is_local or find_head(address, option=option)
            if not is_local:
                use_token()
            settings = {"include_dashboard": False, **options} if is_local else {}
            try:
                with _quiet_backend(), _kept_sigterm(), _loopback_only(is_on_loopback):
                    ray.init(
                        address=address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        **settings,
                    )
            except (ConnectionError, ValueError, RuntimeError) as error:
                first, *others = (line.strip() for line in str(error).strip().splitlines())
                if is_local:
                    raise BenchmarkError(f"Ray did not start on this machine: {first}") from None
                if first.startswith("Version mismatch"):
                    raise UsageError(
                        f"{option} {address}: {' '.join((first, *others))}; install the cluster's "
                        "versions here, or send the run there with `benchmark submit`"
                    ) from None
                raise UsageError(
                    f"{option} {address}: something listens there, but no Ray cluster lets us in: "
                    f"{first.rstrip('.')}. Check that this is the port of its head, and the token "
                    "in RAY_AUTH_TOKEN or ~/.ray/auth_token"
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
                # Where Ray did not start, a line for each of its attempts; the error says as much.
                if b"RAY_BACKEND_LOG_LEVEL" not in line and (is_over or not ATTEMPT.match(line)):
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
def _loopback_only(is_on_loopback: bool) -> Iterator[None]:
    """Let a Ray that no other machine can join listen on 127.0.0.1 alone, or join such a one.

    On Linux its ports are open on every interface, behind the token; on macOS and Windows it keeps
    to the loopback by itself, by a switch that is read when Ray is imported. A user who sets that
    switch decides.
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
    """Show a cluster our token where there is one, which Ray does by itself only for local ones.

    ``RAY_AUTH_MODE``, where it is set, decides.
    """
    if has_token() and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        from ray._raylet import Config  # type: ignore[attr-defined]

        # It was read when Ray was imported.
        Config.initialize("")


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
