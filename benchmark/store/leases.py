"""Leases, by which several runs on one store share cells: a run leases the cells it computes.

A run keeps a heartbeat under a unique id, and writes one claim for each cell that it wants,
``leases/<cell>.<id>``. It has leased a cell once a listing that began after its claim was written
shows no claim by another living run. Of two runs, the one that lists later sees the other, so they
never both win; if both see each other, the smaller id stays and the other withdraws. Any run that
finds a claim of a dead run deletes it.

This needs only atomic file writes and a listing that shows every finished write: no rename, no lock
and no conditional write. So it works on disks and object stores alike. A lease saves work but is
not a lock: a run that was suspended for longer than its expiry may compute a cell twice, with the
same result.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from benchmark.environment import LEASE_EXPIRY, read_seconds
from benchmark.errors import CellError
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.heartbeat import FOLDER, OWNER, Heartbeat, Owner, Watch
from benchmark.store.processes import Process

logger = logging.getLogger("benchmark")


LONGEST_POLL_S = 5.0
CONTEST_S = 2.0
"""How long the run with the smaller id waits for the other to withdraw."""
CONTEST_POLL_S = 0.05


@dataclass
class Leases:
    """The leases of this run on one store, safe for threads; a context manager, may be nested.

    It writes nothing before the first use, and leaves nothing at the end.
    """

    store: Store
    group: str
    """The experiment's name: runs of one group share their cells evenly."""
    expiry_s: float = field(default_factory=lambda: read_seconds(LEASE_EXPIRY))
    """Other runs consider a run dead after so long without a heartbeat."""
    process: Process = field(default_factory=Process.this)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    beats_by_itself: bool = True
    heartbeat: Heartbeat | None = None
    refused: set[str] = field(default_factory=set)
    """The paths of artefacts that ``acquire_one`` could not lease at its last try."""
    _former: dict[str, str] = field(default_factory=dict)
    """The dead run that held a cell, by the cell's key."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _depth: int = 0
    _claimed: set[str] = field(default_factory=set)
    """The paths of this run's claims."""

    def __post_init__(self) -> None:
        self._watch = Watch(self.store, self.clock)

    def __enter__(self) -> Leases:
        with self._lock:
            self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            is_over = not self._depth
        if is_over:
            self.close()

    def register(self) -> Heartbeat:
        """Return the heartbeat of this run; the first call starts it."""
        with self._lock:
            if self.heartbeat is None or self.heartbeat.is_lost:
                owner = Owner(self.group, self.process, self.expiry_s)
                self.heartbeat = Heartbeat(self.store, owner, by_itself=self.beats_by_itself)
            return self.heartbeat

    def acquire(self, artefacts: Sequence[Artefact], *, most: int | None = None) -> list[Artefact]:
        """Lease artefacts that no other living run has leased, and return them.

        Args:
            artefacts: in order of preference.
            most: lease at most so many; None leases all.

        Raises:
            CellError: the store cannot be read or written.
        """
        with self._lock:
            leased = self._lease(artefacts, most)
            # Another run may have completed some since the caller looked.
            complete = [item for item in leased if item.is_listed_complete]
            self.release(complete)
            return [item for item in leased if item not in complete]

    def _lease(self, artefacts: Sequence[Artefact], most: int | None) -> list[Artefact]:
        mine = self.register().id
        taken = self._rivals(mine)
        wanted = [item for item in artefacts if _key(item) not in taken][:most]
        for item in wanted:
            path = _claim(_key(item), mine)
            self._claimed.add(path)
            self.store.write(path, json.dumps({"cell": item.folder}).encode())
        won = self._contest(mine, {_key(item) for item in wanted})
        return [item for item in wanted if _key(item) in won]

    def acquire_complete(self, artefact: Artefact) -> bool:
        """Lease a complete artefact unless another living run has; return whether it is leased.

        Raises:
            CellError: the store cannot be read or written.
        """
        with self._lock:
            return bool(self._lease([artefact], None))

    def acquire_one(self, artefact: Artefact) -> bool:
        """Lease an artefact unless another living run has; return whether it is leased.

        Raises:
            CellError: the store cannot be read or written.
        """
        with self._lock:
            is_mine = bool(self.acquire([artefact]))
            if not is_mine:
                self.refused.add(artefact.path)
            return is_mine

    def holders(self, artefacts: Iterable[Artefact]) -> dict[str, str]:
        """Return, by path, the living run that has leased each artefact; omit free ones.

        Raises:
            CellError: the store cannot be read.
        """
        with self._lock:
            rivals = self._rivals(self.register().id)
        return {
            item.path: str(next(iter(others.values())))
            for item in artefacts
            if (others := rivals.get(_key(item)))
        }

    def observe(self, artefacts: Iterable[Artefact]) -> tuple[dict[str, str], bool]:
        """Return which artefacts living runs compute, without writing to the store.

        Returns: the run of each computed artefact, by path, and whether any run of this group is
            alive.

        Raises:
            CellError: the store cannot be read.
        """
        names = self.store.sizes(FOLDER)
        owners = {
            owner_id: owner
            for owner_id in {name.rpartition(".")[2] for name in names}
            if (owner := self._watch.look_up(owner_id, only_looks=True))
        }
        claims = {
            key: owners[owner_id]
            for key, _, owner_id in (name.rpartition(".") for name in names)
            if owner_id in owners and key != OWNER
        }
        found = {item.path: str(claims[_key(item)]) for item in artefacts if _key(item) in claims}
        return found, any(owner.group == self.group for owner in owners.values())

    def forget_refused(self, artefacts: Iterable[Artefact]) -> None:
        """Remove artefacts from ``refused``, so that they are tried again."""
        with self._lock:
            self.refused -= {item.path for item in artefacts}

    def former_owner(self, artefact: Artefact) -> str | None:
        """Return the dead run that held the lease of an artefact before, or None."""
        return self._former.get(_key(artefact))

    def share(self, num_cells: int) -> int:
        """Return this run's share of a number of cells, split evenly in its group.

        Raises:
            CellError: the store cannot be read.
        """
        with self._lock:
            mine = self.register().id
            names = self.store.sizes(FOLDER)
            ids = [name.rpartition(".")[2] for name in names if name.startswith(f"{OWNER}.")]
            others = [self._watch.look_up(item) for item in ids if item != mine]
            rivals = sum(owner is not None and owner.group == self.group for owner in others)
            return math.ceil(num_cells / (1 + rivals))

    def wait(self) -> None:
        """Sleep until the next poll."""
        self.sleep(min(LONGEST_POLL_S, self.expiry_s / 10))

    def release(self, artefacts: Iterable[Artefact]) -> None:
        """Release leases; if the store fails, ``close`` tries again."""
        bases = {f"{FOLDER}/{_key(item)}" for item in artefacts}
        with self._lock:
            self._withdraw([path for path in self._claimed if path.rpartition(".")[0] in bases])

    def close(self) -> None:
        """Release all leases and stop the heartbeat; a failing store is only logged."""
        if self.heartbeat is None:
            return
        self._withdraw(list(self._claimed))
        # The heartbeat last: a claim without a heartbeat counts as dead.
        try:
            self.heartbeat.stop()
        except CellError as error:
            logger.warning("could not delete the heartbeat, which will expire: %s", error)
        self.store.remove_empty(FOLDER)
        self.heartbeat = None
        self._claimed.clear()

    def _contest(self, mine: str, keys: set[str]) -> set[str]:
        """Return the cells that this run wins; withdraw its claims on the others."""
        won: set[str] = set()
        deadline = self.clock() + CONTEST_S
        while keys:
            names = self.store.sizes(FOLDER)
            rivals = self._rivals(mine, names)
            lost = {key for key in keys if rivals.get(key) and min(rivals[key]) < mine}
            if self.clock() >= deadline:
                lost |= {key for key in keys if key in rivals}
            # A run that found this one dead deleted the claim, and may have leased the cell.
            lost |= {key for key in keys if f"{key}.{mine}" not in names}
            self._withdraw([_claim(key, mine) for key in lost])
            won |= {key for key in keys - lost if key not in rivals}
            keys = keys - lost - won
            if keys:
                self.sleep(CONTEST_POLL_S)
        return won

    def _rivals(self, mine: str, names: Iterable[str] | None = None) -> dict[str, dict[str, Owner]]:
        """Return other living runs by claimed cell and id, and delete claims of dead runs."""
        owners: dict[str, Owner | None] = {}
        found: dict[str, dict[str, Owner]] = {}
        for name in self.store.sizes(FOLDER) if names is None else names:
            key, _, owner_id = name.rpartition(".")
            if key == OWNER or owner_id == mine:
                continue
            if owner_id not in owners:
                owners[owner_id] = self._watch.look_up(owner_id)
            owner = owners[owner_id]
            if owner is None:
                # Without a heartbeat, it may also have ended normally.
                if owner_id in self._watch.dead:
                    self._former[key] = str(self._watch.dead[owner_id])
                self.store.delete(_claim(key, owner_id))
            else:
                found.setdefault(key, {})[owner_id] = owner
        return found

    def _withdraw(self, paths: Sequence[str]) -> None:
        for path in paths:
            try:
                self.store.delete(path)
                self._claimed.discard(path)
            except CellError as error:
                logger.warning("could not release a lease, which will expire: %s", error)


def _key(artefact: Artefact) -> str:
    return f"{artefact.stage}-{artefact.fingerprint}"


def _claim(key: str, owner_id: str) -> str:
    return f"{FOLDER}/{key}.{owner_id}"
