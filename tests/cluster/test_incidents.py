"""What is counted of a cell that was disturbed; tests/runs/test_losses.py disturbs real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.cluster.incidents import KINDS, Account, Toll, add_tolls, explain_death
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.retries import num_repeats


@pytest.fixture
def artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artefact:
    monkeypatch.setenv("BENCHMARK_RETRY_WAIT_S", "0.001")
    return Store(str(tmp_path)).artefact("embed", "toy", "0123456789abcdef")


def fail_first(artefact: Artefact, count: int) -> None:
    """Read something of an artefact from a store that fails so often before it answers."""
    left = [count]

    def operation() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionResetError

    artefact.store.attempt(f"{artefact.folder}/a", "read", operation)


def test_an_undisturbed_cell_has_no_incidents(artefact):
    fail_first(artefact, 2)
    account = Account(artefact)
    account.add("part_found", 0)
    account.add_toll({})
    assert account.to_json() == []


def test_equal_incidents_are_one_and_stand_in_the_order_of_their_kinds(artefact):
    account = Account(artefact)
    account.add("trial_repeated", detail="its process died")
    account.add("part_found", 3, "embeddings")
    account.add("trial_repeated", detail="its process died")
    account.add("trial_repeated", detail="its machine was lost")
    account.add_toll({"task_repeated": 2, "unknown to this version": 1})
    found = account.to_json()
    assert found == [
        {"kind": "task_repeated", "count": 2, "detail": ""},
        {"kind": "trial_repeated", "count": 1, "detail": "its machine was lost"},
        {"kind": "trial_repeated", "count": 2, "detail": "its process died"},
        {"kind": "part_found", "count": 3, "detail": "embeddings"},
    ]
    assert json.loads(json.dumps(account.to_json())) == found
    assert {item["kind"] for item in found} < set(KINDS)


def test_requests_of_the_cell_are_counted_and_those_of_others_are_not(artefact):
    other = artefact.store.artefact("embed", "toy", "fedcba9876543210")
    account = Account(artefact)
    fail_first(artefact, 2)
    fail_first(other, 1)
    wanted = [{"kind": "request_repeated", "count": 2, "detail": ""}]
    assert account.to_json() == account.to_json() == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" 1\nThe actor died because its node has died. Node Id: 0c1b", "its machine was lost"),
        ("\tthe actor's node was terminated expectedly: preempted", "its machine was taken back"),
        ("Task was killed due to the node running low on memory.", "short of memory"),
        ("The actor is dead because its worker process has died.", "its process died"),
        ("", "does not tell"),
    ],
)
def test_why_a_process_ended_is_said_in_words(text, reason):
    assert explain_death(text).endswith(reason)


def test_tolls_add_up():
    assert add_tolls({"task_repeated": 1}, {}, {"task_repeated": 2, "request_repeated": 1}) == {
        "task_repeated": 3, "request_repeated": 1,
    }  # fmt: skip


def test_a_worker_counts_requests_of_every_file_since_its_item_began(ray_session, artefact):
    import ray

    def work() -> tuple[dict[str, int], int]:
        fail_first(artefact, 1)
        toll = Toll()
        fail_first(artefact, 3)
        return toll.to_json(), num_repeats()

    assert ray.get(ray.remote(work).remote()) == ({"request_repeated": 3}, 4)
