"""The user's own scenes, from GeoTIFFs with polygons to the page, split by blocks of ground."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from benchmark import api
from benchmark.config import build
from tests.ranges import serve
from tests.rasters import UTM, picture, write_raster

SIDE = 160


def write_scenes(root: Path) -> Path:
    """Write three uint16 scenes side by side, and one file of polygons for all."""
    shapes, kinds = [], []
    for number in range(3):
        labels = np.zeros((SIDE, SIDE), np.uint8)
        x, y = 400_000 + number * SIDE, 4_400_000
        for row in range(0, SIDE, 20):
            for col in range(0, SIDE, 20):
                label = (row // 20 + col // 20 + number) % 2
                labels[row : row + 20, col : col + 20] = label + 1
                shapes.append(shapely.box(x + col, y - row - 20, x + col + 20, y - row))
                kinds.append(("field", "forest")[label])
        image = picture(labels, bands=4, dtype="uint16") * 10
        if number == 0:
            image[:, :6, :10] = 0
        write_raster(root / f"images/s{number}.tif", image, x=x, nodata=0)
    frame = geopandas.GeoDataFrame({"use": kinds, "geometry": shapes}, crs=UTM)
    frame.to_file(root / "land_use.gpkg")
    return root


@pytest.mark.slow
def test_scenes_with_polygons_run_from_files_to_the_page(ray_session: None, tmp_path: Path) -> None:
    content = {
        "name": "own",
        "backbones": ["mean_color"],
        "heads": ["logistic_regression", "majority"],
        "dataset": {
            "name": "rasters",
            "root": str(write_scenes(tmp_path / "data")),
            "patch_size": 10,
            "rasters": {
                "images": "images/*.tif",
                "labels": "land_use.gpkg",
                "label_field": "use",
                "block_m": 40,
                "buffer_m": 2,
            },
        },
        "embed": {"num_actors": 1},
        "tune": {"num_trials": 2, "max_concurrent": 1},
        "evaluate": {"num_resamples": 50},
    }
    experiment, store = build(content), str(tmp_path / "runs")
    result = api.run(experiment, store=store)
    assert {cell.status for cell in result.cells} == {"complete"}
    with api.open_context(experiment, store=store) as context:
        manifest = context.patches.manifest()
        scores = context.scores().read_table(names=["scores.parquet"]).to_pandas()
        page = next(Path(context.report().path).glob("*.html")).read_text()
    assert manifest["classes"] == ["field", "forest"]
    assert manifest["bands"] == ["red", "green", "blue", "nir"]
    notes = " ".join(manifest["notes"])
    for text in (
        "by blocks of ground of 40 m",
        "Windows left out at the edges of blocks of another split: ",
        "uint16 pixels became 0 to 255 by the range of each band in train",
        "Patches left out because more than 50% of their values hold no data: 1, e.g. 's0-00000",
    ):
        assert text in notes
        assert text.replace("'", "&#39;")[:40] in page
    best = scores[(scores["metric"] == "balanced_accuracy") & (scores["split"] == "test")]
    value = best.set_index("method")["value"]
    assert value["logistic_regression"] > 0.95 > 0.6 > value["majority"]


@pytest.mark.slow
def test_scenes_and_polygons_of_a_web_server_become_the_same_patches(
    ray_session: None, tmp_path: Path
) -> None:
    root = write_scenes(tmp_path / "data")
    rows = [f"images/s{number}.tif,land_use.gpkg" for number in range(3)]
    (root / "index.csv").write_text("\n".join(["image,label", *rows]))
    table = {"index": "index.csv", "label_field": "use", "block_m": 40}
    found = []
    with serve(root) as server:
        for place in (str(root), server.url):
            dataset = {"name": "rasters", "root": place, "patch_size": 10, "rasters": table}
            content = {"name": "own", "backbones": ["mean_color"], "heads": ["majority"]}
            experiment = build(content | {"dataset": dataset})
            api.run_stage("patches", experiment, store=str(tmp_path / "runs"))
            with api.open_context(experiment, store=str(tmp_path / "runs")) as context:
                table_of = context.patches.read_table().sort_by("patch_id")
            found.append(table_of.replace_schema_metadata(None))
        assert server.num_bytes(".gpkg") == (root / "land_use.gpkg").stat().st_size
    assert found[0].num_rows
    assert found[0].equals(found[1])
