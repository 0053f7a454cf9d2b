"""The data card says what the table of patches holds, and embeds nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.results import DataCard
from benchmark.stages.describing import describe
from benchmark.stages.patches import PatchesStage
from benchmark.tables import images_array


@pytest.fixture(scope="module")
def small(new_store, open_small_session):
    """The small experiment's context and card."""
    context = open_small_session(store=new_store())
    return context, describe(context)


@pytest.fixture(scope="module")
def folder(ray_session, open_small_session, tmp_path_factory):
    """The context and card of a folder: pictures without a place, some of them equal."""
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for name in ("field", "<b>water"):
        (root / name).mkdir()
        for number in range(10):
            pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    # The same pixels in other bytes, below another class.
    Image.open(root / "field" / "0.png").save(root / "<b>water" / "same.tif")
    (root / "field" / "copy.png").write_bytes((root / "field" / "1.png").read_bytes())
    settings = {"name": "folder", "root": str(root), "patch_size": 16, "per_region": None}
    context = open_small_session(store=tmp_path_factory.mktemp("runs"), dataset=settings)
    assert PatchesStage().run(context).cells[0].status == "complete"
    return context, describe(context)


def test_the_counts_are_those_of_the_table(small):
    context, card = small
    table = context.patches.read_table(columns=["split", "label", "scene"]).to_pandas()
    content = card.content
    assert content["num_patches"] == len(table) == 240
    for key in ("counts", "scenes"):
        assert sum(sum(item["counts"].values()) for item in content[key]) == 240
    for item in content["scenes"]:
        rows = table[table["scene"] == item["scene"]]
        assert set(rows["split"]) == {item["split"]}
        expected = np.bincount(rows["label"], minlength=5).tolist()
        assert list(item["counts"].values()) == expected
    candidates = sum(sum(item["counts"].values()) for item in content["candidates"])
    assert candidates == content["num_candidates"] == 768


def test_the_pixel_values_are_those_of_the_images(small):
    context, card = small
    table = context.patches.read_table(splits=("train",))
    images = images_array(table["image"], (4, 32, 32)).astype(float)
    rows = [item for item in card.content["pixels"] if item["split"] == "train"]
    assert [item["band"] for item in rows] == ["red", "green", "blue", "nir"]
    for band, item in enumerate(rows):
        assert item["mean"] == pytest.approx(images[:, band].mean())
        assert item["std"] == pytest.approx(images[:, band].std())
    assert len(card.content["pixels"]) == 3 * 4


def test_the_bounds_are_those_of_the_centres(small):
    context, card = small
    table = context.patches.read_table(columns=["lon", "lat"])
    bounds = card.content["bounds"]
    assert bounds["west"] == min(table["lon"].to_pylist())
    assert bounds["north"] == max(table["lat"].to_pylist())


def test_the_page_is_one_file_with_each_chapter_and_the_card_is_json(small, tmp_path):
    context, card = small
    page = DataCard("small", *card).write(tmp_path / "new")
    assert page == tmp_path / "new" / "small-data-card.html"
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)
    chapters = ["counts", "map", "purity", "pixels", "duplicates", "examples", "provenance"]
    assert re.findall(r'<section id="(\w+)"', text) == chapters
    for name in ("tree_<wbr>canopy", "pennsylvania", context.patches.fingerprint, "unset"):
        assert name in text
    assert text.count("data:image/") == 4
    assert json.loads(page.with_suffix(".json").read_text()) == card.content


def test_nothing_is_embedded(small):
    context, _ = small
    assert {path.name for path in Path(context.store.root).iterdir()} == {"patches"}


def test_a_purity_histogram_counts_every_patch_by_split(small, monkeypatch):
    from benchmark.stages import describing

    context, card = small
    assert card.content["purity"] is None  # Every window of these scenes has one class.
    columns = ["split", "purity"]
    frame = context.patches.read_table(columns=columns).to_pandas()
    frame["purity"] = np.linspace(0.85, 1, len(frame))
    found = describing._count_purities(frame)
    assert found["edges"][0] == 0.85 and found["edges"][-1] == 1
    for split, counts in found["counts"].items():
        assert sum(counts) == (frame["split"] == split).sum()
        assert len(counts) == len(found["edges"]) - 1


def test_patches_with_the_same_pixels_are_named_contradictions_first(folder):
    _, card = folder
    found = card.content["duplicates"]
    assert (found["num_groups"], found["num_patches"]) == (2, 4)
    assert found["num_groups_with_several_labels"] == 1
    assert [item["patch_ids"] for item in found["groups"]] == [
        ["<b>water/same.tif", "field/0.png"],
        ["field/1.png", "field/copy.png"],
    ]
    assert sorted(found["groups"][0]["classes"]) == ["<b>water", "field"]
    assert "4 patches have the same pixels as another one, in 2 groups" in card.page
    assert "Patches with the same pixels" in card.page


def test_pictures_without_a_place_have_no_map_and_names_are_escaped(folder):
    _, card = folder
    assert card.content["bounds"] is None
    assert "The patches have no coordinates: no map." in card.page
    assert "The scenes of the patches are unknown." in card.page
    assert card.content["scenes"] == []
    assert "<b>" not in card.page
