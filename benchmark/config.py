"""The experiment: a typed, frozen model and the strict loader of its TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from benchmark.errors import UsageError, did_you_mean

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


class Section(BaseModel):
    """A frozen table of the experiment file that refuses unknown keys and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _toml_arrays_become_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class DatasetConfig(Section):
    """``[dataset]``: which patches are classified, and how they are sampled."""

    name: str
    root: str
    patch_size: Annotated[int, Field(ge=8, le=4096)] = 128
    purity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85
    """Smallest share of a window's pixels that one class covers; nodata counts against it."""
    per_region: PositiveInt | None = None
    """At most so many patches of each region, drawn uniformly from its candidates."""
    per_class: PositiveInt | None = None
    """At most so many patches of each class in each split, drawn uniformly."""
    seed: int = 0
    """Seed of the sampling, and of the split where the data bring none."""
    on_error: Literal["fail", "skip"] = "fail"
    """What an unreadable file does: end the stage, or be named, counted and skipped."""
    val_regions: tuple[str, ...] = ("delaware",)
    test_regions: tuple[str, ...] = ("pennsylvania",)
    val_fraction: Fraction = 0.2
    test_fraction: Fraction = 0.2
    bands: tuple[str, ...] | None = None
    """Names of an image folder's bands, where they cannot be told from its files."""
    value_range: tuple[float, float] | None = None
    """Pixel values that become 0 and 255, for images that are not uint8."""

    @field_validator("value_range", mode="before")
    @classmethod
    def _range_of_floats(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
            return tuple(float(item) for item in value)
        return value


class EmbedConfig(Section):
    """``[embed]``: how frozen embeddings are computed."""

    batch_size: PositiveInt | Literal["auto"] = "auto"
    num_actors: PositiveInt | Literal["auto"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"


class TuneConfig(Section):
    """``[tune]``: how heads are tuned on stored embeddings."""

    num_trials: PositiveInt = 10
    pruning: bool = True
    """Stop MLP trials early that fall behind the median of their search."""
    refit: Literal["train", "train+val"] = "train"
    """The rows on which the chosen head is fitted, the same for every method."""
    max_concurrent: PositiveInt | Literal["auto"] = "auto"


class EvaluateConfig(Section):
    """``[evaluate]``: metrics and intervals."""

    num_resamples: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    confidence: Fraction = 0.95
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class ReportConfig(Section):
    """``[report]``: the page."""

    num_examples: PositiveInt = 6
    """Example patches shown of each class."""
    title: str | None = None


class Experiment(Section):
    """One experiment file: the grid of backbones, heads and seeds on one data set."""

    name: str
    backbones: Annotated[tuple[str, ...], Field(min_length=1)]
    dataset: DatasetConfig
    heads: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "logistic_regression",
        "mlp",
        "knn",
        "majority",
    )
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    store: Annotated[str, Field(min_length=1)] = "runs"
    embed: EmbedConfig = EmbedConfig()
    tune: TuneConfig = TuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    path: Annotated[str, Field(exclude=True)] = "the experiment"
    """Where it was loaded from, for messages."""

    @field_validator("name")
    @classmethod
    def _name_is_a_file_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
            raise ValueError("use 1 to 64 letters, digits, '.', '_' or '-'")
        return value

    @field_validator("backbones", "heads", "seeds")
    @classmethod
    def _no_duplicates(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        for item in value:
            if value.count(item) > 1:
                raise ValueError(f"{item!r} is listed twice")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds_fit_numpy(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        for seed in value:
            if not 0 <= seed < 2**32:
                raise ValueError(f"{seed} is not between 0 and 4294967295")
        return value


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Load an experiment file.

    Args:
        path: the TOML file.
        overrides: ``KEY=VALUE`` settings, e.g. ``embed.batch_size=64``; a value is read as
            TOML and, where that fails, as a string.

    Raises:
        UsageError: the file is missing or no TOML, or a setting is unknown or of a wrong type.
    """
    where = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{where}: no such experiment file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: cannot be read: {error}") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from None
    for override in overrides:
        _apply_override(content, override)
    return build(content, where=where)


def build(content: Mapping[str, Any], *, where: str = "the experiment") -> Experiment:
    """Build an experiment from the mapping that a TOML file holds.

    Raises:
        UsageError: a setting is unknown, missing or of a wrong type.
    """
    if "path" in content:
        raise UsageError(f"{where}: unknown setting 'path'.")
    try:
        return Experiment.model_validate({**content, "path": where})
    except ValidationError as error:
        raise UsageError(_first_problem(error, where)) from None


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"--set {override}: write it as --set section.setting=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = content
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {override}: '{part}' is a setting, not a section")
    table[parts[-1]] = value


def _first_problem(error: ValidationError, where: str) -> str:
    problems = error.errors(include_url=False)
    # An unknown key explains a missing one, so it is named first.
    problems.sort(key=lambda item: item["type"] != "extra_forbidden")
    first = problems[0]
    names = [str(part) for part in first["loc"] if isinstance(part, str)]
    model: type[BaseModel] = Experiment
    section = ""
    if names and names[0] in Experiment.model_fields:
        annotation = Experiment.model_fields[names[0]].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model, section = annotation, names.pop(0)
    place = f"{where} [{section}]" if section else where
    key = names[0] if names else section
    if first["type"] == "extra_forbidden":
        known = set(model.model_fields) - {"path"}
        return f"{place}: unknown setting '{key}'.{did_you_mean(key, known)}"
    if first["type"] == "missing" and first["loc"] and isinstance(first["loc"][-1], str):
        what = f"section [{section}]" if not names else f"setting '{key}'"
        if key == "dataset":
            what = "section [dataset]"
        return f"{place}: the {what} is missing"
    kinds = [item for item in problems if item["loc"][: len(names)] == first["loc"][: len(names)]]
    message = " or ".join(dict.fromkeys(_plain(item["msg"]) for item in kinds))
    return f"{place}: '{key}' = {first['input']!r}: {message}"


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message[0].lower() + message[1:]
