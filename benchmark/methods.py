"""Names of the methods that train a backbone; every other method is a head on embeddings.

An experiment with one mode of fine-tuning has the method ``finetune``, one with ``modes`` has a
method for each, e.g. ``finetune-lora``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from benchmark.finetune_settings import FinetuneConfig

Mode = Literal["full", "linear_then_full", "last_blocks", "lora"]

FINETUNE = "finetune"
"""The name of the stage, and of the method of an experiment with one mode."""

_MODES: dict[str, Mode] = {f"{FINETUNE}-{mode}": mode for mode in get_args(Mode)}


def is_finetuned(method: str | None) -> bool:
    """Return whether a method trains the backbone itself."""
    return method == FINETUNE or method in _MODES


def with_mode(text: str, method: str | None) -> str:
    """Return a text with the mode that the method's name holds, e.g. ``fine-tuning (lora)``."""
    return f"{text} ({_MODES[method]})" if method in _MODES else text


def finetunings(config: FinetuneConfig | None) -> dict[str, FinetuneConfig]:
    """Return the settings of each method that ``[finetune]`` asks for, each with its one mode."""
    if config is None:
        return {}
    if config.modes is None:
        return {FINETUNE: config.model_copy(update={"mode": config.mode or "full"})}
    return {
        f"{FINETUNE}-{mode}": config.model_copy(update={"mode": mode, "modes": None})
        for mode in config.modes
    }
