"""Small data sets in the layouts of torchgeo's archives, as they lie once unpacked.

Names of files, folders, lists and HDF5 data sets are those of the real archives; only the number
and, where torchgeo does not depend on it, the size of the images are smaller.

python -m tests.torchgeo_layouts DIR    writes all of them
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

SPLITS = ("train", "val", "test")
PER_SPLIT = {"train": 4, "val": 2, "test": 2}
EUROSAT_CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
    "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip
EUROSAT_FOLDER = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
EUROSAT_LISTS = {
    "EuroSAT": "eurosat",
    "EuroSATSpatial": "eurosat-spatial",
    "EuroSAT100": "eurosat-100",
}
LCZ_CLASSES = 17
QUAKESET_SPLITS = {"train": 4, "validation": 3, "test": 3}


def scene(seed: int, num_bands: int, side: int, high: float) -> NDArray[np.float64]:
    """Return smooth random bands (C, H, W) in 0...high."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((num_bands, side // 4, side // 4))
    fine = coarse.repeat(4, axis=1).repeat(4, axis=2) + 0.2 * rng.random((num_bands, side, side))
    return fine / fine.max() * high


def write_tiff(path: Path, pixels: NDArray[Any]) -> None:
    """Write a GeoTIFF (C, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype,
        crs="EPSG:32632", transform=rasterio.transform.from_origin(4e5, 5e6, 10, 10),
    ) as file:  # fmt: skip
        file.write(pixels)


def write_photograph(path: Path, seed: int, side: int) -> None:
    """Write an RGB image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = scene(seed, 3, side, 255).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels).save(path)


def write_eurosat(
    root: Path, name: str = "EuroSAT", classes: tuple[str, ...] = EUROSAT_CLASSES
) -> None:
    """EuroSAT: GeoTIFFs of 13 bands, uint16, 64 px, and lists that name them as JPEG."""
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    number = 0
    for label in classes:
        index = 0
        for split, count in PER_SPLIT.items():
            for _ in range(count):
                index, number = index + 1, number + 1
                file = f"{label}_{index}"
                write_tiff(root / EUROSAT_FOLDER / label / f"{file}.tif", optical_of(number))
                lists[split].append(f"{file}.jpg")
    for split, names in lists.items():
        (root / f"{EUROSAT_LISTS[name]}-{split}.txt").write_text("\n".join(names) + "\n")


def write_photographs(
    root: Path, folder: str, lists: str, suffix: str, classes: tuple[str, ...], named: str
) -> None:
    """Write photographs of 256 px in one folder per class, and the lists of the splits."""
    listed: dict[str, list[str]] = {split: [] for split in SPLITS}
    number = 0
    for label in classes:
        index = 0
        for split, count in PER_SPLIT.items():
            for _ in range(count):
                file = named.format(label=label, index=index) + suffix
                index, number = index + 1, number + 1
                write_photograph(root / folder / label / file, number, 256)
                listed[split].append(file)
    for split, names in listed.items():
        (root / lists.format(split)).write_text("\n".join(names) + "\n")


def write_ucmerced(root: Path) -> None:
    """UC Merced: TIFF of 256 px."""
    write_photographs(
        root, "UCMerced_LandUse/Images", "uc_merced-{}.txt", ".tif",
        ("agricultural", "airplane", "beach"), "{label}{index:02d}",
    )  # fmt: skip


def write_resisc45(root: Path) -> None:
    """RESISC45: JPEG of 256 px."""
    write_photographs(
        root, "NWPU-RESISC45", "resisc45-{}.txt", ".jpg",
        ("airplane", "airport", "baseball_diamond"), "{label}_{index:03d}",
    )  # fmt: skip


def write_fire_risk(root: Path) -> None:
    """FireRisk: PNG of 320 px; train and val, no test."""
    number = 0
    for label in ("High", "Low", "Water"):
        for split, count in (("train", 6), ("val", 2)):
            for index in range(count):
                number += 1
                write_photograph(root / "FireRisk" / split / label / f"{index}.png", number, 320)


def write_pattern_net(root: Path) -> None:
    """PatternNet: JPEG of 256 px, no splits."""
    number = 0
    for label in ("airplane", "beach"):
        for index in range(6):
            number += 1
            file = f"{label}{index + 1:03d}.jpg"
            write_photograph(root / "PatternNet" / "images" / label / file, number, 256)


def write_advance(root: Path) -> None:
    """ADVANCE: JPEG of 512 px, and a sound for each, in folders of classes."""
    from scipy.io import wavfile

    number = 0
    for label in ("airport", "beach"):
        for index in range(6):
            number += 1
            write_photograph(root / "vision" / label / f"{index:05d}_1_2.jpg", number, 128)
            sound = root / "sound" / label / f"{index:05d}_1_2.wav"
            sound.parent.mkdir(parents=True, exist_ok=True)
            wavfile.write(sound, 8000, np.zeros(80, np.int16))


def write_million_aid(root: Path) -> None:
    """Million-AID: train has two or three levels of folders; the last is the class."""
    number = 0
    for folder in ("agriculture_land/arable_land/dry_field", "water_area/lake"):
        for index in range(6):
            number += 1
            write_photograph(root / "train" / folder / f"P{index:07d}.jpg", number, 128)


def write_copernicus_eurosat(
    root: Path, folder: str, pixels: Callable[[int], NDArray[Any]]
) -> None:
    """EuroSAT of Copernicus-Bench: GeoTIFFs in ``all_imgs/CLASS``, and lists that name JPEG."""
    number = 0
    for split, count in PER_SPLIT.items():
        names = []
        for label in ("AnnualCrop", "Forest"):
            for index in range(count):
                number += 1
                file = f"{label}_{split}{index}"
                write_tiff(root / folder / "all_imgs" / label / f"{file}.tif", pixels(number))
                names.append(f"{file}.jpg")
        (root / folder / f"eurosat-{split}.txt").write_text("\n".join(names) + "\n")


def lcz_labels(count: int) -> NDArray[np.float64]:
    """Return one-hot labels (N, 17) of three classes in turn."""
    labels: NDArray[np.float64] = np.eye(LCZ_CLASSES)[np.arange(count) % 3]
    return labels


def write_so2sat(root: Path, h5py: Any) -> None:
    """So2Sat, version 2: ``sen1`` (N, 32, 32, 8), ``sen2`` (N, 32, 32, 10), one-hot ``label``."""
    root.mkdir(parents=True, exist_ok=True)
    for start, (name, count) in enumerate({"training": 9, "validation": 6, "testing": 6}.items()):
        radar = [scene(100 * start + row, 8, 32, 1) - 0.5 for row in range(count)]
        optical = [scene(100 * start + row + 50, 10, 32, 0.3) for row in range(count)]
        with h5py.File(root / f"{name}.h5", "w") as file:
            file["sen1"] = np.stack(radar).transpose(0, 2, 3, 1)
            file["sen2"] = np.stack(optical).transpose(0, 2, 3, 1)
            file["label"] = lcz_labels(count)


def write_lcz(root: Path, h5py: Any) -> None:
    """LCZ of Copernicus-Bench: ``sen2`` and one-hot ``label``."""
    root.mkdir(parents=True, exist_ok=True)
    for start, (split, count) in enumerate({"train": 9, "val": 6, "test": 6}.items()):
        optical = [scene(100 * start + row, 10, 32, 0.3) for row in range(count)]
        with h5py.File(root / f"lcz_{split}.h5", "w") as file:
            file["sen2"] = np.stack(optical).transpose(0, 2, 3, 1)
            file["label"] = lcz_labels(count)


def write_quakeset(root: Path, h5py: Any) -> None:
    """QuakeSet: a group for each earthquake, with patches of Sentinel-1 before and after it."""
    root.mkdir(parents=True, exist_ok=True)
    number = 0
    with h5py.File(root / "earthquakes.h5", "w") as file:
        for split, count in QUAKESET_SPLITS.items():
            for _ in range(count):
                number += 1
                quake = file.create_group(f"{number:06d}")
                quake.attrs["split"], quake.attrs["magnitude"] = split, 5.0
                quake["x"] = quake["y"] = np.zeros(1)
                patch = quake.create_group("patch_0")
                for place, name in enumerate(("before", "pre", "post")):
                    radar = scene(10 * number + place, 2, 64, 20) - 25
                    patch[name] = radar.transpose(1, 2, 0).astype(np.float32)


def radar_of(number: int) -> NDArray[np.float32]:
    """Return backscatter in decibels, float32 (2, 64, 64)."""
    return (scene(number, 2, 64, 20) - 25).astype(np.float32)


def optical_of(number: int) -> NDArray[np.uint16]:
    """Return reflectance x 10,000, uint16 (13, 64, 64)."""
    return scene(number, 13, 64, 4000).astype(np.uint16)


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "ADVANCE": write_advance,
    "CopernicusBenchEuroSATS1": lambda root: write_copernicus_eurosat(root, "eurosat_s1", radar_of),
    "CopernicusBenchEuroSATS2": lambda root: write_copernicus_eurosat(
        root, "eurosat_s2", optical_of
    ),
    "EuroSAT": write_eurosat,
    "EuroSAT100": lambda root: write_eurosat(root, "EuroSAT100"),
    "EuroSATSpatial": lambda root: write_eurosat(root, "EuroSATSpatial"),
    "FireRisk": write_fire_risk,
    "MillionAID": write_million_aid,
    "PatternNet": write_pattern_net,
    "RESISC45": write_resisc45,
    "UCMerced": write_ucmerced,
}
"""Sets of image files, by torchgeo's name."""
HDF5_WRITERS: Mapping[str, Callable[[Path, Any], None]] = {
    "CopernicusBenchLCZS2": write_lcz,
    "QuakeSet": write_quakeset,
    "So2Sat": write_so2sat,
}
"""Sets in HDF5, which take the module h5py."""

if __name__ == "__main__":
    for name, write in WRITERS.items():
        write(Path(sys.argv[1]) / name)
