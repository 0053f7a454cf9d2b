"""The environment variables of the benchmark that hold seconds, each with its bounds."""

from __future__ import annotations

import math
import os
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


def check_environment() -> None:
    """Check every duration before any work.

    Raises:
        UsageError: one is not a number within its bounds.
    """
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
