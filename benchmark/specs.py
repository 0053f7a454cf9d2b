"""The four kinds of catalog entry, and the protocols of what they open or build.

An entry is a plain object that is shipped to workers as it is: its functions live at module
level, so that they pickle by name, and import what is heavy when they are called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from benchmark.config import DatasetConfig

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import optuna
    import pyarrow as pa
    import torch
    from numpy.typing import NDArray


class Problem(NamedTuple):
    """An input file that could not be used, and why."""

    path: str
    reason: str


class Found(NamedTuple):
    """What one unit of a source holds.

    ``candidates`` has the columns of ``tables.CANDIDATES``; ``num_examined`` counts the
    windows or images that were looked at.
    """

    candidates: pa.Table
    num_examined: int
    problems: tuple[Problem, ...] = ()


class Images(NamedTuple):
    """The pixels of some candidates: uint8 (N, C, H, W), and which rows of them were read."""

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    problems: tuple[Problem, ...] = ()


class Source(Protocol):
    """An opened data set. It pickles, and its methods may run in different processes.

    Reading comes in two steps, so that labels decide which imagery is read: ``find`` lists the
    candidates of one unit (a scene, or a group of files), ``read`` fetches pixels.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes; a label is an index into it."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the C bands, e.g. ``red``, ``green``, ``blue``, ``nir``."""
        ...

    @property
    def is_synthetic(self) -> bool:
        """Whether the pictures were made by a program; everything that shows them says so."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the report must show, e.g. that the split is random."""
        ...

    def digest(self) -> str:
        """Return a hex digest of names and contents of the source files."""
        ...

    def units(self) -> Sequence[str]:
        """Return the names of the units that ``find`` takes, sorted."""
        ...

    def find(self, unit: str) -> Found:
        """Return the candidates of one unit; an unreadable file is a Problem, not an error."""
        ...

    def read(self, candidates: pa.Table) -> Images:
        """Return the pixels of candidates of one unit, in the order of the rows given."""
        ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set that can be benchmarked."""

    name: str
    description: str
    open: Callable[[DatasetConfig], Source]
    """Open the source; raises UsageError where it is absent, empty or of the wrong layout."""
    settings: frozenset[str]
    """The optional ``[dataset]`` settings that apply to it, beside name, root, patch_size,
    seed, per_region, per_class and on_error."""
    prepare: Callable[..., Path] | None = None
    """``prepare(root, *, progress, **options)``: download or write the source; returns the
    folder."""
    license: str = ""


class TrainPatches(Protocol):
    """The patches of train as a backbone is fed them, in one order, as often as is needed.

    There are no labels here, and nothing of val and test.
    """

    @property
    def num_patches(self) -> int:
        """How many there are."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one: the backbone's bands, resized."""
        ...

    def batches(self, first: int = 0) -> Iterator[NDArray[np.float32]]:
        """Yield batches (n, C, H, W) in order, from patch ``first`` on; n varies.

        A batch may be overwritten when the next one is asked for.
        """
        ...


class Fitted(NamedTuple):
    """What a backbone learnt from train."""

    state: Mapping[str, torch.Tensor]
    """The state dict of the module that ``build`` returns."""
    facts: Mapping[str, Any]
    """What the manifest says of it, as JSON."""


class Fit(Protocol):
    """Learns the state of a backbone's module from the patches of train."""

    @property
    def options(self) -> Mapping[str, Any]:
        """What changes the result, as JSON: a part of the fingerprint."""
        ...

    def __call__(self, patches: TrainPatches) -> Fitted:
        """Return the state; the same bits for the same patches and number of threads.

        Raises:
            CellError: there are too few patches.
        """
        ...


class Depiction(NamedTuple):
    """Pictures of what a backbone keeps of patches."""

    title: str
    """What they show, e.g. ``reconstruction``."""
    pictures: NDArray[np.float32]
    """0...1: (N, C, H, W), the bands that the backbone is fed, or (N, 1, H, W), grey."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A feature extractor: (B, C, H, W) pixels in, (B, D) embeddings out."""

    name: str
    description: str
    family: str
    build: Callable[[int], torch.nn.Module]
    """Build the module for so many input bands: float32 (B, C, H, W), normalised by ``mean``
    and ``std``, in; the pooled last hidden state, float32 (B, D), out. Weights are loaded."""
    dim: int | None
    """Length of the embedding; None where it depends on the number of bands or on ``fit``."""
    num_parameters: int
    source: str
    license: str
    image_size: int | None = None
    """Side in px of what it is fed; patches are resized to it. None: as they are."""
    resize_to: int | None = None
    """Side in px to which patches are resized before their centre of ``image_size`` px is cut
    out; None: they are resized to ``image_size``, and nothing is cut off."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How patches are resized; always antialiased where they shrink."""
    is_rounded: bool = False
    """Whether resized pixels are rounded to whole numbers of 0...255, as image libraries that
    resize uint8 do."""
    crops_like_torchvision: bool = False
    """Whether half a pixel of margin is rounded to the even side, as torchvision does; otherwise
    it is dropped, as transformers does."""
    bands: tuple[str, ...] | None = ("red", "green", "blue")
    """The bands that it takes, in order; None: all bands of the data set."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    """Normalisation of pixels scaled to 0...1; one value for all bands, or one for each."""
    hub_id: str | None = None
    """Name of the weights on the Hugging Face hub, for the card of a model made from them."""
    revision: Callable[[], str] = str
    """Digest of the weights file, or hub commit; raises UsageError where the file is absent."""
    is_floor: bool = False
    """Whether it belongs to the trivial floor of the protocol."""
    is_trainable: bool = True
    """Whether it has weights that fine-tuning can change."""
    fit: Fit | None = None
    """Learn from train, before anything is embedded, the state of the module that ``build``
    returns without one; ``dim`` is None then. None: there is nothing to learn."""
    depict: Callable[[torch.nn.Module, NDArray[np.float32]], Depiction] | None = None
    """Draw what the module keeps of patches (N, C, H, W) as it is fed them; the report shows it
    beside them. None: there is nothing to draw."""
    build_classifier: Callable[[int, int], torch.nn.Module] | None = None
    """Build the model's own classifier for so many bands and classes K: what ``build`` takes in,
    logits float32 (B, K) out, weights loaded, the classification layer new. Its attribute
    ``head_prefix`` (a string, or a tuple of strings, as ``str.startswith`` takes them) begins the
    names of that layer's parameters. None: a linear layer on the embedding
    (``classifier.LinearClassifier``)."""
    publish: Callable[[Publication], None] | None = None
    """Write a fine-tuned classifier as a folder that the ``image-classification`` pipeline of
    transformers loads; None: there is no transformers class for it."""
    options: tuple[tuple[str, Any], ...] = ()
    """What the user chose that changes the embedding, by name, e.g. ``("pooling", "cls")``."""
    version: int = 1
    """Raised by hand when ``build`` changes what comes out."""

    @property
    def slug(self) -> str:
        """The name as a part of file names: letters, digits, ``.``, ``_`` and ``-``."""
        return re.sub(r"(\.\.|[^A-Za-z0-9._])+", "-", self.name).strip("-.")


class Publication(NamedTuple):
    """A fine-tuned classifier that is to be published."""

    backbone: Backbone
    folder: Path
    state: Mapping[str, torch.Tensor]
    """The state dict of the classifier, as ``build_classifier`` or ``LinearClassifier`` names
    its tensors."""
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A scikit-learn classifier on embeddings, and its search space."""

    name: str
    description: str
    suggest: Callable[[optuna.Trial], dict[str, Any]]
    """Draw one configuration; an empty search space means a single trial."""
    build: Callable[[Mapping[str, Any], int], Any]
    """Build the unfitted estimator (``predict_proba``) from a configuration and a seed."""
    is_searched: bool = True
    """Whether there is anything to search; otherwise one trial is all."""
    is_floor: bool = False
    num_epochs: int | None = None
    """Upper bound of epochs of a head that is trained epoch by epoch (``partial_fit``), which
    is stopped early on val; None: ``fit`` does everything."""
    patience: int = 10
    """Epochs without a better val score after which an iterative head stops."""
    version: int = 1


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number, or one number per class, computed from sufficient statistics.

    ``compute`` takes ``statistics.Statistics``, whose arrays may carry leading axes (resamples),
    and returns an array with those axes, plus one of length K where ``is_per_class``.
    """

    name: str
    description: str
    compute: Callable[[Any], NDArray[np.float64]]
    is_per_class: bool = False
    direction: Literal["higher", "lower"] = "higher"
    version: int = 1
    """Raised by hand when ``compute`` changes what comes out."""
