"""What workers tell before their tasks end arrives, and no failure of it fails a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from benchmark.cluster import ticks
from benchmark.cluster.ticks import Ticks, watch


class Heard:
    """Keeps what is called back, and can wait for it."""

    def __init__(self) -> None:
        self.counts: list[tuple[str, int]] = []
        self.notes: list[str] = []
        self._came = threading.Condition()

    def count(self, counts: Mapping[str, int]) -> None:
        with self._came:
            self.counts += counts.items()
            self._came.notify_all()

    def note(self, text: str) -> None:
        with self._came:
            self.notes.append(text)
            self._came.notify_all()

    def wait_for(self, item: str, count: int) -> bool:
        with self._came:
            return self._came.wait_for(lambda: (item, count) in self.counts, timeout=20)


class HeadStore:
    """A key-value store in this process; ``is_away`` lets every call fail."""

    def __init__(self) -> None:
        self.states: dict[str, dict[str, Any]] = {}
        self.num_puts = 0
        self.is_away = False

    def put(self, key: str, state: dict[str, Any]) -> None:
        self._check()
        self.num_puts += 1
        self.states[key] = state

    def read(self, channel: str) -> list[dict[str, Any]]:
        self._check()
        return [state for key, state in self.states.items() if key.startswith(f"{channel}/")]

    def delete(self, channel: str) -> None:
        self._check()
        for key in [key for key in self.states if key.startswith(f"{channel}/")]:
            del self.states[key]

    def _check(self) -> None:
        if self.is_away:
            raise ConnectionError("the head is away")


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> HeadStore:
    store = HeadStore()
    for name in ("put", "read", "delete"):
        monkeypatch.setattr(ticks, f"_{name}", getattr(store, name))
    return store


def test_the_last_count_of_each_worker_arrives_and_a_note_once(head: HeadStore) -> None:
    heard = Heard()
    with watch(heard.count, heard.note, every_s=0.01) as channel:
        first, second = (Ticks(channel, every_s=0.01) for _ in range(2))
        first.note("slow")
        for count in range(1, 1001):
            first.count("0/a", count)
        second.count("1/a", 5)
        assert heard.wait_for("0/a", 1000)
        assert heard.wait_for("1/a", 5)
        time.sleep(0.1)
    assert heard.notes == ["slow"]
    assert head.num_puts < 50  # not one for each batch
    assert head.states == {}


def test_a_head_that_is_away_for_a_while_costs_nothing_but_time(head: HeadStore) -> None:
    heard = Heard()
    head.is_away = True
    with watch(heard.count, heard.note, every_s=0.01) as channel:
        worker = Ticks(channel, every_s=0.01)
        worker.count("0/a", 1)
        time.sleep(0.1)
        head.is_away = False
        assert heard.wait_for("0/a", 1)
        head.is_away = True


def test_a_channel_without_a_name_sends_nothing(head: HeadStore) -> None:
    worker = Ticks("", every_s=0.01)
    worker.count("0/a", 1)
    time.sleep(0.05)
    assert head.num_puts == 0


def test_counts_come_from_a_process_of_ray(ray_session: None) -> None:
    import ray

    def work(channel: str) -> None:
        worker = Ticks(channel, every_s=0.05)
        worker.count("0/part-000000.parquet", 12)
        time.sleep(0.5)

    heard = Heard()
    with watch(heard.count, heard.note, every_s=0.05) as channel:
        ray.get(ray.remote(num_cpus=0)(work).remote(channel))
        assert heard.wait_for("0/part-000000.parquet", 12)
        assert ticks._read(channel)
    assert ticks._read(channel) == []
