"""The Chesapeake land-cover data: classes, regions, the index of scenes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.roots.root import Root, Unreadable, open_root
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError, did_you_mean, one_line, tidy
from benchmark.fields import check_file_path, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INDEX = "spatial_index.geojson"
MAX_INDEX_BYTES = 2**28
SYNTHETIC_MARKER = "SYNTHETIC.txt"
CLASSES = ("water", "tree_canopy", "low_vegetation", "barren", "impervious")
BANDS = ("red", "green", "blue", "nir")
CLASS_OF_LC = {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4}
"""Index into CLASSES by value of ``lc``; all other values are taken for nodata."""
NODATA_OF_LC = (0, 15)
"""Values of ``lc`` that mean no data, besides the one that a file declares."""
MAPPING_VERSION = 1
"""Raised by hand when CLASSES or CLASS_OF_LC change."""
REGIONS = {
    "de": "delaware",
    "md": "maryland",
    "ny": "new_york",
    "pa": "pennsylvania",
    "va": "virginia",
    "wv": "west_virginia",
}
SYNTHETIC_NOTE = (
    "The scenes are synthetic: pictures drawn by a program, not aerial photographs; "
    "scores on them say nothing about real land cover."
)
STRIP_ROWS = 256
"""Rows of a label raster that are looked at together."""
_NODATA = len(CLASSES)


class Scene(NamedTuple):
    """One entry of the index; the paths are relative to the root."""

    name: str
    region: str
    split: str
    image: str
    mask: str


class Entry(NamedTuple):
    """The region and the paths of one scene."""

    region: str
    image: str
    mask: str

    @property
    def paths(self) -> tuple[str, str]:
        """Both paths."""
        return self.image, self.mask


def list_scenes(config: DatasetConfig) -> tuple[Scene, ...]:
    """Return the scenes listed in the index below ``config.root``, sorted by name.

    Scenes of different states with the same file stem get the state as prefix. Whether a remote
    root has any of the scenes is not asked; ``ChesapeakeSource.digest`` asks for all.

    Raises:
        UsageError: the index is missing, empty or malformed, none of its scenes is on disk, or
            a region is unknown or in two splits.
    """
    split_of = _splits(config)
    root = open_root(config.root)
    entries = list(read_entries(root, read_features(root)))
    if not root.is_remote and not any(
        map(root.has, (path for item in entries for path in item.paths))
    ):
        raise UsageError(no_scenes(root, len(entries)))
    num_of_stem = Counter(_stem(entry.mask) for entry in entries)
    scenes = []
    for region, image, mask in entries:
        stem = _stem(mask)
        name = f"{region}-{stem}" if num_of_stem[stem] > 1 else stem
        scenes.append(Scene(name, region, split_of[region], image, mask))
    for name, count in Counter(scene.name for scene in scenes).items():
        if count > 1:
            raise UsageError(f"{root.where(INDEX)}: scene '{name}' is listed {count} times")
    return tuple(sorted(scenes))


def no_scenes(root: Root, num_scenes: int) -> str:
    """Return the message for a root without any of the scenes of its index."""
    return (
        f"[dataset] root = '{root.address}': none of the {num_scenes} scenes of {INDEX} exists. "
        + _how_to_prepare(root)
    )


def count_classes(codes: NDArray[Any], patch_size: int) -> NDArray[np.int64]:
    """Count the pixels of each class in every window of a label raster.

    Args:
        codes: ``lc`` values, uint8 (H, W).
        patch_size: side P of the windows in px.

    Returns:
        counts (H // P, W // P, K) of the K classes; nodata is not counted.
    """
    import numpy as np

    table = np.full(256, _NODATA, np.uint8)
    for value, label in CLASS_OF_LC.items():
        table[value] = label
    num_rows, num_cols = codes.shape[0] // patch_size, codes.shape[1] // patch_size
    counts = np.zeros((num_rows, num_cols, len(CLASSES)), np.int64)
    lefts = np.arange(num_cols) * patch_size
    for row in range(num_rows):
        # One row of windows stays in the processor's cache for all classes.
        strip = table[codes[row * patch_size : (row + 1) * patch_size]]
        counts[row] = count_strip(strip, lefts, num_classes=len(CLASSES))
    return counts


def count_unknown(codes: NDArray[Any], nodata: float | None) -> dict[int, int]:
    """Count the pixels of each value of a label raster that is neither a class nor nodata.

    Args:
        codes: ``lc`` values, uint8 (H, W).
        nodata: value that the file declares.
    """
    import numpy as np

    is_unknown = np.ones(256, bool)
    is_unknown[[*CLASS_OF_LC, *NODATA_OF_LC]] = False
    if nodata is not None and nodata in range(256):
        is_unknown[int(nodata)] = False
    counts: Counter[int] = Counter()
    for start in range(0, len(codes), STRIP_ROWS):
        strip = codes[start : start + STRIP_ROWS]
        values, numbers = np.unique(strip[is_unknown[strip]], return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return dict(counts)


def count_strip(
    labels: NDArray[np.uint8], lefts: NDArray[np.int64], *, num_classes: int
) -> NDArray[np.int64]:
    """Count the pixels of each class in the windows of one row.

    Args:
        labels: (P, W), an index of a class, or another number; P is the side of the windows.
        lefts: (N,) first column of each window.
        num_classes: K.

    Returns:
        counts (N, K).
    """
    import numpy as np

    size, width = labels.shape
    counts = np.zeros((len(lefts), num_classes), np.int64)
    before = np.zeros(width + 1, np.int64)
    for label in range(num_classes):
        by_column = np.add.reduce(labels == label, axis=0, dtype=np.uint16)
        np.cumsum(by_column, out=before[1:])
        counts[:, label] = before[lefts + size] - before[lefts]
    return counts


def _splits(config: DatasetConfig) -> dict[str, str]:
    split_of = dict.fromkeys(REGIONS.values(), "train")
    for split, regions in (("val", config.val_regions), ("test", config.test_regions)):
        for region in regions:
            where = f"[dataset] {split}_regions"
            if region not in split_of:
                hint = did_you_mean(region, REGIONS.values())
                raise UsageError(f"{where}: unknown region '{region}'.{hint}")
            if split == "test" and region in config.val_regions:
                raise UsageError(f"{where}: '{region}' is in val_regions too; remove it from one")
            split_of[region] = split
    return split_of


def read_features(root: Root) -> list[Any]:
    """Return the features of the index.

    Raises:
        UsageError: it is missing, unreadable or empty.
        CellError: a remote server fails.
    """
    where = root.where(INDEX)
    try:
        features = json.loads(root.read_text(INDEX, most_bytes=MAX_INDEX_BYTES))["features"]
    except FileNotFoundError:
        raise UsageError(
            f"[dataset] root = '{root.address}': {INDEX} is missing. {_how_to_prepare(root)}"
        ) from None
    except Unreadable as error:
        raise UsageError(f"[dataset] root = '{root.address}': {error}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{where}: cannot be read as GeoJSON: {one_line(error)}") from None
    if not isinstance(features, list) or not features:
        raise UsageError(f"{where}: lists no scenes. {_how_to_prepare(root)}")
    return features


def read_entries(root: Root, features: Sequence[Any]) -> Iterator[Entry]:
    """Yield the region and paths of each feature of the index.

    Raises:
        UsageError: a feature is malformed, or names a file outside the root.
    """
    index = root.where(INDEX)
    for number, feature in enumerate(features):
        try:
            properties = feature["properties"]
            region = REGIONS[properties["split"].split("-")[0]]
            image, mask = properties["naip-new"], properties["lc"]
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{index}: feature {number} lacks a valid 'split', 'naip-new' or 'lc': "
                f"{tidy(repr(error), 200)}"
            ) from None
        for path in (image, mask):
            try:
                if not isinstance(path, str):
                    raise ValueError("is no text")
                check_file_path(path)
                leads_out = root.leads_out(path)
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"{index}: feature {number}: path {shown(path)} {one_line(error, limit=200)}"
                ) from None
            if leads_out:
                raise UsageError(f"{index}: feature {number}: '{path}' is outside {root.address}")
        yield Entry(region, image, mask)


def _how_to_prepare(root: Root) -> str:
    if root.is_remote:
        return "Give the URI of the folder with the index (docs/REMOTE.md)"
    place = root.address
    return (
        f"Run `benchmark prepare chesapeake --root {place}` to download it, or "
        f"`benchmark prepare synthetic --root {place}` for synthetic scenes"
    )


def _stem(mask: str) -> str:
    return PurePosixPath(mask).stem.removesuffix("_lc")
