"""Linear heads beside logistic regression: one entry each, with its search space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmark.catalog.scalers import SCALERS, behind_scaler
from benchmark.specs import Head, HeadMemory

if TYPE_CHECKING:
    import optuna

WEIGHTS = ("none", "balanced")


def suggest_nothing(trial: optuna.Trial) -> dict[str, Any]:
    """Draw nothing: the head has no settings."""
    del trial
    return {}


def suggest_ridge(trial: optuna.Trial) -> dict[str, Any]:
    """Draw the penalty (log-uniform, 1e-4...1e6), the scaler and the class weight."""
    return {
        "alpha": trial.suggest_float("alpha", 1e-4, 1e6, log=True),
        "scaler": trial.suggest_categorical("scaler", SCALERS),
        "class_weight": trial.suggest_categorical("class_weight", WEIGHTS),
    }


def build_ridge(params: Mapping[str, Any], seed: int) -> Any:
    """Build a scaler and least squares on labels of -1 and 1 with an L2 penalty."""
    from sklearn.linear_model import RidgeClassifier

    from benchmark.catalog.estimators import DecisionSoftmax

    model = RidgeClassifier(
        alpha=params["alpha"], class_weight=class_weight_of(params), random_state=seed
    )
    return behind_scaler(params["scaler"], DecisionSoftmax(model))


def suggest_linear_svm(trial: optuna.Trial) -> dict[str, Any]:
    """Draw C (log-uniform, 1e-6...10), the scaler and the class weight."""
    return {
        "C": trial.suggest_float("C", 1e-6, 1e1, log=True),
        "scaler": trial.suggest_categorical("scaler", SCALERS),
        "class_weight": trial.suggest_categorical("class_weight", WEIGHTS),
    }


def build_linear_svm(params: Mapping[str, Any], seed: int) -> Any:
    """Build a scaler and a linear support vector machine, one class against the rest."""
    from sklearn.svm import LinearSVC

    from benchmark.catalog.estimators import DecisionSoftmax

    # On embeddings a smaller tolerance takes half as long again and changes no score.
    model = LinearSVC(
        C=params["C"], tol=1e-2, class_weight=class_weight_of(params), random_state=seed
    )
    return behind_scaler(params["scaler"], DecisionSoftmax(model))


def suggest_lda(trial: optuna.Trial) -> dict[str, Any]:
    """Draw the shrinkage (log-uniform, 1e-4...1), the classes' priors and the scaler."""
    return {
        "shrinkage": trial.suggest_float("shrinkage", 1e-4, 1.0, log=True),
        "priors": trial.suggest_categorical("priors", ("train", "equal")),
        "scaler": trial.suggest_categorical("scaler", SCALERS),
    }


def build_lda(params: Mapping[str, Any], seed: int) -> Any:
    """Build a scaler and linear discriminant analysis; priors as in train, or equal."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    from benchmark.catalog.estimators import EqualPriorLDA

    del seed
    family = EqualPriorLDA if params["priors"] == "equal" else LinearDiscriminantAnalysis
    model = family(solver="lsqr", shrinkage=params["shrinkage"])
    return behind_scaler(params["scaler"], model)


def build_nearest_centroid(params: Mapping[str, Any], seed: int) -> Any:
    """Build rows of unit length and the cosine to each class's mean."""
    from benchmark.catalog.estimators import CosineCentroids, DecisionSoftmax

    del params, seed
    return behind_scaler("l2", DecisionSoftmax(CosineCentroids()))


def class_weight_of(params: Mapping[str, Any]) -> str | None:
    """Return the drawn class weight as scikit-learn writes it."""
    return None if params["class_weight"] == "none" else params["class_weight"]


LINEAR_HEADS = (
    Head(
        name="ridge",
        description="ridge classifier (least squares): alpha, scaler, class weight",
        suggest=suggest_ridge,
        build=build_ridge,
        memory=HeadMemory(copies=4.0, bytes_per_score=48),
    ),
    Head(
        name="linear_svm",
        description="linear support vector machine: C, scaler, class weight",
        suggest=suggest_linear_svm,
        build=build_linear_svm,
        # Measured: 7.2 copies in a trial, 7.5 in a refit: liblinear takes 16 bytes per value.
        memory=HeadMemory(copies=8.0, bytes_per_score=24),
    ),
    Head(
        name="lda",
        description="linear discriminant analysis: shrinkage, priors, scaler",
        suggest=suggest_lda,
        build=build_lda,
        memory=HeadMemory(copies=4.0, bytes_per_score=24),
    ),
    Head(
        name="nearest_centroid",
        description="cosine to the mean of each class; nothing to search",
        suggest=suggest_nothing,
        build=build_nearest_centroid,
        memory=HeadMemory(copies=3.0, bytes_per_score=24),
        is_searched=False,
    ),
)
