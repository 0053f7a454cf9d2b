"""What the headers of rasters say, remembered between runs by the contents of the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from pydantic import TypeAdapter

from benchmark.catalog.folder.bandnames import name_bands
from benchmark.catalog.folder.decoding import alpha_kind
from benchmark.catalog.rasters.files import FileError, open_raster
from benchmark.catalog.rasters.grids import Grid, grid_of
from benchmark.catalog.roots.root import Root
from benchmark.store.memory import Memory

if TYPE_CHECKING:
    import rasterio
    from numpy.typing import NDArray

T = TypeVar("T")

VERSION = 1
"""Raised by hand when the headers of a content change, so that none is recalled."""
MIDDLE = 512
"""Side in px of the middle of a scene, which tells what alpha is."""


class Header(NamedTuple):
    """What an image says of itself; see ``folder.formats.Banded``."""

    grid: Grid
    dtype: str
    num_bands: int
    alpha: str
    """Empty without alpha, else its kind in the middle of the scene (``facts.Facts``)."""
    descriptions: tuple[str | None, ...]
    names: tuple[str, ...] | None


class LabelHeader(NamedTuple):
    """What a label raster says of itself."""

    grid: Grid
    num_bands: int
    dtype: str


ADAPTERS: Mapping[type[Any], TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (Header, LabelHeader)
}


class Headers:
    """Headers of the files below a root, each read once for its content; threads may share them.

    Args:
        root: of the files.
        identities: of their contents; files without one are read at every opening.
        memory: of earlier openings.
    """

    def __init__(self, root: Root, identities: Mapping[str, str], memory: Memory) -> None:
        self.root, self.memory = root, memory
        # Size and ETag of a remote file are those of others, too. GDAL reads it by its suffix.
        places = {path: root.where(path) if root.is_remote else "" for path in identities}
        self.keys = {
            path: f"{PurePosixPath(path).suffix.lower()} {text} {places[path]}"
            for path, text in identities.items()
        }
        kinds = [kind.__name__ for kind in ADAPTERS]
        self.known = memory.recall(f"{name} {key}" for key in self.keys.values() for name in kinds)
        self.fresh: dict[str, Any] = {}

    def of_image(self, path: str) -> Header:
        """Return the header of an image; raises FileError and CellError."""
        return self._of(Header, path, _read_image)

    def of_label(self, path: str) -> LabelHeader:
        """Return the header of a label raster; raises FileError and CellError."""
        return self._of(LabelHeader, path, _read_label)

    def remember(self) -> None:
        """Keep the headers that were read for later openings."""
        self.memory.remember(self.fresh)

    def _of(self, kind: type[T], path: str, read: Callable[[Any], T]) -> T:
        key = f"{kind.__name__} {self.keys[path]}" if path in self.keys else ""
        if key in self.known:
            return cast(T, ADAPTERS[kind].validate_python(self.known[key]))

        def once() -> T:
            with open_raster(self.root, path) as file:
                return read(file)

        found = self.root.retried(once)
        if key:
            self.fresh[key] = ADAPTERS[kind].dump_python(found, mode="json")
        return found


def _read_label(file: rasterio.DatasetReader) -> LabelHeader:
    return LabelHeader(_located(file), file.count, file.dtypes[0])


def _read_image(file: rasterio.DatasetReader) -> Header:
    import numpy as np
    from rasterio.enums import ColorInterp

    grid = _located(file)
    if not np.isfinite(grid.outline()).all():
        raise FileError("lies where its coordinate reference system has no degrees")
    if np.ptp(grid.outline()[:, 0]) > 180:
        raise FileError("crosses the 180th meridian; cut it there")
    dtype = np.result_type(*file.dtypes)
    if dtype.kind not in "uif" or len(set(file.dtypes)) > 1:
        raise FileError(f"holds {', '.join(sorted(set(file.dtypes)))}; store one real pixel type")
    colors = file.colorinterp
    if ColorInterp.palette in colors:
        raise FileError("has a palette; store red, green and blue")
    has_alpha = file.count > 1 and colors[-1] == ColorInterp.alpha
    num_named = file.count - has_alpha
    return Header(
        grid=grid,
        dtype=dtype.name,
        num_bands=file.count,
        alpha=alpha_kind(_middle(file, file.count)) if has_alpha else "",
        descriptions=tuple(file.descriptions),
        names=name_bands(
            file.descriptions[:num_named], tuple(color.name for color in colors[:num_named])
        ),
    )


def _located(file: rasterio.DatasetReader) -> Grid:
    if file.crs is None:
        raise FileError("has no coordinate reference system; write one (gdal_edit.py -a_srs)")
    if file.transform.is_identity:
        raise FileError("has no place on the ground (its transform is the identity)")
    return grid_of(file)


def _middle(file: rasterio.DatasetReader, band: int) -> NDArray[Any]:
    top, left = max(0, file.height - MIDDLE) // 2, max(0, file.width - MIDDLE) // 2
    window = (
        (top, min(top + MIDDLE, file.height)),
        (left, min(left + MIDDLE, file.width)),
    )
    pixels: NDArray[Any] = file.read(band, window=window)
    return pixels
