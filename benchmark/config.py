"""The experiment: a typed, frozen model and the strict loader of its TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from benchmark.errors import UsageError, did_you_mean

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _refuse_duplicates(value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    for item in value or ():
        if (value or ()).count(item) > 1:
            raise ValueError(f"{item!r} is listed twice")
    return value


class Section(BaseModel):
    """A frozen table of the experiment file that refuses unknown keys and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _toml_arrays_become_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class DatasetConfig(Section):
    """``[dataset]``: the patches to classify, and how they are sampled."""

    name: str
    root: str
    patch_size: Annotated[int, Field(ge=8, le=4096)] = 128
    purity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85
    """Smallest share of a window's pixels that one class must cover; nodata counts against it."""
    per_region: PositiveInt | None = None
    """Largest number of patches per region, drawn uniformly from its candidates."""
    per_class: PositiveInt | None = None
    """Largest number of patches per class and split, drawn uniformly."""
    seed: int = 0
    """Seed of the sampling, and of the split if the data have none."""
    on_error: Literal["fail", "skip"] = "fail"
    """Action on an unreadable file: end the stage, or report, count and skip the file."""
    val_regions: tuple[str, ...] = ("delaware",)
    test_regions: tuple[str, ...] = ("pennsylvania",)
    val_fraction: Fraction = 0.2
    test_fraction: Fraction = 0.2
    bands: tuple[str, ...] | None = None
    """Names of an image folder's bands, if its files do not define them."""
    value_range: tuple[float, float] | None = None
    """Pixel values that are mapped to 0 and 255, for images that are not uint8."""

    @field_validator("value_range", mode="before")
    @classmethod
    def _range_of_floats(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
            return tuple(float(item) for item in value)
        return value


class BackboneOptions(Section):
    """``[backbone."NAME"]``: options of one backbone of the list."""

    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Side in px to which whole patches are resized; None: as its weights were trained."""
    pooling: Literal["mean", "cls", "cls+mean", "pooler"] = "mean"
    """Source of the embedding: mean over tokens or positions, class token, both concatenated
    (class token first), or the output of the model's own pooler."""
    layer: Annotated[int, Field(lt=0)] = -1
    """Hidden layer, counted from the end; -1 is the last hidden state."""
    bands: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Input bands, in order; None: the backbone's own."""
    trust_remote_code: bool = False
    """Whether Python code from a checkpoint may run."""

    _bands_differ = field_validator("bands")(_refuse_duplicates)

    @model_validator(mode="after")
    def _pooler_follows_the_last_layer(self) -> BackboneOptions:
        if self.pooling == "pooler" and self.layer != -1:
            raise ValueError("the pooler takes the last hidden state: remove layer or pooling")
        return self


class EmbedConfig(Section):
    """``[embed]``: computation of frozen embeddings."""

    batch_size: PositiveInt | Literal["auto"] = "auto"
    num_actors: PositiveInt | Literal["auto"] = "auto"
    num_gpus: Annotated[float, Field(gt=0.0)] | Literal["auto"] = "auto"
    """GPUs that one actor books, if the cluster has GPUs; 0.5 puts two actors on one GPU."""
    num_threads: PositiveInt | Literal["auto"] = "auto"
    """Threads of one actor."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 if the device supports it and embeddings stay close to float32."""
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    """Whether ``torch.compile`` is used; ``auto``: if the number of patches is worth its cost."""


class TuneConfig(Section):
    """``[tune]``: search of heads on stored embeddings."""

    num_trials: PositiveInt = 10
    pruning: bool = True
    """Stop MLP trials early unless they are in the best third (successive halving)."""
    refit: Literal["train", "train+val"] = "train"
    """Rows on which the chosen head is fitted, the same for every method."""
    max_concurrent: PositiveInt | Literal["auto"] = "auto"


class FinetuneConfig(Section):
    """``[finetune]``: end-to-end training of backbones; without the table none is trained."""

    backbones: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Backbones of the experiment to train; None: all trainable ones outside the floor."""
    num_trials: PositiveInt = 1
    """Trials of Optuna; the first uses the settings below unchanged."""
    num_epochs: PositiveInt = 5
    """Largest number of epochs; a searched trial may have fewer."""
    mode: Literal["full", "linear_then_full", "last_blocks", "lora"] = "full"
    num_blocks: PositiveInt = 1
    """Blocks trained in mode ``last_blocks``."""
    lora_rank: PositiveInt = 8
    batch_size: PositiveInt = 32
    """Patches per step, over all workers."""
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-3
    """Peak learning rate of the classification layer."""
    backbone_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Learning rate of the backbone divided by that of the classification layer."""
    weight_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of the steps during which the learning rate rises."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    class_weight: Literal["none", "balanced"] = "balanced"
    """Weights of the loss; ``balanced`` is inverse to the class counts of train."""
    augmentation: Literal["none", "flips", "flips+color"] = "flips+color"
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest norm of the gradient of a step."""
    patience: PositiveInt = 5
    """Epochs without a better val score after which training stops."""
    pruning: bool = True
    """Stop trials early that are behind the others of their search."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 on GPUs that support it, float32 elsewhere."""
    ingest: Literal["auto", "memory", "stream"] = "auto"
    """``memory``: load train once; ``stream``: Ray Data reads it in every epoch."""
    num_workers: PositiveInt | Literal["auto"] = "auto"
    micro_batch: PositiveInt | Literal["auto"] = "auto"
    """Patches per forward pass of one worker; gradients are summed over a step."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Number of restarts after a worker is killed."""
    checkpoint_every_s: Annotated[float, Field(gt=0.0)] = 120.0
    """Interval of checkpoints, which are also written after every epoch."""


class EvaluateConfig(Section):
    """``[evaluate]``: metrics and intervals."""

    num_resamples: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    confidence: Fraction = 0.95
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class ReportConfig(Section):
    """``[report]``: the page."""

    num_examples: PositiveInt = 6
    """Example patches per class."""
    title: str | None = None


class StageLimit(Section):
    """Upper limit of the resources that a stage books; None: the whole cluster."""

    num_cpus: PositiveInt | None = None
    num_gpus: Annotated[int, Field(ge=0)] | None = None
    """0 keeps the stage on CPUs."""


class ResourcesConfig(Section):
    """``[resources]``: limits of the stages on a cluster, e.g. ``tune = { num_cpus = 8 }``."""

    embed: StageLimit = StageLimit()
    tune: StageLimit = StageLimit()
    finetune: StageLimit = StageLimit()


@dataclass(frozen=True)
class Origin:
    """Source of an experiment; ignored when experiments are compared."""

    text: str = field(default="", compare=False)
    overrides: tuple[str, ...] = field(default=(), compare=False)


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
    backbone: Mapping[str, BackboneOptions] = {}
    """Options of backbones, by name."""
    embed: EmbedConfig = EmbedConfig()
    tune: TuneConfig = TuneConfig()
    finetune: FinetuneConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    resources: ResourcesConfig = ResourcesConfig()
    path: Annotated[str, Field(exclude=True)] = "the experiment"
    """Path of its file, for messages."""
    _origin: Origin = PrivateAttr(Origin())

    @property
    def text(self) -> str:
        """Content of its file when it was loaded; empty if it was not loaded from a file."""
        return self._origin.text

    @property
    def overrides(self) -> tuple[str, ...]:
        """The ``KEY=VALUE`` settings that override the file."""
        return self._origin.overrides

    @field_validator("name")
    @classmethod
    def _name_is_a_file_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
            raise ValueError("use 1 to 64 letters, digits, '.', '_' or '-'")
        return value

    _no_duplicates = field_validator("backbones", "heads", "seeds")(_refuse_duplicates)

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
        overrides: ``KEY=VALUE`` settings, e.g. ``embed.batch_size=64``; a value is parsed as
            TOML or, if that fails, is a string.

    Raises:
        UsageError: the file is missing or not TOML, or a setting is unknown or of a wrong type.
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
    given = tuple(overrides)
    for override in given:
        _apply_override(content, override)
    experiment = build(content, where=where)
    experiment._origin = Origin(text, given)
    return experiment


def build(content: Mapping[str, Any], *, where: str = "the experiment") -> Experiment:
    """Build an experiment from the content of a TOML file.

    Raises:
        UsageError: a setting is unknown, missing or of a wrong type.
    """
    if "path" in content:
        raise UsageError(f"{where}: unknown setting 'path'.")
    if not isinstance(content.get("backbone", {}), Mapping):
        # A list was meant: the table of options and the list differ by one letter.
        raise UsageError(f"{where}: unknown setting 'backbone'. Did you mean 'backbones'?")
    try:
        experiment = Experiment.model_validate({**content, "path": where})
    except ValidationError as error:
        raise UsageError(_first_problem(error, where)) from None
    for name in experiment.backbone:
        if name not in experiment.backbones:
            raise UsageError(
                f"{where} {options_place(name)}: '{name}' is not among the experiment's backbones."
                f"{did_you_mean(name, experiment.backbones)}"
            )
    return experiment


def options_place(name: str) -> str:
    """Return the header of the table of a backbone's options in the file."""
    return f'[backbone."{name}"]'


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    # A dot in quotes belongs to a name: backbone."timm:resnet18.a1_in1k".image_size.
    parts = [part.strip('"') for part in re.split(r'\.(?=(?:[^"]*"[^"]*")*[^"]*$)', key.strip())]
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
    # An unknown key often explains a missing one: report it first.
    problems.sort(key=lambda item: item["type"] != "extra_forbidden")
    first = problems[0]
    names = [str(part) for part in first["loc"] if isinstance(part, str)]
    model: type[BaseModel] = Experiment
    section = ""
    if names[:1] == ["backbone"] and len(names) > 1:
        model, section = BackboneOptions, options_place(names[1])[1:-1]
        names = names[2:]
    else:
        while names and (inner := _table_of(model, names[0])):
            model, section = inner, f"{section}.{names.pop(0)}".lstrip(".")
    place = f"{where} [{section}]" if section else where
    if not names and model is BackboneOptions:
        return f"{place}: {_plain(first['msg'])}"
    key = names[0] if names else section
    if first["type"] == "extra_forbidden":
        known = set(model.model_fields) - {"path"}
        return f"{place}: unknown setting '{key}'.{did_you_mean(key, known)}"
    if first["type"] == "missing" and first["loc"] and isinstance(first["loc"][-1], str):
        what = f"setting '{key}'" if names else f"section [{key}]"
        return f"{place}: the {what} is missing"
    kinds = [item for item in problems if item["loc"][: len(names)] == first["loc"][: len(names)]]
    message = " or ".join(dict.fromkeys(_plain(item["msg"]) for item in kinds))
    return f"{place}: '{key}' = {first['input']!r}: {message}"


def _table_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the model of a table; an optional one is a union of its model and None."""
    field = model.model_fields.get(name)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return tables[0] if tables else None


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message[0].lower() + message[1:]
