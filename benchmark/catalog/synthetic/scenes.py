"""Writer of synthetic scenes in the folder layout of torchgeo's ChesapeakeCVPR.

``torchgeo.datasets.ChesapeakeCVPR(root=DIR, splits=[...])`` opens the folder unchanged. A file
named SYNTHETIC.txt, written last, marks the scenes as synthetic.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.chesapeake.index import INDEX, SYNTHETIC_MARKER
from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.progress import LoggedProgress, Progress
from benchmark.store.provenance import num_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
"""Raised by hand when the same settings give different bytes."""
MIN_SIZE, MAX_SIZE = 256, 8192
MAX_SCENES = 30
_IN_PROGRESS = "SYNTHETIC.partial.txt"
_YEARS = {"de": 2013, "md": 2013, "ny": 2013, "pa": 2013, "va": 2014, "wv": 2014}
# One-degree blocks of each state, by the latitude and longitude of their south-east corner.
_BLOCKS = {
    "de": ((38, 75), (39, 75)),
    "md": ((38, 76), (39, 76), (39, 77)),
    "ny": ((42, 76), (42, 75), (42, 77)),
    "pa": ((40, 76), (41, 77), (40, 78)),
    "va": ((37, 77), (37, 78), (38, 78)),
    "wv": ((37, 80), (38, 80), (39, 79)),
}
_KEYSTONE = "m_3708035_ne_17_1"
"""The tile of wv-val with all layers; torchgeo checks it to see that the folder is complete."""
_PRIOR = "prior_from_cooccurrences_101_31_no_osm_no_buildings"
_LAYERS = (
    "naip-new",
    "naip-old",
    "landsat-leaf-on",
    "landsat-leaf-off",
    "lc",
    "nlcd",
    "buildings",
)
_SPLITS = ("train", "val", "test")


class _Task(NamedTuple):
    """One scene to write; its bytes depend only on these values."""

    root: str
    folder: str
    name: str
    state: str
    split: str
    number: int
    """Position within the state."""
    serial: int
    """Position among all scenes of the largest possible set; part of the seed."""
    size: int
    seed: int


def write_scenes(
    root: str | Path,
    *,
    scenes: int = 10,
    size: int = 1536,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write synthetic scenes of six states; return the folder.

    The same settings give the same bytes; a folder that is complete already is left unchanged.

    Args:
        root: the folder; created if missing.
        scenes: scenes per state, 3 to 30, so that each of torchgeo's splits has one.
        size: side of a scene in px (1 m), 256 to 8192.
        seed: seed of every picture.
        progress: shows the number of scenes written.

    Raises:
        UsageError: a setting is out of range, or the folder holds other files.
        BenchmarkError: a file could not be written.
    """
    root = Path(root)
    for name, value, low, high in (
        ("scenes", scenes, 3, MAX_SCENES),
        ("size", size, MIN_SIZE, MAX_SIZE),
        ("seed", seed, 0, 2**32 - 1),
    ):
        if not low <= value <= high:
            raise UsageError(f"synthetic: {name} = {value}: give a number from {low} to {high}")
    settings = _describe(scenes, size, seed)
    if _is_complete(root, settings):
        return root
    tasks = list(_tasks(root, scenes, size, seed))
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / _IN_PROGRESS).write_text(settings, encoding="utf-8")
        for task in tasks:
            (root / task.folder).mkdir(exist_ok=True)
        features = _write_all(tasks, progress or LoggedProgress())
        _write_index(root / INDEX, features)
        (root / _IN_PROGRESS).replace(root / SYNTHETIC_MARKER)
    except (OSError, BrokenProcessPool) as error:
        raise BenchmarkError(f"synthetic: cannot write to {root}: {one_line(error)}") from error
    return root


def _describe(scenes: int, size: int, seed: int) -> str:
    return (
        "Synthetic scenes, drawn by a program (benchmark prepare synthetic); "
        "not aerial photographs.\n"
        f"version = {VERSION}\nscenes = {scenes}\nsize = {size}\nseed = {seed}\n"
    )


def _is_complete(root: Path, settings: str) -> bool:
    """Return whether the folder holds these scenes; raise UsageError if it holds other files."""
    try:
        if not root.exists():
            return False
        if not root.is_dir():
            raise UsageError(f"--root {root}: is a file; name a folder")
        marker = root / SYNTHETIC_MARKER
        if marker.is_file():
            if marker.read_text(encoding="utf-8") == settings:
                return True
            raise UsageError(
                f"--root {root}: holds synthetic scenes of other settings; "
                "name another folder, or delete this one"
            )
        partial = root / _IN_PROGRESS
        if partial.is_file() and partial.read_text(encoding="utf-8") == settings:
            return False
        if any(root.iterdir()):
            raise UsageError(
                f"--root {root}: is not empty and holds no synthetic scenes of these settings; "
                "name another folder, since files are never overwritten"
            )
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"--root {root}: cannot be read: {one_line(error)}") from error
    return False


def _tasks(root: Path, scenes: int, size: int, seed: int) -> Iterator[_Task]:
    """Yield the scenes: quarter quads in every second row and column, so that none touch."""
    import numpy as np

    for place, (state, year) in enumerate(_YEARS.items()):
        quads = [
            (block, 8 * row + col + 1)
            for block in _BLOCKS[state]
            for row in range(0, 8, 2)
            for col in range(0, 8, 2)
        ]
        if state == "wv":
            quads.remove(((37, 80), 35))
        rng = np.random.default_rng([seed, 6, place])
        rng.shuffle(quads)
        for number in range(scenes):
            # Scenes go to train, val and test in turn, whatever their number.
            split = _SPLITS[number % 3]
            (latitude, longitude), quad = quads[number]
            zone = 17 if longitude >= 78 else 18
            quarter = rng.choice(["ne", "nw", "se", "sw"])
            name = f"m_{latitude}{longitude:03d}{quad:02d}_{quarter}_{zone}_1"
            if state == "wv" and number == 1:
                name = _KEYSTONE
            folder = f"{state}_1m_{year}_extended-debuffered-{split}_tiles"
            serial = place * MAX_SCENES + number
            yield _Task(str(root), folder, name, state, split, number, serial, size, seed)


def _write_all(tasks: list[_Task], progress: Progress) -> list[dict[str, Any]]:
    """Write all scenes on all cores; return their features of the index, in order."""
    features = []
    stage = progress.stage("prepare", num_cells=1, num_items=len(tasks), unit="scenes")
    stage.start("synthetic")
    num_workers = min(num_cores(), len(tasks))
    # A forked child could inherit locks held by threads of the parent.
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
            with _script_left_alone():
                written = pool.map(_write_scene, tasks)
            for feature in written:
                features.append(feature)
                stage.advance(1)
        stage.done("synthetic")
    except (OSError, BrokenProcessPool) as error:
        stage.failed("synthetic", one_line(error))
        raise
    finally:
        stage.close()
    return features


@contextmanager
def _script_left_alone() -> Iterator[None]:
    """Start processes that do not run the user's script again, which may lack a guard for that."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _write_index(path: Path, features: list[dict[str, Any]]) -> None:
    content = {
        "type": "FeatureCollection",
        "name": "spatial_index",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3857"}},
        "features": features,
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_scene(task: _Task) -> dict[str, Any]:
    """Draw and write one scene; return its feature of the index."""
    import numpy as np
    from rasterio.transform import from_origin
    from rasterio.warp import transform
    from threadpoolctl import threadpool_limits

    from benchmark.catalog.synthetic.landscape import Plan, draw_landscape
    from benchmark.catalog.synthetic.pictures import draw_look, draw_picture

    parts = task.name.split("_")
    epsg = f"EPSG:269{parts[3]}"
    longitude, latitude = _centre(parts[1], parts[2])
    (x,), (y,) = transform("EPSG:4326", epsg, [longitude], [latitude])
    half = task.size // 2
    west, north = round(x) - half, round(y) + half
    paths = {layer: f"{task.folder}/{task.name}_{layer}.tif" for layer in (*_LAYERS, _PRIOR)}
    profile = {"crs": epsg, "transform": from_origin(west, north, 1, 1)}
    if not _is_written(task, paths):
        rng = np.random.default_rng([task.seed, task.serial, task.size])
        look = draw_look(rng, task.state)
        # Rare surfaces come in turn, so that each state has some. The real data has few barren
        # patches (24); without any, the class could not be tested.
        plan = Plan(
            forest=rng.uniform(0.56, 0.86),
            lake=rng.uniform(0.15, 0.5) if task.number % 3 == 2 or rng.random() < 0.15 else 0.0,
            num_towns=int(rng.integers(0, 3)),
            num_pits=int(task.number % 3 == 0),
            num_paved=int(task.number % 3 == 1),
        )
        # More threads would sum in another order, and workers share the cores.
        with threadpool_limits(1):
            land = draw_landscape(rng, task.size, plan)
            picture = draw_picture(rng, land, look)
        if task.name == _KEYSTONE:
            _write_other_layers(task, paths, profile, land.lc, picture)
        _write_raster(task.root, paths["naip-new"], picture, profile)
        # Written last: the labels mark the scene as complete.
        _write_raster(task.root, paths["lc"], land.lc[None], profile)
    return _feature(task, paths, west, north, epsg)


def _centre(block: str, quarter: str) -> tuple[float, float]:
    """Return longitude and latitude of the centre of a quarter quad, 3.75 minutes wide."""
    latitude, longitude, quad = int(block[:2]), int(block[2:5]), int(block[5:]) - 1
    north = latitude + 1 - (quad // 8) / 8 - (quarter[0] == "s") / 16
    west = -(longitude + 1) + (quad % 8) / 8 + (quarter[1] == "e") / 16
    return west + 1 / 32, north - 1 / 32


def _is_written(task: _Task, paths: dict[str, str]) -> bool:
    """Return whether an interrupted run with the same settings wrote the scene."""
    needed = paths if task.name == _KEYSTONE else ("naip-new", "lc")
    return all(Path(task.root, paths[layer]).is_file() for layer in needed)


def _write_raster(root: str, relative: str, pixels: NDArray[Any], profile: dict[str, Any]) -> None:
    """Write (C, H, W) pixels as a deflate GeoTIFF, which is renamed when complete."""
    from rasterio.io import MemoryFile

    path = Path(root, relative)
    partial = path.with_suffix(".partial")
    count, height, width = pixels.shape
    options = {"driver": "GTiff", "compress": "deflate", "zlevel": 1, "interleave": "pixel"}
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    # Through memory: GDAL does not report a full disk when it closes a file.
    with MemoryFile() as memory:
        with memory.open(**options, **shape, **profile) as file:
            file.write(pixels)
        partial.write_bytes(memory.getbuffer())
    partial.replace(path)


def _write_other_layers(
    task: _Task,
    paths: dict[str, str],
    profile: dict[str, Any],
    lc: NDArray[np.uint8],
    picture: NDArray[np.uint8],
) -> None:
    """Write the layers that the benchmark does not read, in simple but valid form."""
    import numpy as np

    nlcd = np.zeros(256, np.uint8)
    nlcd[[1, 2, 3, 4, 5, 6]] = [11, 41, 81, 31, 23, 22]
    blocks = np.kron(nlcd[lc[15::30, 15::30]], np.ones((30, 30), np.uint8))
    coarse = np.pad(blocks, [(0, 30), (0, 30)], mode="edge")[: len(lc), : len(lc)]
    prior = np.stack([np.where(np.isin(lc, codes), 199, 14) for codes in ((1,), (2,), (3,))])
    rest = 241 - prior.astype(np.int16).sum(axis=0)
    landsat = picture[[2, 2, 1, 0, 3, 0, 1, 0, 3]].astype(np.int16) * 12
    layers = {
        "naip-old": (picture * np.float32(0.9)).astype(np.uint8),
        "landsat-leaf-on": landsat,
        "landsat-leaf-off": (landsat * np.float32(0.8)).astype(np.int16),
        "nlcd": coarse[None],
        "buildings": (lc == 5).astype(np.uint8)[None],
        _PRIOR: np.concatenate([prior, np.clip(rest, 0, 255)[None]]).astype(np.uint8),
    }
    for layer, pixels in layers.items():
        _write_raster(task.root, paths[layer], pixels, profile)


def _feature(
    task: _Task, paths: dict[str, str], west: int, north: int, epsg: str
) -> dict[str, Any]:
    """Describe the scene by the largest box in EPSG:3857 that lies inside it.

    A grid over the bounds of the slanted outline would go beyond the raster.
    """
    from rasterio.warp import transform

    east, south = west + task.size, north - task.size
    # From the north-west corner clockwise.
    xs, ys = transform(epsg, "EPSG:3857", [west, east, east, west], [north, north, south, south])
    left, right = max(xs[0], xs[3]), min(xs[1], xs[2])
    low, high = max(ys[2], ys[3]), min(ys[0], ys[1])
    ring = [[left, low], [right, low], [right, high], [left, high], [left, low]]
    properties = {"split": f"{task.state}-{task.split}"}
    properties |= {layer: paths[layer] for layer in _LAYERS}
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
