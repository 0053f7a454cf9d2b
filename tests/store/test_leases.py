"""Runs on one store share its cells: one run computes each, and others replace dead runs."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.store.artefacts import Artefact, Store
from benchmark.store.heartbeat import FOLDER, UNREADABLE_EXPIRY_S, Watch, heartbeat_path
from benchmark.store.leases import Leases
from benchmark.store.processes import Process

ELSEWHERE = Process(host="elsewhere", place="another boot", pid=1, started="1")


class Clock:
    """A clock that advances during waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_leases(store: Store, clock: Clock) -> Callable[..., Leases]:
    """A run on another machine, whose heartbeat the test controls."""

    def build(*, process: Process = ELSEWHERE, group: str = "x") -> Leases:
        return Leases(
            store,
            group=group,
            expiry_s=60.0,
            process=process,
            clock=clock,
            sleep=clock.sleep,
            beats_by_itself=False,
        )

    return build


def cell(store: Store, number: int = 0) -> Artefact:
    return store.artefact("embed", "toy-random", f"{number:016x}")


def cells(store: Store, count: int) -> list[Artefact]:
    return [cell(store, number) for number in range(count)]


def names(store: Store) -> list[str]:
    return sorted(store.sizes(FOLDER))


def test_a_cell_is_leased_by_one_run_and_by_the_other_once_it_is_released(store, open_leases):
    mine, other = open_leases(), open_leases()
    assert mine.acquire([cell(store)]) == [cell(store)]
    assert other.acquire([cell(store)]) == []
    assert other.holders([cell(store)]) == {cell(store).path: "process 1 on elsewhere"}
    mine.release([cell(store)])
    assert other.holders([cell(store)]) == {}
    assert other.acquire([cell(store)]) == [cell(store)]
    assert other.former_owner(cell(store)) is None


def test_nothing_is_written_before_the_first_lease_and_nothing_is_left(store, open_leases):
    with open_leases() as leases:
        assert not Path(store.root).exists()
        with leases:
            leases.acquire(cells(store, 3))
        assert len(names(store)) == 4
    assert not (Path(store.root) / FOLDER).exists()


def test_leases_go_back_when_the_run_is_interrupted(store, open_leases):
    with pytest.raises(KeyboardInterrupt), open_leases() as leases:
        leases.acquire(cells(store, 3))
        raise KeyboardInterrupt
    assert names(store) == []


def test_a_run_that_beats_keeps_its_cells_for_ever(store, open_leases, clock):
    mine, other = open_leases(), open_leases()
    mine.acquire([cell(store)])
    for _ in range(20):
        clock.sleep(50)
        mine.heartbeat.beat()
        assert other.acquire([cell(store)]) == []


def test_the_cells_of_a_run_without_a_heartbeat_are_taken_over(store, open_leases, clock):
    dead, other = open_leases(), open_leases()
    dead.acquire(cells(store, 2))
    assert other.acquire([cell(store)]) == []
    clock.sleep(59)
    assert other.acquire([cell(store)]) == []
    assert other.former_owner(cell(store)) is None
    clock.sleep(1)
    assert other.acquire(cells(store, 2)) == cells(store, 2)
    assert other.former_owner(cell(store)) == "process 1 on elsewhere"
    assert len(names(store)) == 3
    # A run that was only suspended learns that it was declared dead, and reclaims nothing.
    dead.heartbeat.beat()
    assert dead.heartbeat.is_lost
    assert dead.acquire([cell(store)]) == []
    other.close()
    dead.close()
    assert names(store) == []


def test_a_run_of_another_version_that_says_more_is_known(store, open_leases, clock):
    newer, other = open_leases(), open_leases()
    newer.acquire([cell(store)])
    path = heartbeat_path(newer.heartbeat.id)
    said = json.loads(store.read(path))
    store.write(path, json.dumps({**said, "colour": "blue"}).encode())
    assert other.acquire([cell(store)]) == []
    assert other.holders([cell(store)]) == {cell(store).path: "process 1 on elsewhere"}
    assert other.share(2) == 1
    clock.sleep(60)
    assert other.acquire([cell(store)]) == [cell(store)]


@pytest.mark.parametrize("content", [b"{}", b"not JSON", b"[1]", b"\xff"])
def test_a_heartbeat_that_cannot_be_read_holds_its_cells_while_it_changes(
    store, open_leases, clock, content
):
    strange, other = open_leases(), open_leases()
    strange.acquire([cell(store)])
    path = heartbeat_path(strange.heartbeat.id)
    for beat in range(3):
        store.write(path, content + b" " * beat)
        assert other.acquire([cell(store)]) == []
        clock.sleep(UNREADABLE_EXPIRY_S - 1)
    holders, _ = other.observe([cell(store)])
    assert holders == {cell(store).path: "a run of another version of this package"}
    clock.sleep(1)
    assert other.acquire([cell(store)]) == [cell(store)]


def test_a_heartbeat_is_judged_by_when_it_was_first_seen(store, open_leases, clock):
    mine = open_leases()
    mine.acquire([cell(store)])
    clock.sleep(1000)
    other = open_leases()
    assert other.acquire([cell(store)]) == []


def test_a_dead_process_of_this_machine_is_known_at_once(store, open_leases):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    process = replace(Process.this(), pid=child.pid, started=started)
    dead, other = open_leases(process=process), open_leases(process=Process.this())
    dead.acquire([cell(store)])
    assert other.acquire([cell(store)]) == []
    child.kill()
    time.sleep(0.1)  # not waited for: a zombie is as dead as one that is gone
    assert other.acquire([cell(store)]) == [cell(store)]
    child.communicate()


@pytest.mark.parametrize("change", [{"started": "1"}, {"pid": 2**22 + 1}])
def test_a_process_id_that_is_used_again_is_another_process(change):
    assert not Process.this().is_gone
    assert replace(Process.this(), **change).is_gone


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"place": "a container"}, {"place": ""}])
def test_a_process_of_another_machine_or_container_is_not_known_to_be_gone(change):
    assert not replace(Process.this(), pid=2**22 + 1, **change).is_gone


def test_what_another_run_has_completed_is_not_leased(store, open_leases):
    cell(store).commit({})
    leases = open_leases()
    assert leases.acquire(cells(store, 2)) == [cell(store, 1)]
    assert len(names(store)) == 2


def test_runs_of_one_experiment_share_its_cells_evenly(store, open_leases):
    first, second, stranger = open_leases(), open_leases(), open_leases(group="y")
    assert first.share(8) == 8
    assert stranger.share(8) == 8
    assert second.share(8) == 4
    assert first.acquire(cells(store, 8), most=first.share(8)) == cells(store, 8)[:4]
    assert second.acquire(cells(store, 8), most=second.share(8)) == cells(store, 8)[4:]
    first.close()
    second.release(cells(store, 8))
    assert second.share(1) == 1


@pytest.mark.parametrize(
    ("first_digit", "withdraws", "wins"),
    [("0", True, True), ("0", False, False), ("g", True, False)],
)
def test_of_two_that_want_a_cell_at_once_the_smaller_id_stays_and_the_other_withdraws(
    store, open_leases, clock, first_digit, withdraws, wins
):
    mine, rival = open_leases(), open_leases()
    rivals_claim = f"{FOLDER}/embed-{0:016x}.{rival.register().id}"
    heartbeat = mine.register()
    heartbeat.id = first_digit * len(heartbeat.id)
    write = store.write

    def write_second(path: str, content: bytes) -> None:
        store.write = write
        # Its claim appears between our look and our own claim.
        write(rivals_claim, b"{}")
        write(path, content)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if withdraws:
            store.delete(rivals_claim)

    store.write, mine.sleep = write_second, sleep
    assert bool(mine.acquire([cell(store)])) == wins
    assert sum(name.startswith("embed") for name in names(store)) == 1
    # Who already has the cell does not withdraw, and is not waited for without end.
    assert clock() < 3


class Jittery(Store):
    """A store whose every step is interleaved with those of others."""

    def write(self, path: str, content: bytes) -> None:
        time.sleep(random.random() * 0.003)
        super().write(path, content)

    def sizes(self, folder: str) -> dict[str, int]:
        time.sleep(random.random() * 0.003)
        return super().sizes(folder)


@pytest.mark.parametrize("seed", range(3))
def test_however_runs_interleave_each_cell_is_computed_once(tmp_path, seed):
    random.seed(seed)
    uri = str(tmp_path / "runs")
    done: list[str] = []
    computing: set[str] = set()

    def work() -> None:
        store = Jittery(uri)
        left = cells(store, 8)
        random.shuffle(left)
        with Leases(store, group="x", expiry_s=30.0) as leases:
            while left := [item for item in left if not item.is_complete]:
                for item in leases.acquire(left, most=random.choice([1, 2, None])):
                    assert item.path not in computing
                    computing.add(item.path)
                    time.sleep(random.random() * 0.01)
                    done.append(item.path)
                    item.commit({})
                    computing.discard(item.path)
                    leases.release([item])
                time.sleep(0.002)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == sorted(item.path for item in cells(Store(uri), 8))
    assert names(Store(uri)) == []


WORKER = """
    import os, sys, time
    from benchmark.store.leases import Leases
    from benchmark.store.artefacts import Store

    store = Store(sys.argv[1])
    cells = [store.artefact("embed", "toy", f"{number:016x}") for number in range(12)]
    with Leases(store, group="x") as leases:
        while left := [cell for cell in cells if not cell.is_complete]:
            for cell in leases.acquire(left, most=2):
                with open(sys.argv[2], "a") as log:
                    log.write(cell.fingerprint + "\\n")
                print("computing", flush=True)
                time.sleep(float(sys.argv[3]))
                cell.commit({"pid": os.getpid()})
                leases.release([cell])
            time.sleep(0.01)
"""


def start_worker(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(WORKER),
            tmp_path / "runs",
            tmp_path / "log",
            str(seconds),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_compute_each_cell_once_and_take_over_from_one_that_is_killed(tmp_path):
    killed = start_worker(tmp_path, 60)
    killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    began = time.monotonic()
    workers = [start_worker(tmp_path, 0.05) for _ in range(2)]
    for worker in workers:
        worker.communicate(timeout=60)
        assert worker.returncode == 0
    # Without waiting for its lease to expire.
    assert time.monotonic() - began < 30
    log = (tmp_path / "log").read_text().split()
    store = Store(str(tmp_path / "runs"))
    assert sorted(log[1:]) == [f"{number:016x}" for number in range(12)]
    pids = {store.artefact("embed", "toy", name).manifest()["pid"] for name in log}
    assert pids == {worker.pid for worker in workers}
    assert names(store) == []


def test_a_thread_renews_the_heartbeat(store):
    with Leases(store, group="x", expiry_s=0.2) as leases:
        leases.acquire([cell(store)])
        path = f"{FOLDER}/owner.{leases.heartbeat.id}"
        first = store.read(path)
        deadline = time.monotonic() + 10
        while store.read(path) == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not list(Path(store.root).iterdir())


def test_a_heartbeat_of_another_version_is_alive_while_it_changes(
    store: Store, clock: Clock
) -> None:
    path = heartbeat_path("abc")
    store.write(path, b'{"beat": 1}')
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.sleep(seconds)
        if len(waited) == 3:
            store.write(path, b'{"beat": 2}')

    assert [str(item) for item in Watch(store, clock).active(sleep)] == [
        "a run of another version of this package"
    ]
    assert len(waited) == 3
    assert Watch(store, clock).active(clock.sleep) == []
    assert clock.now >= UNREADABLE_EXPIRY_S
    assert store.has(path)


def test_a_process_of_this_machine_is_alive_or_gone() -> None:
    this = Process.this()
    assert (this.is_alive, this.is_gone) == (True, False)
    other = replace(this, started="1")
    assert (other.is_alive, other.is_gone) == (False, True)
    assert (ELSEWHERE.is_alive, ELSEWHERE.is_gone) == (False, False)
