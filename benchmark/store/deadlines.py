"""Bound the wait for an operation that cannot be interrupted, such as a request of Arrow's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(operation: Callable[[], T], *, timeout_s: float) -> T:
    """Return the result of an operation, or give up waiting.

    Args:
        operation: runs in a daemon thread, which goes on after a timeout and cannot keep the
            process alive.
        timeout_s: longest wait.

    Raises:
        TimeoutError: the operation did not end in time.
        BaseException: from the operation.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(operation())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="benchmark-store", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {timeout_s:g} s")
    return results[0]
