"""Recipes on stored embeddings: what a table may say, and what is fitted on train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from benchmark.catalog.derived import fitting
from benchmark.catalog.derived.applying import derive
from benchmark.catalog.derived.fitting import Learned, fit_recipe
from benchmark.catalog.names import check_names, resolve_backbones
from benchmark.config import Experiment, build
from benchmark.derived import Derivation, sources_of
from benchmark.errors import UsageError

NAMES = ["efficientnet_lite0", "mean_color", "x", "y"]
OF = {"of": "efficientnet_lite0"}
BOTH = {"concat": ["efficientnet_lite0", "mean_color"]}


def experiment(names: Sequence[str] = NAMES, **tables: dict[str, Any]) -> Experiment:
    return build(
        {
            "name": "e",
            "backbones": [name for name in names if name not in ("x", "y") or name in tables],
            "dataset": {"name": "synthetic", "root": "here"},
            "backbone": tables,
        },
        where="e.toml",
    )


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"x": BOTH | OF}, r'\[backbone."x"\]: \'concat\' and \'of\' are both set; keep one'),
        ({"x": {"concat": ["mean_color"]}}, "'concat' lists one backbone; list two or more"),
        ({"x": {"concat": ["mean_color", "mean_color"]}}, "'mean_color' is listed twice"),
        ({"x": {"concat": ["x", "mean_color"]}}, "'concat' names 'x' itself; remove it"),
        ({"x": {"of": "x", "pca": 2}}, "'of' names 'x' itself"),
        (
            {"x": {"of": "mean_colour", "pca": 2}},
            "'of' names 'mean_colour', which is not among the experiment's backbones: add it to "
            r"'backbones'\. Did you mean 'mean_color'\?",
        ),
        ({"x": {"concat": ["hog", "mean_color"]}}, "'hog', which is not among .* add it"),
        (
            {"x": {"of": "y", "pca": 2}, "y": {"of": "x", "pca": 2}},
            r"e.toml \[backbone\]: backbones are made from each other in a circle: '(x -> y|y -> x)"
            " -> .'; remove one",
        ),
        ({"x": OF | {"pooling": "cls", "pca": 2}}, "'pooling' does not apply beside 'of'"),
        ({"x": BOTH | {"layer": -2}}, "'layer' does not apply beside 'concat'"),
        ({"x": BOTH | {"image_size": 64}}, "'image_size' does not apply beside 'concat'"),
        ({"x": OF | {"model": "hog", "pca": 2}}, "'model' does not apply beside 'of'"),
        ({"x": BOTH | {"pca": 3}}, "'pca' does not apply beside 'concat'; shorten the result in"),
        ({"x": OF}, "'of' needs one of pca, random_projection, truncate, dtype"),
        ({"x": {"pca": 3}}, "'pca' shortens or packs stored embeddings: name their backbone"),
        ({"x": OF | {"pca": 0}}, "'pca' = 0: should be greater than or equal to 1"),
        ({"x": OF | {"dtype": "int4"}}, "'dtype' = 'int4': should be 'float16', 'int8'"),
        ({"x": OF | {"truncate": 1281}}, "'truncate' = 1281 is wider .* has 1,280 dimensions"),
        ({"x": OF | {"pca": 8, "truncate": 9}}, "'truncate' = 9 is wider .* 8 dimensions at that"),
        ({"mean_color": OF | {"pca": 8}}, "'mean_color' is a backbone of the catalog"),
        (
            {"x": OF | {"pca": 8}, "y": OF | {"pca": 8}},
            "'x' and 'y' are the same embeddings with the same options",
        ),
    ],
)
def test_a_mistake_is_one_line(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_names(experiment(**tables))
    assert str(caught.value).startswith("e.toml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_name_with_a_colon_is_a_model() -> None:
    with pytest.raises(UsageError, match="names with ':' are models themselves"):
        experiment(["mean_color", "hf:mine"], **{"hf:mine": {"of": "mean_color", "truncate": 2}})


def test_an_entry_knows_its_recipe_and_sizes_whatever_the_order_of_the_list() -> None:
    given = experiment(
        ["x", "y", "mean_color", "efficientnet_lite0"],
        x={"of": "y", "pca": 9, "dtype": "binary"},
        y={"concat": ["efficientnet_lite0", "mean_color"]},
    )
    x, y, *_ = resolve_backbones(given)
    # The bands of the data, and so the dimensions of mean_color, are not known here.
    assert (x.dim, y.dim, x.is_trainable, x.is_fitted) == (9, None, False, True)
    assert x.derived is not None
    assert x.derived.num_bytes(9) == 2
    assert x.description == "pca = 9, dtype = binary, of y"
    assert set(sources_of(given, "x")) == {"efficientnet_lite0", "mean_color"}


def test_what_only_cuts_or_draws_is_not_fitted_unless_its_parent_is() -> None:
    given = experiment(
        ["efficientnet_lite0", "pca", "x", "y"],
        x={"of": "efficientnet_lite0", "random_projection": 8, "dtype": "float16"},
        y={"of": "pca", "truncate": 8},
    )
    fitted = {item.name: item.is_fitted for item in resolve_backbones(given)}
    assert fitted == {"efficientnet_lite0": False, "pca": True, "x": False, "y": True}


# --- fits ---


def fit(rows: NDArray[np.float32], block: int = 37, seed: int = 0, **recipe: Any) -> Learned:
    derived = Derivation(parents=("a",), **recipe)

    def blocks() -> Iterator[Sequence[NDArray[np.float32]]]:
        for start in range(0, len(rows), block):
            yield [rows[start : start + block]]

    return fit_recipe(derived, [rows.shape[1]], blocks, num_train=len(rows), seed=seed)


def draw(num: int = 300, dim: int = 12, mean: float = 0.0) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(num, dim)) * np.linspace(1.0, 3.0, dim) + mean
    return rows.astype(np.float32)


@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize("is_wide", [False, True])
def test_components_are_those_of_the_whole_matrix(
    mean: float, is_wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_wide:
        monkeypatch.setattr(fitting, "MAX_COVARIANCE", 1)
    rows = draw(mean=mean)
    derived = Derivation(parents=("a",), steps=(("pca", 4),))
    learned = fit(rows, steps=(("pca", 4),))
    expected = PCA(4, svd_solver="full").fit(rows.astype(np.float64))
    found = derive(derived, learned.state, [rows])
    assert found.dtype == np.float32
    reference = expected.transform(rows.astype(np.float64))
    reference *= np.sign((reference * found).sum(axis=0))
    # A mean in float32, which wide embeddings have, is off by 0.0005 of 10,000.
    np.testing.assert_allclose(found, reference, atol=5e-3 if is_wide and mean else 1e-3)
    explained = expected.explained_variance_ratio_.sum()
    assert learned.facts["explained_variance"] == pytest.approx(explained, rel=1e-3)


def test_the_size_of_blocks_changes_no_result() -> None:
    rows = draw(mean=100.0)
    recipe: Any = {"steps": (("pca", 4),), "dtype": "int8"}
    one, other = (fit(rows, block=size, **recipe) for size in (7, 300))
    for key, value in one.state.items():
        np.testing.assert_allclose(value, other.state[key], rtol=1e-7, atol=1e-7)


def test_random_directions_follow_the_seed() -> None:
    recipe: Any = {"steps": (("random_projection", 5),)}
    one, same, other = (fit(draw(), seed=seed, **recipe).state for seed in (1, 1, 2))
    np.testing.assert_array_equal(*(item["random_projection.axes"] for item in (one, same)))
    assert not np.array_equal(one["random_projection.axes"], other["random_projection.axes"])


def test_int8_is_within_half_a_step_and_keeps_constants() -> None:
    rows = draw()
    rows[:, 3] = 7.5
    derived = Derivation(parents=("a",), dtype="int8")
    learned = fit(rows, dtype="int8")
    found = derive(derived, learned.state, [rows])
    step = (rows.max(axis=0) - rows.min(axis=0)) / 255
    assert (np.abs(found - rows) <= step / 2 + 1e-5).all()
    assert (found[:, 3] == 7.5).all()
    assert max(len(np.unique(column)) for column in found.T) <= 256
    assert learned.facts["num_constant"] == 1


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_codes_of_a_constant_are_refused(dtype: str) -> None:
    with pytest.raises(UsageError, match=f"'dtype' = '{dtype}' has nothing to code"):
        fit(np.full((50, 3), 0.1, np.float32), dtype=dtype)


def test_more_components_than_train_spans_are_refused() -> None:
    with pytest.raises(UsageError, match="'pca' = 9 is wider than the train set, whose 9 patches"):
        fit(draw(num=9), steps=(("pca", 9),))
    doubled = np.hstack([draw(dim=5), draw(dim=5)])
    with pytest.raises(UsageError, match="span only 5 dimensions; set at most 5"):
        fit(doubled, steps=(("pca", 6),))
    with pytest.raises(UsageError, match="span only 0 dimensions; check its backbone"):
        fit(np.full((50, 3), 0.1, np.float32), steps=(("pca", 1),))


def test_a_part_that_is_constant_is_centred_alone() -> None:
    rows, other = draw(dim=3), draw(dim=2, mean=5.0)
    rows[:, 1] = 0.1
    derived = Derivation(parents=("a", "b"), is_concat=True)
    learned = fit_recipe(derived, [3, 2], lambda: iter([[rows, other]]), num_train=300, seed=0)
    found = derive(derived, learned.state, [rows, other])
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=0), [1, 0, 1, 1, 1], atol=1e-5)
    assert learned.facts["num_constant"] == 1


def test_what_lacks_patches_is_no_parent(tmp_path: Path) -> None:
    """Such a parent's file was taken for damaged, and removed."""
    np.savez(tmp_path / "a.npz", ids=np.array(["a", "b"]), vectors=np.eye(2, dtype=np.float32))
    product = {"model": f"embeddings:{tmp_path / 'a.npz'}", "missing": "drop"}
    tables = {"mine": product, "x": {"concat": ["mean_color", "mine"]}}
    content = {
        "name": "e",
        "backbones": ["mean_color", *tables],
        "backbone": tables,
        "dataset": {"name": "synthetic", "root": "data"},
    }
    with pytest.raises(UsageError, match="'mine' leaves out patches that its product lacks"):
        resolve_backbones(build(content))
    del product["missing"]
    assert [item.name for item in resolve_backbones(build(content))] == ["mean_color", "mine", "x"]
