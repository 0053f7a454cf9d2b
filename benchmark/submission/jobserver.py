"""A Ray cluster's job server: reach it within seconds, send a job, follow it to its end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from benchmark.errors import BenchmarkError, UsageError, first_line
from benchmark.submission.jobclient import ANSWER_TIMEOUT_S, check_address, open_client

POLL_EVERY_S = 0.5
MAX_LOST = 20
"""Attempts in a row to reach a job server that was lost while a job is followed."""
LOST_WAIT_S = 3.0

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class JobEnd(NamedTuple):
    """How a job ended."""

    status: str
    exit_code: int
    """0 done, 1 a cell failed or the job was lost or stopped, 2 usage."""
    reason: str
    """Why, where the run itself had no say: lost, killed or stopped."""


class JobServer:
    """The job server at an address."""

    def __init__(self, address: str | None) -> None:
        """Speak with it.

        Args:
            address: its URL; None: that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

        Raises:
            UsageError: it does not answer within seconds, or does not let us in.
        """
        self.address = check_address(address)
        self._client = open_client(self.address)

    @property
    def ray_version(self) -> str:
        """Of the cluster."""
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
        """Send a job: the working directory first, where it is not there yet.

        Raises:
            UsageError: the server refuses it.
        """
        with self._speaking():
            self._client.submit_job(
                submission_id=submission_id,
                entrypoint=entrypoint,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata or {}),
            )

    def wait(self, submission_id: str, *, timeout_s: float) -> JobEnd | None:
        """Return how a job ended, or None where it has not within a time."""
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
        """Return what a job has printed."""
        with self._speaking():
            return str(self._client.get_job_logs(submission_id))

    def remove(self, submission_id: str) -> None:
        """Stop a job, where it runs, and forget it."""
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

        Returns: how the job ended; None where a second Ctrl-C left it running.

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
            # Whatever the connection raised: a laptop that slept finds its job again.
            log.num_lost = 0 if log.num_written > before else log.num_lost + 1
            if log.num_lost > MAX_LOST:
                raise BenchmarkError(
                    f"--address {self.address}: the job server is gone: {first_line(error)}; "
                    f"{submission_id} may go on"
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
    """Tails a job's log; after a lost connection it goes on where it was."""

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
