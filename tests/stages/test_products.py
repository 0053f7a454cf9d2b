"""Embeddings of products become an ordinary artefact, read in Ray tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import geopandas as gpd  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely  # type: ignore[import-untyped]

from benchmark.catalog.backbones import BACKBONES, find_backbone
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.options import BackboneOptions
from benchmark.stages.embed import EmbedStage, products
from benchmark.stages.report.backbones import product_notes
from benchmark.stages.report.results import Results
from benchmark.tables import vectors_array

NUM_OTHERS = 500


@pytest.fixture(scope="module")
def store(new_store: Callable[[], Path]) -> Path:
    return new_store()


@pytest.fixture
def ids(open_small: Callable[..., Context], store: Path) -> list[str]:
    table = open_small(store=store).patches.read_table(columns=["patch_id"])
    found: list[str] = table["patch_id"].to_pylist()
    return found


def vector_of(name: str) -> list[float]:
    return [float(value) for value in name.encode()[-8:]]


def write_product(path: Path, ids: list[str], **columns: Any) -> Path:
    """Write shuffled rows of these identities among others, in row groups of 100 rows."""
    names = [*ids, *(f"other-{number:05d}" for number in range(NUM_OTHERS))]
    np.random.default_rng(0).shuffle(names)
    vectors = pa.array([vector_of(name) for name in names], pa.list_(pa.float64()))
    table = pa.table({"id": [f"x/{name}.tif" for name in names], "vector": vectors, **columns})
    pq.write_table(table, path, row_group_size=100)
    return path


def test_the_rows_of_the_patches_become_embeddings(
    open_small: Callable[..., Context],
    store: Path,
    ids: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Several passes, as for vectors that do not fit at once.
    monkeypatch.setattr(products, "PASS_BYTES", 100 * 4 * 8)
    path = write_product(tmp_path / "mine.parquet", ids)
    backbone = find_backbone(f"embeddings:{path}")
    context = open_small(store=store, backbones=[backbone])
    assert [item.status for item in EmbedStage().run(context).cells] == ["complete"]
    artefact = context.embeddings(backbone)
    table = artefact.read_table()
    assert table["patch_id"].to_pylist() == ids
    expected = np.array([vector_of(name) for name in ids], np.float32)
    np.testing.assert_array_equal(vectors_array(table["embedding"]), expected)
    manifest = artefact.manifest()
    assert manifest["product"]["matched_by"] == "the file name without extension"
    assert (manifest["num_patches"], manifest["dim"]) == (len(ids), 8)
    assert "input" not in manifest
    # The same content elsewhere, under another name, is the same artefact.
    moved = find_backbone(f"embeddings:{path.rename(tmp_path / 'moved.parquet')}")
    assert open_small(store=store, backbones=[moved]).embeddings(moved).is_complete


def test_rows_without_identifiers_are_joined_by_place(
    open_small: Callable[..., Context], store: Path, ids: list[str], tmp_path: Path
) -> None:
    context = open_small(store=store)
    source: Any = context.source
    shapes = shapely.polygons(source.corners(context.patches.read_table()))
    order = np.random.default_rng(0).permutation(len(ids))
    frame = {"vector": [vector_of(ids[number]) for number in order]}
    path = tmp_path / "places.parquet"
    gpd.GeoDataFrame(frame, geometry=shapes[order], crs="EPSG:4326").to_parquet(
        path, row_group_size=100
    )
    backbones = [
        find_backbone(name, options=BackboneOptions.model_validate(options))
        for name, options in {
            "by_centre": {"model": f"embeddings:{path}"},
            "by_area": {"model": f"embeddings:{path}", "join": "area"},
        }.items()
    ]
    context = open_small(store=store, backbones=backbones)
    assert {item.status for item in EmbedStage().run(context).cells} == {"complete"}
    expected = np.array([vector_of(name) for name in ids], np.float32)
    for backbone, rule in zip(backbones, ("polygon that holds", "mean of the"), strict=True):
        artefact = context.embeddings(backbone)
        table = artefact.read_table()
        assert table["patch_id"].to_pylist() == ids
        np.testing.assert_allclose(vectors_array(table["embedding"]), expected, rtol=1e-4)
        assert rule in artefact.manifest()["product"]["matched_by"]


def test_no_fine_tuned_cell_is_expected_and_the_page_says_why(
    open_small: Callable[..., Context], tmp_path: Path
) -> None:
    path = write_product(tmp_path / "a.parquet", ["a"])
    backbone = find_backbone("mine", options=BackboneOptions(model=f"embeddings:{path}"))
    context = open_small(backbones=[BACKBONES.get("efficientnet_lite0"), backbone], finetune={})
    assert [item.name for item in context.finetuned_backbones] == ["efficientnet_lite0"]
    results = SimpleNamespace(
        context=context,
        backbones={item.name: item for item in context.backbones},
        named_backbones=lambda: ["mine"],
        finetuned={},
        patches={"bands": ["red", "green", "blue"]},
        embed={"mine": {"product": {"matched_by": "the file name"}, "dim": 8}},
    )
    (note,) = product_notes(cast(Results, results))
    assert note == (
        "Embeddings read from files, not computed here: mine. They have no weights, so none is "
        "fine-tuned."
    )


def test_only_the_parts_that_are_missing_are_written_again(
    open_small: Callable[..., Context], store: Path, ids: list[str], tmp_path: Path
) -> None:
    path = write_product(tmp_path / "again.parquet", ids, more=[0] * (len(ids) + NUM_OTHERS))
    backbone = find_backbone(f"embeddings:{path}")
    context = open_small(store=store, backbones=[backbone])
    EmbedStage().run(context)
    artefact = context.embeddings(backbone)
    whole = artefact.read_table()
    first, *others = artefact.files("part-")
    kept = [Path(artefact.path, name).stat().st_mtime_ns for name in others]
    Path(artefact.path, first).unlink()
    again = open_small(store=store, backbones=[backbone])
    assert EmbedStage().run(again).cells[0].status == "complete"
    assert artefact.read_table().equals(whole)
    assert [Path(artefact.path, name).stat().st_mtime_ns for name in others] == kept


def test_a_patch_without_a_row_ends_the_run_before_a_network_embeds(
    open_small: Callable[..., Context], store: Path, ids: list[str], tmp_path: Path
) -> None:
    path = write_product(tmp_path / "few.parquet", ids[2:])
    backbones = [BACKBONES.get("mean_color"), find_backbone(f"embeddings:{path}")]
    context = open_small(store=store, backbones=backbones)
    with pytest.raises(UsageError, match=rf"2 of {len(ids)} patches have no row .*{ids[0]}"):
        EmbedStage().run(context)
    assert not context.embeddings(backbones[0]).files("part-")
    assert context.embeddings(backbones[1]).status()[0] == "failed"


def test_a_patch_without_a_row_may_be_left_out(
    open_small: Callable[..., Context], store: Path, ids: list[str], tmp_path: Path
) -> None:
    path = write_product(tmp_path / "left.parquet", ids[2:])
    options = {"model": f"embeddings:{path}", "missing": "drop"}
    backbone = find_backbone("mine", options=BackboneOptions.model_validate(options))
    # Only the setting changes the identity.
    whole = find_backbone(f"embeddings:{path}")
    assert whole.revision() not in ("", backbone.revision())
    context = open_small(store=store, backbones=[backbone])
    assert EmbedStage().run(context).cells[0].status == "complete"
    table = context.embeddings(backbone).read_table()
    assert table["patch_id"].to_pylist() == ids[2:]
    expected = np.array([vector_of(name) for name in ids[2:]], np.float32)
    np.testing.assert_array_equal(vectors_array(table["embedding"]), expected)
    told = context.embeddings(backbone).manifest()["product"]
    assert (told["num_missing"], told["missing"]) == (2, f"'{ids[0]}', '{ids[1]}'")


def test_a_vector_that_is_not_finite_is_named_by_the_task_that_reads_it(
    open_small: Callable[..., Context], store: Path, ids: list[str], tmp_path: Path
) -> None:
    lines = [f"{name},{'nan' if name == ids[7] else number},1" for number, name in enumerate(ids)]
    path = tmp_path / "nan.csv"
    path.write_text("\n".join(["id,0,1", *lines]))
    backbone = find_backbone(f"embeddings:{path}")
    with pytest.raises(UsageError, match=rf"nan.csv.*NaN.*{ids[7]}"):
        EmbedStage().run(open_small(store=store, backbones=[backbone]))
