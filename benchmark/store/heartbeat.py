"""How runs on one store know of each other: each renews a file that the others watch.

A run is dead where its heartbeat has not changed for its expiry, by the watch of whoever looks
(clocks of machines are never compared), or where its process is gone from this machine.
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
"""Of a heartbeat that does not say its own; ten times what runs use unless told."""

FOLDER = "leases"
OWNER = "owner"


def heartbeat_path(owner_id: str) -> str:
    """Return where the heartbeat of a run lies in the store."""
    return f"{FOLDER}/{OWNER}.{owner_id}"


@dataclass(frozen=True)
class Owner:
    """What a run says of itself."""

    group: str
    """Runs that share cells: the experiment's name."""
    process: Process
    expiry_s: float
    beat: int = 0

    def __str__(self) -> str:
        if not self.process.pid:
            return "a run of another version of this package"
        return f"process {self.process.pid} on {self.process.host}"

    @classmethod
    def read(cls, content: bytes) -> Owner:
        """Return what a heartbeat says, also where another version of this package wrote it.

        What it says beyond this is ignored. Where it says less nothing is known of the run but
        that it is alive while its heartbeat changes.
        """
        try:
            return _OWNER.validate_json(content)
        except ValidationError:
            nowhere = Process(host="", place="", pid=0, started="")
            return cls(group="", process=nowhere, expiry_s=UNREADABLE_EXPIRY_S)


_OWNER = TypeAdapter(Owner)


class Heartbeat:
    """The heartbeat of this run, under an id that is never used twice."""

    def __init__(self, store: Store, owner: Owner, *, by_itself: bool = True) -> None:
        """Write the first beat, and renew it in a thread where it beats ``by_itself``.

        Raises:
            CellError: the store cannot be written.
        """
        self.id = uuid.uuid4().hex
        self.is_lost = False
        """Whether another run has taken this one for dead."""
        self._store = store
        self._owner = owner
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._write()
        if by_itself:
            threading.Thread(target=self._beat_on, name="heartbeat", daemon=True).start()

    def beat(self) -> None:
        """Renew it, unless another run has deleted it; a store that fails is only logged."""
        with self._lock:
            if self.is_lost or self._ended.is_set():
                return
            try:
                if not self._store.has(heartbeat_path(self.id)):
                    self.is_lost = True
                    logger.warning(
                        "this run was taken for dead, and others may compute its cells again"
                    )
                    return
                self._owner = replace(self._owner, beat=self._owner.beat + 1)
                self._write()
            except CellError as error:
                logger.warning("the heartbeat of this run failed: %s", error)

    def stop(self) -> None:
        """End it and delete its file.

        Raises:
            CellError: the store fails.
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
class _Sighting:
    content: bytes
    since: float


@dataclass
class Watch:
    """Tells which other runs are alive."""

    store: Store
    clock: Callable[[], float]
    dead: dict[str, Owner] = field(default_factory=dict)
    """The runs that were found dead, by id."""
    _seen: dict[str, _Sighting] = field(default_factory=dict)

    def look_up(self, owner_id: str, *, only_looks: bool = False) -> Owner | None:
        """Return a run, or None where it is dead; its heartbeat is then deleted.

        Args:
            owner_id: of the run.
            only_looks: whether to delete nothing.

        Raises:
            CellError: the store cannot be read.
        """
        try:
            content = self.store.read(heartbeat_path(owner_id))
        except FileNotFoundError:
            return None
        owner = Owner.read(content)
        now = self.clock()
        seen = self._seen.get(owner_id)
        if seen is None or seen.content != content:
            seen = self._seen[owner_id] = _Sighting(content, now)
        if owner.process.is_gone or now - seen.since >= owner.expiry_s:
            if only_looks:
                return None
            logger.info("%s is dead: its cells are taken over", owner)
            self.dead[owner_id] = owner
            self.store.delete(heartbeat_path(owner_id))
            return None
        return owner
