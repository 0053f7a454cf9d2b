"""What a backbone learns comes from train alone, is kept with its embeddings, and is shown."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.handcrafted import FitPca
from benchmark.errors import CellError
from benchmark.experiment.context import Context
from benchmark.experiment.identity import backbone_inputs
from benchmark.networks.embedder import Network
from benchmark.networks.fitted import read_facts, read_fitted, write_fitted
from benchmark.specs import Backbone, Fitted
from benchmark.stages.embed import EmbedStage
from benchmark.stages.embed.learning import StoredTrain
from benchmark.stages.report.depictions import depict, depiction_pictures
from benchmark.stages.report.patches import pick_patches
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.names import FITTED, MANIFEST
from benchmark.tables import images_array, vectors_array
from tests.toys import toy, write_patches

RGB = ("red", "green", "blue")


def small_pca(name: str = "pca", **options: Any) -> Backbone:
    options = {"num_components": 12, **options}
    return replace(BACKBONES.get("pca"), name=name, image_size=None, fit=FitPca(**options))


def test_the_patches_of_a_store_are_those_of_train_as_they_are_fed(tmp_path: Path) -> None:
    from tests.toys import draw_samples

    artefact = Artefact(store=Store(str(tmp_path)), stage="patches", name="x", fingerprint="1")
    train = draw_samples(20, prefix="a")
    write_patches(artefact, {"train": train, "val": draw_samples(9, prefix="b", seed=1)})
    stored = StoredTrain(BACKBONES.get("pca"), artefact, RGB, (3, 16, 16))
    assert (stored.num_patches, stored.shape) == (20, (3, 128, 128))
    fed = Network(toy("net"), RGB).preprocess  # its size is that of the patches
    raw = StoredTrain(small_pca(), artefact, RGB, (3, 16, 16))
    found = np.concatenate(list(raw.batches()))
    assert found.shape == (20, 3, 16, 16)
    expected = fed(train.pixels).numpy() / 2 + 0.5
    # The rows are dealt to three parts, and read part by part.
    order = np.concatenate([np.arange(20)[k::3] for k in range(3)])
    np.testing.assert_allclose(found, expected[order], atol=1e-6)
    for first in (1, 7, 13, 19):
        np.testing.assert_array_equal(np.concatenate(list(raw.batches(first))), found[first:])


@pytest.fixture(scope="module")
def run(open_small_session: Callable[..., Context], new_store: Callable[[], Path]) -> Context:
    """The stage with a fitted backbone, one that cannot be fitted, textures, and a plain one."""
    greedy = replace(small_pca("greedy"), fit=NeverFits())
    backbones = [small_pca(), greedy, BACKBONES.get("hog"), toy("plain")]
    context = open_small_session(store=new_store(), backbones=backbones)
    result = EmbedStage().run(context)
    statuses = {item.cell.backbone: item.status for item in result.cells}
    assert statuses.pop("greedy") == "failed"
    assert set(statuses.values()) == {"complete"}
    return context


class NeverFits:
    options: dict[str, Any] = {}  # noqa: RUF012

    def __call__(self, patches: Any) -> Fitted:
        raise CellError("there is too little to learn from")


def test_the_stage_fits_on_train_and_embeds_the_rest(run: Context) -> None:
    backbone = run.backbones[0]
    artefact = run.embeddings(backbone)
    table = run.patches.read_table()
    pixels = images_array(table["image"], (4, 32, 32)).reshape(table.num_rows, -1) / 255
    is_train = table["split"].to_numpy() == "train"
    expected = PCA(12, svd_solver="full").fit(pixels[is_train])
    scores = vectors_array(artefact.read_table()["embedding"])
    np.testing.assert_allclose(np.abs(scores), np.abs(expected.transform(pixels)), atol=1e-3)
    fitted = artefact.manifest()["fitted"]
    assert fitted["num_patches"] == is_train.sum() < table.num_rows
    share = expected.explained_variance_ratio_.sum()
    assert fitted["explained_variance"] == pytest.approx(share, abs=1e-4)
    seconds = artefact.manifest()["seconds"]["device"]
    assert seconds >= fitted["seconds"] > 0
    assert FITTED in artefact.manifest()["files"]


def test_a_fit_that_fails_leaves_its_neighbours_alone(run: Context) -> None:
    status, reason = run.embeddings(run.backbones[1]).status()
    assert status == "failed"
    assert reason == "fitting on train failed: there is too little to learn from"


def test_an_interrupted_embedding_goes_on_with_what_was_fitted(
    run: Context, open_small: Callable[..., Context], tmp_path: Path
) -> None:
    backbone = run.backbones[0]
    half = open_small(store=tmp_path / "half", backbones=[replace(backbone, build=backbone.build)])
    shutil.copytree(run.patches.path, half.patches.path)
    artefact = half.embeddings(backbone)
    shutil.copytree(run.embeddings(backbone).path, artefact.path)
    artefact.delete(MANIFEST)
    for name in artefact.files("part-")[1::2]:
        artefact.delete(name)
    # Other components than a fit would give: they must be used, and not fitted again.
    state = read_fitted(artefact)
    write_fitted(artefact, Fitted({**state, "axes": -state["axes"]}, read_facts(artefact)))
    (item,) = EmbedStage().run(half).cells
    assert item.status == "complete"
    whole, mixed = (
        vectors_array(context.embeddings(backbone).read_table()["embedding"])
        for context in (run, half)
    )
    is_kept = (whole == mixed).all(axis=1)
    assert is_kept.any() and not is_kept.all()
    np.testing.assert_array_equal(mixed[~is_kept], -whole[~is_kept])


def test_pixels_of_val_and_test_change_nothing_that_is_fitted(run: Context, tmp_path: Path) -> None:
    import pyarrow as pa

    from benchmark.tables import images_column

    changed = Artefact(store=Store(str(tmp_path)), stage="patches", name="x", fingerprint="1")
    for name in run.patches.files("part-"):
        table = run.patches.read_table(names=[name])
        images = images_array(table["image"], (4, 32, 32)).copy()
        other = table["split"].to_numpy() != "train"
        images[other] = 255 - images[other]
        field = table.schema.field("image")
        place = table.schema.get_field_index("image")
        column = pa.chunked_array([images_column(images)]).cast(field.type)
        changed.write_table(name, table.set_column(place, field, column))
    backbone = run.backbones[0]
    fits = [
        backbone.fit(StoredTrain(backbone, patches, run.source.bands, (4, 32, 32))).state
        for patches in (run.patches, changed)
    ]
    stored = read_fitted(run.embeddings(backbone))
    assert all(torch.equal(fits[0][name], fits[1][name]) for name in fits[0])
    np.testing.assert_allclose(stored["axes"], fits[0]["axes"], atol=1e-3)


def test_the_report_shows_what_is_kept_of_patches_of_test(run: Context) -> None:
    fitted, failed, textures, _ = run.backbones
    results = SimpleNamespace(
        context=run,
        backbones={item.name: item for item in run.backbones},
        figures=None,
        patches=run.patches.manifest(),
        classes=run.source.classes,
        embed={item.name: run.embeddings(item).manifest() for item in (fitted, textures)},
        caption="Toy scenes",
    )
    pictures = depiction_pictures(results)
    assert failed.depict is not None
    assert [item.title for item in pictures] == [
        "Reconstruction of patches by pca",
        "Oriented gradients of patches by hog",
    ]
    for item in pictures:
        assert item.section == "embeddings"
        with Image.open(io.BytesIO(item.drawing.content)) as image:
            assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 100
    patches = pick_patches(run.patches, 3, splits=("test",))
    assert [len(images) for images in patches] == [3] * len(run.source.classes)
    table = run.patches.read_table(splits=("test",))
    labels = table["label"].to_numpy()
    images = images_array(table["image"], (4, 32, 32))
    for label, chosen in enumerate(patches):
        known = {image.tobytes() for image in images[labels == label]}
        assert {image.tobytes() for image in chosen} <= known
        assert len({image.tobytes() for image in chosen}) == 3
    fed, kept = depict(results, fitted, patches[0])
    np.testing.assert_allclose(fed, patches[0] / 255, atol=1e-6)
    assert kept.pictures.shape == fed.shape
    assert ((kept.pictures - fed) ** 2).mean() < ((fed.mean() - fed) ** 2).mean()
    assert depict(results, textures, patches[0])[1].pictures.shape == (3, 1, 128, 128)


def test_options_of_the_fit_are_a_part_of_the_identity(open_small: Callable[..., Context]) -> None:
    context = open_small()
    fits = [small_pca(), small_pca(num_components=13), small_pca(kept_variance=0.9)]
    assert len({context.embeddings(item).fingerprint for item in fits}) == 3
    plain = backbone_inputs(BACKBONES.get("hog"), 64)
    assert "fit" not in plain
    for item in (BACKBONES.get("pca"), BACKBONES.get("pca_3000")):
        assert json.loads(json.dumps(backbone_inputs(item, 64)["fit"])) == item.fit.options
        assert pickle.loads(pickle.dumps(item)) == item
