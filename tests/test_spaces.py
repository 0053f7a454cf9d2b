"""Search spaces of the experiment file: what is drawn, and what is refused."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from benchmark.config import Experiment, build
from benchmark.errors import UsageError
from benchmark.spaces import check_space, corners, draw

SPACE: dict[str, Any] = {
    "C": {"low": 1e-3, "high": 1e3, "log": True},
    "degree": {"low": 2, "high": 4},
    "tol": {"low": 0.5, "high": 1},
    "kernel": ["linear", "rbf"],
    "shrinking": [True, False],
    "mixed": [1, 1.0, True, "1"],
}


def test_each_parameter_is_drawn_from_its_distribution() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    found = draw(check_space(SPACE), trial)
    assert trial.distributions == {
        "C": optuna.distributions.FloatDistribution(1e-3, 1e3, log=True),
        "degree": optuna.distributions.IntDistribution(2, 4),
        "tol": optuna.distributions.FloatDistribution(0.5, 1.0),
        "kernel": optuna.distributions.CategoricalDistribution(("linear", "rbf")),
        "shrinking": optuna.distributions.CategoricalDistribution((True, False)),
        "mixed": optuna.distributions.CategoricalDistribution((1, 1.0, True, "1")),
    }
    assert found.keys() == SPACE.keys()
    assert type(found["degree"]) is int


def test_corners_hold_both_ends_and_every_choice() -> None:
    found = list(corners(SPACE))
    assert len(found) == 4
    for name, item in SPACE.items():
        wanted = [item["low"], item["high"]] if isinstance(item, dict) else item
        values = [row[name] for row in found]
        assert all(any(value is one for value in values) for one in wanted)
    assert list(corners({})) == []


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"low": 1}, "'high' is missing"),
        ({"high": 1}, "'low' is missing"),
        ({"low": 1, "high": 1}, "low must be below high"),
        ({"low": 2, "high": 1}, "low must be below high"),
        ({"low": 0, "high": 1, "log": True}, "starts above 0"),
        ({"low": 0, "high": 1, "log": 1}, "log is true or false"),
        ({"low": "a", "high": 1}, "are numbers"),
        ({"low": True, "high": 2}, "are numbers"),
        ({"low": float("nan"), "high": 2}, "no text, number, boolean"),
        ({"low": 0, "high": float("inf")}, "no text, number, boolean"),
        ({"low": 0, "high": 1, "step": 2}, "unknown key 'step'"),
        ([], "a list of 1 to 100"),
        ("rbf", "a list of 1 to 100"),
        (3, "a list of 1 to 100"),
        (["a", "a"], "listed twice"),
        ([["a"]], "texts, numbers or booleans"),
        (list(range(101)), "too long"),
    ],
)
def test_a_wrong_space_is_refused_in_one_line(item: Any, reason: str) -> None:
    with pytest.raises(UsageError) as found:
        experiment({"C": item})
    message = str(found.value)
    assert reason in message
    assert "C" in message
    assert "\n" not in message
    assert len(message) < 500


def experiment(search: dict[str, Any]) -> Experiment:
    content = {
        "name": "x",
        "backbones": ["mean_color"],
        "heads": ["sklearn.svm:SVC"],
        "head": {"sklearn.svm:SVC": {"search": search}},
        "dataset": {"name": "folder", "root": "x"},
    }
    return build(content, where="x.toml")


def test_a_space_stays_as_it_was_written() -> None:
    head = experiment({"C": {"low": 1, "high": 2.5}, "kernel": ["rbf"]}).head["sklearn.svm:SVC"]
    assert head.search == {"C": {"low": 1, "high": 2.5}, "kernel": ["rbf"]}
