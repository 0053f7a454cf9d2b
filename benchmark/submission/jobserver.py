"""Reach a Ray cluster's job server within seconds, send a job and follow it to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from benchmark.cluster.connection import has_token, use_token
from benchmark.errors import BenchmarkError, UsageError, first_line
from benchmark.store.credentials import holds_credentials

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 8.0
ORDER_TIMEOUT_S = 60.0
"""For submitting a job: the first waits until a new head has started its job agent."""
UPLOAD_TIMEOUT_S = 600.0

POLL_EVERY_S = 0.5
MAX_LOST = 20
"""Consecutive attempts to reconnect while a job is followed."""
LOST_WAIT_S = 3.0

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class JobEnd(NamedTuple):
    """How a job ended."""

    status: str
    exit_code: int
    """0 done, 1 a cell failed or the job was lost or stopped, 2 usage."""
    reason: str
    """Why, if the run itself could not say: lost, killed or stopped."""


class JobServer:
    """The job server at an address."""

    def __init__(self, address: str | None) -> None:
        """Connect to it.

        Args:
            address: its URL; None: that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

        Raises:
            UsageError: it does not answer within seconds, or denies access.
        """
        self.address = check_address(address)
        self._client = open_client(self.address)

    @property
    def ray_version(self) -> str:
        """Ray's version on the cluster."""
        return str(self._client._server_ray_version)

    def command(self, verb: str, submission_id: str) -> str:
        """Return a ``ray job`` command as a person would type it."""
        token = "RAY_AUTH_MODE=token " if os.environ.get("RAY_AUTH_MODE") == "token" else ""
        return f"{token}ray job {verb} {submission_id} --address {self.address}"

    def submit(
        self,
        submission_id: str,
        *,
        entrypoint: str,
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Submit a job, after uploading its working directory if it is not there yet.

        Raises:
            UsageError: the server rejects it.
        """
        with self._speaking():
            self._client.submit_job(
                submission_id=submission_id,
                entrypoint=entrypoint,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata or {}),
            )

    def wait(self, submission_id: str, *, timeout_s: float) -> JobEnd | None:
        """Return how a job ended, or None if it has not within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if end := self.end_of(submission_id):
                return end
            time.sleep(POLL_EVERY_S)
        return None

    def end_of(self, submission_id: str) -> JobEnd | None:
        """Return how a job ended; None while it waits or runs."""
        with self._speaking():
            info = self._client.get_job_info(submission_id)
        status = str(getattr(info.status, "value", info.status))
        if status not in ENDED:
            return None
        if status == "SUCCEEDED":
            return JobEnd(status, 0, "")
        if status == "STOPPED":
            return JobEnd(status, 1, "it was stopped; submit it again to go on")
        code = info.driver_exit_code
        if code in (1, 2):
            return JobEnd(status, code, "")
        return JobEnd(status, 1, first_line(info.message or f"exit code {code}"))

    def logs(self, submission_id: str) -> str:
        """Return the log of a job."""
        with self._speaking():
            return str(self._client.get_job_logs(submission_id))

    def remove(self, submission_id: str) -> None:
        """Stop a job if it runs, and delete it."""
        with self._speaking():
            if self.end_of(submission_id) is None:
                self._client.stop_job(submission_id)
                self.wait(submission_id, timeout_s=ANSWER_TIMEOUT_S)
            self._client.delete_job(submission_id)

    def follow(
        self,
        submission_id: str,
        write: Callable[[str], None],
        *,
        on_interrupt: Callable[[], None],
    ) -> JobEnd | None:
        """Write a job's log as it grows, until the job ends.

        Args:
            submission_id: of the job.
            write: receives the log, piece by piece.
            on_interrupt: called at the first Ctrl-C, after which following goes on.

        Returns: how the job ended; None if a second Ctrl-C left it running.

        Raises:
            BenchmarkError: the job server was lost; the job may go on.
        """
        log = _Log(self._client, submission_id, write)
        interrupted = False
        while True:
            try:
                if end := self._follow_once(log, submission_id):
                    return end
            except KeyboardInterrupt:
                if interrupted:
                    return None
                interrupted = True
                on_interrupt()

    def _follow_once(self, log: _Log, submission_id: str) -> JobEnd | None:
        before = log.num_written
        try:
            asyncio.run(log.tail())
            end = self.wait(submission_id, timeout_s=ANSWER_TIMEOUT_S)
        except Exception as error:
            # Retry after any error: a laptop that slept reconnects to its job.
            log.num_lost = 0 if log.num_written > before else log.num_lost + 1
            if log.num_lost > MAX_LOST:
                raise BenchmarkError(
                    f"--address {self.address}: connection lost: {first_line(error)}; "
                    f"{submission_id} may still run"
                ) from None
            time.sleep(LOST_WAIT_S)
            return None
        log.num_lost = 0
        return end

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        from ray.exceptions import RayError

        try:
            yield
        except (RayError, RuntimeError, ValueError, OSError) as error:
            raise UsageError(f"--address {self.address}: {first_line(error)}") from None


class _Log:
    """Tails a job's log; after a lost connection it resumes."""

    def __init__(self, client: Any, submission_id: str, write: Callable[[str], None]) -> None:
        self._client, self._submission_id, self._write = client, submission_id, write
        self.num_written = 0
        self.num_lost = 0

    async def tail(self) -> None:
        # Each connection sends the log from its beginning.
        skip = self.num_written
        async for piece in self._client.tail_job_logs(self._submission_id):
            new = piece[skip:]
            skip = max(0, skip - len(piece))
            self.num_written += len(new)
            if new:
                self._write(new)


def check_address(address: str | None) -> str:
    """Return the given URL of a job server, without a slash at its end.

    Raises:
        UsageError: none is given, or it is not the URL of a job server.
    """
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    url = address or next((os.environ[name] for name in names if os.environ.get(name)), "")
    example = "http://127.0.0.1:8265"
    if not url:
        raise UsageError(f"submit: give the cluster's job server, e.g. --address {example}")
    if holds_credentials(url):
        # Without the URL, which contains the secret.
        raise UsageError(
            "--address holds a password, which would be shown; give the cluster's token in "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    if not _is_url(url):
        raise UsageError(
            f"--address {url}: not a job server; give the URL of the cluster's dashboard, "
            f"e.g. {example}"
        )
    return url.rstrip("/")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        # Reading ``port`` raises if it is not a number.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def open_client(url: str) -> Any:
    """Return a client of the job server at a URL that has answered a request.

    Raises:
        UsageError: it does not answer within seconds, or denies access.
    """
    use_token()
    given = os.environ.get("RAY_API_SERVER_ADDRESS")
    # Ray's client prefers the variable to its argument; the flag must win.
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    try:
        return _try_to_open(url)
    finally:
        if given is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = given


def _try_to_open(url: str) -> Any:
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # These modules set their own level when they are imported.
    for name in (
        "ray.dashboard.modules.job.sdk",
        "ray.dashboard.modules.dashboard_sdk",
        "ray._private.runtime_env.packaging",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Client(JobSubmissionClient):
        """Adds the timeouts that Ray's own client lacks."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            longer = {"PUT": UPLOAD_TIMEOUT_S, "POST": ORDER_TIMEOUT_S}
            answer_s = longer.get(method, ANSWER_TIMEOUT_S)
            options.setdefault("timeout", (CONNECT_TIMEOUT_S, answer_s))
            return super()._do_request(method, endpoint, **options)

    where = f"--address {url}"
    places = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    try:
        client = Client(url)
        # Anyone may ask for the version; this request checks access.
        client._do_request("GET", "/api/jobs/")
        return client
    except AuthenticationError:
        if os.environ.get("RAY_AUTH_MODE") == "token" and has_token():
            reason = f"rejects our token: put the cluster's token in {places}"
        else:
            reason = f"needs a token: set RAY_AUTH_MODE=token and put the token in {places}"
        raise UsageError(f"{where}: the job server {reason}") from None
    except (ConnectionError, requests.exceptions.RequestException) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"got HTTP {status}" if status else "check the URL, and the tunnel to it"
        raise UsageError(f"{where}: no job server answers there; {reason}") from None
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = first_line(error).partition(". ")[0]
        raise UsageError(f"{where}: not a Ray job server: {reason}") from None
