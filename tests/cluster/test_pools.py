"""A pool of actors never takes the last CPU from the tasks that read and write."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.cluster.connection import Node, Resources
from benchmark.cluster.pools import ACTOR_BYTES, plan_pool
from benchmark.errors import UsageError

CPUS = st.integers(1, 256)
MEMORY = st.just(0.0) | st.floats(1e6, 4e12)
GIB = 2.0**30


@st.composite
def requests(draw: st.DrawFn) -> tuple[Resources, int | None, bool]:
    resources = Resources(
        num_cpus=float(draw(CPUS)), num_gpus=float(draw(st.integers(0, 16))), memory=draw(MEMORY)
    )
    wants_gpu = draw(st.booleans())
    uses_gpu = wants_gpu and resources.num_gpus
    most = int(resources.num_gpus) if uses_gpu else 8 * int(resources.num_cpus)
    return resources, draw(st.none() | st.integers(1, most)), wants_gpu


@settings(deadline=None)
@given(requests())
def test_a_whole_cpu_stays_free_for_tasks(request: tuple[Resources, int | None, bool]) -> None:
    resources, num_actors, wants_gpu = request
    pool = plan_pool(resources, num_actors=num_actors, wants_gpu=wants_gpu)
    if resources.num_cpus == 1:
        assert pool.num_cpus == 0
    else:
        # Ray counts in ten-thousandths; 25 times 0.28 is a little above 7.
        assert round(pool.num_actors * pool.num_cpus, 4) <= resources.num_cpus - 1
        assert pool.num_cpus > 0


@settings(deadline=None)
@given(requests())
def test_there_is_an_actor_and_what_it_books_is_there(
    request: tuple[Resources, int | None, bool],
) -> None:
    resources, num_actors, wants_gpu = request
    pool = plan_pool(resources, num_actors=num_actors, wants_gpu=wants_gpu)
    assert pool.num_actors >= 1
    assert num_actors in (None, pool.num_actors)
    assert pool.num_threads >= 1
    assert pool.num_actors * pool.num_gpus <= resources.num_gpus
    assert (pool.num_gpus > 0) is (wants_gpu and resources.num_gpus > 0)
    assert pool.reason


@settings(deadline=None)
@given(requests())
def test_a_booking_is_a_number_that_ray_can_count(
    request: tuple[Resources, int | None, bool],
) -> None:
    resources, num_actors, wants_gpu = request
    pool = plan_pool(resources, num_actors=num_actors, wants_gpu=wants_gpu)
    assert pool.num_cpus == pytest.approx(round(pool.num_cpus * 10_000) / 10_000, abs=1e-12)
    assert pool.num_cpus <= 1 or pool.num_cpus == int(pool.num_cpus)


@settings(deadline=None)
@given(CPUS, st.floats(1e9, 1e12))
def test_actors_on_cpus_fit_into_the_memory(num_cpus: int, memory: float) -> None:
    pool = plan_pool(Resources(num_cpus, 0.0, memory), num_actors=None)
    assert pool.num_actors == 1 or pool.num_actors * ACTOR_BYTES <= memory
    assert pool.num_actors <= num_cpus


def test_two_cores_get_two_actors_of_one_thread_at_half_a_cpu() -> None:
    pool = plan_pool(Resources(2.0, 0.0, 24 * GIB), num_actors=None)
    assert (pool.num_actors, pool.num_cpus, pool.num_threads) == (2, 0.5, 1)


def test_a_gpu_gets_one_actor_with_the_threads_that_are_left() -> None:
    pool = plan_pool(Resources(16.0, 2.0, 100 * GIB), num_actors=None)
    assert (pool.num_actors, pool.num_cpus, pool.num_gpus, pool.num_threads) == (2, 1.0, 1.0, 7)
    assert "2 GPUs" in pool.reason


def test_gpus_are_left_alone_where_they_are_not_wanted() -> None:
    pool = plan_pool(Resources(4.0, 2.0, 0.0), num_actors=None, wants_gpu=False)
    assert pool.num_gpus == 0.0
    assert pool.num_actors == 4


@settings(deadline=None)
@given(CPUS, st.integers(1, 1000))
def test_more_actors_than_fit_are_refused(num_cpus: int, more: int) -> None:
    cpus = "1 CPU" if num_cpus == 1 else f"{num_cpus} CPUs"
    with pytest.raises(UsageError, match=rf"\[embed\] num_actors = \d+: .* {cpus}; ask"):
        plan_pool(Resources(num_cpus, 0.0, 0.0), num_actors=8 * num_cpus + more)


def test_more_actors_than_gpus_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\[embed\] num_actors = 3: the cluster has 2 GPUs"):
        plan_pool(Resources(16.0, 2.0, 0.0), num_actors=3)


@pytest.mark.parametrize("num_cpus", [0.0, 0.5])
def test_a_cluster_without_a_cpu_is_refused(num_cpus: float) -> None:
    with pytest.raises(UsageError, match="the Ray cluster has no CPU: add a node with CPUs"):
        plan_pool(Resources(num_cpus, 1.0, 0.0), num_actors=None)


def test_fewer_actors_have_no_more_threads() -> None:
    """The number of threads changes last bits; the number of actors must not."""
    resources = Resources(num_cpus=4, num_gpus=0, memory=64e9)
    assert {plan_pool(resources, num_actors=n).num_threads for n in (1, 2, 4)} == {1}


SHARES = st.sampled_from([0.25, 0.5, 1.0, 2.0])


@st.composite
def machines(draw: st.DrawFn) -> tuple[Node, ...]:
    one = st.builds(
        Node, st.integers(0, 64).map(float), st.sampled_from([0.0, 0.0, 1.0, 2.0, 4.0, 8.0])
    )
    return tuple(draw(st.lists(one, min_size=1, max_size=6)))


def places(nodes: Sequence[Node], num_cpus: float, num_gpus: float) -> int:
    """How many actors the machines take, each beside its GPU."""
    return sum(
        min(
            int(node.num_gpus // num_gpus) if num_gpus >= 1 else int(node.num_gpus / num_gpus),
            int(node.num_cpus / num_cpus + 1e-9) if num_cpus else 10**9,
        )
        for node in nodes
    )


@settings(deadline=None)
@given(machines(), SHARES)
def test_actors_fit_beside_the_gpus_of_every_cluster(
    nodes: tuple[Node, ...], num_gpus: float
) -> None:
    resources = Resources(
        sum(node.num_cpus for node in nodes), sum(node.num_gpus for node in nodes), 0.0, 0.0, nodes
    )
    if resources.num_cpus < 1:
        return
    if resources.num_gpus and not places(nodes, 0.0, num_gpus):
        with pytest.raises(UsageError, match=rf"num_gpus = {num_gpus:g}: no node"):
            plan_pool(resources, num_actors=None, num_gpus=num_gpus)
        return
    pool = plan_pool(resources, num_actors=None, num_gpus=num_gpus)
    if pool.num_gpus:
        assert places(nodes, pool.num_cpus, pool.num_gpus) >= pool.num_actors
    assert pool.num_actors * pool.num_cpus <= max(0.0, resources.num_cpus - 1)


def test_actors_share_a_gpu_where_that_is_asked_for() -> None:
    pool = plan_pool(Resources(16.0, 2.0, 0.0), num_actors=None, num_gpus=0.5)
    assert (pool.num_actors, pool.num_gpus) == (4, 0.5)
    assert "2 GPUs: an actor on 0.5 of one" in pool.reason


def test_a_share_never_spans_two_gpus() -> None:
    pool = plan_pool(Resources(16.0, 2.0, 0.0), num_actors=None, num_gpus=0.75)
    assert pool.num_actors == 2


def test_a_gpu_machine_of_few_cpus_still_takes_all_its_actors() -> None:
    nodes = (Node(2.0, 4.0), Node(32.0, 0.0))
    pool = plan_pool(Resources(34.0, 4.0, 0.0, 32.0, nodes), num_actors=None)
    assert (pool.num_actors, pool.num_cpus) == (4, 0.5)
