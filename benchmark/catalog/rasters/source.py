"""The user's own scenes as a source of patches.

The labels of a scene are read once, one row of windows at a time. Imagery is read only for chosen
windows, in runs of neighbouring windows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from benchmark.catalog.chesapeake.index import count_strip
from benchmark.catalog.chesapeake.scenes import window_runs
from benchmark.catalog.corners import window_corners
from benchmark.catalog.folder.facts import MAX_INVALID
from benchmark.catalog.rasters.blocks import Blocks
from benchmark.catalog.rasters.files import (
    FileError,
    explain,
    is_vector,
    vector_files,
)
from benchmark.catalog.rasters.pixels import SAMPLED_SIDE, PixelReader
from benchmark.catalog.rasters.polygons import PolygonLabels, open_polygons
from benchmark.catalog.rasters.scenes import Scene
from benchmark.catalog.rasters.values import (
    DISPUTED,
    IGNORED,
    NODATA,
    LabelTable,
    RasterLabels,
    open_labels,
)
from benchmark.catalog.roots.root import Root
from benchmark.raster_settings import RastersConfig
from benchmark.specs import Found, Images, Problem, Remark

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

VERSION = 1
"""Raised by hand when the same files and settings give other patches."""
LISTING = {"images", "labels", "index", "image_asset", "label_asset", "classes"}
"""Settings that only find the files, and ``classes``, whose order counts."""
BLOCK = "#"
"""Between the scene and the block in a patch's ``scene``."""
NUM_TRIED, NUM_SAMPLED = 32, 8
"""Places drawn in a scene, and most windows of train among them for the ranges of bands."""

CHUNK = 10_000

COUNTED = {
    NODATA: "Label pixels without data (nodata, or in no polygon)",
    IGNORED: "Label pixels whose value is in ignore, or null",
    DISPUTED: "Label pixels in polygons of different classes, left out",
}
NODATA_USED = "Label files whose nodata value is in classes or ignore, and is read as that"
FILLED = "Patches with pixels without data, which became 0"
EMPTY = f"Patches left out because more than {MAX_INVALID:.0%} of their values hold no data"


class _Windows(NamedTuple):
    """The windows of a scene that one class fills."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    labels: NDArray[np.int32]
    largest: NDArray[np.int64]
    """Pixels of that class."""


@dataclass(frozen=True, kw_only=True)
class RasterSource:
    """Scenes with labels below one root as a ``specs.Source``; a unit is a scene."""

    files: Root
    scenes: Mapping[str, Scene]
    problems: Mapping[str, Problem]
    """Of the scenes whose files cannot be used."""
    table: LabelTable
    reader: PixelReader
    split_of: Mapping[str, str]
    blocks: Blocks | None
    settings: RastersConfig
    patch_size: int
    purity: float
    num_polygons: Mapping[str, int]
    """Polygons in each label file that belongs to one scene."""
    identities: Mapping[str, str]
    """Of the contents of files, when the source was opened."""
    notes: tuple[str, ...] = ()
    is_synthetic: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self.table.classes

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the C bands."""
        return self.reader.bands

    @property
    def stride(self) -> int:
        """Step between windows in px."""
        return self.settings.stride or self.patch_size

    def digest(self) -> str:
        """Return a hex blake2b of the settings, the splits, and the paths and contents of files."""
        import hashlib

        settings = self.settings.model_dump(mode="json", exclude_defaults=True, exclude=LISTING)
        lines = [
            [VERSION, settings, list(self.classes), sorted(map(str, self.table.code_of.items()))]
        ]
        pairs = [scene.pair for scene in self.scenes.values()]
        named = {path for pair in pairs for path in (pair.image, pair.label)}
        beside = {path for pair in pairs for path in vector_files(pair.label)}
        asked = (named | beside) - self.identities.keys()
        found = {path: text for path, text in self.identities.items() if path in named}
        found |= self.files.identify(sorted(asked))
        contents = {path: found.get(path, "missing") for path in sorted(named | found.keys())}
        lines += [[*scene.pair, self.split_of.get(name)] for name, scene in self.scenes.items()]
        lines += [[name, *problem] for name, problem in self.problems.items()]
        lines += [list(item) for item in contents.items()]
        return hashlib.blake2b(json.dumps(lines).encode(), digest_size=16).hexdigest()

    def units(self) -> Sequence[str]:
        """Return the names of the scenes, sorted."""
        return sorted({*self.scenes, *self.problems})

    def find(self, unit: str) -> Found:
        """Return the windows of one scene whose majority class covers at least ``purity``.

        Windows start at the upper left corner. A scene whose files cannot be read, or whose labels
        hold unknown values, becomes a Problem and has no candidates.

        Raises:
            KeyError: there is no such scene.
        """
        from benchmark.tables import CANDIDATES

        if unit in self.problems:
            return Found(CANDIDATES.empty_table(), 0, (self.problems[unit],))
        scene = self.scenes[unit]
        try:
            windows, tallies = self.files.retried(lambda: self._read_labels(scene))
        except FileError as error:
            problem = Problem(scene.pair.label, str(error))
            return Found(CANDIDATES.empty_table(), 0, (problem,))
        candidates = self._candidates(scene, windows, tallies)
        tops, lefts = self._starts(scene)
        counted = tuple(Remark(text, count) for text, count in tallies.items() if count)
        return Found(candidates, len(tops) * len(lefts), remarks=counted)

    def _read_labels(self, scene: Scene) -> tuple[_Windows, dict[str, int]]:
        tallies: dict[str, int] = {}
        with self._open_labels(scene) as labels:
            windows = self._pure_windows(scene, labels, tallies)
            if unknown := labels.unknown():
                raise unknown
            return windows, tallies | self._label_tallies(scene, labels)

    def read(self, candidates: pa.Table) -> Images:
        """Return the pixels of windows, uint8 (N, C, P, P), in the order of the rows given.

        Rows with unreadable pixels are left out, and their file becomes a Problem. Rows whose
        values mostly hold no data are left out with a Remark.

        Raises:
            ValueError: the candidates are of several scenes.
            KeyError: their scene is not in this source.
        """
        import numpy as np

        size, num_rows = self.patch_size, candidates.num_rows
        pixels = np.empty((num_rows, len(self.bands), size, size), np.uint8)
        is_read, invalid = np.zeros(num_rows, bool), np.zeros(num_rows)
        if not num_rows:
            return Images(pixels, np.flatnonzero(is_read))
        (name,) = {self._scene_name(text) for text in candidates["scene"].to_pylist()}
        scene = self.scenes[name]
        rows, cols = candidates["row"].to_numpy(), candidates["col"].to_numpy()
        reason = ""
        try:
            self.files.retried(lambda: self._fill(pixels, invalid, is_read, scene, rows, cols))
        except FileError as error:
            reason = str(error)
        num_lost = int((~is_read).sum())
        names = candidates["patch_id"].to_pylist()
        remarks = tuple(
            Remark(EMPTY if invalid[index] > MAX_INVALID else FILLED, patch_id=names[index])
            for index in np.flatnonzero(invalid > 0)
        )
        kept = np.flatnonzero(is_read & (invalid <= MAX_INVALID))
        problems = (Problem(scene.pair.image, f"{reason} ({num_lost} patches lost)"),)
        return Images(pixels[kept], kept, problems if reason else (), remarks)

    def _fill(
        self,
        pixels: NDArray[np.uint8],
        invalid: NDArray[np.float64],
        is_read: NDArray[np.bool_],
        scene: Scene,
        rows: NDArray[Any],
        cols: NDArray[Any],
    ) -> None:
        """Read the windows that ``is_read`` lacks into ``pixels``, and mark them there.

        ``invalid`` becomes the share of each window's values without data.

        Raises:
            FileError: some could not be read; the others were.
        """
        import numpy as np
        from rasterio.errors import RasterioError

        size, failed = self.patch_size, None
        todo = np.flatnonzero(~is_read)
        with self.reader.open(scene) as file:
            for part in window_runs(rows[todo], cols[todo], size, file.block_shapes[0][1]):
                run = todo[part]
                row, first, last = rows[run[0]], cols[run[0]], cols[run].max() + size
                try:
                    strip = self.reader.read(file, scene, ((row, row + size), (first, last)))
                except (RasterioError, OSError) as error:
                    # The other runs may still be readable.
                    failed = failed or explain(self.files, scene.pair.image, error)
                    continue
                whole = self.reader.convert(strip)
                for index, start in zip(run, cols[run] - first, strict=True):
                    pixels[index] = whole[:, :, start : start + size]
                    invalid[index] = strip.invalid[:, :, start : start + size].mean()
                is_read[run] = True
        if failed:
            raise failed

    def corners(self, patches: pa.Table) -> NDArray[np.float64]:
        """Return the corners of patches in degrees (EPSG:4326), (N, 4, 2).

        Each corner is longitude and latitude; they go around the patch.

        Args:
            patches: the columns ``scene``, ``row`` and ``col`` of patches.

        Raises:
            KeyError: a scene is not in this source.
        """
        import numpy as np

        names = np.array([self._scene_name(text) for text in patches["scene"].to_pylist()])
        rows, cols = patches["row"].to_numpy(), patches["col"].to_numpy()
        found = np.full((len(names), 4, 2), np.nan)
        for name in sorted(set(names.tolist())):
            here, size = names == name, self.patch_size
            grid = self.scenes[name].grid
            found[here] = window_corners(grid.transform, grid.crs, rows[here], cols[here], size)
        return found

    @contextmanager
    def _open_labels(self, scene: Scene) -> Iterator[RasterLabels | PolygonLabels]:
        opener = open_polygons if is_vector(scene.pair.label) else open_labels
        with opener(self.files, scene.pair.label, scene.grid, self.table, self.settings) as labels:
            yield labels

    def _starts(self, scene: Scene) -> tuple[range, range]:
        """Return the first rows and the first columns of all windows."""
        grid, size = scene.grid, self.patch_size
        return (
            range(0, grid.height - size + 1, self.stride),
            range(0, grid.width - size + 1, self.stride),
        )

    def _pure_windows(
        self, scene: Scene, labels: RasterLabels | PolygonLabels, tallies: dict[str, int]
    ) -> _Windows:
        import numpy as np

        size = self.patch_size
        tops, lefts = self._starts(scene)
        columns = np.array(lefts)
        kept = []
        for top in tops:
            strip = labels.strip(top, size)
            # Rows that the next windows hold, too, are counted with those.
            fresh = strip if top == tops[-1] else strip[: self.stride]
            for code, text in COUNTED.items():
                tallies[text] = tallies.get(text, 0) + int((fresh == code).sum())
            counts = count_strip(strip, columns, num_classes=len(self.classes))
            largest = counts.max(axis=1)
            # A window of exactly this share is kept, although 0.07 * 100 > 7 in floating point.
            pure = np.flatnonzero(largest >= self.purity * size**2 - 1e-6)
            kept.append(
                (
                    np.full(len(pure), top),
                    columns[pure],
                    counts[pure].argmax(axis=1).astype(np.int32),
                    largest[pure],
                )
            )
        return _Windows(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))

    def _candidates(self, scene: Scene, windows: _Windows, tallies: dict[str, int]) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        from benchmark.tables import CANDIDATES

        size, n = self.patch_size, len(windows.rows)
        centres = scene.grid.degrees(windows.rows + size / 2, windows.cols + size / 2)
        splits, clusters = [self.split_of.get(scene.name, "")] * n, [scene.name] * n
        if self.blocks is not None:
            placed = [
                self.blocks.place(scene.grid.outlines(rows, cols, size, size))
                for rows, cols in _chunks(windows)
            ]
            splits = [split for item in placed for split in item.splits]
            clusters = [f"{scene.name}{BLOCK}{name}" for item in placed for name in item.names]
            tallies["Windows left out at the edges of blocks of another split"] = splits.count("")
        names = [
            f"{scene.name}-{row:05d}-{col:05d}"
            for row, col in zip(windows.rows, windows.cols, strict=True)
        ]
        columns = {
            "patch_id": names,
            "split": splits,
            "label": windows.labels,
            "scene": clusters,
            "region": [scene.pair.region] * n,
            "row": windows.rows.astype(np.int32),
            "col": windows.cols.astype(np.int32),
            "lon": centres[:, 0],
            "lat": centres[:, 1],
            "purity": (windows.largest / size**2).astype(np.float32),
        }
        table = pa.table(columns, schema=CANDIDATES)
        return table.filter(pa.array([split != "" for split in splits], pa.bool_())).sort_by(
            "patch_id"
        )

    def _label_tallies(self, scene: Scene, labels: RasterLabels | PolygonLabels) -> dict[str, int]:
        if not isinstance(labels, PolygonLabels):
            return {NODATA_USED: int(labels.uses_nodata)}
        count = self.num_polygons.get(scene.pair.label)
        if count is None:
            return {"Scenes without polygons": int(not len(labels.shapes))}
        return {"Polygons outside of their image, not used": count - len(labels.shapes)}

    def _scene_name(self, text: str) -> str:
        return text if self.blocks is None else text.rpartition(BLOCK)[0]

    def train_windows(self, scene: Scene) -> Sequence[tuple[int, int]]:
        """Return (row, column) of some windows of ``SAMPLED_SIDE`` px of train in a scene."""
        import numpy as np

        size = min(self.patch_size, SAMPLED_SIDE)
        # The same windows at each opening; those of a regular grid may miss a regular pattern.
        draw = np.random.default_rng(crc32(scene.name.encode()))
        places = draw.random((NUM_TRIED, 2)) * [scene.grid.height - size, scene.grid.width - size]
        rows, cols = places.astype(int).T
        if self.blocks is not None:
            placed = self.blocks.place(scene.grid.outlines(rows, cols, size, size)).splits
            inside = np.array([split == "train" for split in placed], bool)
            rows, cols = rows[inside], cols[inside]
        elif self.split_of[scene.name] != "train":
            return ()
        return list(zip(rows[:NUM_SAMPLED].tolist(), cols[:NUM_SAMPLED].tolist(), strict=True))


def _chunks(windows: _Windows) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the rows and columns of some windows: the points around many would fill the memory."""
    for start in range(0, len(windows.rows), CHUNK):
        yield windows.rows[start : start + CHUNK], windows.cols[start : start + CHUNK]
