"""Look at a folder of data and propose the ``[dataset]`` table of an experiment on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from benchmark.catalog.chesapeake.index import (
    INDEX,
    SYNTHETIC_MARKER,
    list_scenes,
)
from benchmark.catalog.chesapeake.scenes import open_split_scenes
from benchmark.catalog.folder.decoding import Decoded, ImageError, decode
from benchmark.catalog.folder.levels import split_folders
from benchmark.catalog.folder.source import open_folder
from benchmark.catalog.folder.splits import SPLIT_TABLE, SPLITS
from benchmark.catalog.roots.root import DRIVER
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.catalog.chesapeake.index import Scene
    from benchmark.specs import Source

T = TypeVar("T")

NUM_SAMPLES = 64
"""Most images or scenes whose size and pixels are looked at."""
MIN_SIDE, MAX_SIDE = 8, 512
"""Sides in px of a proposed patch."""
SCENE_SIDE = 128
WINDOWS_PER_SIDE = 8
"""Windows that the side of a scene holds, at least, if the patches are proposed smaller."""
PERCENTILES = (0.5, 99.5)
"""Of the pixels that are mapped to 0 and 255."""


class Setting(NamedTuple):
    """A proposed setting of ``[dataset]``, and the reason for its value."""

    key: str
    value: Any
    comment: str


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a folder holds, and the settings with which it can be read."""

    dataset: str
    """Name of the data set in the catalog."""
    unit: str
    """What is counted: ``images`` or ``scenes``."""
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    """Number of images or scenes in each split."""
    bands: tuple[str, ...]
    smallest: tuple[int, int]
    """(H, W) in px of the image or scene with the fewest pixels of those looked at."""
    largest: tuple[int, int]
    num_looked_at: int
    split: str
    """Where the split comes from."""
    settings: tuple[Setting, ...]
    """The settings of ``[dataset]`` besides ``name`` and ``root``."""
    notes: tuple[str, ...]
    """What the reader says of the data."""

    @property
    def num_items(self) -> int:
        """The number of images or scenes."""
        return sum(self.counts.values())

    @property
    def sizes(self) -> str:
        """The sizes as text: ``64 x 64 px``, or ``from ... to ...``; height before width."""
        (low, high), (tall, wide) = self.smallest, self.largest
        if self.smallest == self.largest:
            return f"{low} x {high} px"
        return f"from {low} x {high} to {tall} x {wide} px"


def survey(root: str) -> Survey:
    """Look at a folder: scenes in the layout of chesapeake, or labelled images.

    Raises:
        UsageError: the folder is absent or cannot be read as either.
    """
    return _survey_scenes(root) if (Path(root) / INDEX).exists() else _survey_images(root)


def _survey_images(root: str) -> Survey:
    # With a range, images of every pixel type are accepted; this one clips nothing.
    config = DatasetConfig(name="folder", root=root, patch_size=MIN_SIDE, value_range=(-1e38, 1e38))
    source = open_folder(config)
    paths = source.candidates["patch_id"].to_pylist()
    images = list(_decoded(source.root, _spread(paths)))
    sizes = [(image.pixels.shape[1], image.pixels.shape[2]) for image in images]
    settings = [_patch_size(sizes), *_value_range(images, len(source.bands))]
    if source.bands[0] == "band_1":
        settings.append(
            Setting("bands", None, f"name the {len(source.bands)} bands, in order, for networks")
        )
    if (source.root / SPLIT_TABLE).is_file():
        split = f"from {SPLIT_TABLE}"
    elif split_folders(paths, where=root):
        split = "from the folders train, val and test"
    else:
        split = "random, stratified by class"
        settings += [
            Setting("val_fraction", config.val_fraction, "of the images, drawn at random:"),
            Setting("test_fraction", config.test_fraction, "fix it with splits.csv or folders"),
        ]
    return Survey(
        dataset="folder",
        unit="images",
        counts=_count(source.candidates["split"].to_pylist()),
        split=split,
        settings=tuple(settings),
        **_seen(source, sizes),
    )


def _survey_scenes(root: str) -> Survey:
    name = "synthetic" if (Path(root) / SYNTHETIC_MARKER).is_file() else "chesapeake"
    scenes = list_scenes(DatasetConfig(name=name, root=root))
    sizes = list(_scene_sizes(Path(root), _spread(scenes)))
    side = min((min(size) for size in sizes), default=SCENE_SIDE)
    patch_size = max(MIN_SIDE, min(SCENE_SIDE, side // WINDOWS_PER_SIDE))
    val, test = _choose_regions(scenes)
    config = DatasetConfig(
        name=name, root=root, patch_size=patch_size, val_regions=val, test_regions=test
    )
    source = open_split_scenes(config)
    return Survey(
        dataset=name,
        unit="scenes",
        counts=_count(scene.split for scene in source.scenes),
        split="by state",
        settings=(
            Setting("patch_size", patch_size, "px; windows of the scenes"),
            Setting("purity", config.purity, "smallest share of a window that one class covers"),
            Setting("per_class", 500, "at most, of each class in each split"),
            Setting("val_regions", list(val), "the other states are train"),
            Setting("test_regions", list(test), "scored once, at the end"),
        ),
        **_seen(source, sizes),
    )


def _seen(source: Source, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size)) or [(0, 0)]
    return {
        "classes": source.classes,
        "bands": source.bands,
        "smallest": ordered[0],
        "largest": ordered[-1],
        "num_looked_at": len(sizes),
        "notes": tuple(note for note in source.notes if "value_range" not in note),
    }


def _spread(items: Sequence[T]) -> list[T]:
    """Return at most ``NUM_SAMPLES`` items, evenly spread."""
    num = min(NUM_SAMPLES, len(items))
    return [items[number * len(items) // num] for number in range(num)]


def _count(splits: Iterable[str]) -> dict[str, int]:
    found = Counter(splits)
    return {split: found[split] for split in SPLITS}


def _decoded(root: Path, paths: Iterable[str]) -> Iterator[Decoded]:
    for path in paths:
        try:
            yield decode(root / path)
        except ImageError:
            # The run reports every unreadable image.
            continue


def _patch_size(sizes: Sequence[tuple[int, int]]) -> Setting:
    sides = sorted(min(size) for size in sizes)
    side = max(MIN_SIDE, min(MAX_SIDE, sides[len(sides) // 2]))
    if set(sizes) == {(side, side)}:
        return Setting("patch_size", side, "px: the images as they are")
    return Setting("patch_size", side, "px: the short side is resized to it, the centre is kept")


def _value_range(images: Sequence[Decoded], num_bands: int) -> list[Setting]:
    """Return the range of pixels that are not uint8, without alpha and nodata, or nothing."""
    import numpy as np

    others = []
    for image in images:
        pixels, invalid = image.data(keeps_alpha=len(image.pixels) == num_bands)
        if pixels.dtype.name != "uint8":
            valid = pixels.reshape(-1) if invalid is None else pixels[~invalid]
            # At most a million pixels in all, at even distances.
            others.append(valid[:: valid.size // 16384 + 1])
    if not others:
        return []
    finite = np.concatenate(others)
    low, high = np.percentile(finite, PERCENTILES).tolist() if finite.size else (0.0, 1.0)
    if np.issubdtype(others[0].dtype, np.integer):
        low, high = round(low), round(high)
    high = high if high > low else low + 1
    text = f"{others[0].dtype.name} pixels become 0 and 255; values beyond are clipped"
    return [Setting("value_range", [low, high], text)]


def _scene_sizes(root: Path, scenes: Iterable[Scene]) -> Iterator[tuple[int, int]]:
    import rasterio
    from rasterio.errors import RasterioError

    for scene in scenes:
        try:
            with rasterio.open(root / scene.image, driver=DRIVER) as image:
                yield image.height, image.width
        except (RasterioError, OSError):
            # The run reports every unreadable scene.
            continue


def _choose_regions(scenes: Sequence[Scene]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the states of val and of test: the usual ones, or those with the fewest scenes.

    Raises:
        UsageError: there are scenes of fewer than three states.
    """
    found = Counter(scene.region for scene in scenes)
    usual = DatasetConfig(name="chesapeake", root=".")
    if len(found) < 3:
        raise UsageError(
            f"init: the scenes are of {', '.join(sorted(found))} only; train, val and test need "
            "a state each"
        )
    wanted = {*usual.val_regions, *usual.test_regions}
    if wanted < found.keys():
        return usual.val_regions, usual.test_regions
    val, test, *_ = sorted(found, key=lambda region: (found[region], region))
    return (val,), (test,)
