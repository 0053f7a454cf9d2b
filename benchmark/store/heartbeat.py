"""Heartbeats, by which runs on one store detect each other: each run renews a file.

A run is dead if its heartbeat has not changed during its expiry, as measured by the clock of the
observer (clocks of machines are never compared), or if its process on this machine has ended.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from benchmark.errors import CellError
from benchmark.store.artefacts import Store
from benchmark.store.processes import Process

logger = logging.getLogger("benchmark")

BEATS_PER_EXPIRY = 4

UNREADABLE_EXPIRY_S = 600.0
"""Expiry of heartbeats that cannot be parsed; ten times the default."""

FOLDER = "leases"
OWNER = "owner"


def heartbeat_path(owner_id: str) -> str:
    """Return the path of a run's heartbeat in the store."""
    return f"{FOLDER}/{OWNER}.{owner_id}"


@dataclass(frozen=True)
class Owner:
    """The content of a run's heartbeat."""

    group: str
    """The experiment's name: runs of one group share cells."""
    process: Process
    expiry_s: float
    beat: int = 0

    def __str__(self) -> str:
        if not self.process.pid:
            return "a run of another version of this package"
        return f"process {self.process.pid} on {self.process.host}"

    @classmethod
    def read(cls, content: bytes) -> Owner:
        """Parse a heartbeat, also one by another version of this package.

        Unknown fields are ignored. If fields are missing, the run has no process and no group: it
        counts as alive while its heartbeat changes.
        """
        try:
            return _OWNER.validate_json(content)
        except ValidationError:
            nowhere = Process(host="", place="", pid=0, started="")
            return cls(group="", process=nowhere, expiry_s=UNREADABLE_EXPIRY_S)


_OWNER = TypeAdapter(Owner)


class Heartbeat:
    """The heartbeat of this run, under a unique id."""

    def __init__(self, store: Store, owner: Owner, *, by_itself: bool = True) -> None:
        """Write the first beat; with ``by_itself``, a thread renews it.

        Raises:
            CellError: the store cannot be written.
        """
        self.id = uuid.uuid4().hex
        self.is_lost = False
        """Whether another run has declared this one dead."""
        self._store = store
        self._owner = owner
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._write()
        if by_itself:
            threading.Thread(target=self._beat_on, name="heartbeat", daemon=True).start()

    def beat(self) -> None:
        """Renew the heartbeat unless another run has deleted it; failures are only logged."""
        with self._lock:
            if self.is_lost or self._ended.is_set():
                return
            try:
                if not self._store.has(heartbeat_path(self.id)):
                    self.is_lost = True
                    logger.warning(
                        "another run declared this run dead; its cells may be computed twice"
                    )
                    return
                self._owner = replace(self._owner, beat=self._owner.beat + 1)
                self._write()
            except CellError as error:
                logger.warning("could not renew the heartbeat of this run: %s", error)

    def stop(self) -> None:
        """Stop the heartbeat and delete its file.

        Raises:
            CellError: the store cannot be written.
        """
        self._ended.set()
        with self._lock:
            self._store.delete(heartbeat_path(self.id))

    def _beat_on(self) -> None:
        while not self._ended.wait(self._owner.expiry_s / BEATS_PER_EXPIRY) and not self.is_lost:
            self.beat()

    def _write(self) -> None:
        self._store.write(heartbeat_path(self.id), json.dumps(asdict(self._owner)).encode())


@dataclass
class Watch:
    """Detects which other runs are alive."""

    store: Store
    clock: Callable[[], float]
    dead: dict[str, Owner] = field(default_factory=dict)
    """The dead runs found, by id."""
    _seen: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """The last content of each heartbeat, and when it was first seen."""

    def living(self) -> dict[str, Owner]:
        """Return the runs that are alive, or may be, by id; write and delete nothing.

        Raises:
            CellError: the store cannot be read.
        """
        names = self.store.sizes(FOLDER)
        ids = [name.removeprefix(f"{OWNER}.") for name in names if name.startswith(f"{OWNER}.")]
        found = {owner_id: self.look_up(owner_id, only_looks=True) for owner_id in ids}
        return {owner_id: owner for owner_id, owner in found.items() if owner is not None}

    def active(self, sleep: Callable[[float], None]) -> list[Owner]:
        """Return the runs that certainly are alive; wait for the heartbeats of the others.

        It waits for at most the longest expiry of the runs.

        Raises:
            CellError: the store cannot be read.
        """
        found = self.living()
        first = {owner_id: self._seen[owner_id][0] for owner_id in found}
        while found:
            alive = [
                owner
                for owner_id, owner in found.items()
                if owner.process.is_alive or self._seen[owner_id][0] != first.get(owner_id)
            ]
            if alive:
                return alive
            sleep(min(owner.expiry_s for owner in found.values()) / (2 * BEATS_PER_EXPIRY))
            found = self.living()
        return []

    def look_up(self, owner_id: str, *, only_looks: bool = False) -> Owner | None:
        """Return a run, or None if it is dead, and then delete its heartbeat.

        Args:
            owner_id: of the run.
            only_looks: write and delete nothing.

        Raises:
            CellError: the store cannot be read or written.
        """
        try:
            content = self.store.read(heartbeat_path(owner_id))
        except FileNotFoundError:
            return None
        owner = Owner.read(content)
        now = self.clock()
        before, since = self._seen.get(owner_id, (None, now))
        if content != before:
            since = now
            self._seen[owner_id] = (content, now)
        if not owner.process.is_gone and now - since < owner.expiry_s:
            return owner
        if not only_looks:
            logger.info("%s is dead: its cells are taken over", owner)
            self.dead[owner_id] = owner
            self.store.delete(heartbeat_path(owner_id))
        return None
