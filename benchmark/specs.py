"""The four kinds of catalog entry, and the protocols of the objects that they open or build.

An entry is a plain object that is pickled to workers: its functions are at module level, so that
they pickle by name, and import heavy packages when called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from benchmark.config import DatasetConfig
from benchmark.contents import Found as Found
from benchmark.contents import Images as Images
from benchmark.contents import Problem as Problem
from benchmark.contents import Remark as Remark
from benchmark.derived import Derivation
from benchmark.products import PlacedProduct, Product
from benchmark.sources import LocatedSource as LocatedSource
from benchmark.sources import Source as Source
from benchmark.variants import Shared

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import optuna
    import torch
    from numpy.typing import NDArray

MAX_SLUG = 60
"""Characters of the name of a data set or head in a file name, which has at most 255 bytes."""


def slug_of(name: str) -> str:
    """Return a name with letters, digits, ``.``, ``_`` and ``-`` alone."""
    return re.sub(r"(\.\.|[^A-Za-z0-9._])+", "-", name).strip("-.")


FOLDER_IDENTITY, PRODUCT_IDENTITY = "hf:", "embeddings:"
"""Names in a fingerprint of what its revision identifies: a checkpoint's folder, a product."""
DERIVED_IDENTITY = "derived:"
"""The same of embeddings made from others, which their recipe identifies."""
MAX_FOLDER_SLUG = 60
PREPROCESSING = ("bands", "image_size", "resize_to", "interpolation", "is_rounded", "mean", "std")
"""The fields of a backbone that define its input."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set that can be benchmarked."""

    name: str
    description: str
    open: Callable[[DatasetConfig], Source]
    """Open the source; raises UsageError if it is absent, empty or of the wrong layout."""
    settings: frozenset[str]
    """Optional ``[dataset]`` settings that apply, beside ``names.COMMON_DATASET_SETTINGS``."""
    unit: Literal["images", "windows"] = "images"
    """What is examined: whole images, or windows of scenes."""
    digested: frozenset[str] = frozenset()
    """Further settings that apply, and change nothing but what the source's digest covers."""
    beside_labels: frozenset[str] = frozenset()
    """As ``digested``, but they apply only where ``labels`` is set."""
    reads_remote: bool = False
    """Whether ``root`` may be a URI: ``https://``, ``s3://``, ``gs://`` or ``az://``."""
    prepare: Callable[..., Path] | None = None
    """``prepare(root, *, progress, **prepare_options)``: fetch or write the data; the folder."""
    prepare_options: frozenset[str] = frozenset()
    license: str = ""
    label_years: str = ""
    """When the labels are of, e.g. ``2013 or 2014``; empty: unknown."""
    own: Mapping[str, Any] | None = None
    """As ``Backbone.own``."""

    @property
    def slug(self) -> str:
        """The name as a part of file names."""
        return slug_of(self.name)[:MAX_SLUG]


class TrainPatches(Protocol):
    """The patches of train as input of a backbone, in a fixed order; can be read repeatedly.

    Contains no labels, and no patches of val and test.
    """

    @property
    def num_patches(self) -> int:
        """Number of patches."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a patch: the backbone's bands, resized."""
        ...

    def batches(self, first: int = 0) -> Iterator[NDArray[np.float32]]:
        """Yield batches (n, C, H, W) in order, from patch ``first`` on; n varies.

        The next batch may overwrite the current one.
        """
        ...


class Fitted(NamedTuple):
    """State of a backbone fitted on train."""

    state: Mapping[str, torch.Tensor]
    """The state dict of the module that ``build`` returns."""
    facts: Mapping[str, Any]
    """Its entry in the manifest, as JSON."""


class Fit(Protocol):
    """Learns the state of a backbone's module from the patches of train."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Settings that change the result, as JSON; part of the fingerprint."""
        ...

    def __call__(self, patches: TrainPatches) -> Fitted:
        """Return the state; the same bits for the same patches and number of threads.

        Raises:
            CellError: too few patches.
        """
        ...


class Depiction(NamedTuple):
    """Pictures of the information that a backbone keeps of patches."""

    title: str
    """Content of the pictures, e.g. ``reconstruction``."""
    pictures: NDArray[np.float32]
    """In 0...1: (N, C, H, W), the backbone's input bands, or (N, 1, H, W), grey."""


class Processor(NamedTuple):
    """An image processor of another library, where no field of ``Backbone`` says what it does."""

    name: str
    config: str
    """Its configuration as JSON; part of the fingerprint."""
    prepare: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """Compute, on a CPU, the normalised input (B, C, S, S) of patches (B, C, H, W)."""
    ms_per_patch: float
    """Milliseconds per patch of 128 px, measured when the experiment was read."""

    @property
    def price(self) -> str:
        """What it costs, as the end of a sentence."""
        rate = f"about {float(f'{1000 / self.ms_per_patch:.2g}'):,g} patches/s in one process"
        return f"its {self.name}, which no setting describes, prepares patches on the CPU, {rate}"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A feature extractor: (B, C, H, W) pixels in, (B, D) embeddings out."""

    name: str
    description: str
    family: str
    build: Callable[[int], torch.nn.Module]
    """Build the module for a number of input bands, with its weights. Input: float32
    (B, C, H, W), normalised by ``mean`` and ``std``; output: pooled last hidden state, float32
    (B, D)."""
    dim: int | None
    """Length of the embedding; None if it depends on the number of bands or on ``fit``."""
    num_parameters: int
    source: str
    license: str
    image_size: int | None = None
    """Side of the input in px; patches are resized to it. None: not resized."""
    resize_to: int | None = None
    """Side in px to which patches are resized before a centre crop of ``image_size`` px; None:
    they are resized to ``image_size`` without a crop."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How patches are resized; shrinking is always antialiased."""
    is_rounded: bool = False
    """Whether resized pixels are rounded to integers in 0...255, like in image libraries that
    resize uint8: ``networks/resizing.py``."""
    crops_like_torchvision: bool = False
    """Whether half a pixel of margin is rounded to the even side, like in torchvision; otherwise
    it is dropped, like in transformers."""
    bands: tuple[str, ...] | None = ("red", "green", "blue")
    """Input bands, in order; None: all bands of the data set."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    """Normalisation of pixels scaled to 0...1; one value for all bands, or one per band."""
    flips_bands: bool = False
    """Whether the first and third of ``bands`` change places before they enter the network."""
    processor: Processor | None = None
    """Prepares the input in place of all fields above but ``bands``; None: they describe it."""
    hub_id: str | None = None
    """Name of the weights on the Hugging Face hub, for the card of an exported model."""
    revision: Callable[[], str] = str
    """Digest of the weights file, or hub commit; raises UsageError if the file is absent."""
    is_floor: bool = False
    """Whether it belongs to the trivial floor of the protocol."""
    is_trainable: bool = True
    """Whether it has weights that fine-tuning can change."""
    fit: Fit | None = None
    """Fit the state of the module on train before embedding; ``build`` then returns the module
    without state, and ``dim`` is None. None: nothing to fit."""
    depict: Callable[[torch.nn.Module, NDArray[np.float32]], Depiction] | None = None
    """Draw the information that the module keeps of its input patches (N, C, H, W); the report
    shows both side by side. None: nothing to draw."""
    build_classifier: Callable[[int, int], torch.nn.Module] | None = None
    """Build the model's own classifier for a number of bands and of classes K, with weights and a
    new classification layer. Input as for ``build``; output: logits, float32 (B, K). The names of
    that layer's parameters start with its attribute ``head_prefix`` (a string or a tuple of
    strings, as for ``str.startswith``). None: a linear layer on the embedding
    (``classifier.LinearClassifier``)."""
    build_foldable: Callable[[int, int], torch.nn.Module] | None = None
    """Build a classifier as ``build_classifier`` does, whatever the pooling of the embedding: its
    last layer takes over a linear head if its input is the embedding. None: the classifier of
    fine-tuning."""
    publish: Callable[[Publication], None] | None = None
    """Write a classifier as a folder that the ``image-classification`` pipeline of transformers
    loads; None: transformers has no class for it."""
    options: tuple[tuple[str, Any], ...] = ()
    """User options that change the embedding, by name, e.g. ``("pooling", "cls")``."""
    folder: str | None = None
    """Last part of the path of its checkpoint's folder: its name is a place, and ``revision``
    identifies it. None: its name identifies it, too."""
    alias_of: str | None = None
    """The model's name, if ``name`` is the user's own; None: ``name`` is the model's."""
    product: Product | PlacedProduct | None = None
    """Files that its embeddings are read from, without a network; None: they are computed."""
    shared: Shared | None = field(default=None, compare=False)
    """How one forward pass gives this embedding and others of its network; None: it cannot."""
    derived: Derivation | None = None
    """How its embeddings are made from stored ones of other backbones; None: they are not."""
    version: int = 1
    """Raised by hand when the output of ``build`` changes."""
    own: Mapping[str, Any] | None = None
    """Identity of code from outside this package, as JSON: the digest of its source, its version
    and settings; part of the fingerprint. None: an entry of this package."""

    @property
    def model(self) -> str:
        """The model's name, whatever name the user gave it."""
        return self.alias_of or self.name

    @property
    def group(self) -> str:
        """The name that it is a variant of; empty: it is no variant."""
        return "" if self.shared is None else self.shared.group

    @property
    def is_fitted(self) -> bool:
        """Whether its embeddings depend on the patches of train."""
        return self.fit is not None or (self.derived is not None and self.derived.is_fitted)

    @property
    def identity(self) -> str:
        """``model`` in a fingerprint: the same for a folder or product wherever it lies."""
        if self.product is not None:
            return PRODUCT_IDENTITY
        if self.derived is not None:
            return DERIVED_IDENTITY
        return self.model if self.folder is None else FOLDER_IDENTITY

    @property
    def slug(self) -> str:
        """Its part of file names; of a checkpoint's folder without the path, of a product none."""
        if self.product is not None:
            return slug_of(PRODUCT_IDENTITY)
        if self.derived is not None:
            return slug_of(f"{DERIVED_IDENTITY}{self.derived.slug}")
        if self.folder is None:
            return slug_of(self.model)
        return slug_of(f"hf-{self.folder}"[:MAX_FOLDER_SLUG])


class Publication(NamedTuple):
    """A classifier to publish."""

    backbone: Backbone
    folder: Path
    state: Mapping[str, torch.Tensor]
    """The state dict of the classifier, as ``build_classifier`` or ``LinearClassifier`` names
    its tensors."""
    classes: tuple[str, ...]
    is_frozen: bool = False
    """Whether its last layer is a head on the embedding; otherwise it is fine-tuned."""


class HeadMemory(NamedTuple):
    """Memory that a trial of a head needs beside the embeddings that all trials share.

    The default is an estimate for code that was not measured: a float64 and a float32 copy.
    """

    copies: float = 3.0
    """Copies of the fitted rows, in multiples of their float32 size."""
    bytes_per_score: int = 48
    """Bytes for each row and class."""
    bytes_per_scored: int = 0
    """Further bytes for each row that is scored at once, e.g. hidden layers."""


UNMEASURED = HeadMemory()


@dataclass(frozen=True, kw_only=True)
class Head:
    """A scikit-learn classifier on embeddings, and its search space."""

    name: str
    description: str
    suggest: Callable[[optuna.Trial], dict[str, Any]]
    """Draw one configuration; an empty search space gives a single trial."""
    build: Callable[[Mapping[str, Any], int], Any]
    """Build the unfitted estimator (``predict_proba``) from a configuration and a seed."""
    adapt: Callable[[Any, int], None] | None = None
    """Change the unfitted estimator to the number of rows that it will be fitted on."""
    fit_unscaled: Callable[[Any, NDArray[np.float32], NDArray[np.int32]], None] | None = None
    """Fit the classifier in place on rows (N, D) that no scaler precedes, and labels (N,)."""
    is_searched: bool = True
    """Whether there is a search space; otherwise only one trial runs."""
    is_floor: bool = False
    reads_embeddings: bool = True
    """Whether predictions depend on the embeddings; otherwise they are the same for all backbones,
    and the page shows one row."""
    num_epochs: int | None = None
    """Largest number of epochs of a head that is trained by epochs (``partial_fit``) and stopped
    early on val; None: trained by one call of ``fit``."""
    patience: int = 10
    """Epochs without a better val score after which an iterative head stops."""
    memory: HeadMemory = UNMEASURED
    """Decides how many trials run at once, and whether a machine can hold one."""
    version: int = 1
    own: Mapping[str, Any] | None = None
    """Identity of code from outside this package, as JSON: the digest of its source, its version
    and settings; part of the fingerprint. None: an entry of this package."""

    @property
    def slug(self) -> str:
        """The name as a part of file names."""
        return slug_of(self.name)[:MAX_SLUG]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number, or one number per class, computed from sufficient statistics.

    ``compute`` takes ``statistics.Statistics``, whose arrays may carry leading axes (scenes left
    out), and returns an array with those axes, plus one of length K where ``is_per_class``.
    """

    name: str
    description: str
    compute: Callable[[Any], NDArray[np.float64]]
    is_per_class: bool = False
    direction: Literal["higher", "lower"] = "higher"
    version: int = 1
    """Raised by hand when the output of ``compute`` changes."""
    own: Mapping[str, Any] | None = None
    """Identity of code from outside this package, as JSON: the digest of its source, its version
    and settings; part of the fingerprint. None: an entry of this package."""
