"""Search spaces that an experiment file writes as ranges and lists of choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from benchmark.fields import Json, Name, shown

if TYPE_CHECKING:
    import optuna

MAX_CHOICES = 100
KEYS = {"low", "high", "log"}


def check_space(space: dict[str, Any]) -> dict[str, Any]:
    """Return a search space if each parameter is a range or a list of choices.

    Raises:
        ValueError: names the parameter.
    """
    for name, item in space.items():
        problem = _problem_of_range(item) if isinstance(item, dict) else _problem_of_list(item)
        if problem:
            raise ValueError(f"{shown(name, 100)} = {shown(item, 100)}: {problem}")
    return space


SearchSpace = Annotated[dict[Name, Json], Field(max_length=30), AfterValidator(check_space)]
"""Ranges ``{low, high, log}`` and lists of choices, by parameter."""


def _problem_of_range(item: dict[str, Any]) -> str:
    if unknown := sorted(item.keys() - KEYS):
        return f"unknown key {shown(unknown[0], 100)}; a range has low, high and log"
    if missing := sorted({"low", "high"} - item.keys()):
        return f"'{missing[0]}' is missing"
    low, high, log = item["low"], item["high"], item.get("log", False)
    if not all(type(value) in (int, float) for value in (low, high)):
        return "low and high are numbers"
    if not low < high:
        return "low must be below high"
    if not isinstance(log, bool):
        return "log is true or false"
    return "a logarithmic range starts above 0" if log and low <= 0 else ""


def _problem_of_list(item: Any) -> str:
    if not isinstance(item, (list, tuple)) or not 1 <= len(item) <= MAX_CHOICES:
        return f"write a range {{ low = ..., high = ... }} or a list of 1 to {MAX_CHOICES} choices"
    if not all(isinstance(value, (str, int, float)) for value in item):
        return "choices are texts, numbers or booleans"
    is_new = len({(type(value), value) for value in item}) == len(item)
    return "" if is_new else "a choice is listed twice"


def draw(space: Mapping[str, Any], trial: optuna.Trial) -> dict[str, Any]:
    """Draw one configuration of a search space."""
    return {name: _draw(name, item, trial) for name, item in space.items()}


def _draw(name: str, item: Any, trial: optuna.Trial) -> Any:
    if not isinstance(item, Mapping):
        return trial.suggest_categorical(name, tuple(item))
    low, high, log = item["low"], item["high"], item.get("log", False)
    if type(low) is int and type(high) is int:
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def corners(space: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield configurations that hold both ends of each range and every choice at least once."""
    values = {
        name: (item["low"], item["high"]) if isinstance(item, Mapping) else tuple(item)
        for name, item in space.items()
    }
    for i in range(max((len(choices) for choices in values.values()), default=0)):
        yield {name: choices[i % len(choices)] for name, choices in values.items()}
