"""Frozen, or which mode: the best of each backbone, and the cheapest that is not told from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmark.config import EvaluateConfig
from benchmark.stages.evaluate.choices import describe_choices
from benchmark.stages.evaluate.comparison import Cost
from benchmark.statistics.design import find_design
from tests.stages.test_comparison import toy_group

NUM = 200
RIGHT = {"knn": 60, "finetune-lora": 178, "finetune-full": 180, "finetune-linear_then_full": 100}
SECONDS = {"knn": 1.0, "finetune-lora": 10.0, "finetune-full": 40.0}


def choose(
    store: Any,
    right: dict[str, int],
    seconds: dict[str, float | None],
    *,
    devices: dict[str, str] | None = None,
    scenes: Any = None,
    num: int = NUM,
    floors: frozenset[str] = frozenset(),
) -> list[dict[str, Any]]:
    """Describe the choices of one backbone whose methods are right on the first patches."""
    groups = [
        toy_group("net", name, [np.arange(num) < count], store) for name, count in right.items()
    ]
    costs = {
        cell: Cost(0.5, seconds.get(group.method, 20.0), (devices or {}).get(group.method, "cpu"))
        for group in groups
        for cell in group.cells
    }
    return describe_choices(
        groups,
        design=find_design(np.zeros(num, int), scenes),
        costs=costs,
        floors=set(floors),
        settings=EvaluateConfig(),
    )


@pytest.fixture(scope="module")
def store(open_small_session: Any, new_store: Any) -> Any:
    return open_small_session(store=new_store()).store


def test_the_cheapest_that_no_test_tells_from_the_best_is_named(store: Any) -> None:
    (found,) = choose(store, RIGHT, SECONDS)
    assert found["backbone"] == "net"
    assert [(item["method"], item["verdict"]) for item in found["choices"]] == [
        ("finetune-full", "leader"),
        ("finetune-lora", "no detectable difference"),
        ("finetune-linear_then_full", "behind"),
        ("knn", "behind"),
    ]
    best, lora, *_, frozen = found["choices"]
    assert (best["behind"], best["behind_low"], best["behind_high"]) == (0, 0, 0)
    assert lora["behind"] == pytest.approx(0.01)
    assert lora["behind_low"] < 0 < lora["behind_high"]
    assert 0 < frozen["behind_low"] < frozen["behind"] == pytest.approx(0.6)
    assert [item["seconds"] for item in found["choices"]] == [40.0, 10.0, 20.0, 1.0]
    assert found["cheapest"] == "finetune-lora"
    assert found["sentence"] == (
        "fine-tuning (full) leads with 90.0 % balanced accuracy; fine-tuning (lora) is the "
        "cheapest choice without a detectable difference from it, at 25 % of the device-seconds"
    )


def test_the_frozen_backbone_may_lead_and_may_be_cheapest(store: Any) -> None:
    (found,) = choose(store, RIGHT | {"knn": 182}, SECONDS)
    assert found["cheapest"] == "knn"
    assert found["sentence"] == (
        "the frozen backbone with knn leads with 91.0 % balanced accuracy; no choice without a "
        "detectable difference from it is cheaper"
    )


def test_where_all_others_are_behind_the_best_is_also_the_cheapest(store: Any) -> None:
    (found,) = choose(store, RIGHT | {"finetune-lora": 70}, SECONDS)
    assert found["cheapest"] == "finetune-full"
    assert found["sentence"].endswith("90.0 % balanced accuracy; the others are detectably behind")


@pytest.mark.parametrize(
    ("seconds", "devices"),
    [
        ({**SECONDS, "finetune-lora": None}, {}),
        (SECONDS, {"finetune-lora": "NVIDIA H100"}),
    ],
)
def test_costs_that_are_unknown_or_of_unlike_devices_name_none(
    store: Any, seconds: dict[str, float | None], devices: dict[str, str]
) -> None:
    (found,) = choose(store, RIGHT, seconds, devices=devices)
    assert found["cheapest"] is None
    assert found["sentence"].endswith(
        "; the cheapest choice without a detectable difference from it is not known"
    )


def test_the_cost_of_what_is_behind_does_not_matter(store: Any) -> None:
    (found,) = choose(store, RIGHT, {**SECONDS, "knn": None}, devices={"knn": "cuda"})
    assert found["cheapest"] == "finetune-lora"


def test_too_few_scenes_tell_nothing(store: Any) -> None:
    (found,) = choose(store, RIGHT, SECONDS, scenes=np.arange(NUM) % 5)
    assert {item["verdict"] for item in found["choices"][1:]} == {"too little data to tell"}
    assert found["cheapest"] is None
    assert found["sentence"].endswith("; there is too little data to tell the others from it")


def test_one_mode_is_no_choice_and_a_floor_is_none(store: Any) -> None:
    assert choose(store, {"knn": 60, "finetune-lora": 178}, SECONDS) == []
    assert choose(store, {"knn": 60, "finetune": 178}, SECONDS) == []
    (found,) = choose(store, RIGHT, SECONDS, floors=frozenset({"knn"}))
    assert "knn" not in {item["method"] for item in found["choices"]}
