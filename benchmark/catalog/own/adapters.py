"""Callables of entries that are made of own code; they pickle by import path."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmark.catalog.own.loading import Folders, Reference, own_errors
from benchmark.catalog.own.records import Records, RecordSource
from benchmark.catalog.scalers import behind_scaler
from benchmark.errors import CellError
from benchmark.spaces import draw

if TYPE_CHECKING:
    import numpy as np
    import optuna
    import pyarrow as pa
    import torch
    from numpy.typing import NDArray

    from benchmark.config import DatasetConfig
    from benchmark.specs import Found, Images, Source
    from benchmark.statistics.counts import Statistics

SEED_NAMES = ("random_state", "seed")
"""Names of the parameter of a head that takes the seed."""


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a function or class; None: Python does not know them."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Member:
    """A function of an entry that is an attribute of an own module."""

    entry: Reference
    name: str

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the function; what it raises becomes a CellError with file and line."""
        function = getattr(self.entry.load(), self.name)
        with own_errors():
            return function(*arguments, **settings)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the entry's ``fit``."""
        found: Mapping[str, Any] = getattr(self.entry.load(), self.name).options
        return found


@dataclass(frozen=True)
class ByValue:
    """A function that no module holds, e.g. of a notebook; Ray ships its code."""

    function: Any
    folders: Folders = field(default_factory=Folders)
    """Of the user's modules that it uses."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickled in this order: the function may need the folders.
        return _restore_value, (self.folders, self.function)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the function; what it raises becomes a CellError with file and line."""
        with own_errors():
            return self.function(*arguments, **settings)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the entry's ``fit``."""
        found: Mapping[str, Any] = self.function.options
        return found


def _restore_value(folders: Folders, function: Any) -> ByValue:
    return ByValue(function, folders)


@dataclass(frozen=True)
class OwnBackbone:
    """``build(num_bands, **settings)`` of a user, as ``Backbone.build``."""

    name: str
    function: Reference
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, num_bands: int) -> torch.nn.Module:
        """Build the module; weights that it draws are the same in every process.

        Raises:
            CellError: it fails, or returns something else.
        """
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = self.function(num_bands, **self.settings)
        if not isinstance(found, torch.nn.Module):
            raise CellError(
                f"backbone '{self.name}' returned {_article(found)}; return a torch.nn.Module"
            )
        return found


@dataclass(frozen=True)
class OwnHead:
    """A class or function that returns an unfitted estimator, as ``Head.build``."""

    name: str
    function: Reference
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, params: Mapping[str, Any], seed: int) -> Any:
        """Build the estimator; a parameter ``random_state`` or ``seed`` gets the seed.

        A classifier with ``decision_function`` alone gets probabilities. The parameter ``scaler``
        puts a scaler before it, unless the function has a parameter of this name.

        Raises:
            CellError: it fails, or the estimator lacks a method.
        """
        known = parameters_of(self.function.load()) or {}
        given = {**self.settings, **params}
        scaler = given.pop("scaler", None) if is_ours("scaler", known) else None
        seeds = {name: seed for name in SEED_NAMES if name in known and name not in given}
        found = with_probabilities(self.name, self.function(**given, **seeds))
        return found if scaler is None else behind_scaler(scaler, found)


def is_ours(name: str, parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Return whether a function takes no argument of this name."""
    is_open = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    return name not in parameters and not is_open


def with_probabilities(name: str, estimator: Any) -> Any:
    """Return a classifier with ``predict_proba``.

    Raises:
        CellError: it is none, or has neither probabilities nor decision values.
    """
    if isinstance(estimator, type):
        raise CellError(f"head '{name}' needs an unfitted estimator, and got a class")
    with own_errors():
        has = {
            method: callable(getattr(estimator, method, None))
            for method in ("fit", "predict_proba", "decision_function")
        }
    if has["fit"] and has["predict_proba"]:
        return estimator
    if has["fit"] and has["decision_function"]:
        from sklearn.base import is_classifier

        with own_errors():
            is_one = is_classifier(estimator)
        if is_one:
            from benchmark.catalog.estimators import DecisionSoftmax

            return DecisionSoftmax(estimator)
    lacking = "predict_proba (or decision_function of a classifier)" if has["fit"] else "fit"
    raise CellError(f"head '{name}' needs {lacking}, and its {_type_name(estimator)} has none")


@dataclass(frozen=True)
class OwnMetric:
    """A function of labels or of a confusion matrix, as ``Metric.compute``."""

    name: str
    function: Reference
    takes_labels: bool
    """Whether it takes (y_true, y_pred), int (N,) each, in any order; otherwise counts (K, K)."""
    is_per_class: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, statistics: Statistics) -> NDArray[np.float64]:
        """Return the value of each set of patches; NaN for a set without patches.

        Raises:
            CellError: it fails, or returns no number (K numbers, if it is per class).
        """
        import numpy as np

        counts = statistics.counts
        *lead, k, _ = counts.shape
        shape = (k,) if self.is_per_class else ()
        found = np.full((int(np.prod(lead)), *shape), np.nan)
        with warnings.catch_warnings():
            # Libraries warn of classes that are absent, as they are from many scenes.
            warnings.simplefilter("ignore")
            for row, matrix in enumerate(counts.reshape(-1, k, k)):
                if matrix.sum() > 0:
                    found[row] = self._value(matrix, shape)
        return found.reshape((*lead, *shape))

    def _value(self, counts: NDArray[np.float64], shape: tuple[int, ...]) -> Any:
        import numpy as np

        if self.takes_labels:
            k = len(counts)
            cell = np.repeat(np.arange(k * k), counts.reshape(-1).astype(np.int64))
            value = self.function(cell // k, cell % k, **self.settings)
        else:
            value = self.function(counts.copy(), **self.settings)
        try:
            number = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            number = None
        if number is None or number.shape != shape:
            wanted = f"{shape[0]} numbers, one for each class" if shape else "one number"
            got = _article(value) if number is None else f"an array of shape {number.shape}"
            raise CellError(f"metric '{self.name}' returned {got}; return {wanted}")
        return number


@dataclass(frozen=True)
class OwnReader:
    """``open(config, **settings)`` of a user, as ``Dataset.open``."""

    name: str
    function: Reference | Member | ByValue

    def __call__(self, config: DatasetConfig) -> Source:
        """Open the data set.

        Raises:
            CellError: it fails, or returns no source.
        """
        found = self.function(config, **config.settings)
        if isinstance(found, Records):
            with own_errors():
                found = RecordSource.of(found, config)
        for method in ("digest", "units", "find", "read", "classes", "bands"):
            if not hasattr(found, method):
                raise CellError(
                    f"data set '{self.name}' returned {_article(found)} without '{method}'; "
                    "return bm.Records(...) or a specs.Source"
                )
        return OwnSource(self.name, self.function, found, config.patch_size)


class OwnSource:
    """A source of own code: what it raises becomes its own error, and its pixels are checked."""

    def __init__(self, name: str, origin: Any, source: Source, patch_size: int) -> None:
        """Wrap a source that ``origin``, a reference to own code, has opened."""
        self._parts = (name, origin, source, patch_size)
        self._source = source
        with own_errors(f"data set '{name}': "):
            self.classes = tuple(str(item) for item in source.classes)
            self.bands = tuple(str(item) for item in source.bands)
            self.is_synthetic = bool(getattr(source, "is_synthetic", False))
            self.notes = tuple(str(item) for item in getattr(source, "notes", ()))

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickled in this order: the reference appends the folder that holds the source's class.
        return OwnSource, self._parts

    def digest(self) -> str:
        """Return the digest of the source files."""
        with own_errors():
            return str(self._source.digest())

    def units(self) -> Sequence[str]:
        """Return the names of the units."""
        with own_errors():
            return list(self._source.units())

    def find(self, unit: str) -> Found:
        """Return the candidates of one unit."""
        with own_errors():
            return self._source.find(unit)

    def read(self, candidates: pa.Table) -> Images:
        """Return the pixels of candidates.

        Raises:
            CellError: it fails, or the pixels have another type or shape.
        """
        import numpy as np

        name, _, _, size = self._parts
        with own_errors():
            images = self._source.read(candidates)
        pixels, wanted = np.asarray(images.pixels), (len(self.bands), size, size)
        if pixels.dtype != np.uint8 or pixels.shape != (len(images.rows), *wanted):
            raise CellError(
                f"data set '{name}' read pixels of type {pixels.dtype} and shape {pixels.shape}; "
                f"return uint8 {(len(images.rows), *wanted)}"
            )
        return images


@dataclass(frozen=True)
class SpaceSuggest:
    """The search space of a head that the experiment file writes, as ``Head.suggest``."""

    space: Mapping[str, Any]

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw one configuration."""
        return draw(self.space, trial)


@dataclass(frozen=True)
class OwnSuggest:
    """The search space of an own head: ``suggest(trial)`` beside it, or nothing to search."""

    function: Reference | None

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw one configuration.

        Raises:
            CellError: it fails, or returns no dictionary.
        """
        if self.function is None:
            return {}
        found = self.function(trial)
        if not isinstance(found, dict):
            raise CellError(f"suggest returned {_article(found)}; return a dict of parameters")
        return found


def _type_name(value: object) -> str:
    return f"'{type(value).__name__}'"


def _article(value: object) -> str:
    """Return the type of a value for messages."""
    return "None" if value is None else f"a {_type_name(value)}"
