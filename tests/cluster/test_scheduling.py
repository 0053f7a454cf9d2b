"""Stages share a cluster without exceeding it, and every one of them comes to its end."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.cluster.connection import Node, Resources
from benchmark.cluster.pools import plan_pool
from benchmark.cluster.scheduling import UNLIMITED, Budget, Lane, Ledger, allot, lanes_of, within
from benchmark.cluster.teams import plan_team
from benchmark.config import build
from benchmark.errors import UsageError

STAGES = ("embed", "tune", "finetune")


def cluster(*nodes: tuple[float, float]) -> Resources:
    """A cluster of machines of so many CPUs and GPUs."""
    machines = tuple(Node(*node) for node in nodes)
    return Resources(
        sum(node.num_cpus for node in machines),
        sum(node.num_gpus for node in machines),
        0.0,
        max(node.num_cpus for node in machines),
        machines,
    )


@st.composite
def clusters(draw: st.DrawFn) -> Resources:
    node = st.tuples(st.integers(1, 64).map(float), st.sampled_from([0.0, 0.0, 1.0, 2.0, 4.0, 8.0]))
    found = cluster(*draw(st.lists(node, min_size=1, max_size=8)))
    return found if found.num_cpus >= 2 else cluster((2.0, found.num_gpus))


LIMITS = st.just(UNLIMITED) | st.builds(
    Budget, st.integers(1, 32).map(float), st.integers(0, 4).map(float) | st.just(math.inf)
)


@st.composite
def lanes(draw: st.DrawFn) -> list[Lane]:
    stages = draw(st.lists(st.sampled_from(STAGES), min_size=1, unique=True))
    limits = {stage: draw(LIMITS) for stage in stages}
    found = [
        Lane("embed", min_cpus=2, limit=limits.get("embed", UNLIMITED)),
        Lane("tune", limit=limits.get("tune", UNLIMITED)),
        Lane("finetune", min_cpus=2, fills_machines=True, limit=limits.get("finetune", UNLIMITED)),
    ]
    return [lane for lane in found if lane.stage in stages]


@settings(deadline=None)
@given(clusters(), lanes())
def test_budgets_fit_into_the_cluster_and_the_limits(resources: Resources, asked: list) -> None:
    budgets = allot(resources, asked)
    assert sum(budget.num_cpus for budget in budgets.values()) <= resources.num_cpus
    assert sum(budget.num_gpus for budget in budgets.values()) <= resources.num_gpus
    for lane in asked:
        if lane.stage in budgets:
            assert budgets[lane.stage].num_cpus <= lane.limit.num_cpus
            assert budgets[lane.stage].num_gpus <= lane.limit.num_gpus
            assert budgets[lane.stage].num_cpus >= 1


@settings(deadline=None)
@given(clusters(), lanes())
def test_the_first_stage_always_runs_and_those_beside_it_have_what_they_need(
    resources: Resources, asked: list
) -> None:
    budgets = allot(resources, asked)
    assert asked[0].stage in budgets
    if len(budgets) > 1:
        for lane in asked:
            if lane.stage in budgets:
                assert budgets[lane.stage].num_cpus >= lane.min_cpus
                if lane.uses_gpus and resources.num_gpus:
                    assert budgets[lane.stage].num_gpus >= 1


class Simulation:
    """Machines on which bookings are placed, first fit, and given back."""

    def __init__(self, resources: Resources) -> None:
        self.free = [[node.num_cpus, node.num_gpus] for node in resources.nodes]

    def place(self, num_cpus: float, num_gpus: float) -> int | None:
        for number, (cpus, gpus) in enumerate(self.free):
            if cpus + 1e-6 >= num_cpus and gpus + 1e-6 >= num_gpus:
                self.free[number][0] -= num_cpus
                self.free[number][1] -= num_gpus
                return number
        return None

    def leave(self, number: int, num_cpus: float, num_gpus: float) -> None:
        self.free[number][0] += num_cpus
        self.free[number][1] += num_gpus


class Work:
    """What one stage still has to do, and what a piece of it books."""

    def __init__(self, num_cpus: float, num_gpus: float, most: float, pieces: int) -> None:
        self.num_cpus, self.num_gpus, self.most, self.left = num_cpus, num_gpus, most, pieces
        self.held: list[int] = []


def plan_work(stage: str, resources: Resources, budget: Budget, pieces: int) -> list[Work]:
    mine = within(resources, budget)
    if stage == "embed":
        pool = plan_pool(mine, num_actors=None)
        actors = Work(pool.num_cpus, pool.num_gpus, pool.num_actors, pieces)
        return [actors, Work(0.25, 0.0, 2, pieces)]
    if stage == "tune":
        return [Work(1.0, 0.0, max(1, int(budget.num_cpus)), pieces)]
    team = plan_team(mine, num_workers=None, num_trials=pieces)
    return [Work(team.num_cpus, team.num_gpus, team.num_slots * team.num_workers, pieces)]


@settings(deadline=None, max_examples=300)
@given(clusters(), lanes(), st.integers(1, 40))
def test_every_stage_ends_on_every_cluster(resources: Resources, asked: list, pieces: int) -> None:
    """A simulation: pieces of work are placed on machines, run, and go; none waits for ever."""
    ledger = Ledger(asked)
    ledger.open(lane.stage for lane in asked)
    simulation, running = Simulation(resources), {}
    waiting = {lane.stage for lane in asked}
    for _ in range(10_000):
        for stage in waiting & set(ledger.admitted(resources)):
            try:
                work = plan_work(stage, resources, ledger.first_budget(stage, resources), pieces)
            except UsageError as error:
                # An actor that no machine of the limit can take is refused, and nothing hangs.
                assert "GPUs" in str(error)
                work = []
            running[stage] = work
            waiting.discard(stage)
        moved = False
        for stage, parts in list(running.items()):
            for part in parts:
                while part.left > len(part.held) and len(part.held) < part.most:
                    place = simulation.place(part.num_cpus, part.num_gpus)
                    if place is None:
                        break
                    part.held.append(place)
                    moved = True
            # Actors do nothing without the tasks that feed them.
            if all(part.held or not part.left for part in parts):
                for part in parts:
                    for place in part.held:
                        simulation.leave(place, part.num_cpus, part.num_gpus)
                        moved = True
                    part.left -= len(part.held)
                    part.held = []
            if not any(part.left for part in parts):
                del running[stage]
                ledger.close(stage)
                moved = True
        if not running and not waiting:
            return
        assert moved, f"{running.keys()} and {waiting} hang on {resources.nodes}"
    pytest.fail("it takes for ever")


def test_two_cores_run_one_stage_after_the_other_with_all_of_them() -> None:
    two = cluster((2.0, 0.0))
    asked = [Lane("embed", min_cpus=2), Lane("tune"), Lane("finetune", min_cpus=2)]
    assert allot(two, asked) == {"embed": Budget(2.0, 0.0)}
    assert allot(two, asked[1:]) == {"tune": Budget(2.0, 0.0)}


def test_one_gpu_is_first_for_embedding_beside_the_head_searches() -> None:
    ledger = Ledger([Lane("embed", min_cpus=2), Lane("tune"), Lane("finetune", min_cpus=2)])
    ledger.open(STAGES)
    one = cluster((16.0, 1.0))
    assert set(ledger.admitted(one)) == {"embed", "tune"}
    assert ledger.budget("embed", one) == Budget(8.0, 1.0)
    ledger.close("embed")
    assert set(ledger.admitted(one)) == {"tune", "finetune"}
    ledger.close("tune")
    assert ledger.budget("finetune", one) == Budget(16.0, 1.0)
    assert ledger.first_budget("finetune", one) == Budget(8.0, 1.0)


def test_three_stages_share_the_gpus_and_cpus_of_a_cluster() -> None:
    found = allot(
        cluster((32.0, 4.0), (32.0, 4.0), (64.0, 0.0)),
        [Lane("embed", min_cpus=2), Lane("tune"), Lane("finetune", min_cpus=2)],
    )
    assert found == {
        "embed": Budget(32.0, 4.0),
        "tune": Budget(64.0, 0.0),
        "finetune": Budget(32.0, 4.0),
    }


def test_a_fine_tuning_that_could_use_a_whole_machine_waits_for_it() -> None:
    asked = [Lane("embed", min_cpus=2), Lane("tune"), Lane("finetune", fills_machines=True)]
    assert set(allot(cluster((16.0, 0.0)), asked)) == {"embed", "tune"}
    assert set(allot(cluster(*[(8.0, 0.0)] * 8), asked)) == set(STAGES)


def test_limits_of_the_experiment_bound_the_stages_and_leave_the_rest_to_others() -> None:
    content = {
        "name": "x",
        "backbones": ["random"],
        "dataset": {"name": "synthetic", "root": "x"},
        "finetune": {"num_workers": 2},
        "resources": {"embed": {"num_cpus": 4, "num_gpus": 1}, "tune": {"num_cpus": 2}},
    }
    found = allot(cluster((32.0, 4.0)), lanes_of(build(content)))
    assert found["embed"] == Budget(4.0, 1.0)
    assert found["tune"] == Budget(2.0, 0.0)
    assert found["finetune"].num_gpus == 3.0
    assert found["finetune"].num_cpus > 16


def test_a_limit_of_no_gpu_keeps_a_stage_on_cpus() -> None:
    content = {
        "name": "x",
        "backbones": ["random"],
        "dataset": {"name": "synthetic", "root": "x"},
        "resources": {"embed": {"num_gpus": 0}},
    }
    found = allot(cluster((32.0, 4.0)), lanes_of(build(content)))
    assert found["embed"].num_gpus == 0.0
    assert plan_pool(within(cluster((32.0, 4.0)), found["embed"]), num_actors=None).num_gpus == 0
