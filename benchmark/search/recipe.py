"""The recipe of fine-tuning as a search space; the first trial is the recipe of the file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmark.finetune_settings import FinetuneConfig

if TYPE_CHECKING:
    import optuna

SPAN = 10.0
"""Learning rate and ratio are searched from a tenth to ten times the file's value."""
WEIGHT_DECAYS = (1e-4, 1e-1)
KEEP = 3
"""Rungs lie at a ninth and a third of the epochs (successive halving keeps one in three)."""


@dataclass(frozen=True)
class RecipeSpace:
    """The settings that a search of fine-tuning varies; all others are those of ``[finetune]``."""

    config: FinetuneConfig

    @property
    def is_searched(self) -> bool:
        """Whether there is more than one trial."""
        return self.config.num_trials > 1

    @property
    def num_epochs(self) -> int:
        """The most epochs of a trial."""
        return self.config.num_epochs

    @property
    def first(self) -> dict[str, Any]:
        """The configuration of the first trial, from the file."""
        names = ("learning_rate", "backbone_ratio", "augmentation", "class_weight", "num_epochs")
        found = {name: getattr(self.config, name) for name in names}
        if self.config.weight_decay:
            found["weight_decay"] = self.config.weight_decay
        return found

    @property
    def suggest(self) -> Callable[[optuna.Trial], dict[str, Any]]:
        """A function that draws rates, weight decay, augmentation, class weights and epochs."""
        return partial(suggest, self.config)

    def rungs(self) -> tuple[int, ...]:
        """Return the epochs after which hopeless trials are stopped, e.g. 1 and 3 of 9."""
        last = self.config.num_epochs
        return tuple(sorted({rung for rung in (last // KEEP**2, last // KEEP) if 0 < rung < last}))


def suggest(config: FinetuneConfig, trial: optuna.Trial) -> dict[str, Any]:
    """Draw one configuration around that of the file."""
    rate, ratio, epochs = config.learning_rate, config.backbone_ratio, config.num_epochs
    params = {
        "learning_rate": trial.suggest_float(
            "learning_rate", rate / SPAN, max(rate, min(rate * SPAN, 0.999)), log=True
        ),
        "backbone_ratio": trial.suggest_float(
            "backbone_ratio", ratio / SPAN, min(ratio * SPAN, 1.0), log=True
        ),
        "augmentation": trial.suggest_categorical("augmentation", ("none", "flips", "flips+color")),
        "class_weight": trial.suggest_categorical("class_weight", ("none", "balanced")),
        "num_epochs": trial.suggest_int("num_epochs", math.ceil(epochs / 2), epochs),
    }
    if config.weight_decay:
        low, high = WEIGHT_DECAYS
        params["weight_decay"] = trial.suggest_float(
            "weight_decay",
            min(low, config.weight_decay),
            max(high, config.weight_decay),
            log=True,
        )
    return params
