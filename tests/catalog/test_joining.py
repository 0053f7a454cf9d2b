"""GeoParquet without identifiers is joined with patches by place."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import geopandas as gpd  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely  # type: ignore[import-untyped]

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.products.joining import JOINS, WantedPlaces
from benchmark.catalog.products.matching import Matched
from benchmark.catalog.products.tables import TableProduct
from benchmark.errors import UsageError
from benchmark.options import BackboneOptions
from tests.product_rasters import CRS, NORTH, WEST, footprints

VECTORS = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


def write_grid(path: Path, *, crs: str | None = CRS, shapes: Any = None, **columns: Any) -> Path:
    """Write 4 x 4 squares of 100 m, row by row from the north-west, each with a vector."""
    if shapes is None:
        lefts, tops = WEST + 100 * (np.arange(16) % 4), NORTH - 100 * (np.arange(16) // 4)
        shapes = shapely.box(lefts, tops - 100, lefts + 100, tops)
    frame = gpd.GeoDataFrame({"vector": list(VECTORS), **columns}, geometry=shapes, crs=CRS)
    frame = frame if crs == CRS or crs is None else frame.to_crs(crs)
    frame.to_parquet(path, row_group_size=5)
    return path


def open_product(path: Path, **options: Any) -> TableProduct:
    given = BackboneOptions(**options) if options else None
    product = find_backbone(f"embeddings:{path}", where="x.toml", options=given).product
    assert isinstance(product, TableProduct)
    return pickle.loads(pickle.dumps(product))  # type: ignore[no-any-return]


def match(product: TableProduct, corners: np.ndarray[Any, Any]) -> Matched:
    names = [f"p{number}" for number in range(len(corners))]
    wanted = WantedPlaces(names, corners, product.crs, product.join or "")
    wanted = pickle.loads(pickle.dumps(wanted))
    found = [np.empty((0, 4), np.int64)]
    for number, piece in enumerate(product.pieces()):
        rows = wanted.find(product.identifiers(piece))
        found.append(np.column_stack([rows, np.full(len(rows), number)]))
    drops = product.drops_missing
    return wanted.choose(np.concatenate(found), "x.toml", lambda: None, drops_missing=drops)


@pytest.mark.parametrize("crs", [CRS, "EPSG:4326", "EPSG:3857"])
def test_the_polygon_that_holds_the_centre(tmp_path: Path, crs: str) -> None:
    product = open_product(write_grid(tmp_path / "a.parquet", crs=crs))
    assert (product.join, product.columns.id, product.dim) == ("centre", "geometry", 3)
    # In pixels of 10 m: the centres are in the squares 5, 0 and 15.
    found = match(product, footprints([11, 2, 33], [14, 5, 33], 4))
    assert found.rule == JOINS["centre"]
    assert found.patches.tolist() == [0, 1, 2]
    # Row groups of five rows are pieces.
    assert (5 * found.pieces + found.rows).tolist() == [5, 0, 15]
    assert found.weights is None or set(found.weights) == {1.0}


def test_the_mean_of_those_that_overlap_weighted_by_area(tmp_path: Path) -> None:
    product = open_product(write_grid(tmp_path / "a.parquet"), join="area")
    # Three quarters in square 0 and a quarter in square 1; then all in square 13, beside 12.
    found = match(product, footprints([2, 36], [7, 10], 4))
    rows = 5 * found.pieces + found.rows
    assert found.weights is not None
    weights = {
        (patch, row): weight
        for patch, row, weight in zip(found.patches, rows, found.weights, strict=True)
    }
    assert weights == {
        (0, 0): pytest.approx(0.75, abs=1e-6),
        (0, 1): pytest.approx(0.25, abs=1e-6),
        (1, 13): pytest.approx(1.0, abs=1e-6),
    }
    assert product.revision() != open_product(tmp_path / "a.parquet").revision()


def test_a_centre_on_an_edge_takes_the_first_polygon(tmp_path: Path) -> None:
    path = write_grid(tmp_path / "a.parquet", crs=CRS)
    wanted = WantedPlaces(["p"], footprints([8], [8], 4), CRS, "centre")
    # Exactly on the corner of four squares.
    wanted._shapes = shapely.points([[WEST + 100, NORTH - 100]])
    product = open_product(path)
    found = np.concatenate(
        [
            np.column_stack([rows, np.full(len(rows), number)])
            for number, piece in enumerate(product.pieces())
            for rows in [wanted.find(product.identifiers(piece))]
        ]
    )
    chosen = wanted.choose(found, "x.toml", lambda: None)
    assert (5 * chosen.pieces + chosen.rows).tolist() == [0]


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    corners = footprints([11, 70], [14, 14], 4)
    path = write_grid(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"1 of 2 patches have no row by place.*'p1'.*\"drop\""):
        match(open_product(path), corners)
    found = match(open_product(path, missing="drop"), corners)
    assert found.patches.tolist() == [0]
    with pytest.raises(UsageError, match="none of its polygons lies on a patch"):
        match(open_product(path), footprints([500], [500], 4))
    twice = tmp_path / "twice.parquet"
    shapes = shapely.box(WEST, NORTH - 400, WEST + 400 + np.arange(16), NORTH)
    write_grid(twice, shapes=shapes)
    with pytest.raises(UsageError, match=r"centres of 1 patches are in several polygons \('p0'\)"):
        match(open_product(twice), corners[:1])
    points = write_grid(tmp_path / "p.parquet", shapes=shapely.points(WEST + np.arange(16), NORTH))
    with pytest.raises(UsageError, match="none of its polygons lies on a patch"):
        match(open_product(points), footprints([-2], [-2], 4))


def test_files_whose_shapes_cannot_be_used_are_refused(tmp_path: Path) -> None:
    table = pq.read_table(write_grid(tmp_path / "a.parquet"))
    metadata = dict(table.schema.metadata)

    def write(name: str, geo: bytes | None, column: Any = None) -> Path:
        found = {**metadata, b"geo": geo} if geo else {}
        changed = table if column is None else table.set_column(1, "geometry", column)
        pq.write_table(changed.replace_schema_metadata(found), tmp_path / name)
        return tmp_path / name

    geo = metadata[b"geo"]
    for name, text, words in (
        ("bad.parquet", b"{", "GeoParquet metadata cannot be read"),
        ("points.parquet", geo.replace(b'"WKB"', b'"point"'), "encoded as point; write them"),
        ("none.parquet", None, "no column of identifiers"),
    ):
        with pytest.raises(UsageError, match=words):
            open_product(write(name, text))
    with pytest.raises(UsageError, match=r"'join' = 'area': 'none.parquet' is no GeoParquet"):
        open_product(tmp_path / "none.parquet", join="area")
    broken = pa.array([*table["geometry"].to_pylist()[:15], b"xx"], pa.binary())
    product = open_product(write("broken.parquet", geo, broken))
    with pytest.raises(ValueError, match="the shape of row 15 is no well-known binary"):
        match(product, footprints([11], [14], 4))
    (tmp_path / "both").mkdir()
    write_grid(tmp_path / "both" / "a.parquet")
    write_grid(tmp_path / "both" / "b.parquet", crs="EPSG:4326")
    with pytest.raises(UsageError, match=r"'b.parquet' differs from 'a.parquet' in the coord"):
        open_product(tmp_path / "both").pieces()


def test_identifiers_come_before_places(tmp_path: Path) -> None:
    path = write_grid(tmp_path / "a.parquet", name=[f"n{number}" for number in range(16)])
    assert open_product(path).join is None
    assert open_product(path, join="centre").join == "centre"
    with pytest.raises(UsageError, match=r"'join' = 'area': .*'id_column' is set"):
        open_product(path, join="area", id_column="name")
