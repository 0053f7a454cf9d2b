"""What a run needs of its environment: folders, and variables that hold seconds, with bounds."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmark.errors import UsageError
from benchmark.fields import shown


class Seconds(NamedTuple):
    """A duration: what holds if the variable is not set, and its bounds (s)."""

    default: float
    least: float
    most: float = 86_400.0


LEASE_EXPIRY = "BENCHMARK_LEASE_EXPIRY_S"
PROGRESS_TIMEOUT = "BENCHMARK_PROGRESS_TIMEOUT_S"
RETRY_WAIT = "BENCHMARK_RETRY_WAIT_S"
RAY_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"

DURATIONS = {
    LEASE_EXPIRY: Seconds(60.0, 1.0),
    PROGRESS_TIMEOUT: Seconds(600.0, 1.0),
    RETRY_WAIT: Seconds(1.0, 0.0, 600.0),
    RAY_PATIENCE: Seconds(60.0, 1.0),
}


def check_folder() -> None:
    """Check that the current folder was not deleted; take an empty ``HOME`` for none.

    Raises:
        UsageError: it was.
    """
    if os.environ.get("HOME") == "":
        # Else ``~`` is the root of the file system.
        del os.environ["HOME"]
    try:
        Path.cwd()
    except OSError:
        raise UsageError(
            "the current folder does not exist any more: change to another folder, and run again"
        ) from None


def check_environment() -> None:
    """Check the folders and every duration before any work.

    Raises:
        UsageError: a folder is missing, or a duration is not a number within its bounds.
    """
    check_folder()
    try:
        tempfile.gettempdir()
    except OSError:
        raise UsageError(
            "no temporary folder can be written: set TMPDIR to a folder that you can write to"
        ) from None
    for name in DURATIONS:
        read_seconds(name)


def read_seconds(name: str) -> float:
    """Return the duration that an environment variable sets, or its default (s).

    Raises:
        UsageError: its value is not a number within its bounds.
    """
    limits = DURATIONS[name]
    given = os.environ.get(name)
    if given is None:
        return limits.default
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not limits.least <= seconds <= limits.most:
        raise UsageError(
            f"{name} is {shown(given, 80)}; give a number of seconds from {limits.least:g} to "
            f"{limits.most:g}"
        )
    return seconds
