"""The experiment: a typed, frozen model and the strict loader of its TOML file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from benchmark.errors import UsageError, tidy
from benchmark.fields import (
    BackboneName,
    BackboneNames,
    Count,
    CountOrZero,
    FileName,
    FilePathText,
    Fraction,
    Gpus,
    Name,
    Names,
    NumpySeed,
    OwnSettings,
    PatchCount,
    PathText,
    PixelValue,
    Seed,
    Seeds,
    Share,
    Side,
    Title,
    apply_override,
    finite_floats,
    parse_toml,
    read_experiment_file,
    refuse_duplicates,
)
from benchmark.finetune_settings import FinetuneConfig
from benchmark.options import BackboneOptions, HeadOptions, OwnOptions
from benchmark.problems import check_whole, first_problem
from benchmark.protocol_settings import ProtocolConfig
from benchmark.raster_settings import RastersConfig
from benchmark.section import Origin, Section, describe, settings_table
from benchmark.tracking_settings import TrackingConfig

Boost = Annotated[float, Field(gt=1.0, le=1e6, allow_inf_nan=False)]


class DatasetConfig(Section):
    """``[dataset]``: the patches to classify, and how they are sampled."""

    name: Name
    """How the data are read: ``folder`` (images in one folder per class), ``rasters`` (your own
    scenes with labels), ``chesapeake``, ``synthetic``, or a public data set, ``torchgeo:NAME`` or
    ``hf-datasets:ORG/NAME``; see ``benchmark list datasets``."""
    root: PathText
    """Folder of the data; of scenes (``chesapeake``, ``rasters``) also a URI: ``https://``,
    ``s3://``, ``gs://`` or ``az://`` (docs/REMOTE.md)."""
    patch_size: Side = 128
    """Side of a patch in px. Scenes are cut into windows of this side; an image of another size is
    scaled until its shorter side fits, and its centre is kept."""
    purity: Share = 0.85
    """Smallest share of a window's pixels that one class must cover; nodata counts against it."""
    per_region: PatchCount | None = None
    """Largest number of patches per region, drawn uniformly from its candidates."""
    per_class: PatchCount | Annotated[Mapping[Name, PatchCount], Field(max_length=1000)] | None = (
        None
    )
    """Largest number of patches per class and split, drawn uniformly: one number, or a table such
    as ``{ water = 500, barren = 1000 }``; classes that it does not name have no limit."""
    sampling: Literal["natural", "balanced"] = "natural"
    """Class frequencies in train: those of the data, or ``balanced``: as many patches of each class
    as of the rarest one. Val and test are not changed."""
    rare_class_boost: Boost | Annotated[Mapping[Name, Boost], Field(max_length=1000)] | None = None
    """Factor by which the share of candidates that train keeps is larger for rare classes than for
    the others: a number for all classes with less than half an equal share of its candidates, or a
    table by class. Within ``per_region`` the total stays; without it, the others are thinned. Val
    and test are not changed."""
    seed: Seed = 0
    """Seed of the sampling, and of the split if the data have none."""
    on_error: Literal["fail", "skip"] = "fail"
    """Action on an unreadable file: end the stage, or report, count and skip the file."""
    val_regions: Names = ("delaware",)
    """Regions (states) whose patches are for validation, of scenes."""
    test_regions: Names = ("pennsylvania",)
    """Regions (states) whose patches are for the test, of scenes; all others are for train."""
    val_fraction: Fraction = 0.2
    """Share of the images for validation, if the data have no split."""
    test_fraction: Fraction = 0.2
    """Share of the images for the test, if the data have no split."""
    labels: PathText | None = None
    """Table of an image folder's labels (CSV or Parquet): columns path and label, and optionally
    split, scene and region; unset: each folder is a class."""
    class_level: Annotated[int, Field(ge=1, le=64)] | None = None
    """Level of the folders that are the classes of an image folder; 1: those in the root. Unset:
    the first level, or the second below folders called train, val and test."""
    bands: Names | None = None
    """Names of the images' bands, if the files do not define them; of a ``torchgeo:`` set, the
    bands that are kept, in order."""
    value_range: tuple[PixelValue, PixelValue] | None = None
    """Pixel values that are mapped to 0 and 255, for images that are not uint8; unset, bands of a
    ``torchgeo:`` set are mapped from their 1st to 99th percentile on train."""
    rasters: RastersConfig | None = None
    """Imagery and labels of the data set ``rasters``: the table ``[dataset.rasters]``."""
    settings: OwnSettings = Field(default={})
    """Keyword arguments of a reader of your own."""

    _range_of_floats = field_validator("value_range", mode="before")(finite_floats)


class EmbedConfig(Section):
    """``[embed]``: computation of frozen embeddings."""

    batch_size: Count | Literal["auto"] = "auto"
    """Patches per forward pass."""
    num_actors: Count | Literal["auto"] = "auto"
    """Processes that embed."""
    num_gpus: Gpus | Literal["auto"] = "auto"
    """GPUs that one actor books, if the cluster has GPUs; ``auto``: 1; 0.5 puts two actors on one
    GPU."""
    num_threads: Count | Literal["auto"] = "auto"
    """Threads of one actor."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 if the device supports it and embeddings stay close to float32."""
    channels_last: bool | Literal["auto"] = "auto"
    """Whether channels are the last axis in memory, which is faster for some networks."""
    compile: bool | Literal["auto"] = "auto"
    """Whether ``torch.compile`` is used; ``auto``: if the number of patches is worth its cost."""

    @property
    def gpus_of_actor(self) -> float:
        """GPUs that one actor books."""
        return 1.0 if self.num_gpus == "auto" else self.num_gpus


class TuneConfig(Section):
    """``[tune]``: search of heads on stored embeddings."""

    num_trials: Count = 10
    """Configurations that Optuna tries for each head."""
    pruning: bool = True
    """Stop MLP trials early unless they are in the best third of those that got as far
    (successive halving)."""
    refit: Literal["train", "train+val"] = "train"
    """Rows on which the chosen head is fitted, the same for every method."""
    max_concurrent: Count | Literal["auto"] = "auto"
    """Trials that run at once; ``auto``: one for each CPU that the stage may use."""


class EvaluateConfig(Section):
    """``[evaluate]``: metrics and intervals."""

    num_resamples: Count = 1000
    """Random halves of the test set that estimate how much too high the leader's score is."""
    confidence: Fraction = 0.95
    """Level of intervals; verdicts have the error rate 1 minus this level."""
    seed: NumpySeed = 0
    """Seed of the draws of intervals and tests."""
    metrics: Names = ()
    """Metrics of your own, beside those of the package."""

    _metrics_differ = field_validator("metrics")(refuse_duplicates)


class ReportConfig(Section):
    """``[report]``: the page."""

    num_examples: Count = 6
    """Example patches per class."""
    title: Title | None = None
    """Title of the page; unset: the name of the experiment."""
    tsne: bool = False
    """Second map of embeddings in the explorer of the page, by t-SNE, of up to 1,000 patches
    (docs/PAGE.md: what it tells, and its seconds)."""
    umap: bool = False
    """Maps by UMAP as well; needs the extra ``umap`` (docs/PAGE.md: its seconds)."""
    reference: PathText | None = None
    """Published results shown beside the run: ``chesapeake_study``, or the path of a file of your
    own that ends in ``.toml`` (docs/PAGE.md)."""
    counterparts: Annotated[Mapping[Name, Title], Field(max_length=1000)] = {}
    """Cell of the run beside each published row, by the row's name: ``BACKBONE / METHOD``, in place
    of the one that the reference names."""
    prices: PathText | None = None
    """TOML file of your prices of devices and storage, for the section "Cost" (docs/RESULTS.md);
    unset: the page shows no prices."""


class StageLimit(Section):
    """Upper limit of the resources that a stage books; unset: the whole cluster."""

    num_cpus: Count | None = None
    """CPUs that the stage may book at most."""
    num_gpus: CountOrZero | None = None
    """GPUs that the stage may book at most; 0 keeps it on CPUs."""


class ResourcesConfig(Section):
    """``[resources]``: limits of the stages on a cluster, e.g. ``tune = { num_cpus = 8 }``."""

    embed: StageLimit = StageLimit()
    tune: StageLimit = StageLimit()
    finetune: StageLimit = StageLimit()


class Experiment(Section):
    """One experiment file: the grid of backbones, heads and seeds on one data set."""

    name: FileName
    """Name of the experiment in the store and on the page."""
    backbones: BackboneNames
    """Networks and features to compare: names of ``benchmark list backbones``, or of a source:
    ``hf:``, ``timm:`` or ``torchgeo:`` and the name of a model, or ``embeddings:`` and a path."""
    dataset: DatasetConfig
    heads: Annotated[Names, Field(min_length=1)] = (
        "logistic_regression",
        "mlp",
        "knn",
        "majority",
    )
    """Classifiers on embeddings: names of ``benchmark list heads``."""
    seeds: Seeds = (0,)
    """One cell for each (0 to 4294967295): a seed changes search, initialisation and order."""
    store: PathText = "runs"
    """Folder or URI (``s3://...``) where everything computed is kept."""
    backbone: Annotated[Mapping[BackboneName, BackboneOptions], Field(max_length=1000)] = {}
    """Options of backbones, by name."""
    head: Annotated[Mapping[Name, HeadOptions], Field(max_length=1000)] = {}
    """Options of heads of your own, by name."""
    metric: Annotated[Mapping[Name, OwnOptions], Field(max_length=1000)] = {}
    """Options of metrics of your own, by name."""
    embed: EmbedConfig = EmbedConfig()
    tune: TuneConfig = TuneConfig()
    finetune: FinetuneConfig | None = None
    protocol: ProtocolConfig = ProtocolConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig | None = None
    path: Annotated[FilePathText, Field(exclude=True)] = "the experiment"
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

    _no_duplicates = field_validator("backbones", "heads", "seeds")(refuse_duplicates)

    def model_of(self, name: str) -> str:
        """Return the name of a backbone's model, which is the backbone's own unless it is set."""
        options = self.backbone.get(name)
        return name if options is None or options.model is None else options.model

    @model_validator(mode="wrap")
    @classmethod
    def _one_line(cls, content: Any, validate: Callable[[Any], Experiment]) -> Experiment:
        """Check what fields alone cannot; raise UsageError for any problem."""
        given = content.get("path") if isinstance(content, Mapping) else None
        where = tidy(given or "the experiment")
        try:
            experiment = validate(content)
        except ValidationError as error:
            raise UsageError(first_problem(error, cls, where)) from None
        check_whole(experiment, where)
        return experiment

    def __repr__(self) -> str:
        return f"<Experiment {describe(self)}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return settings_table(self)


def load(path: str | Path, overrides: Iterable[str] = (), *, text: str | None = None) -> Experiment:
    """Load an experiment file.

    Args:
        path: the TOML file, or its URI where ``text`` is given.
        text: its content; None: read it.
        overrides: ``KEY=VALUE`` settings, e.g. ``embed.batch_size=64``; a value is parsed as
            TOML or, if that fails, is a string.

    Raises:
        UsageError: the file is missing or not TOML, or a setting is unknown or of a wrong type.
    """
    where = str(path)
    text = read_experiment_file(path) if text is None else text
    content = parse_toml(text, where=where)
    given = tuple(overrides)
    for override in given:
        apply_override(content, override)
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
    for kind in ("backbone", "head"):
        if not isinstance(content.get(kind, {}), Mapping):
            # A list was meant: the table of options and the list differ by one letter.
            raise UsageError(f"{where}: unknown setting '{kind}'. Did you mean '{kind}s'?")
    return Experiment.model_validate({**content, "path": where})
