"""What is found in a folder of data, and the settings that are proposed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from benchmark.catalog.survey import Survey, survey
from benchmark.errors import UsageError
from tests.scenes import write_scenes


def write_photos(root: Path, sizes: list[tuple[int, int]], prefix: str = "") -> Path:
    """Write one image (height, width) of each size in each of two classes."""
    generator = np.random.default_rng(0)
    for name in ("field", "forest"):
        folder = root / prefix / name
        folder.mkdir(parents=True)
        for number, (height, width) in enumerate(sizes):
            pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def write_tiffs(root: Path, pixels: np.ndarray[Any, Any]) -> Path:
    """Write pixels (N, C, H, W) as the images of each of two classes."""
    for number_of_class, name in enumerate(("field", "forest")):
        (root / name).mkdir(parents=True)
        for number, image in enumerate(pixels):
            count, height, width = image.shape
            with rasterio.open(
                root / name / f"{number}.tif",
                "w",
                driver="GTiff",
                count=count,
                height=height,
                width=width,
                dtype=image.dtype,
            ) as file:
                # Equal images of two classes would be in one split.
                file.write(np.roll(image, number_of_class, axis=1))
    return root


def settings_of(found: Survey) -> dict[str, Any]:
    return {item.key: item.value for item in found.settings}


def test_images_of_one_size_are_taken_as_they_are(tmp_path: Path) -> None:
    found = survey(str(write_photos(tmp_path / "photos", [(24, 24)] * 10)))
    assert (found.dataset, found.unit, found.num_items) == ("folder", "images", 20)
    assert found.classes == ("field", "forest")
    assert found.bands == ("red", "green", "blue")
    assert found.counts == {"train": 12, "val": 4, "test": 4}
    assert found.sizes == "24 x 24 px"
    assert found.split == "random, stratified by class"
    assert settings_of(found) == {"patch_size": 24, "val_fraction": 0.2, "test_fraction": 0.2}


def test_images_of_many_sizes_get_their_middle_short_side(tmp_path: Path) -> None:
    sizes = [(40, 60), (30, 90), (50, 50), (20, 80), (64, 100)]
    found = survey(str(write_photos(tmp_path / "photos", sizes)))
    assert settings_of(found)["patch_size"] == 40
    assert found.sizes == "from 20 x 80 to 64 x 100 px"


@pytest.mark.parametrize(("side", "patch_size"), [(4, 8), (700, 512)])
def test_a_patch_is_neither_tiny_nor_huge(tmp_path: Path, side: int, patch_size: int) -> None:
    found = survey(str(write_photos(tmp_path / "photos", [(side, side)] * 3)))
    assert settings_of(found)["patch_size"] == patch_size


def test_split_folders_and_a_table_are_found(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for split in ("train", "val", "test"):
        write_photos(root, [(16, 16)] * 2, prefix=split)
    found = survey(str(root))
    assert found.split == "from the folders train, val and test"
    assert found.counts == {"train": 4, "val": 4, "test": 4}
    assert settings_of(found) == {"patch_size": 16}
    (root / "splits.csv").write_text(
        "path,split\n"
        + "".join(
            f"{split}/{name}/0.png,{split}\n"
            for split in ("train", "val", "test")
            for name in ("field", "forest")
        )
    )
    found = survey(str(root))
    assert found.split == "from splits.csv"
    assert found.counts == {"train": 2, "val": 2, "test": 2}


def test_pixels_that_are_no_bytes_get_a_range_without_the_extremes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1000, 3001, (5, 4, 64, 64)).astype(np.uint16)
    pixels[:, :, 0, 0] = 65535
    found = survey(str(write_tiffs(tmp_path / "scenes", pixels)))
    low, high = settings_of(found)["value_range"]
    assert isinstance(low, int)
    assert 1000 <= low < 1030
    assert 2970 < high <= 3000
    assert found.bands == ("red", "green", "blue", "nir")


def test_pixels_of_one_value_get_a_range_that_is_one(tmp_path: Path) -> None:
    pixels = np.full((5, 3, 16, 16), 7.5, np.float32)
    for number, image in enumerate(pixels):
        image[:, 2 * number, :] = np.nan
    found = survey(str(write_tiffs(tmp_path / "flat", pixels)))
    assert settings_of(found)["value_range"] == [7.5, 8.5]


def test_bands_without_names_are_to_be_named(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 6, 16, 16)).astype(np.uint8)
    found = survey(str(write_tiffs(tmp_path / "scenes", pixels)))
    assert found.bands[0] == "band_1"
    assert settings_of(found)["bands"] is None


def test_scenes_are_split_by_state_with_windows_that_fit(tmp_path: Path) -> None:
    found = survey(str(write_scenes(tmp_path / "scenes")))
    assert (found.dataset, found.unit, found.num_items) == ("chesapeake", "scenes", 12)
    assert found.sizes == "256 x 256 px"
    proposed = settings_of(found)
    assert proposed["patch_size"] == 32
    assert (proposed["val_regions"], proposed["test_regions"]) == (["delaware"], ["pennsylvania"])
    assert found.counts == {"train": 8, "val": 2, "test": 2}


def test_scenes_without_the_usual_states_get_others(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "scenes")
    index = root / "spatial_index.geojson"
    index.write_text(index.read_text().replace('"de-train"', '"md-train"'))
    proposed = settings_of(survey(str(root)))
    regions = {*proposed["val_regions"], *proposed["test_regions"]}
    assert len(regions) == 2
    assert "delaware" not in regions
    for state in ("ny", "pa", "va", "wv"):
        index.write_text(index.read_text().replace(f'"{state}-train"', '"md-train"'))
    with pytest.raises(UsageError, match="the scenes are of maryland only; train, val and test"):
        survey(str(root))


def test_an_unreadable_image_is_left_to_the_run(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", [(16, 16)] * 5)
    (root / "field" / "0.png").write_bytes(b"no image")
    assert survey(str(root)).num_looked_at == 9
