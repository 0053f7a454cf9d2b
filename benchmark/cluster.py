"""Connect to Ray or start it, and size pools of actors to the resources that are there."""

from __future__ import annotations

import logging
import math
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

logger = logging.getLogger("benchmark")

ACTOR_BYTES = 1_200_000_000
"""Memory to plan for an embedding actor on a CPU: torch, a model and its batches."""

PROGRESS_TIMEOUT_S = float(os.environ.get("BENCHMARK_PROGRESS_TIMEOUT_S", "600"))
"""A data pipeline without progress for so long ends with an error instead of hanging."""

RELEASE_TIMEOUT_S = 20.0
"""How long a new pool waits for CPUs that an earlier stage is still giving back."""


class Resources(NamedTuple):
    """What the cluster has."""

    num_cpus: float
    num_gpus: float
    memory: float
    node_cpus: float = 0.0
    """Of the largest node; 0 where it is not known."""


class Pool(NamedTuple):
    """A pool of equal actors, and why it has that shape."""

    num_actors: int
    num_cpus: float
    num_gpus: float
    num_threads: int
    reason: str


@dataclass
class Cluster:
    """A connection to Ray, made on first use, so that a run with nothing to do starts nothing.

    ``address`` None starts Ray on this machine (or, inside a Ray job, joins its cluster).
    """

    address: str | None = None
    _owns: bool = False

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
                with _quiet_backend(), _kept_sigterm():
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
            _protect_token()
            _quieten()
        found = ray.cluster_resources()
        return Resources(
            num_cpus=float(found.get("CPU", 0.0)),
            num_gpus=float(found.get("GPU", 0.0)),
            memory=float(found.get("memory", 0.0)),
            node_cpus=max(
                float(node["Resources"].get("CPU", 0.0)) for node in ray.nodes() if node["Alive"]
            ),
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
        if self._owns:
            import ray

            ray.shutdown()
            self._owns = False

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


def plan_pool(resources: Resources, *, num_actors: int | None, wants_gpu: bool = True) -> Pool:
    """Size a pool so that a whole CPU stays free for the tasks that read and write.

    Actors that hold every CPU starve the read tasks, and the pipeline hangs in silence
    (https://github.com/ray-project/ray/issues/44687). On CPUs the fastest pool is one actor
    of one thread for each core, booked at a little less than a core.

    Args:
        resources: of the cluster.
        num_actors: as the user asked; None chooses.
        wants_gpu: whether to book GPUs where there are some.

    Raises:
        UsageError: there is no CPU, or more actors are asked for than fit.
    """
    cpus = int(resources.num_cpus)
    if cpus < 1:
        raise UsageError("the Ray cluster has no CPU: add a node with CPUs")
    gpus = int(resources.num_gpus) if wants_gpu else 0
    if gpus:
        count = num_actors or gpus
        if count > gpus:
            raise UsageError(
                f"[embed] num_actors = {count}: the cluster has {gpus} GPUs, one for each actor"
            )
        share = 1.0 if cpus > count else _floor((cpus - 1) / count if cpus > 1 else 0.0)
        return Pool(count, share, 1.0, max(1, (cpus - 1) // count), f"{gpus} GPUs: an actor each")
    fits = max(1, int(resources.memory // ACTOR_BYTES)) if resources.memory else cpus
    count = num_actors or min(cpus, fits)
    if count > 8 * cpus:
        raise UsageError(
            f"[embed] num_actors = {count}: the cluster has {cpus} CPUs; "
            f'ask for at most {8 * cpus}, or write "auto"'
        )
    share = 0.0 if cpus == 1 else _floor((cpus - 1) / count)
    # One thread, however many actors: another number adds up in another order.
    reason = f"{cpus} CPUs, no GPU: actors of one thread, a CPU left for reading and writing"
    return Pool(count, min(1.0, share), 0.0, 1, reason)


def _floor(share: float) -> float:
    # Ray counts in ten-thousandths of a CPU.
    return math.floor(share * 1000) / 1000 if share < 1 else 1.0
