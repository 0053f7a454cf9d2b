"""Which failures of a store are transient, and how often they are retried.

Arrow's S3 client retries single requests. This module retries whole objects, which also covers
failures that the client does not retry (a 502 of a load balancer, an upload of many parts) and file
systems without retries.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_never,
    wait_exponential,
    wait_random,
)

from benchmark.environment import RETRY_WAIT, read_seconds

logger = logging.getLogger("benchmark")

T = TypeVar("T")

NUM_TRIES = 6
LONGEST_WAIT_S = 30.0

TRANSIENT_ERRNOS = frozenset(
    {
        errno.EAGAIN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
TRANSIENT = re.compile(
    r"AWS Error (SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT"
    r"|NETWORK_CONNECTION)|HTTP status (429|5\d\d)|[Cc]onnection reset|[Tt]imed? ?out"
)
"""In the error messages of Arrow's object stores, which have no ``errno``."""

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
FULL = re.compile(r"No space left|Disk quota exceeded|HTTP status 507|StorageFull|QuotaExceeded")
"""In the error messages of full stores; no retry helps."""
MORE_SPACE = "free some space and run again: complete artefacts are kept"
LONGEST_REASON = 300

_repeats: Counter[str] = Counter()
"""Retries in this process, by the operation's name in the log."""

REASONS = (
    (
        r"ExpiredToken|TokenRefreshRequired|REQUEST_EXPIRED",
        "the credentials have expired; renew them and run again (complete artefacts are kept)",
    ),
    (
        r"INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|InvalidToken",
        "the credentials are wrong; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (r"REQUEST_TIME_TOO_SKEWED", "the clock of this machine is wrong; set it"),
    (
        r"ACCESS_DENIED|HTTP status 403|AuthorizationFailure|AuthenticationFailed|PermissionMism",
        "access denied; check the credentials and their rights",
    ),
    (r"NO_SUCH_BUCKET|Bucket '.*' not found", "there is no such bucket; check the URI"),
    (r"SLOW_DOWN|THROTTLING|HTTP status 429", "the store throttles requests; run again later"),
    (
        r"AuthenticationException|DefaultAzureCredential|OAuth2 access token",
        "there are no valid credentials; log in, or give the machines an identity",
    ),
    (
        r"load libjvm|load libhdfs",
        "hdfs needs Java and Hadoop's libhdfs on every machine; set JAVA_HOME and HADOOP_HOME",
    ),
    (r"curlCode: 28,", "it did not answer in time; check the endpoint and the network"),
    (r"curlCode: (6|7),", "it cannot be reached; check the endpoint and the network"),
)


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may help."""
    if not isinstance(error, OSError):
        return False
    if is_full(error):
        return False
    if error.errno is not None:
        return error.errno in TRANSIENT_ERRNOS
    return isinstance(error, ConnectionError | TimeoutError) or bool(TRANSIENT.search(str(error)))


def is_full(error: BaseException) -> bool:
    """Return whether a disk, a quota or a bucket is full."""
    return getattr(error, "errno", None) in FULL_ERRNOS or bool(FULL.search(str(error)))


def retry(
    operation: Callable[[], T],
    *,
    what: str,
    num_tries: int | None = None,
    longest_s: float | None = None,
) -> T:
    """Return the result of an operation, retried while its failures are transient.

    Args:
        operation: must be safe to repeat.
        what: its name in the log.
        num_tries: most tries; None: ``NUM_TRIES``.
        longest_s: no try begins after this time (s); None: no such limit.

    Raises:
        OSError: the failure is not transient, or every try failed.
    """
    most = num_tries or NUM_TRIES

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        text = explain(error) if isinstance(error, OSError) else str(error)
        _repeats[what] += 1
        logger.info("%s: try %d of %d failed: %s", what, state.attempt_number, most, text)

    # Before the second try, doubled for each further one; also the most jitter.
    first_s = read_seconds(RETRY_WAIT)
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(most)
        | (stop_never if longest_s is None else stop_after_delay(longest_s)),
        wait=wait_exponential(first_s, max=LONGEST_WAIT_S) + wait_random(0, first_s),
        before_sleep=tell,
        reraise=True,
    )
    return retrying(operation)


def num_repeats(part: str = "") -> int:
    """Return the number of retries in this process of operations with ``part`` in their name.

    Retries inside Arrow's S3 client are not counted.
    """
    return sum(count for what, count in list(_repeats.items()) if part in what)


def explain(error: BaseException) -> str:
    """Return in a few words why a store failed, and what to do."""
    text, number = str(error), getattr(error, "errno", None)
    if is_full(error):
        if number == errno.EDQUOT or "quota" in text.lower():
            return f"the quota is used up (Disk quota exceeded); {MORE_SPACE}"
        return f"no space left (No space left on device); {MORE_SPACE}"
    if number in (errno.EACCES, errno.EPERM):
        return "permission denied"
    if number == errno.EROFS:
        return "read-only file system"
    if number:
        return os.strerror(number)
    for pattern, reason in REASONS:
        if re.search(pattern, text):
            return reason
    found = " ".join(text.split()) or type(error).__name__
    return found if len(found) <= LONGEST_REASON else f"{found[: LONGEST_REASON - 1]}…"
