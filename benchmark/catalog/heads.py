"""The available heads: one entry each, with its search space.

Search spaces follow PROTOCOL: scikit-learn's defaults cost a linear head 1.6 points on average
and up to 7.8, so regularisation, scaling and class weights are searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmark.catalog.linear_heads import (
    LINEAR_HEADS,
    WEIGHTS,
    class_weight_of,
    suggest_nothing,
)
from benchmark.catalog.scalers import SCALERS, behind_scaler
from benchmark.registry import Registry
from benchmark.specs import Head, HeadMemory

if TYPE_CHECKING:
    import numpy as np
    import optuna
    from numpy.typing import NDArray

LINEAR_MEMORY = HeadMemory(copies=1.0, bytes_per_score=16)
"""The scaled rows, predictions and gradients: 3.02 GiB for 1,000,000 x 768 and 20 classes, 2.86 of
them scaled rows. This and the next two are rounded up from ``python -m perf.heads``
(docs/PERFORMANCE.md)."""
MLP_MEMORY = HeadMemory(copies=1.0, bytes_per_score=24, bytes_per_scored=2 * 4 * 512)
"""The scaled rows, labels as rows of K numbers, and two float32 hidden layers of the widest:
3.17 GiB for the same rows."""
KNN_MEMORY = HeadMemory(copies=3.5, bytes_per_score=24)
"""The scaled rows, which are a part of the head, and copies while that is written, its bytes and
the file's: 3.0 times the fitted rows, measured with 1,000,000."""
BOOSTING_MEMORY = HeadMemory(copies=3.0, bytes_per_score=48)
NO_MEMORY = HeadMemory(copies=0.0, bytes_per_score=24)


def suggest_logistic_regression(trial: optuna.Trial) -> dict[str, Any]:
    """Draw C (log-uniform, 1e-6...1e5), the scaler and the class weight."""
    return {
        "C": trial.suggest_float("C", 1e-6, 1e5, log=True),
        "scaler": trial.suggest_categorical("scaler", SCALERS),
        "class_weight": trial.suggest_categorical("class_weight", WEIGHTS),
    }


def build_logistic_regression(params: Mapping[str, Any], seed: int) -> Any:
    """Build a scaler and multinomial logistic regression (L-BFGS)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=params["C"], class_weight=class_weight_of(params), max_iter=1000, random_state=seed
    )
    return behind_scaler(params["scaler"], model)


def fit_logistic_regression(model: Any, x: NDArray[np.float32], y: NDArray[np.int32]) -> None:
    """Fit scikit-learn's estimator by L-BFGS in better conditioned coordinates."""
    from benchmark.catalog.logistic import fit_preconditioned

    fit_preconditioned(model, x, y)


def suggest_mlp(trial: optuna.Trial) -> dict[str, Any]:
    """Draw the width (16...512), the L2 penalty, the learning rate and the scaler."""
    return {
        "width": trial.suggest_int("width", 16, 512, log=True),
        "alpha": trial.suggest_float("alpha", 1e-6, 1e0, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "scaler": trial.suggest_categorical("scaler", SCALERS),
    }


def build_mlp(params: Mapping[str, Any], seed: int) -> Any:
    """Build a scaler and a feed-forward network with one hidden layer (Adam)."""
    import numpy as np
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        hidden_layer_sizes=(params["width"],),
        alpha=params["alpha"],
        learning_rate_init=params["learning_rate"],
        # A generator advances from epoch to epoch; an integer would repeat one order of patches.
        random_state=np.random.RandomState(seed),
    )
    return behind_scaler(params["scaler"], model)


def suggest_knn(trial: optuna.Trial) -> dict[str, Any]:
    """Draw the number of neighbours (1...50, at most all rows), their weights and the scaler."""
    return {
        "n_neighbors": trial.suggest_int("n_neighbors", 1, 50, log=True),
        "weights": trial.suggest_categorical("weights", ("uniform", "distance")),
        "scaler": trial.suggest_categorical("scaler", SCALERS),
    }


def build_knn(params: Mapping[str, Any], seed: int) -> Any:
    """Build a scaler and k nearest neighbours (Euclidean; with ``l2`` scaling, cosine)."""
    from sklearn.neighbors import KNeighborsClassifier

    del seed
    model = KNeighborsClassifier(
        n_neighbors=params["n_neighbors"], weights=params["weights"], algorithm="brute"
    )
    return behind_scaler(params["scaler"], model)


def limit_neighbours(model: Any, num_rows: int) -> None:
    """Lower k to the number of rows: more neighbours do not exist."""
    knn = model[-1]
    knn.set_params(n_neighbors=min(knn.n_neighbors, num_rows))


def build_majority(params: Mapping[str, Any], seed: int) -> Any:
    """Build the classifier that always predicts the most frequent class of train."""
    from sklearn.dummy import DummyClassifier
    from sklearn.pipeline import make_pipeline

    del params
    return make_pipeline(DummyClassifier(strategy="most_frequent", random_state=seed))


def suggest_hist_gradient_boosting(trial: optuna.Trial) -> dict[str, Any]:
    """Draw the number of trees, their size, the share of columns per split, and the weights."""
    return {
        "max_iter": trial.suggest_int("max_iter", 20, 200, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 4, 64, log=True),
        "max_features": trial.suggest_float("max_features", 0.02, 0.5, log=True),
        "l2_regularization": trial.suggest_float("l2_regularization", 1e-3, 1e2, log=True),
        "class_weight": trial.suggest_categorical("class_weight", WEIGHTS),
    }


def build_hist_gradient_boosting(params: Mapping[str, Any], seed: int) -> Any:
    """Build gradient boosting of trees on columns of 255 bins; scaling would change nothing."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        **{**params, "class_weight": class_weight_of(params)},
        early_stopping=False,
        random_state=seed,
    )
    return behind_scaler("none", model)


def build_cosine_knn(params: Mapping[str, Any], seed: int) -> Any:
    """Build the vote of the five nearest by cosine."""
    del params
    return build_knn({"n_neighbors": 5, "weights": "uniform", "scaler": "l2"}, seed)


HEADS: Registry[Head] = Registry(
    "head",
    [
        Head(
            name="logistic_regression",
            description="multinomial logistic regression: C, scaler, class weight",
            suggest=suggest_logistic_regression,
            build=build_logistic_regression,
            memory=LINEAR_MEMORY,
            fit_unscaled=fit_logistic_regression,
            version=2,
        ),
        Head(
            name="mlp",
            description="feed-forward network: width, alpha, learning rate; stopped early on val",
            suggest=suggest_mlp,
            build=build_mlp,
            memory=MLP_MEMORY,
            num_epochs=100,
        ),
        Head(
            name="knn",
            description="k nearest neighbours: k, weights, scaler",
            suggest=suggest_knn,
            build=build_knn,
            adapt=limit_neighbours,
            memory=KNN_MEMORY,
        ),
        *LINEAR_HEADS,
        Head(
            name="hist_gradient_boosting",
            description="gradient boosting of trees: size, number, rate, columns, class weight",
            suggest=suggest_hist_gradient_boosting,
            build=build_hist_gradient_boosting,
            memory=BOOSTING_MEMORY,
        ),
        Head(
            name="cosine_knn",
            description="five nearest neighbours by cosine; nothing to search",
            suggest=suggest_nothing,
            build=build_cosine_knn,
            adapt=limit_neighbours,
            memory=KNN_MEMORY,
            is_searched=False,
        ),
        Head(
            name="majority",
            description="always the most frequent class of train",
            suggest=suggest_nothing,
            build=build_majority,
            memory=NO_MEMORY,
            is_searched=False,
            is_floor=True,
            reads_embeddings=False,
        ),
    ],
)


def reads_embeddings(method: str) -> bool:
    """Return whether the scores of a method depend on the backbone.

    Args:
        method: the name of a head, or of a fine-tuning. Names that are not of the catalog do.
    """
    return method not in HEADS or HEADS.get(method).reads_embeddings
