"""Tables of the experiment file for one entry: ``[backbone."NAME"]`` and the like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from benchmark.derived import Packed, check_options
from benchmark.fields import (
    BackboneName,
    BackboneNames,
    Layer,
    Name,
    Names,
    Norm,
    OwnSettings,
    PixelValue,
    Side,
    Year,
    check_name,
    refuse_duplicates,
)
from benchmark.section import Section
from benchmark.spaces import SearchSpace

Pooling = Literal["mean", "patches", "cls", "cls+mean", "mean+std", "gem", "pooler"]
Poolings = Annotated[tuple[Pooling, ...], Field(min_length=1, max_length=7)]
Width = Annotated[int, Field(ge=1, le=65_536)]
"""Dimensions of an embedding."""
ANY_BACKBONE = "any backbone"
"""Name on the page of what does not depend on a backbone."""
PATH_SOURCES = ("hf", "embeddings")
"""Sources of backbones whose names are paths."""
ShortName = Annotated[str, Field(max_length=60), AfterValidator(check_name)]
"""Name of a backbone on the page."""


def _kind_of(value: Any) -> str:
    return "list" if isinstance(value, (list, tuple)) else "one"


class BackboneOptions(Section):
    """``[backbone."NAME"]``: options of one backbone of the list."""

    model: BackboneName | None = None
    """The model, if NAME is a name of your own, or the folder's present place, if NAME is
    ``hf:FOLDER``; unset: NAME is the model's."""
    name: ShortName | None = None
    """Name on the page, which changes no result; unset: NAME, or the last part of a path and of
    ``hf:ORG/NAME``, with more of it where two would be equal."""
    image_size: Side | None = None
    """Side in px to which whole patches are resized; unset: as its weights were trained."""
    mean: Annotated[tuple[PixelValue, ...], Field(min_length=1, max_length=1000)] | None = None
    """Mean of pixels scaled to 0...1: of all bands, or one for each. With ``std`` and
    ``image_size`` it stands in for the image processor that a checkpoint of transformers lacks:
    patches are resized (bilinear, as bytes) to ``image_size`` and normalised."""
    std: Annotated[tuple[Norm, ...], Field(min_length=1, max_length=1000)] | None = None
    """Standard deviation of pixels scaled to 0...1; as ``mean``."""
    # Told apart, so that a message is about what was given.
    pooling: Annotated[
        Annotated[Pooling, Tag("one")] | Annotated[Poolings, Tag("list")], Discriminator(_kind_of)
    ] = "mean"
    """Source of the embedding: mean over tokens or positions, the same without class and register
    tokens (``patches``), class token, class token and mean concatenated, mean and standard
    deviation over patches (``mean+std``), generalised mean with exponent 3 over patches (``gem``),
    or the output of the model's own pooler. Networks of timm pool in their own way if neither
    ``pooling`` nor ``layer`` is set; their mean is that of ``patches``. A list makes a variant of
    each (docs/LAYERS.md)."""
    layer: Layer = -1
    """Hidden layer (block, or stage of a convolutional network) from the end; -1 is the last."""
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=100)] | None = None
    """Several of them, e.g. ``[-1, -4, -8]``: each is a variant of the backbone, and all are
    computed in one pass (docs/LAYERS.md)."""
    bands: Annotated[Names, Field(min_length=1)] | None = None
    """Input bands, in order; unset: the backbone's own."""
    trust_remote_code: bool = False
    """Whether Python code from a checkpoint may run."""
    id_column: Name | None = None
    """Column of an embedding product (``embeddings:PATH``) with the identifiers; unset: found."""
    vector_columns: Annotated[Names, Field(min_length=1)] | None = None
    """Its column of lists, or its columns of numbers, in order; ``*`` stands for any characters;
    unset: found."""
    join: Literal["centre", "area"] | None = None
    """Join rows of GeoParquet by place: the polygon that holds the centre of the patch, or the mean
    of those that overlap it, weighted by area; unset: ``centre`` where no column holds
    identifiers."""
    missing: Literal["error", "drop"] = "error"
    """Patches that the product lacks: they end the run, or are left out of its train set and, for
    all rows of the experiment, out of the scores of val and test."""
    sample: Literal["mean", "mean+std", "centre"] = "mean"
    """Pixels of an embedding product of rasters that become the vector of a patch: all whose
    centres are in its footprint, as their mean, or mean and standard deviation, or the one at its
    centre."""
    year: Year | None = None
    """Year of the product's rasters, where they are of several; unset: all."""
    scale: PixelValue | None = None
    """Factor of the rasters' values; unset: as their layout is known, or as the files say."""
    offset: PixelValue | None = None
    """Added to the scaled values; unset: as ``scale``."""
    nodata: PixelValue | None = None
    """Value of the rasters that means no data; unset: what the files say."""
    concat: BackboneNames | None = None
    """Backbones of the experiment whose stored embeddings are concatenated, each dimension scaled
    to mean 0 and standard deviation 1 on train (docs/DERIVED.md)."""
    of: BackboneName | None = None
    """Backbone of the experiment whose stored embeddings are shortened or packed."""
    pca: Width | None = None
    """Number of principal components, fitted on train, that are kept of the embedding of ``of``."""
    random_projection: Width | None = None
    """Number of dimensions of a Gaussian random projection, drawn with the first of ``seeds``."""
    truncate: Width | None = None
    """Number of first dimensions that are kept. ``pca`` is done first, then
    ``random_projection``, then ``truncate``."""
    dtype: Packed | None = None
    """Type to which the values are rounded: ``int8`` with a scale for each dimension from train's
    minimum and maximum, ``binary``: whether a value is above train's mean; unset: float32."""
    settings: OwnSettings = Field(default={})
    """Keyword arguments of a function of your own."""

    _names_differ = field_validator("bands", "concat", "layers")(refuse_duplicates)

    @model_validator(mode="after")
    def _pooler_follows_the_last_layer(self) -> BackboneOptions:
        if self.layers and "layer" in self.model_fields_set:
            raise ValueError("'layer' and 'layers' contradict each other: remove one")
        if isinstance(self.pooling, tuple):
            refuse_duplicates(self.pooling)
        poolings = self.pooling if isinstance(self.pooling, tuple) else (self.pooling,)
        if "pooler" in poolings and set(self.layers or (self.layer,)) != {-1}:
            key = "layers" if self.layers else "layer"
            raise ValueError(f"the pooler takes the last hidden state: remove {key} or pooling")
        return self

    @model_validator(mode="after")
    def _made_from_others_or_not(self) -> BackboneOptions:
        check_options(self)
        return self

    @property
    def has_lists(self) -> bool:
        """Whether it means several variants of a backbone."""
        return self.layers is not None or isinstance(self.pooling, tuple)

    @property
    def one_pooling(self) -> Pooling:
        """The pooling of a variant; ValueError: it is a list."""
        if isinstance(self.pooling, tuple):
            raise ValueError("a list of poolings is not one backbone")
        return self.pooling


class OwnOptions(Section):
    """``[metric."NAME"]``: options of own code."""

    settings: OwnSettings = Field(default={})
    """Keyword arguments of its function."""


class HeadOptions(Section):
    """``[head."NAME"]``: options of a classifier of scikit-learn, or of own code."""

    settings: OwnSettings = Field(default={})
    """Keyword arguments of its class or function."""

    search: SearchSpace = Field(default={})
    """Parameters that are searched: a range ``{ low = 1e-3, high = 1e3, log = true }``, of whole
    numbers if both ends are, or a list of choices; ``scaler`` puts a scaler before the
    classifier."""


def short_names(names: Sequence[str], options: Mapping[str, BackboneOptions]) -> dict[str, str]:
    """Return the name of each backbone on the page, all of them different.

    Args:
        names: of the experiment's backbones, all of them different.
        options: by name; the names that they set are kept.

    Raises:
        ValueError: a name that is set is that of another backbone, or ``ANY_BACKBONE``.
    """
    chosen = {name: options[name].name for name in names if name in options}
    fixed = {name: short for name, short in chosen.items() if short is not None}
    for name, short in fixed.items():
        others = {*(set(names) - {name}), *(fixed[other] for other in fixed if other != name)}
        if short in others or short == ANY_BACKBONE:
            raise ValueError(name)
    candidates = {name: [short] for name, short in fixed.items()}
    candidates |= {name: _endings(name) for name in names if name not in fixed}
    while True:
        counts = Counter(found[0] for found in candidates.values())
        equal = [name for name, found in candidates.items() if counts[found[0]] > 1]
        # Whole names differ, and are refused as the name of another: this ends.
        longer = [name for name in equal if len(candidates[name]) > 1]
        if not longer:
            return {name: candidates[name][0] for name in names}
        for name in longer:
            candidates[name].pop(0)


def _endings(name: str) -> list[str]:
    """Return the ends of a path or of ``hf:ORG/NAME``, shortest first; otherwise the name alone."""
    source, _, path = name.partition(":")
    parts = [part for part in path.split("/") if part]
    if source not in PATH_SOURCES or not parts:
        return [name]
    return [*("/".join(parts[-count:]) for count in range(1, len(parts) + 1)), name]
