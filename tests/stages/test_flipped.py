"""Flips at test on a real Ray: embeddings, heads, fine-tuning, scores and the page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.catalog.heads import HEADS
from benchmark.errors import CellError
from benchmark.experiment.context import Context
from benchmark.exporting.folder import export
from benchmark.exporting.saved import load_head
from benchmark.flipping import AXES
from benchmark.networks.classifier import build_classifier
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder, Preprocessing
from benchmark.networks.fitted import read_fitted
from benchmark.specs import Backbone
from benchmark.stages.embed import EmbedStage
from benchmark.stages.embed.flipped import await_states
from benchmark.stages.evaluate import EvaluateStage
from benchmark.stages.evaluate.comparison import read_costs
from benchmark.stages.finetune import FinetuneStage
from benchmark.stages.report import ReportStage
from benchmark.stages.tune import TuneStage
from benchmark.stages.tune.flipped import FlippedRows, average_flips
from benchmark.store.names import FITTED, WEIGHTS
from benchmark.tables import images_array, vectors_array
from benchmark.training.checkpoints import read_weights
from tests.stages.test_learning import small_pca
from tests.toys import build_sided, toy

SIDED = toy("sided", build_sided)
PCA = small_pca(num_components=4)
LOGISTIC = HEADS.get("logistic_regression")
RECIPE = {"num_epochs": 1, "learning_rate": 0.01, "backbones": ["sided"]}
HELD_OUT = ("val", "test")


class Both(NamedTuple):
    """The same experiment without and with flips, on one store."""

    plain: Context
    flipped: Context
    kept: dict[Path, int]
    """When the files without flips were written (ns)."""


def written(context: Context) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns
        for backbone in context.backbones
        for path in Path(context.embeddings(backbone).path).rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def both(open_small_session: Callable[..., Context], new_store: Callable[[], Path]) -> Both:
    opened = partial(
        open_small_session,
        store=new_store(),
        backbones=[SIDED, PCA],
        heads=[LOGISTIC],
        finetune=RECIPE,
    )
    plain, flipped = opened(), opened(protocol={"flips": "all"})
    for stage in (EmbedStage(), TuneStage()):
        assert {item.status for item in stage.run(plain).cells} == {"complete"}
    kept = written(plain)
    for stage in (EmbedStage(), TuneStage(), FinetuneStage(), EvaluateStage(), ReportStage()):
        assert {item.status for item in stage.run(flipped).cells} == {"complete"}, stage.name
    return Both(plain, flipped, kept)


def read_pixels(context: Context) -> tuple[list[str], NDArray[np.uint8]]:
    """Return the identities and pixels of val and test."""
    table = context.patches.read_table(columns=["patch_id", "image"], splits=HELD_OUT)
    return table["patch_id"].to_pylist(), np.array(images_array(table["image"], (4, 32, 32)))


def versions_of(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [pixels, pixels[..., ::-1], pixels[..., ::-1, :], pixels[..., ::-1, ::-1]]


def scores_of(context: Context, artefact: Any) -> NDArray[np.float32]:
    table = artefact.read_table()
    assert table["patch_id"].to_pylist() == read_pixels(context)[0]
    return vectors_array(table["y_score"])


def embed(context: Context, backbone: Backbone, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    plan = plan_device(precision="float32", batch_size=8, num_threads=1, device="cpu")
    state = None if backbone.fit is None else read_fitted(context.embeddings(backbone))
    return Embedder(backbone, context.source.bands, plan, state)(np.ascontiguousarray(pixels))[0]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [SIDED, PCA], ids=lambda item: item.name)
def test_flips_of_val_and_test_are_embedded_beside_what_is_there(
    both: Both, backbone: Backbone
) -> None:
    ids, pixels = read_pixels(both.flipped)
    artefacts = both.flipped.flipped(backbone)
    assert [item.flip for item in artefacts] == list(AXES)
    for artefact, version in zip(artefacts.values(), versions_of(pixels)[1:], strict=True):
        table = artefact.read_table()
        assert table["patch_id"].to_pylist() == ids
        expected = embed(both.flipped, backbone, version)
        found = vectors_array(table["embedding"])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert np.abs(found - embed(both.flipped, backbone, pixels)).max() > 1e-3
        manifest = artefact.manifest()
        assert manifest["num_patches"] == len(ids) and "fitted" not in manifest
        plain = both.flipped.embeddings(backbone)
        assert manifest["inputs"]["embeddings"] == plain.fingerprint
        assert manifest["plan"]["batch_size"] == plain.manifest()["plan"]["batch_size"]
        assert not artefact.has(FITTED)


@pytest.mark.slow
def test_what_was_computed_without_flips_is_as_it_was(both: Both) -> None:
    assert written(both.plain) == both.kept
    for stage in (EmbedStage(), TuneStage()):
        assert {item.status for item in stage.run(both.plain).cells} == {"complete"}
    assert written(both.plain) == both.kept


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [SIDED, PCA], ids=lambda item: item.name)
def test_a_head_predicts_the_mean_over_flips(both: Both, backbone: Backbone) -> None:
    artefact = both.flipped.predictions(backbone, LOGISTIC, 0)
    _, pixels = read_pixels(both.flipped)
    head = load_head(Path(artefact.path))
    each = [head.predict_proba(embed(both.flipped, backbone, item)) for item in versions_of(pixels)]
    found = scores_of(both.flipped, artefact)
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-5)
    assert np.abs(found - each[0]).max() > 1e-3
    table = artefact.read_table()
    assert table["y_pred"].to_pylist() == found.argmax(axis=1).tolist()
    manifest, before = artefact.manifest(), both.plain.predictions(backbone, LOGISTIC, 0).manifest()
    assert manifest["flips"]["names"] == list(AXES)
    # Chosen on plain val patches: the same trial wins.
    assert (manifest["params"], manifest["val_score"]) == (before["params"], before["val_score"])


@pytest.mark.slow
def test_a_fine_tuned_network_predicts_the_mean_over_flips(both: Both) -> None:
    artefact = both.flipped.finetuned(SIDED, 0)
    _, pixels = read_pixels(both.flipped)
    preprocess = Preprocessing(SIDED, both.flipped.source.bands)
    model = build_classifier(SIDED, preprocess.num_bands, 5).eval()
    model.load_state_dict(read_weights(artefact, WEIGHTS))
    with torch.inference_mode():
        each = [
            model(preprocess(torch.from_numpy(np.ascontiguousarray(item)))).softmax(dim=1).numpy()
            for item in versions_of(pixels)
        ]
    found = scores_of(both.flipped, artefact)
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-5)
    assert np.abs(found - each[0]).max() > 1e-4
    assert artefact.manifest()["flips"]["names"] == list(AXES)


@pytest.mark.slow
def test_costs_include_flips_and_the_page_says_so(both: Both) -> None:
    context = both.flipped
    cell = next(item for item in context.tune_cells() if item.backbone == "sided")
    artefacts = [cell.artefact, context.embeddings(SIDED), *context.flipped(SIDED).values()]
    seconds = [item.manifest()["seconds"]["device"] for item in artefacts]
    assert read_costs(context, {cell: (cell,)})[cell].seconds == pytest.approx(sum(seconds))
    assert len(seconds) == 5 and min(seconds[2:]) > 0
    page = (Path(context.report().path) / "index.html").read_text()
    assert "mean over flips (left-right, up-down, both)" in page
    assert "device-seconds include the flips" in page
    assert any("flips (left-right" in note for note in context.scores().manifest()["notes"])


@pytest.mark.slow
def test_an_exported_model_says_that_it_predicts_without_flips(both: Both, tmp_path: Path) -> None:
    out = tmp_path / "model"
    export(both.flipped, backbone="sided", method="logistic_regression", seed=None, out=out)
    card = (out / "README.md").read_text()
    assert "averaged over each patch and its flips (left-right, up-down, both)" in card
    assert "of each patch once, in float32 on this machine; those stored are means" in card


@pytest.mark.slow
def test_flips_do_not_depend_on_the_number_of_actors(
    both: Both, open_small: Callable[..., Context], new_store: Callable[[], Path]
) -> None:
    other = open_small(
        store=new_store(),
        backbones=[SIDED],
        protocol={"flips": "horizontal"},
        embed={"num_actors": 2},
    )
    assert [item.status for item in EmbedStage().run(other).cells] == ["complete"] * 2
    (mine,) = other.flipped(SIDED).values()
    first = next(iter(both.flipped.flipped(SIDED).values()))
    assert mine.fingerprint == first.fingerprint
    one, two = (vectors_array(item.read_table()["embedding"]) for item in (mine, first))
    np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_folds_flip_train_too_and_predict_the_mean(
    both: Both, open_small: Callable[..., Context]
) -> None:
    folds = open_small(
        store=both.flipped.store.root,
        backbones=[SIDED],
        heads=[LOGISTIC],
        protocol={"flips": "horizontal", "cross_validation": 2},
    )
    held_out, train = folds.flipped(SIDED).values()
    assert held_out.is_complete and not train.is_complete
    tested = check_predictions(folds)
    assert sorted(tested) == sorted(folds.patches.read_table()["patch_id"].to_pylist())


def check_predictions(context: Context) -> list[str]:
    """Run embed and tune, compare predictions with means; return the patches of test."""
    for stage in (EmbedStage(), TuneStage()):
        assert {item.status for item in stage.run(context).cells} == {"complete"}
    table = context.patches.read_table(columns=["patch_id", "image"])
    pixels = np.array(images_array(table["image"], (4, 32, 32)))
    ids = table["patch_id"].to_numpy()
    tested: list[str] = []
    for cell in context.tune_cells():
        rows = context.rows_of(cell)
        predictions = cell.artefact.read_table()
        mine = np.isin(ids, rows.rows.ids[np.isin(rows.roles, HELD_OUT)])
        assert predictions["patch_id"].to_pylist() == ids[mine].tolist()
        head = load_head(Path(cell.artefact.path))
        each = [
            head.predict_proba(embed(context, SIDED, item[mine]))
            for item in versions_of(pixels)[:2]
        ]
        found = vectors_array(predictions["y_score"])
        np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-5)
        tested += rows.rows.ids[rows.roles == "test"].tolist()
    return tested


def test_flips_without_the_state_that_was_fitted_on_train_fail_with_the_reason(
    open_small: Callable[..., Context], new_store: Callable[[], Path]
) -> None:
    context = open_small(store=new_store(), backbones=[PCA], protocol={"flips": "horizontal"})
    _, flip = EmbedStage().cells(context)
    failures: dict[str, str] = {}
    await_states(context, [(PCA, flip)], failures)
    assert failures == {"pca": "its plain patches are not embedded: run again"}
    context.leases.close()


def halves(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """A head whose probability of the first class is the embedding's only number."""
    return np.concatenate([x, 1 - x], axis=1)


def rows_of(flip: str, **values: float) -> FlippedRows:
    ids = np.array(sorted(values), np.str_)
    x = np.array([[values[name]] for name in ids], np.float32)
    return FlippedRows(flip, ids, x)


def test_a_mean_computed_by_hand() -> None:
    plain = halves(np.array([[0.9], [0.5]], np.float32))
    flips = [
        rows_of("left-right", a=0.1, b=0.5, unused=0.0),
        # Of two splits, each with one of the patches.
        rows_of("up-down", b=0.2),
        rows_of("up-down", a=0.8),
    ]
    found = average_flips(halves, plain, np.array(["b", "a"]), flips)
    np.testing.assert_allclose(found, halves(np.array([[1.6 / 3], [1.4 / 3]])), atol=1e-7)


def test_flips_of_symmetric_patches_change_nothing() -> None:
    x = np.random.default_rng(0).random((50, 1)).astype(np.float32)
    ids = np.array([f"p{number:02d}" for number in range(50)])
    flips = [FlippedRows(flip, ids, x) for flip in AXES]
    np.testing.assert_array_equal(average_flips(halves, halves(x), ids, flips), halves(x))
    np.testing.assert_array_equal(average_flips(halves, halves(x), ids, []), halves(x))


def test_a_patch_without_an_embedding_of_a_flip_is_an_error() -> None:
    plain = halves(np.array([[0.9], [0.5]], np.float32))
    with pytest.raises(CellError, match=r"flipped patches \(both\) lacks 1 of 2 patches.*'c'"):
        average_flips(halves, plain, np.array(["a", "c"]), [rows_of("both", a=0.1)])
