"""Embeddings of rasters become an ordinary artefact, sampled in Ray tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.catalog.backbones import BACKBONES, find_backbone
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.options import BackboneOptions
from benchmark.specs import Backbone
from benchmark.stages.embed import EmbedStage, places, products
from benchmark.tables import vectors_array
from tests.product_rasters import Placed, place_patches, write_alphaearth


@pytest.fixture(scope="module")
def store(new_store: Callable[[], Path]) -> Path:
    return new_store()


@pytest.fixture
def placed(open_small: Callable[..., Context], store: Path) -> Placed:
    context = open_small(store=store)
    return place_patches(context.source, context.patches.read_table())


def open_product(path: Path, **options: object) -> Backbone:
    return find_backbone(f"embeddings:{path}", options=BackboneOptions.model_validate(options))


def test_the_means_of_footprints_become_embeddings_however_they_are_cut(
    open_small: Callable[..., Context],
    store: Path,
    placed: Placed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placed.write(tmp_path / "aef", write_alphaearth)
    backbone = open_product(tmp_path / "aef")
    context = open_small(store=store, backbones=[backbone])
    assert [item.status for item in EmbedStage().run(context).cells] == ["complete"]
    artefact = context.embeddings(backbone)
    table, manifest = artefact.read_table(), artefact.manifest()
    assert table["patch_id"].to_pylist() == placed.ids
    vectors = vectors_array(table["embedding"])
    # Pixels at the edge of a patch may be those of its neighbour.
    assert (vectors * placed.expected(64)).sum(axis=1).min() > 0.8
    told = manifest["product"]
    assert told["matched_by"].startswith("place: 64 bands in AlphaEarth's layout")
    assert (told["num_missing"], told["num_partial"], told["empty_share"]) == (0, 0, 0.0)
    assert told["years"] == [2021]
    # Several passes, and tasks of one patch, give the same bits.
    monkeypatch.setattr(products, "PASS_BYTES", 50 * 4 * 64)
    monkeypatch.setattr("benchmark.catalog.products.sampling.MOST_PATCHES", 1)
    again = open_small(store=store, backbones=[backbone])
    for name in artefact.files("part-")[:-1]:
        Path(artefact.path, name).unlink()
    assert EmbedStage().run(again).cells[0].status == "complete"
    assert artefact.read_table().equals(table)
    assert artefact.manifest()["product"] == told


def test_patches_without_data_end_the_run_or_are_left_out(
    open_small: Callable[..., Context], store: Path, placed: Placed, tmp_path: Path
) -> None:
    hidden = [3, 10]
    placed.write(tmp_path / "aef", write_alphaearth, hidden=hidden)
    names = [placed.ids[number] for number in hidden]
    backbones = [BACKBONES.get("mean_color"), open_product(tmp_path / "aef")]
    context = open_small(store=store, backbones=backbones)
    words = rf"2 of {len(placed.ids)} patches have no pixel .*'{names[0]}', '{names[1]}'.*\"drop\""
    with pytest.raises(UsageError, match=words):
        EmbedStage().run(context)
    assert not context.embeddings(backbones[0]).files("part-")
    backbone = open_product(tmp_path / "aef", missing="drop")
    context = open_small(store=store, backbones=[backbone])
    assert EmbedStage().run(context).cells[0].status == "complete"
    artefact = context.embeddings(backbone)
    left = [name for name in placed.ids if name not in names]
    assert artefact.read_table()["patch_id"].to_pylist() == left
    told = artefact.manifest()["product"]
    assert (told["num_missing"], told["missing"]) == (2, f"'{names[0]}', '{names[1]}'")


def test_patches_without_a_place_are_refused() -> None:
    def context(lon: float) -> Context:
        import pyarrow as pa

        table = pa.table({"patch_id": ["a.png"], "lon": [lon], "lat": [lon]})
        patches = SimpleNamespace(read_table=lambda **_: table)
        return SimpleNamespace(  # type: ignore[return-value]
            patches=patches, source=object(), dataset=SimpleNamespace(name="folder")
        )

    for lon, words in ((np.nan, "have no coordinates; use scenes"), (7.0, 'sample = "centre"')):
        with pytest.raises(UsageError, match=words):
            places.find_corners(context(lon), {"part-0": []}, needs_outlines=True, where="x.toml")
    found = places.find_corners(context(7.0), {"part-0": []}, needs_outlines=False, where="x")
    np.testing.assert_array_equal(found, [[[7.0, 7.0]]])
