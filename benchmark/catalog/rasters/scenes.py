"""The scenes: what the headers of their files say, and what makes one unusable."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from benchmark.catalog.rasters.files import FileError, is_vector
from benchmark.catalog.rasters.grids import Grid
from benchmark.catalog.rasters.headers import VERSION, Header, Headers, LabelHeader
from benchmark.catalog.rasters.pairs import Pair
from benchmark.catalog.rasters.polygons import Layer, examine_layer
from benchmark.catalog.roots.root import Root
from benchmark.config import DatasetConfig
from benchmark.errors import CellError, UsageError
from benchmark.raster_settings import RastersConfig
from benchmark.specs import Problem
from benchmark.store.memory import open_memory

if TYPE_CHECKING:
    import shapely  # type: ignore[import-untyped]

MAX_THREADS = min(8, 4 * (os.cpu_count() or 1))
"""Files opened at once: most of the time of a remote one is waiting."""
MAX_WINDOWS = 10_000_000
"""Most windows of a scene: the counts of a row of them are in memory at once, and the chosen."""


@dataclass(frozen=True)
class Scene:
    """A pair whose files can be used."""

    pair: Pair
    header: Header
    grid: Grid
    """Of its windows: that of the image, or resampled."""

    @property
    def name(self) -> str:
        """Its unique name."""
        return self.pair.name


class Examined(NamedTuple):
    """The usable scenes by name, the others with their problem, and the files of polygons."""

    scenes: Mapping[str, Scene]
    problems: Mapping[str, Problem]
    layers: Mapping[str, Layer]
    identities: Mapping[str, str]
    """Of the contents of images and label rasters (``Root.identify``), as far as they are known."""


def examine(root: Root, pairs: Sequence[Pair], config: DatasetConfig) -> Examined:
    """Open the files of all pairs and compare their headers.

    Raises:
        UsageError: no scene is usable, or there are too many windows.
    """
    rasters = config.rasters or RastersConfig()
    layers, bad_layers = _examine_layers(root, pairs, rasters)

    identities = _identify(root, pairs)
    with open_memory("headers", VERSION) as memory:
        headers = Headers(root, identities, memory)

        def one(pair: Pair) -> Scene | Problem:
            if pair.label in bad_layers:
                return Problem(pair.label, bad_layers[pair.label])
            return _examine_pair(headers, pair, config, rasters, layers.get(pair.label))

        with ThreadPoolExecutor(MAX_THREADS) as pool:
            try:
                found = list(pool.map(one, pairs))
            except CellError:
                # A server that fails would be asked for all the others, too.
                pool.shutdown(cancel_futures=True)
                raise
        headers.remember()
    scenes = {item.name: item for item in found if isinstance(item, Scene)}
    problems = {
        pair.name: item
        for pair, item in zip(pairs, found, strict=True)
        if isinstance(item, Problem)
    }
    for name, problem in {**_of_other_types(scenes), **_off_layers(scenes, layers)}.items():
        problems[name] = problem
        del scenes[name]
    if problems and config.on_error == "fail":
        first = next(iter(problems.values()))
        raise UsageError(
            f"[dataset.rasters]: {len(problems)} of {len(pairs)} scenes cannot be used; the first: "
            f"'{first.path}' {first.reason}. Mend it, or set [dataset] on_error = \"skip\""
        )
    if not scenes:
        first = next(iter(problems.values()))
        raise UsageError(
            f"[dataset.rasters]: none of the {len(pairs)} scenes can be used; the first: "
            f"'{first.path}' {first.reason}"
        )
    return Examined(scenes, problems, layers, identities)


def _identify(root: Root, pairs: Sequence[Pair]) -> Mapping[str, str]:
    paths = {path for pair in pairs for path in (pair.image, pair.label) if not is_vector(path)}
    try:
        return root.identify(sorted(paths))
    except (UsageError, OSError):
        # What cannot be read is found file by file.
        return {}


def _of_other_types(scenes: Mapping[str, Scene]) -> dict[str, Problem]:
    types = Counter(scene.header.dtype for scene in scenes.values())
    usual = max(types, key=lambda name: types[name], default="")
    return {
        name: Problem(
            scene.pair.image,
            f"holds {scene.header.dtype} pixels, but most images {usual}; convert it",
        )
        for name, scene in scenes.items()
        if scene.header.dtype != usual
    }


def _off_layers(scenes: Mapping[str, Scene], layers: Mapping[str, Layer]) -> dict[str, Problem]:
    """Return the scenes of the files whose polygons lie on none of their images."""
    users: dict[str, list[Scene]] = {}
    for scene in scenes.values():
        users.setdefault(scene.pair.label, []).append(scene)
    found: dict[str, Problem] = {}
    for path, layer in layers.items():
        own = users.get(path, [])
        if not any(_overlap(layer.bounds, _bounds(scene.header.grid)) for scene in own):
            images = f"the image '{own[0].pair.image}'" if len(own) == 1 else "any image"
            problem = Problem(path, f"has no polygon on {images}; check its CRS")
            found |= {scene.name: problem for scene in own}
    return found


def outline_of(grid: Grid) -> shapely.Polygon:
    """Return the outline of a grid in degrees.

    Raises:
        UsageError: shapely is missing.
    """
    try:
        import shapely
    except ImportError:
        raise UsageError(
            "[dataset.rasters]: the places of scenes need the package shapely; run `pip install "
            "shapely`"
        ) from None
    return shapely.make_valid(shapely.Polygon(grid.outline()))


def _examine_layers(
    root: Root, pairs: Sequence[Pair], config: RastersConfig
) -> tuple[dict[str, Layer], dict[str, str]]:
    layers: dict[str, Layer] = {}
    bad: dict[str, str] = {}
    for path in sorted({pair.label for pair in pairs if is_vector(pair.label)}):
        try:
            layers[path] = examine_layer(root, path, config)
        except FileError as error:
            bad[path] = str(error)
    return layers, bad


def _examine_pair(
    headers: Headers, pair: Pair, config: DatasetConfig, rasters: RastersConfig, layer: Layer | None
) -> Scene | Problem:
    path = pair.image
    try:
        header = headers.of_image(path)
        grid = header.grid if rasters.gsd_m is None else header.grid.resampled(rasters.gsd_m)
        _check_size(grid, config, rasters)
        path = pair.label
        if layer is None:
            _check_label(
                headers.of_label(path), header.grid, pair, resamples=rasters.gsd_m is not None
            )
    except FileError as error:
        return Problem(path, str(error))
    return Scene(pair, header, grid)


def _check_size(grid: Grid, config: DatasetConfig, rasters: RastersConfig) -> None:
    size = config.patch_size
    if min(grid.height, grid.width) < size:
        how = " when resampled" if rasters.gsd_m else ""
        raise FileError(
            f"{grid.height} x {grid.width} px{how} is smaller than a patch of {size} px"
        )
    stride = rasters.stride or size
    count = ((grid.height - size) // stride + 1) * ((grid.width - size) // stride + 1)
    if count > MAX_WINDOWS:
        raise UsageError(
            f"[dataset.rasters] stride = {stride}: gives {count:,} windows of one scene; set a "
            f"larger one (at most {MAX_WINDOWS:,} windows)"
        )


def _check_label(label: LabelHeader, image: Grid, pair: Pair, *, resamples: bool) -> None:
    import numpy as np

    grid = label.grid
    if label.num_bands != 1 or np.dtype(label.dtype).kind not in "uif":
        raise FileError(f"{label.num_bands} bands of {label.dtype}, expected 1 of whole numbers")
    if not resamples and not grid.equals(image):
        raise FileError(
            f"its grid ({grid.describe()}) differs from that of the image '{pair.image}' "
            f"({image.describe()}); set [dataset.rasters] gsd_m to resample both onto one"
        )
    if resamples and not _overlap(_bounds(grid), _bounds(image)):
        raise FileError(f"does not lie on the image '{pair.image}'")


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    outline = grid.outline()
    west, south = outline.min(axis=0).tolist()
    east, north = outline.max(axis=0).tolist()
    return west, south, east, north


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
