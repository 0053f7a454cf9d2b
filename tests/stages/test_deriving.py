"""Embeddings that are made from stored ones become an ordinary artefact, fitted on train alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import GaussianRandomProjection

from benchmark.catalog.names import resolve_backbones
from benchmark.config import build
from benchmark.derived import Derivation, describe_made
from benchmark.errors import CellError, UsageError
from benchmark.experiment.context import Context
from benchmark.exporting.folder import export
from benchmark.finetune_settings import FinetuneConfig
from benchmark.specs import Backbone
from benchmark.stages.embed import EmbedStage, deriving
from benchmark.stages.embed.deriving import Recipe, make_and_write
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.names import FITTED
from benchmark.tables import embeddings_column, embeddings_schema, vectors_array

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


def test_what_is_made_waits_for_its_parents_and_fails_with_them(open_derived: Open) -> None:
    context = open_derived(TABLES)
    stage = EmbedStage()
    pending = [cell for cell in stage.cells(context) if cell.backbone != "half"]
    ready = [cell.backbone for cell in stage.ready(context, pending)]
    assert ready == ["mean_color", "lbp_glcm"]
    later = [cell for cell in pending if cell.backbone not in ("mean_color", "lbp_glcm")]
    assert [cell.backbone for cell in stage.ready(context, later)] == ["both", "drawn", "bits"]


def test_a_parent_that_failed_is_the_reason(
    open_derived: Open, new_store: Callable[[], Path], open_small: Callable[..., Context]
) -> None:
    given = open_derived({"mean_color": {}, "cut": {"of": "mean_color", "truncate": 2}})
    context = open_small(store=new_store(), backbones=given.backbones)
    context.experiment = given.experiment
    parent, cut = (context.embeddings(item) for item in context.backbones)
    context.fail(parent, "no memory")
    deriving.compute(context, [(context.backbones[1], EmbedStage().cells(context)[1])])
    assert context.status(cut) == ("failed", "embed failed: no memory")


def test_only_the_parts_that_are_missing_are_written_again_with_what_was_fitted(
    open_derived: Open,
) -> None:
    tables = {"mean_color": {}, "again": {"of": "mean_color", "pca": 3, "dtype": "int8"}}
    context = open_derived(tables)
    EmbedStage().run(context)
    artefact = context.embeddings(entry_of(context, "again"))
    whole = artefact.read_table()
    first, *others = artefact.files("part-")
    kept = [Path(artefact.path, name).stat().st_mtime_ns for name in (*others, FITTED)]
    Path(artefact.path, first).unlink()
    assert EmbedStage().run(open_derived(tables)).cells[1].status == "complete"
    assert artefact.read_table().equals(whole)
    assert [Path(artefact.path, name).stat().st_mtime_ns for name in (*others, FITTED)] == kept


def test_a_recipe_that_does_not_fit_ends_the_run_in_one_line(open_derived: Open) -> None:
    context = open_derived({"mean_color": {}, "wide": {"of": "mean_color", "pca": 9}})
    with pytest.raises(
        UsageError, match=r'small.toml \[backbone."wide"\]: .pca. = 9 is wider than'
    ):
        EmbedStage().run(context)
    assert context.embeddings(context.backbones[0]).is_complete
    # Before anything is embedded, once the patches are known.
    num_train = context.num_train
    context = open_derived({"hog": {}, "wide": {"of": "hog", "pca": num_train}})
    with pytest.raises(UsageError, match=rf"wider than the train set, .*at most {num_train - 1}$"):
        EmbedStage().run(context)
    assert not context.embeddings(context.backbones[0]).files()


def test_values_that_no_float16_holds_are_refused_by_the_task(
    open_derived: Open, tmp_path: Path
) -> None:
    context = open_derived({"mean_color": {}, "half": {"of": "mean_color", "dtype": "float16"}})
    ids = context.patches.read_table(columns=["patch_id"])["patch_id"].to_pylist()
    lines = [f"{name},{number},{number + 65_000}" for number, name in enumerate(ids, start=1000)]
    path = tmp_path / "large.csv"
    path.write_text("\n".join(["id,0,1", *lines]))
    name = f"embeddings:{path}"
    context = open_derived({name: {}, "half": {"of": name, "dtype": "float16"}})
    with pytest.raises(UsageError, match=r'\[backbone."half"\]: .*up to 65,504') as caught:
        EmbedStage().run(context)
    assert "\n" not in str(caught.value)


def test_embeddings_that_are_no_numbers_never_become_codes(tmp_path: Path) -> None:
    patches, parent, made = (
        Artefact(store=Store(str(tmp_path)), stage="embed", name=name, fingerprint="1")
        for name in ("patches", "parent", "made")
    )
    names, part = ["a", "b", "c"], "part-000000.parquet"
    patches.write_table(part, pa.table({"patch_id": names, "split": ["train", "train", "test"]}))
    rows = np.array([[1, 2], [3, 5], [4, np.nan]], np.float32)
    table = pa.table([names, embeddings_column(rows)], schema=embeddings_schema(2))
    parent.write_table(part, table)
    recipe = Recipe(
        derived=Derivation(parents=("parent",), dtype="binary"),
        parents=(parent,),
        dims=(2,),
        dim=2,
        patches=patches,
        artefact=made,
        parts=(part,),
        seed=0,
    )
    with pytest.raises(CellError, match=f"{part}: embeddings are NaN or infinite"):
        make_and_write(recipe)


def test_neither_names_nor_other_options_are_part_of_the_identity(open_derived: Open) -> None:
    context = open_derived(TABLES)
    renamed = open_derived(
        {"mean_color": {}, "lbp_glcm": {}, "mine": {"of": "lbp_glcm", "random_projection": 7}}
    )
    first = context.embeddings(entry_of(context, "drawn"))
    assert renamed.embeddings(entry_of(renamed, "mine")).path == first.path
    other = context.experiment.model_copy(update={"seeds": (5, 0)})
    found = {}
    for name in ("drawn", "small"):
        before = context.embeddings(entry_of(context, name)).fingerprint
        again = open_derived(TABLES)
        again.experiment = other
        found[name] = again.embeddings(entry_of(again, name)).fingerprint == before
    # Only what is drawn depends on the first seed.
    assert found == {"drawn": False, "small": True}


def test_no_cell_of_it_is_exported_or_fine_tuned(open_derived: Open, tmp_path: Path) -> None:
    context = open_derived(TABLES)
    config = context.experiment.model_copy(update={"finetune": FinetuneConfig()})
    context.experiment = config
    assert context.finetuned_backbones == ()
    with pytest.raises(UsageError, match=r"'small' is made from stored .* be exported"):
        export(
            context, backbone="small", method="logistic_regression", seed=0, out=tmp_path / "out"
        )
    assert describe_made(context.backbones, is_finetuning=True) == (
        "Made from stored embeddings, not computed from patches: small, both, drawn, bits, half. "
        "They have no weights, so none is fine-tuned. Fitted without labels on the train split of "
        "the data: small, both, bits."
    )
