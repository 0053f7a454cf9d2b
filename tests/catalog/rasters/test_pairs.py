"""Pairs of imagery and labels: patterns, a table, STAC items; and files that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.transform import Affine

from benchmark.catalog.rasters.files import open_root
from benchmark.catalog.rasters.opening import open_rasters
from benchmark.catalog.rasters.pairs import list_pairs
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.raster_settings import RastersConfig
from tests.ranges import serve
from tests.rasters import CLASSES, picture, stripes, write_pairs, write_raster


def listed(root: Path, **settings: Any) -> dict[str, tuple[str, str, str | None, str | None]]:
    found = list_pairs(open_root(str(root)), RastersConfig.model_validate(settings))
    return {pair.name: (pair.image, pair.label, pair.region, pair.split) for pair in found.pairs}


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def test_patterns_pair_files_by_the_text_of_each_star(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("de/naip/a.tif", "de/lc/a_lc.tif", "pa/naip/a.tif", "pa/lc/a_lc.tif"),
        *("pa/naip/b.tif", "pa/lc/c_lc.tif", "pa/naip/.hidden.tif"),
    )
    found = list_pairs(
        open_root(str(tmp_path)),
        RastersConfig.model_validate({"images": "*/naip/*.tif", "labels": "*/lc/*_lc.tif"}),
    )
    assert [(pair.name, pair.region) for pair in found.pairs] == [("de/a", "de"), ("pa/a", "pa")]
    assert found.notes == [
        "Images without labels, not used: 1, e.g. 'pa/naip/b.tif'.",
        "Label files without an image, not used: 1, e.g. 'pa/lc/c_lc.tif'.",
    ]


def test_brackets_in_names_are_no_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "i[1]/a.tif", "l/a.tif")
    assert list(listed(tmp_path, images="i[1]/*.tif", labels="l/*.tif")) == ["a"]


def test_one_file_of_polygons_serves_all_images(tmp_path: Path) -> None:
    touch(tmp_path, "i/a.tif", "i/b.tif", "all.gpkg")
    found = listed(tmp_path, images="i/*.tif", labels="all.gpkg")
    assert {name: item[1] for name, item in found.items()} == {"a": "all.gpkg", "b": "all.gpkg"}


def test_a_table_gives_scene_region_and_split(tmp_path: Path) -> None:
    text = "image;label;scene;region;split;note\ni\\a.tif;l/a.tif;A;north;Train;x\n"
    (tmp_path / "index.csv").write_text(text)
    found = list_pairs(
        open_root(str(tmp_path)), RastersConfig.model_validate({"index": "index.csv"})
    )
    (pair,) = found.pairs
    assert pair == ("A", "north", "train", "i/a.tif", "l/a.tif")
    assert found.notes == ["Columns of the index not used: 'note'."]


def item(name: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "properties": properties,
        "assets": {
            "image": {"href": f"./{name}.tif"},
            "label": {"href": f"../labels/{name}.tif"},
            "other": {"href": "https://example.org/x.tif"},
        },
    }


def test_stac_items_in_one_file_or_in_folders(tmp_path: Path) -> None:
    (tmp_path / "stac/a").mkdir(parents=True)
    (tmp_path / "stac/catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c"}))
    content = item("a", split="validation", region="north")
    (tmp_path / "stac/a/a.json").write_text(json.dumps(content))
    wanted = ("stac/a/a.tif", "stac/labels/a.tif", "north", "val")
    assert listed(tmp_path, index="stac") == {"a": wanted}
    content = item("b", **{"ml-aoi:split": "validate"})
    many = {"type": "FeatureCollection", "features": [content]}
    (tmp_path / "stac/items.json").write_text(json.dumps(many))
    found = listed(tmp_path, index="stac/items.json")
    assert found == {"b": ("stac/b.tif", "labels/b.tif", None, "val")}


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("{", {}, "is no JSON"),
        ("[1]", {}, "is no STAC item nor a collection of items"),
        ('{"type": "Feature", "id": "a"}', {}, "is no STAC item: it has no assets"),
        (json.dumps(item("a")), {"label_asset": "lable"}, "no asset 'lable'; .* 'label'?"),
        (json.dumps(item("a")), {"image_asset": "other"}, "is outside the root"),
        (json.dumps(item("a", split="x")), {}, "unknown split 'x'"),
        ('{"type": "FeatureCollection", "features": []}', {}, "holds no STAC items"),
    ],
)
def test_bad_stac_is_one_line(tmp_path: Path, content: str, settings: Any, message: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/i.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        listed(tmp_path, index="s/i.json", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "set images and labels, or index alone"),
        ({"images": "i/*.tif"}, "set images and labels, or index alone"),
        ({"images": "i/*.tif", "labels": "l/*", "index": "x"}, "or index alone"),
        ({"images": "i/*.tif", "labels": "l/a.tif"}, "has 1 '\\*' and labels = 'l/a.tif' 0"),
        ({"images": "x/*.tif", "labels": "l/*.tif"}, "images = 'x/\\*.tif': matches no file"),
        ({"images": "i/*.tif", "labels": "l/*_lc.tif"}, "labels = .* matches no file"),
        ({"images": "i/*.tif", "labels": "o/*.tif"}, "no image has labels: the first of 1"),
        ({"images": "../*.tif", "labels": "l/*.tif"}, "'../\\*.tif' is outside the root"),
        ({"index": "no.csv"}, "no.csv': file is missing"),
        ({"index": "empty.csv"}, "lists no scenes"),
        ({"index": "twice.csv"}, "the scene 'a' is listed 2 times"),
        ({"index": "half.csv"}, "line 3: the split is empty"),
        ({"index": "out.csv"}, "line 2: '/etc/passwd' is outside the root"),
        ({"index": "names.csv"}, "missing|lacks|no column"),
    ],
)
def test_bad_pairs_are_one_line(tmp_path: Path, settings: Any, message: str) -> None:
    touch(tmp_path, "i/a.tif", "l/a.tif", "o/b.tif")
    for name, text in {
        "empty": "image,label\n",
        "twice": "image,label\ni/a.tif,l/a.tif\ni/a.tif,l/a.tif\n",
        "half": "image,label,split\ni/a.tif,l/a.tif,train\ni/b.tif,l/a.tif,\n",
        "out": "image,label\n/etc/passwd,l/a.tif\n",
        "names": "image,mask\ni/a.tif,l/a.tif\n",
    }.items():
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        listed(tmp_path, **settings)


def opened(root: object, **settings: Any) -> Any:
    table = {"images": "images/*.tif", "labels": "labels/*.tif", "classes": CLASSES}
    content = {"name": "rasters", "root": str(root), "patch_size": 16, "rasters": table}
    return open_rasters(DatasetConfig.model_validate(content | settings))


def no_crs(root: Path) -> None:
    write_raster(root / "images/s0.tif", picture(stripes(64, 64)), crs=None)


def no_crs_of_labels(root: Path) -> None:
    write_raster(root / "labels/s0.tif", stripes(64, 64), crs=None)


def no_place(root: Path) -> None:
    write_raster(root / "images/s0.tif", picture(stripes(64, 64)), transform=Affine.identity())


def other_size(root: Path) -> None:
    write_raster(root / "labels/s0.tif", stripes(64, 60))


def other_place(root: Path) -> None:
    write_raster(root / "labels/s0.tif", stripes(64, 64), x=400_000.5)


def other_crs(root: Path) -> None:
    write_raster(root / "labels/s0.tif", stripes(64, 64), crs="EPSG:32617")


def missing(root: Path) -> None:
    text = "image,label\n" + "".join(f"images/s{n}.tif,labels/s{n}.tif\n" for n in range(5))
    (root / "index.csv").write_text(text)


def three_bands(root: Path) -> None:
    write_raster(root / "labels/s0.tif", picture(stripes(64, 64)))


def other_type(root: Path) -> None:
    write_raster(root / "images/s0.tif", picture(stripes(64, 64), dtype="uint16"))


def no_raster(root: Path) -> None:
    (root / "images/s0.tif").write_text("<VRTDataset></VRTDataset>")


def complex_pixels(root: Path) -> None:
    write_raster(root / "images/s0.tif", picture(stripes(64, 64)).astype(np.complex64))


def small(root: Path) -> None:
    write_raster(root / "images/s0.tif", picture(stripes(8, 64)))


FAULTS = [
    (no_crs, "'images/s0.tif' has no coordinate reference system"),
    (no_crs_of_labels, "'labels/s0.tif' has no coordinate reference system"),
    (no_place, "'images/s0.tif' has no place on the ground"),
    (other_size, r"its grid \(64 x 60 px .* differs from that of the image .* set .* gsd_m"),
    (other_place, "its grid .* differs from that of the image 'images/s0.tif'"),
    (other_crs, "its grid .* EPSG:32617"),
    (missing, "1 of 5 scenes cannot be used; the first: 'images/s4.tif' file is missing"),
    (three_bands, "3 bands of uint8, expected 1"),
    (other_type, "holds uint16 pixels, but most images uint8; convert it"),
    (no_raster, "'images/s0.tif' .*not recognized"),
    (complex_pixels, "holds complex64; store one real pixel type"),
    (small, "8 x 64 px is smaller than a patch of 16 px"),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS, ids=[item[0].__name__ for item in FAULTS])
def test_unusable_files_are_one_line_or_skipped(tmp_path: Path, spoil: Any, message: str) -> None:
    root = write_pairs(tmp_path, num=4)
    spoil(root)
    table = {"classes": CLASSES, "images": "images/*.tif", "labels": "labels/*.tif"}
    if (root / "index.csv").exists():
        table = {"classes": CLASSES, "index": "index.csv"}
    with pytest.raises(UsageError, match=message):
        opened(root, rasters=table)
    source = opened(root, rasters=table, on_error="skip")
    (name,) = source.problems
    assert name in source.units()
    found = source.find(name)
    assert found.problems and not found.candidates.num_rows
    assert len(source.scenes) == len(source.units()) - 1


@pytest.mark.parametrize(("spoil", "message"), FAULTS, ids=[item[0].__name__ for item in FAULTS])
def test_the_same_files_on_a_server_give_the_same_line(
    tmp_path: Path, spoil: Any, message: str
) -> None:
    root = write_pairs(tmp_path, num=4)
    rows = [f"images/s{number}.tif,labels/s{number}.tif" for number in range(4)]
    (root / "index.csv").write_text("\n".join(["image,label", *rows]))
    spoil(root)
    message = "is no raster of this format, or damaged" if spoil is no_raster else message
    with serve(root) as server, pytest.raises(UsageError, match=message) as caught:
        opened(server.url, rasters={"classes": CLASSES, "index": "index.csv"})
    assert "\n" not in str(caught.value)


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; name the folder"):
        opened(tmp_path / "none")
