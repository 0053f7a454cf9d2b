"""Counts and notes that a worker sends to the driver before its task ends.

A task returns its rows at its end, which may be a minute away for a part of a slow backbone. Until
then, a worker writes how far it is to the key-value store of Ray's head, once a second, and the
driver reads it. This needs no process of its own. Whatever fails here is only logged: a lost count
makes a line late, and changes no result.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

logger = logging.getLogger("benchmark")

EVERY_S = 1.0
"""Interval of writing and of reading."""
NAMESPACE = b"backbone-benchmark"


class Ticks:
    """Sends the progress of one worker; nothing that it does waits for the network."""

    def __init__(self, channel: str, *, every_s: float = EVERY_S) -> None:
        """Send to the driver that watches ``channel``; an empty name sends nothing."""
        self._channel = channel
        self._every_s = every_s
        self._key = f"{channel}/{uuid.uuid4().hex[:12]}"
        self._state: dict[str, Any] = {}
        self._thread: threading.Thread | None = None

    def count(self, item: str, count: int) -> None:
        """Tell how many parts of an item are done."""
        self._update(item=item, count=count)

    def note(self, text: str) -> None:
        """Tell a line that the driver shows once."""
        self._update(note=text)

    def _update(self, **changes: Any) -> None:
        if not self._channel:
            return
        # A new object, because the other thread may be writing the old one.
        self._state = {**self._state, **changes}
        if self._thread is None:
            self._thread = threading.Thread(target=self._send, name="ticks", daemon=True)
            self._thread.start()

    def _send(self) -> None:
        sent: dict[str, Any] = {}
        while True:
            state = self._state
            if state is not sent and _attempt(partial(_put, self._key, state)):
                sent = state
            time.sleep(self._every_s)


@contextmanager
def watch(
    on_counts: Callable[[Mapping[str, int]], None],
    on_note: Callable[[str], None],
    *,
    every_s: float = EVERY_S,
) -> Iterator[str]:
    """Call back with each new count and note of the workers, from another thread.

    Args:
        on_counts: gets the counts of all items that workers are at, by item.
        on_note: gets a line, each once.
        every_s: interval of reading.

    Yields: the name of the channel, for ``Ticks`` in the workers.
    """
    channel = f"ticks-{uuid.uuid4().hex}"
    is_over = threading.Event()

    def look() -> None:
        shown: set[str] = set()
        while not is_over.wait(every_s):
            _attempt(lambda: show(_read(channel), shown))

    def show(states: Sequence[dict[str, Any]], shown: set[str]) -> None:
        counts = [(state["item"], state["count"]) for state in states if "item" in state]
        # Of an item that began anew in another process, the higher count.
        on_counts(dict(sorted(counts)))
        for state in states:
            if "note" in state and state["note"] not in shown:
                shown.add(state["note"])
                on_note(state["note"])

    thread = threading.Thread(target=look, name=channel, daemon=True)
    thread.start()
    try:
        yield channel
    finally:
        is_over.set()
        # A head that does not answer must not hold up the end of the stage.
        thread.join(timeout=2 * EVERY_S)
        if not thread.is_alive():
            _attempt(lambda: _delete(channel))


def _attempt(work: Callable[[], None]) -> bool:
    """Return whether the work was done; the head may be away for a while, or for ever."""
    try:
        work()
    except Exception as error:
        logger.debug("a tick was lost: %s", error)
        return False
    return True


# Ray has no public key-value store.


def _put(key: str, state: dict[str, Any]) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    value = json.dumps(state).encode()
    _internal_kv_put(key.encode(), value, overwrite=True, namespace=NAMESPACE)


def _read(channel: str) -> list[dict[str, Any]]:
    """Return the last state of each worker."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    keys = _internal_kv_list(f"{channel}/".encode(), namespace=NAMESPACE)
    found = [_internal_kv_get(key, namespace=NAMESPACE) for key in keys]
    return [json.loads(value) for value in found if value]


def _delete(channel: str) -> None:
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(f"{channel}/".encode(), del_by_prefix=True, namespace=NAMESPACE)
