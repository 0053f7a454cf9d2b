"""Footprints: outlines, predictions and errors as GeoParquet that others open."""

from __future__ import annotations

import json
import shutil
import subprocess

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely

from benchmark.catalog.heads import HEADS
from benchmark.errors import UsageError
from benchmark.stages.evaluate import EvaluateStage
from benchmark.stages.footprints import (
    check_path,
    find_cell,
    read_footprints,
    summarise,
    write_footprints,
)
from benchmark.stages.patches import PatchesStage
from tests.finetuned import draw_scores, write_embeddings, write_head
from tests.scenes import write_raster


@pytest.fixture(scope="module")
def patches(new_store, open_small_session):
    """The small experiment with patches alone."""
    return open_small_session(store=new_store(), name="alone")


@pytest.fixture(scope="module")
def scored(new_store, open_small_session):
    """The small experiment with two cells of two, of which knn is the better, evaluated."""
    heads = [HEADS.get(name) for name in ("mlp", "knn", "majority")]
    context = open_small_session(store=new_store(), heads=heads)
    table = context.patches.read_table(columns=["patch_id", "split", "label"]).to_pandas()
    rows = table[table["split"] != "train"]
    (backbone,) = context.backbones
    write_embeddings(context, backbone, seconds=1.0)
    for head, accuracy in zip(heads[:2], (0.3, 0.8), strict=True):
        scores = draw_scores(rows["label"].to_numpy(), accuracy=accuracy, num_classes=5, seed=1)
        artefact = context.predictions(backbone, head, 0)
        write_head(artefact, rows["patch_id"].to_numpy(), scores, val_score=accuracy)
    assert EvaluateStage().run(context).cells[0].status == "complete"
    return context


def test_without_predictions_there_are_outlines_labels_and_splits(patches):
    assert find_cell(patches) is None
    frame = read_footprints(patches)
    table = patches.patches.read_table(columns=["patch_id", "label", "split"])
    assert frame["patch_id"].tolist() == table["patch_id"].to_pylist()
    assert frame["split"].tolist() == table["split"].to_pylist()
    classes = np.array(patches.source.classes)
    assert (frame["class_name"] == classes[table["label"].to_numpy()]).all()
    assert "cell" not in frame and "is_error" not in frame
    assert summarise(frame) == {
        "num_patches": 240,
        "num_unplaced": 0,
        "shapes": "polygons",
        "crs": "EPSG:4326",
        "cell": None,
    }


def test_an_outline_is_the_window_of_its_raster(patches):
    frame = read_footprints(patches)
    assert frame.is_valid.all()
    centres = gpd.points_from_xy(frame["lon"], frame["lat"])
    assert frame.geometry.contains(gpd.GeoSeries(centres, crs=frame.crs)).all()
    metres = frame.to_crs("EPSG:26918")
    np.testing.assert_allclose(metres.geometry.area, 32 * 32, rtol=1e-3)
    one = metres[metres["scene"] == "m_390001_ne_18_1"].iloc[0]
    left, _, _, top = one.geometry.bounds
    assert left == pytest.approx(400_000 + one["col"], abs=0.01)
    assert top == pytest.approx(4_300_000 - one["row"], abs=0.01)


def test_the_leader_is_joined_unless_another_cell_is_named(scored):
    leader = find_cell(scored)
    assert (leader.backbone, leader.method, leader.seed) == ("mean_color", "knn", 0)
    assert find_cell(scored, "mean_color/mlp").method == "mlp"
    assert find_cell(scored, "mean_color/mlp/seed0").method == "mlp"


def test_predictions_and_errors_are_those_of_the_cell(scored):
    cell = find_cell(scored)
    frame = read_footprints(scored, cell).set_index("patch_id")
    assert set(frame["cell"]) == {"mean_color/knn/seed0"}
    train = frame[frame["split"] == "train"]
    assert train[["predicted", "confidence", "is_error"]].isna().all(axis=None)
    table = cell.artefact.read_table()
    rows = frame.loc[table["patch_id"].to_pylist()]
    classes = np.array(scored.source.classes)
    predicted = classes[table["y_pred"].to_numpy()]
    assert rows["predicted"].tolist() == predicted.tolist()
    assert (rows["is_error"] == (rows["class_name"] != predicted)).all()
    assert 0 < rows["is_error"].mean() < 0.5
    confidence = [max(scores) for scores in table["y_score"].to_pylist()]
    np.testing.assert_allclose(rows["confidence"].astype(float), confidence, rtol=1e-6)


def test_the_file_is_geoparquet_and_opens_unchanged(scored, tmp_path):
    frame = read_footprints(scored, find_cell(scored))
    path = write_footprints(frame, tmp_path / "new" / "map.parquet")
    again = gpd.read_parquet(path)
    assert again.crs == "EPSG:4326"
    assert again.geom_equals(frame).all()
    assert again["is_error"].equals(frame["is_error"])
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert geo["version"] == "1.1.0"
    assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Polygon"])
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 4326}
    west, south, east, north = frame.total_bounds
    view = gpd.read_parquet(path, bbox=(west, south, (west + east) / 2, north))
    assert 0 < len(view) < len(frame)
    assert [item.name for item in path.parent.iterdir()] == ["map.parquet"]


def test_a_geopackage_holds_the_same_and_gdal_reads_it(scored, tmp_path):
    frame = read_footprints(scored, find_cell(scored))
    path = write_footprints(frame, tmp_path / "map.gpkg")
    again = gpd.read_file(path)
    assert again.crs == "EPSG:4326"
    assert again.geom_equals_exact(frame, 1e-9).all()
    assert again.columns.tolist() == frame.columns.tolist()
    for name in ("patch_id", "class_name", "predicted", "is_error", "label"):
        assert again[name].isna().equals(frame[name].isna())
        known = frame[name].notna()
        assert again[name][known].tolist() == frame[name][known].tolist()
    (layer, kind), *others = pyogrio.list_layers(path)
    assert (layer, kind, others) == ("footprints", "Polygon", [])
    assert pyogrio.read_info(path)["features"] == len(frame)
    assert [item.name for item in tmp_path.iterdir()] == ["map.gpkg"]


def ogrinfo(*arguments: str) -> str:
    command = ["ogrinfo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("ogrinfo") is None, reason="needs ogrinfo of GDAL")
@pytest.mark.parametrize(("suffix", "driver"), [("gpkg", "GPKG"), ("parquet", "Parquet")])
def test_ogrinfo_reads_every_column_and_the_place(scored, tmp_path, suffix, driver):
    if f"  {driver} -" not in ogrinfo("--formats"):
        pytest.skip(f"the GDAL of this ogrinfo has no driver {driver}")
    frame = read_footprints(scored, find_cell(scored))
    path = str(write_footprints(frame, tmp_path / f"footprints.{suffix}"))
    query = "SELECT COUNT(*) AS errors FROM footprints WHERE is_error = 1"
    found = ogrinfo("-q", "-sql", query, path)
    assert f"errors (Integer) = {int(frame['is_error'].sum())}\n" in found
    found = ogrinfo("-so", "-al", path)
    west, south, east, north = frame.total_bounds
    for text in (
        f"using driver `{driver}' successful",
        "Geometry: Polygon\n",
        f"Feature Count: {len(frame)}\n",
        f"Extent: ({west:.6f}, {south:.6f}) - ({east:.6f}, {north:.6f})\n",
        '    ID["EPSG",4326]]\n',
    ):
        assert text in found
    kinds = dict.fromkeys(frame.columns.drop("geometry"), "String")
    kinds |= dict.fromkeys(("label", "row", "col"), "Integer")
    kinds |= dict.fromkeys(("lon", "lat"), "Real")
    kinds |= dict.fromkeys(("purity", "confidence"), "Real(Float32)")
    kinds |= dict.fromkeys(("is_synthetic", "is_error"), "Integer(Boolean)")
    for name, kind in kinds.items():
        assert f"\n{name}: {kind} (0.0)\n" in found


def test_a_cell_that_is_unknown_or_not_complete_is_one_line(scored):
    with pytest.raises(UsageError, match=r"small\.toml: there is no cell 'mean_color/kn'; give"):
        find_cell(scored, "mean_color/kn")
    with pytest.raises(UsageError, match=r"cell 'mean_color/majority/seed0' has no predictions"):
        find_cell(scored, "mean_color/majority")


@pytest.mark.parametrize("name", ["map.json", "map", "folder.parquet"])
def test_a_name_that_is_no_parquet_file_is_refused(tmp_path, name):
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UsageError, match=r"footprints: '.*' is no name of a file \*\.parquet or"):
        check_path(tmp_path / name)


def test_a_file_that_cannot_be_written_is_one_line(patches, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"map\.parquet cannot be written: "):
        write_footprints(read_footprints(patches), tmp_path / "file" / "map.parquet")


@pytest.fixture(scope="module")
def images(ray_session, open_small_session, tmp_path_factory):
    """A folder of GeoTIFFs, one of them without a place."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("field", "water"):
        for number in range(8):
            pixels = rng.integers(0, 256, (3, 16, 24), np.uint8)
            write_raster(root / name / f"{number}.tif", pixels, 300_000 + 100 * number, 4_300_000)
    from PIL import Image

    Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(root / "field" / "x.png")
    settings = {"name": "folder", "root": str(root), "patch_size": 16, "per_region": None}
    context = open_small_session(store=tmp_path_factory.mktemp("runs"), dataset=settings)
    assert PatchesStage().run(context).cells[0].status == "complete"
    return context


def test_geotiffs_of_a_folder_have_outlines_and_other_images_none(images, tmp_path):
    frame = read_footprints(images)
    assert frame.geometry.isna().sum() == summarise(frame)["num_unplaced"] == 1
    assert frame.set_index("patch_id").geometry.isna()["field/x.png"]
    metres = frame.dropna(subset=["geometry"]).to_crs("EPSG:26918")
    np.testing.assert_allclose(metres.geometry.area, 16 * 16, rtol=1e-3)
    path = write_footprints(frame, tmp_path / "map.parquet")
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    # GeoParquet 1.1: no bounding box where there is no shape.
    assert "covering" not in geo["columns"]["geometry"]
    assert "bbox" not in pq.read_schema(path).names
    assert gpd.read_parquet(path).geometry.isna().sum() == 1


def test_an_outline_across_the_180th_meridian_has_two_parts(patches, monkeypatch, tmp_path):
    corners = patches.source.corners(patches.patches.read_table())
    corners[..., 0] += 180 - corners[0, :, 0].mean()
    monkeypatch.setattr(type(patches.source), "corners", lambda _, table: corners)
    frame = read_footprints(patches)
    is_across = (corners[..., 0].max(axis=1) > 180) & (corners[..., 0].min(axis=1) < 180)
    assert summarise(frame)["shapes"] == "polygons"
    kinds = np.where(is_across, "MultiPolygon", "Polygon")
    assert frame.geometry.geom_type.tolist() == kinds.tolist()
    west, _, east, _ = frame.total_bounds
    assert -180 <= west < east <= 180
    areas = shapely.area(shapely.polygons(corners))
    np.testing.assert_allclose(shapely.area(frame.geometry.to_numpy()), areas)
    again = gpd.read_parquet(write_footprints(frame, tmp_path / "map.parquet"))
    assert again.geom_equals(frame).all()


def test_data_without_a_place_are_refused_in_one_line(images, monkeypatch):
    monkeypatch.setattr(
        type(images.source), "corners", lambda _, table: np.full((table.num_rows, 4, 2), np.nan)
    )
    with pytest.raises(UsageError, match=r"\[dataset\]: the patches of 'folder' have no coordi"):
        read_footprints(images)


def test_centres_take_the_place_of_outlines_that_no_one_knows(patches, monkeypatch):
    monkeypatch.setattr(
        type(patches.source), "corners", lambda _, table: np.full((table.num_rows, 4, 2), np.nan)
    )
    frame = read_footprints(patches)
    assert summarise(frame)["shapes"] == "points"
    assert frame.geometry.x.tolist() == frame["lon"].tolist()
