"""Trainings never book more than a cluster has, and use what it has."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.cluster.connection import Resources
from benchmark.cluster.teams import FEEDING_CPUS, Team, plan_team
from benchmark.errors import UsageError

CPUS = st.integers(1, 256)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Resources, int | None, int]:
    num_cpus, num_gpus = draw(CPUS), draw(st.just(0) | st.integers(0, 16))
    node_cpus = draw(st.just(0) | st.integers(1, num_cpus))
    resources = Resources(float(num_cpus), float(num_gpus), 1e9, float(node_cpus))
    num_workers = draw(st.none() | st.integers(1, num_gpus or num_cpus))
    return resources, num_workers, draw(st.integers(1, 500))


def plan(request: tuple[Resources, int | None, int]) -> Team:
    resources, num_workers, num_trials = request
    return plan_team(resources, num_workers=num_workers, num_trials=num_trials)


@settings(deadline=None, max_examples=300)
@given(requests())
def test_no_more_is_booked_than_there_is(request: tuple[Resources, int | None, int]) -> None:
    resources, _, _ = request
    team = plan(request)
    workers = team.num_slots * team.num_workers
    assert workers * team.num_cpus <= resources.num_cpus - FEEDING_CPUS + 1e-9
    assert workers * team.num_gpus <= resources.num_gpus
    assert team.num_cpus <= (resources.node_cpus or resources.num_cpus)


@settings(deadline=None, max_examples=300)
@given(requests())
def test_a_booking_is_a_number_that_ray_can_count(
    request: tuple[Resources, int | None, int],
) -> None:
    team = plan(request)
    assert team.num_cpus > 0
    if team.num_cpus < 1:
        assert team.num_cpus == round(team.num_cpus * 1000) / 1000
    else:
        assert team.num_cpus == int(team.num_cpus)
    assert team.num_gpus in (0.0, 1.0)


@settings(deadline=None, max_examples=300)
@given(requests())
def test_threads_are_those_of_one_node_and_of_no_one_else(
    request: tuple[Resources, int | None, int],
) -> None:
    resources, _, _ = request
    team = plan(request)
    assert 1 <= team.num_threads <= (resources.node_cpus or resources.num_cpus)
    workers = team.num_slots * team.num_workers
    assert team.num_threads == 1 or workers * team.num_threads <= resources.num_cpus


@settings(deadline=None, max_examples=300)
@given(requests())
def test_what_was_asked_for_is_given_and_trials_fill_the_cluster(
    request: tuple[Resources, int | None, int],
) -> None:
    resources, num_workers, num_trials = request
    team = plan(request)
    assert num_workers in (None, team.num_workers)
    assert 1 <= team.num_slots <= num_trials
    units = int(resources.num_gpus or resources.num_cpus)
    assert team.num_slots == min(num_trials, units // team.num_workers)
    assert (team.num_gpus > 0) is (resources.num_gpus > 0)
    assert team.is_alone is (team.num_workers == 1)
    assert str(num_trials) in team.reason


@pytest.mark.parametrize(
    ("resources", "num_trials", "expected"),
    [
        # num_workers, num_cpus, num_gpus, num_threads, num_slots
        (Resources(2.0, 0.0, 0.0, 2.0), 1, (1, 1.0, 0.0, 2, 1)),
        (Resources(2.0, 0.0, 0.0, 2.0), 3, (1, 0.75, 0.0, 1, 2)),
        (Resources(1.0, 0.0, 0.0, 1.0), 5, (1, 0.5, 0.0, 1, 1)),
        (Resources(16.0, 0.0, 0.0, 4.0), 1, (1, 3.0, 0.0, 4, 1)),
        # One training takes all GPUs, many take one each, and in between they are shared.
        (Resources(32.0, 4.0, 0.0, 32.0), 1, (4, 7.0, 1.0, 8, 1)),
        (Resources(32.0, 4.0, 0.0, 32.0), 2, (2, 7.0, 1.0, 8, 2)),
        (Resources(32.0, 4.0, 0.0, 32.0), 3, (1, 9.0, 1.0, 10, 3)),
        (Resources(32.0, 4.0, 0.0, 32.0), 40, (1, 7.0, 1.0, 8, 4)),
        # More GPUs than CPUs.
        (Resources(2.0, 4.0, 0.0, 2.0), 4, (1, 0.375, 1.0, 1, 4)),
    ],
)
def test_clusters_are_shared_between_trainings(
    resources: Resources, num_trials: int, expected: tuple[float, ...]
) -> None:
    assert plan_team(resources, num_workers=None, num_trials=num_trials)[:5] == expected


@settings(deadline=None)
@given(CPUS, st.integers(1, 100))
def test_more_workers_than_cpus_are_refused_with_both_numbers(num_cpus: int, more: int) -> None:
    asked = num_cpus + more
    cpus = "1 CPU," if num_cpus == 1 else f"{num_cpus} CPUs,"
    message = rf"\[finetune\] num_workers = {asked}: the cluster has {cpus} .*\"auto\""
    with pytest.raises(UsageError, match=message):
        plan_team(Resources(float(num_cpus), 0.0, 0.0), num_workers=asked, num_trials=1)


def test_more_workers_than_gpus_are_refused_with_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"num_workers = 3: the cluster has 2 GPUs, at least one"):
        plan_team(Resources(16.0, 2.0, 0.0), num_workers=3, num_trials=1)


def test_a_cluster_without_a_cpu_is_refused() -> None:
    with pytest.raises(UsageError, match="has no CPU: add a node with CPUs"):
        plan_team(Resources(0.5, 1.0, 0.0), num_workers=None, num_trials=1)
