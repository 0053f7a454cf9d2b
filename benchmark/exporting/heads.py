"""Heads of scikit-learn as torch modules, and linear ones as a single linear layer.

scikit-learn computes in float32 or float64, depending on the head; the modules compute in float64,
so that only its rounding remains as a difference.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from benchmark.catalog.estimators import CosineCentroids, DecisionSoftmax, EqualPriorLDA

LINEAR = (LogisticRegression, LinearDiscriminantAnalysis, EqualPriorLDA)
LINEAR_DECISIONS = (RidgeClassifier, LinearSVC, CosineCentroids)
NEVER = -1e4
"""Logit of a class that the head never saw: its probability is 0 in float32 and float16."""


class Linear(NamedTuple):
    """Logits of an embedding: ``weight`` float64 (K, D), ``bias`` float64 (K,)."""

    weight: torch.Tensor
    bias: torch.Tensor


class Frozen(torch.nn.Module):
    """A scaler and a classifier: embeddings float32 (B, D) to probabilities float32 (B, K)."""

    spread: torch.Tensor

    def __init__(self, steps: list[torch.nn.Module], labels: Any, num_classes: int) -> None:
        """Chain modules whose last returns the probabilities of ``labels``, in that order."""
        super().__init__()
        self.steps = torch.nn.Sequential(*steps)
        spread = torch.eye(num_classes, dtype=torch.float64)[torch.as_tensor(labels).long()]
        self.register_buffer("spread", spread)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return probabilities; zero for classes that the head never saw."""
        found: torch.Tensor = self.steps(embeddings.double()) @ self.spread
        return found.float()


class Standardise(torch.nn.Module):
    """Subtracts a mean and divides by a scale, float64 (D,) each."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, scaler: StandardScaler) -> None:
        super().__init__()
        self.register_buffer("mean", _tensor(scaler.mean_))
        self.register_buffer("scale", _tensor(scaler.scale_))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the standardised rows (B, D)."""
        return (x - self.mean) / self.scale


class Unit(torch.nn.Module):
    """Divides each row by its Euclidean length; a row of zeros stays as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return rows (B, D) of length 1."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x / torch.where(length == 0, 1.0, length)


class Layers(torch.nn.Module):
    """Linear layers with an activation between them, then a softmax over two classes or more."""

    def __init__(self, layers: list[Linear], activation: str) -> None:
        super().__init__()
        self.activation = activation
        for i, (weight, bias) in enumerate(layers):
            self.register_buffer(f"weight{i}", weight)
            self.register_buffer(f"bias{i}", bias)
        self.num_layers = len(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return probabilities (B, K) of rows (B, D)."""
        for i in range(self.num_layers):
            if i:
                x = _activate(x, self.activation)
            x = x @ self.get_buffer(f"weight{i}").T + self.get_buffer(f"bias{i}")
        return x.softmax(dim=1)


class Neighbours(torch.nn.Module):
    """The k nearest of stored embeddings, with equal weights or the inverse of their distance."""

    points: torch.Tensor
    labels: torch.Tensor

    def __init__(self, model: KNeighborsClassifier) -> None:
        super().__init__()
        self.count: int = model.n_neighbors
        self.is_weighted = model.weights == "distance"
        # Stored as they were given, mostly in float32; float64 would take twice the space.
        self.register_buffer("points", torch.from_numpy(model._fit_X.copy()))
        labels = torch.as_tensor(model._y.copy()).long()
        self.register_buffer(
            "labels", torch.nn.functional.one_hot(labels, len(model.classes_)).to(torch.uint8)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return probabilities (B, K) of rows (B, D)."""
        points = self.points.double()
        squares = (x**2).sum(1, keepdim=True) - 2 * x @ points.T + (points**2).sum(1)
        found, at = squares.clamp(min=0).topk(self.count, dim=1, largest=False)
        weights = torch.ones_like(found)
        if self.is_weighted:
            distances = found.sqrt()
            is_same = distances == 0
            # As in scikit-learn: equal embeddings alone decide.
            weights = torch.where(
                is_same.any(1, keepdim=True),
                is_same.double(),
                1 / torch.where(is_same, 1.0, distances),
            )
        votes = (weights[:, :, None] * self.labels[at].double()).sum(1)
        return votes / votes.sum(1, keepdim=True)


def build_head(model: Any, num_classes: int) -> Frozen | None:
    """Return a fitted pipeline as a module; None: one of its steps is not known.

    Args:
        model: a pipeline of at most one scaler and a classifier, or a classifier.
        num_classes: K of the data set; ``classes_`` of the model may be fewer.
    """
    *scalers, last = _steps(model)
    modules: list[torch.nn.Module] = []
    for scaler in scalers:
        if type(scaler) is StandardScaler and scaler.with_mean and scaler.with_std:
            modules.append(Standardise(scaler))
        elif type(scaler) is Normalizer and scaler.norm == "l2":
            modules.append(Unit())
        else:
            return None
    classifier = _classifier(last)
    return (
        None if classifier is None else Frozen([*modules, classifier], last.classes_, num_classes)
    )


def linear_head(model: Any, num_classes: int, dim: int) -> Linear | None:
    """Return a fitted pipeline as one linear layer whose softmax gives its probabilities.

    Args:
        model: as for ``build_head``.
        num_classes: K of the data set; other classes than the model's get the logit ``NEVER``.
        dim: D of the embedding.

    Returns: None: the pipeline is not linear, e.g. since it divides by the length of the embedding.
    """
    *scalers, last = _steps(model)
    if (layer := _linear_classifier(last)) is not None:
        weight, bias = layer
    elif type(last) is DummyClassifier and last.strategy == "most_frequent":
        prior = _tensor(last.class_prior_)
        weight = torch.zeros(len(prior), dim, dtype=torch.float64)
        bias = torch.full((len(prior),), NEVER, dtype=torch.float64)
        bias[prior.argmax()] = 0
    else:
        return None
    for scaler in scalers:
        if type(scaler) is not StandardScaler or not (scaler.with_mean and scaler.with_std):
            return None
        weight = weight / _tensor(scaler.scale_)
        bias = bias - weight @ _tensor(scaler.mean_)
    labels = torch.as_tensor(last.classes_).long()
    whole = Linear(
        torch.zeros(num_classes, dim, dtype=torch.float64),
        torch.full((num_classes,), NEVER, dtype=torch.float64),
    )
    whole.weight[labels], whole.bias[labels] = weight, bias
    return whole


def _classifier(model: Any) -> torch.nn.Module | None:
    if (layer := _linear_classifier(model)) is not None:
        return Layers([layer], "identity")
    if type(model) is MLPClassifier:
        pairs = zip(model.coefs_, model.intercepts_, strict=True)
        layers = [Linear(_tensor(weight).T.contiguous(), _tensor(bias)) for weight, bias in pairs]
        return Layers([*layers[:-1], _two_sided(layers[-1])], model.activation)
    if type(model) is KNeighborsClassifier and model.weights in ("uniform", "distance"):
        is_euclidean = model.effective_metric_ == "euclidean"
        is_dense = hasattr(model._fit_X, "dtype") and not hasattr(model._fit_X, "tocsr")
        return Neighbours(model) if is_euclidean and is_dense else None
    if type(model) is DummyClassifier and (linear := linear_head(model, len(model.classes_), 1)):
        return Constant(linear.bias)
    return None


class Constant(torch.nn.Module):
    """Gives every row the same probabilities."""

    logits: torch.Tensor

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return probabilities (B, K) of rows (B, D)."""
        return self.logits.softmax(0).expand(x.shape[0], -1)


def _linear_classifier(model: Any) -> Linear | None:
    """Return the layer whose softmax gives the probabilities of a classifier; None: not linear."""
    if type(model) in LINEAR:
        return _layer_of(model)
    if type(model) is DecisionSoftmax and type(model.estimator_) in LINEAR_DECISIONS:
        weight, bias = _layer_of(model.estimator_)
        return Linear(model.scale_ * weight, model.scale_ * bias)
    return None


def _layer_of(model: Any) -> Linear:
    """Return the decision values of a fitted linear classifier as a layer."""
    weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    return _two_sided(Linear(_tensor(weight), _tensor(bias)))


def _two_sided(layer: Linear) -> Linear:
    """Return a layer with a row for each class; scikit-learn has one row for two classes."""
    weight, bias = layer
    if len(weight) > 1:
        return layer
    return Linear(torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias]))


def _activate(x: torch.Tensor, name: str) -> torch.Tensor:
    if name == "relu":
        return x.relu()
    if name == "tanh":
        return x.tanh()
    return x.sigmoid() if name == "logistic" else x


def _steps(model: Any) -> list[Any]:
    return [step for _, step in model.steps] if hasattr(model, "steps") else [model]


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64).clone()
