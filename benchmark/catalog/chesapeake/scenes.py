"""Reader of the Chesapeake land-cover data in the layout of torchgeo's ChesapeakeCVPR.

The label raster of a scene is read once and reduced by reshaping to the class counts of its
windows. Imagery is read only for chosen windows, in runs of neighbouring windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmark.catalog.chesapeake.index import (
    BANDS,
    CLASSES,
    MAPPING_VERSION,
    SYNTHETIC_MARKER,
    SYNTHETIC_NOTE,
    Scene,
    count_classes,
    count_unknown,
    list_scenes,
    no_scenes,
)
from benchmark.catalog.corners import window_corners
from benchmark.catalog.folder.bandnames import name_bands
from benchmark.catalog.rasters.grids import Grid, grid_of
from benchmark.catalog.roots.root import Root, Unreadable, open_root
from benchmark.config import DatasetConfig
from benchmark.errors import CellError, UsageError
from benchmark.specs import Found, Images, Problem, Remark

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

NO_CRS = "has no coordinate reference system"


@dataclass(frozen=True, kw_only=True)
class ChesapeakeSource:
    """The scenes below one root as a ``specs.Source``; a unit is a scene."""

    files: Root
    scenes: tuple[Scene, ...]
    patch_size: int
    purity: float
    is_synthetic: bool = False
    classes: tuple[str, ...] = CLASSES
    bands: tuple[str, ...] = BANDS

    @property
    def root(self) -> str:
        """Path or URI."""
        return self.files.address

    @property
    def notes(self) -> tuple[str, ...]:
        """Statements on the data for the report."""
        return (SYNTHETIC_NOTE,) if self.is_synthetic else ()

    def digest(self) -> str:
        """Return a hex blake2b of the class mapping and of the scenes' paths and contents.

        Raises:
            UsageError: a server fails, or has none of the scenes.
        """
        import hashlib

        names = sorted(path for scene in self.scenes for path in (scene.image, scene.mask))
        contents = self.files.identify(names)
        if self.files.is_remote and not contents:
            raise UsageError(no_scenes(self.files, len(self.scenes)))
        sums = hashlib.blake2b(f"chesapeake mapping {MAPPING_VERSION}\n".encode(), digest_size=16)
        for name in names:
            sums.update(f"{name} {contents.get(name, 'missing')}\n".encode())
        return sums.hexdigest()

    def units(self) -> Sequence[str]:
        """Return the names of the scenes, sorted."""
        return [scene.name for scene in self.scenes]

    def find(self, unit: str) -> Found:
        """Return the windows of one scene whose majority class covers at least ``purity``.

        Windows do not overlap and start at the upper left corner; the remainder at the right and
        lower edges is not examined. A missing, unreadable, too small or inconsistent file becomes
        a Problem, and the scene has no candidates. Pixels of unknown values are counted in Remarks.

        Raises:
            KeyError: there is no such scene.
        """
        from benchmark.tables import CANDIDATES

        scene = self._scene(unit)
        try:
            counts, unknown, transform, crs = self.files.retried(lambda: self._count(scene))
        except Unreadable as error:
            return Found(CANDIDATES.empty_table(), 0, (error.problem,))
        candidates = self._candidates(scene, counts, transform, crs)
        remarks = [
            Remark(f"Pixels of labels with the unknown value {value}, taken for no data", num)
            for value, num in unknown.items()
        ]
        return Found(candidates, counts.shape[0] * counts.shape[1], remarks=tuple(remarks))

    def _count(self, scene: Scene) -> tuple[NDArray[np.int64], dict[int, int], Any, Any]:
        """Return the class counts of the windows, those of unknown values, and the labels' grid."""
        with self.files.open(scene.image) as image:
            _refuse(scene.image, _image_fault(image, self.patch_size))
            grid = grid_of(image)
        with self.files.open(scene.mask) as mask:
            _refuse(scene.mask, _mask_fault(mask, grid))
            codes = mask.read(1)
            unknown = count_unknown(codes, mask.nodata)
            return count_classes(codes, self.patch_size), unknown, mask.transform, mask.crs

    def _candidates(
        self, scene: Scene, counts: NDArray[np.int64], transform: Any, crs: Any
    ) -> pa.Table:
        import numpy as np
        import pyarrow as pa
        from rasterio.warp import transform as warp

        from benchmark.tables import CANDIDATES

        size = self.patch_size
        labels, largest = counts.argmax(axis=-1), counts.max(axis=-1)
        # A window of exactly this share is kept, although 0.07 * 100 > 7 in floating point.
        kept = largest >= self.purity * size**2 - 1e-6
        rows, cols = np.nonzero(kept)
        top, left = rows * size, cols * size
        right, down = left + size / 2, top + size / 2
        x = transform.c + transform.a * right + transform.b * down
        y = transform.f + transform.d * right + transform.e * down
        lon, lat = warp(crs, "EPSG:4326", x.tolist(), y.tolist()) if len(rows) else ([], [])
        n = len(rows)
        columns = {
            "patch_id": [f"{scene.name}-{y:05d}-{x:05d}" for y, x in zip(top, left, strict=True)],
            "split": [scene.split] * n,
            "label": labels[kept].astype(np.int32),
            "scene": [scene.name] * n,
            "region": [scene.region] * n,
            "row": top.astype(np.int32),
            "col": left.astype(np.int32),
            "lon": np.asarray(lon, np.float64),
            "lat": np.asarray(lat, np.float64),
            "purity": (largest[kept] / size**2).astype(np.float32),
        }
        return pa.table(columns, schema=CANDIDATES).sort_by("patch_id")

    def read(self, candidates: pa.Table) -> Images:
        """Return the pixels of windows, uint8 (N, C, H, W), in the order of the rows given.

        Rows with unreadable pixels are left out, and their file becomes a Problem.

        Raises:
            ValueError: the candidates are of several scenes.
            KeyError: their scene is not in this source.
        """
        import numpy as np

        size, num_rows = self.patch_size, candidates.num_rows
        pixels = np.empty((num_rows, len(BANDS), size, size), np.uint8)
        is_read = np.zeros(num_rows, bool)
        if not num_rows:
            return Images(pixels, np.flatnonzero(is_read))
        (name,) = set(candidates["scene"].to_pylist())  # several: ValueError
        scene = self._scene(name)
        rows, cols = candidates["row"].to_numpy(), candidates["col"].to_numpy()
        reason = ""
        try:
            self.files.retried(lambda: self._fill(pixels, is_read, scene.image, rows, cols))
        except Unreadable as error:
            reason = error.problem.reason
        kept = np.flatnonzero(is_read)
        if not reason:
            return Images(pixels, kept)
        problem = Problem(scene.image, f"{reason} ({num_rows - len(kept)} patches lost)")
        return Images(pixels[kept], kept, (problem,))

    def _fill(
        self,
        pixels: NDArray[np.uint8],
        is_read: NDArray[np.bool_],
        path: str,
        rows: NDArray[Any],
        cols: NDArray[Any],
    ) -> None:
        """Read the windows that ``is_read`` lacks into ``pixels``, and mark them there.

        Raises:
            Unreadable: some could not be read; the others were.
        """
        import numpy as np
        from rasterio.errors import RasterioError

        size, failed = self.patch_size, None
        todo = np.flatnonzero(~is_read)
        with self.files.open(path) as image:
            _refuse(path, _image_fault(image, size))
            for part in window_runs(rows[todo], cols[todo], size, image.block_shapes[0][1]):
                run = todo[part]
                row, first, last = rows[run[0]], cols[run[0]], cols[run[-1]] + size
                try:
                    strip = image.read(window=((row, row + size), (first, last)))
                except (RasterioError, OSError) as error:
                    # The other runs may still be readable.
                    failed = failed or self.files.explain(path, error)
                    continue
                for index, start in zip(run, cols[run] - first, strict=True):
                    pixels[index] = strip[:, :, start : start + size]
                is_read[run] = True
        if failed:
            raise failed

    def corners(self, patches: pa.Table) -> NDArray[np.float64]:
        """Return the corners of windows in degrees, as ``specs.LocatedSource``.

        Raises:
            CellError: the label raster of a scene cannot be read.
            KeyError: a scene is not in this source.
        """
        import numpy as np

        names = patches["scene"].to_numpy()
        rows, cols = patches["row"].to_numpy(), patches["col"].to_numpy()
        found = np.full((len(names), 4, 2), np.nan)
        for name in sorted(set(names.tolist())):
            path = self._scene(name).mask
            here = names == name
            try:
                transform, crs = self.files.retried(partial(self._georeference, path))
            except Unreadable as error:
                raise CellError(f"{self.files.where(path)}: {error.problem.reason}") from None
            found[here] = window_corners(transform, crs, rows[here], cols[here], self.patch_size)
        return found

    def _georeference(self, path: str) -> tuple[Any, Any]:
        with self.files.open(path) as raster:
            return raster.transform, raster.crs

    def _scene(self, name: str) -> Scene:
        for scene in self.scenes:
            if scene.name == name:
                return scene
        raise KeyError(f"no scene '{name}' below {self.root}")


def open_chesapeake(config: DatasetConfig) -> ChesapeakeSource:
    """Open a folder or URI in the layout of torchgeo's ChesapeakeCVPR.

    Scenes are split by state: ``test_regions``, ``val_regions``, and train for all others.

    Raises:
        UsageError: there is no valid index, no scene on disk, or a region is unknown.
    """
    files = open_root(config.root)
    files.check_answer()
    return ChesapeakeSource(
        files=files,
        scenes=list_scenes(config),
        patch_size=config.patch_size,
        purity=config.purity,
        is_synthetic=files.has(SYNTHETIC_MARKER),
    )


def open_split_scenes(config: DatasetConfig) -> ChesapeakeSource:
    """Open a folder as ``open_chesapeake`` does, if it has scenes of every split.

    Raises:
        UsageError: also if no scene is left for a split.
    """
    source = open_chesapeake(config)
    there = sorted({scene.region for scene in source.scenes})
    for split in ("train", "val", "test"):
        if not any(scene.split == split for scene in source.scenes):
            raise UsageError(
                f"[dataset] root = '{config.root}': no scene is left for {split}; it has scenes of "
                f"{', '.join(there)}: change val_regions or test_regions"
            )
    return source


def window_runs(
    rows: NDArray[Any], cols: NDArray[Any], size: int, block_width: int
) -> Iterator[NDArray[Any]]:
    """Yield the indices of windows to read together, ordered by column.

    Windows of one row are joined if the gap between them is narrower than a block, because its
    pixels are decoded anyway. Blocks may be strips as wide as the scene.
    """
    import numpy as np

    order = np.lexsort((cols, rows))
    new_row = np.diff(rows[order]) != 0
    far = np.diff(cols[order]) - size >= block_width
    yield from np.split(order, np.flatnonzero(new_row | far) + 1)


def _refuse(path: str, fault: str) -> None:
    if fault:
        raise Unreadable(path, fault)


def _image_fault(image: Any, patch_size: int) -> str:
    if image.count != len(BANDS) or set(image.dtypes) != {"uint8"}:
        return f"{image.count} bands of {image.dtypes[0]}, expected {len(BANDS)} of uint8"
    names = name_bands(image.descriptions, [color.name for color in image.colorinterp])
    if names and names != BANDS:
        return f"names its bands {', '.join(names)}, expected {', '.join(BANDS)}"
    if min(image.height, image.width) < patch_size:
        return f"{image.height} x {image.width} px is smaller than a patch of {patch_size} px"
    return "" if image.crs else NO_CRS


def _mask_fault(mask: Any, image: Grid) -> str:
    if mask.count != 1 or mask.dtypes[0] != "uint8":
        return f"{mask.count} bands of {mask.dtypes[0]}, expected 1 of uint8"
    if not mask.crs:
        return NO_CRS
    grid = grid_of(mask)
    if not grid.equals(image):
        return f"its grid ({grid.describe()}) differs from that of its image ({image.describe()})"
    return ""
