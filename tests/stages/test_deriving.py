"""Embeddings that are made from stored ones become an ordinary artefact, fitted on train alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import GaussianRandomProjection

from benchmark.catalog.names import resolve_backbones
from benchmark.config import build
from benchmark.experiment.context import Context
from benchmark.specs import Backbone
from benchmark.stages.embed import EmbedStage
from benchmark.tables import vectors_array

TABLES: dict[str, Any] = {
    "small": {"of": "both", "pca": 5, "dtype": "int8"},
    "both": {"concat": ["mean_color", "lbp_glcm"]},
    "mean_color": {},
    "lbp_glcm": {},
    "drawn": {"of": "lbp_glcm", "random_projection": 7},
    "bits": {"of": "lbp_glcm", "truncate": 20, "dtype": "binary"},
    "half": {"of": "mean_color", "dtype": "float16"},
}
"""What is made comes before what it is made from."""

Open = Callable[[dict[str, Any]], Context]


@pytest.fixture(scope="module")
def store(new_store: Callable[[], Path]) -> Path:
    return new_store()


@pytest.fixture
def open_derived(
    open_small: Callable[..., Context], experiment_content: dict[str, Any], store: Path
) -> Open:
    def open_context(tables: dict[str, Any]) -> Context:
        made = {name: table for name, table in tables.items() if table}
        content = {**experiment_content, "backbones": list(tables), "backbone": made}
        experiment = build(content, where="small.toml")
        backbones = resolve_backbones(experiment, where="small.toml")
        context = open_small(store=store, backbones=backbones)
        context.experiment = experiment
        return context

    return open_context


def entry_of(context: Context, name: str) -> Backbone:
    return next(item for item in context.backbones if item.name == name)


def vectors_of(context: Context, name: str) -> NDArray[np.float32]:
    table = context.embeddings(entry_of(context, name)).read_table()
    return vectors_array(table["embedding"])


def rows_of_train(context: Context) -> NDArray[np.bool_]:
    table = context.patches.read_table(columns=["patch_id", "split"])
    found: NDArray[np.bool_] = table["split"].to_numpy() == "train"
    return found


def test_recipes_are_those_of_scikit_learn_fitted_on_train_alone(open_derived: Open) -> None:
    context = open_derived(TABLES)
    assert {item.status for item in EmbedStage().run(context).cells} == {"complete"}
    is_train = rows_of_train(context)
    assert 0 < is_train.sum() < len(is_train)
    colour, texture = vectors_of(context, "mean_color"), vectors_of(context, "lbp_glcm")
    scaled = [
        StandardScaler().fit(part[is_train].astype(np.float64)).transform(part)
        for part in (colour, texture)
    ]
    both = np.hstack(scaled)
    np.testing.assert_allclose(vectors_of(context, "both"), both, rtol=1e-5, atol=1e-5)
    pca = PCA(5, svd_solver="full").fit(both[is_train])
    kept = pca.transform(both)
    small = vectors_of(context, "small")
    step = (kept[is_train].max(axis=0) - kept[is_train].min(axis=0)) / 255
    signs = np.sign((kept * small).sum(axis=0))
    inside = np.abs(small * signs - kept) <= 0.51 * step + 1e-4
    assert inside[is_train].all()
    # Beyond the range of train a value is cut.
    low, high = (kept * signs)[is_train].min(axis=0), (kept * signs)[is_train].max(axis=0)
    assert (small >= low - 1e-4).all() and (small <= high + 1e-4).all()
    axes = GaussianRandomProjection(7, random_state=0).fit(texture).components_
    np.testing.assert_allclose(vectors_of(context, "drawn"), texture @ axes.T, rtol=1e-4, atol=1e-3)
    above = texture[:, :20] > texture[is_train, :20].mean(axis=0, dtype=np.float64)
    np.testing.assert_array_equal(vectors_of(context, "bits"), np.where(above, 1, -1))
    np.testing.assert_array_equal(vectors_of(context, "half"), colour.astype(np.float16))
    sizes = {
        name: context.embeddings(entry_of(context, name)).manifest()["derived"]["bytes_per_patch"]
        for name, table in TABLES.items()
        if table
    }
    dim = colour.shape[1] + texture.shape[1]
    assert sizes == {
        "small": 5, "both": 4 * dim, "drawn": 28, "bits": 3, "half": 2 * colour.shape[1]
    }  # fmt: skip
