"""A table of the experiment file as a frozen object, and the texts that show an experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from benchmark.errors import UsageError
from benchmark.fields import shown, tuple_of_array
from benchmark.markup import html_table


class Section(BaseModel):
    """A frozen table of the experiment file that refuses unknown keys and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    _arrays_become_tuples = field_validator("*", mode="before")(tuple_of_array)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise UsageError(
                f"setting '{name}' = {shown(value, 100)}: an experiment does not change; load it "
                f"with other settings, e.g. bm.load(PATH, ['{name}=VALUE'])"
            )
        super().__setattr__(name, value)


@dataclass(frozen=True)
class Origin:
    """Source of an experiment; ignored when experiments are compared."""

    text: str = field(default="", compare=False)
    overrides: tuple[str, ...] = field(default=(), compare=False)


def describe(experiment: Any) -> str:
    """Return the name and the size of an experiment's grid as one line."""
    counts = (
        (len(experiment.backbones), "backbone"),
        (len(experiment.heads), "head"),
        (len(experiment.seeds), "seed"),
    )
    grid = " x ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts)
    finetune = ", fine-tuned as well" if experiment.finetune else ""
    return f"'{experiment.name}': {grid} on {experiment.dataset.name}{finetune}"


def settings_table(experiment: Any) -> str:
    """Return the settings of an experiment as HTML; sections show only what was set."""
    rows = []
    for name, value in experiment:
        if not isinstance(value, Section):
            rows.append((name, _text(value)))
            continue
        chosen = value.model_dump(exclude_unset=True)
        rows += [(f"{name}.{key}", _text(item)) for key, item in chosen.items()]
    return html_table(("setting", "value"), rows, title=describe(experiment))


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
