"""Open Zarr stores, and read windows of their arrays: only the chunks that a window touches."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.catalog.products.headers import Layer
from benchmark.catalog.rasters.files import FileError
from benchmark.catalog.roots.root import Root, Unreadable
from benchmark.errors import UsageError, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmark.catalog.rasters.grids import Window

MARKS = ("zarr.json", ".zgroup", ".zarray")
"""Names of files of which every group and array of Zarr has one."""
MOST_DEPTH = 3
"""Levels of groups below that of the store that are looked at."""
MOST_CHUNK_BYTES = 2**30
"""Largest chunk, decoded: it is held in memory to read one pixel."""
MOST_KEPT_BYTES = 64 * 2**20
"""Largest block that is kept for the next footprint."""
LARGEST_SCALE = 1e6
"""Factors from here on mean no data: those of vectors are below 1."""
NUM_KEPT = 4
"""Blocks that are kept: a footprint lies on four at most, unless it is larger than one."""
CODECS = frozenset({
    "bytes", "endian", "transpose", "sharding_indexed", "crc32c", "vlen-utf8",
    "blosc", "gzip", "zstd", "zlib", "lz4", "bz2", "lzma", "shuffle", "delta", "bitround",
    "fixedscaleoffset", "quantize", "packbits", "astype", "crc32", "adler32", "fletcher32",
})  # fmt: skip
"""Encodings that are decoded. Others, pickle first of all, may run code of the file."""


class LayerFile:
    """An open layer, read as a raster of rasterio is."""

    def __init__(self, path: str, layer: Layer, arrays: Sequence[Any]) -> None:
        """Read from the array of a layer, and that of its factors if it has them."""
        self._path, self._layer = path, layer
        self._array, *self._scales = arrays
        axes = layer.axes
        chunks = self._array.chunks
        self._block = chunks[axes.row], chunks[axes.col]
        num_bands = self._array.shape[axes.band]
        size = self._block[0] * self._block[1] * num_bands * self._array.dtype.itemsize
        self._keeps = size <= MOST_KEPT_BYTES
        self._kept = lru_cache(NUM_KEPT)(self._read_block)

    def close(self) -> None:
        """Forget the blocks that are kept."""
        self._kept.cache_clear()

    def read(self, *, window: Window) -> NDArray[Any]:
        """Return the stored values of a window, (C, h, w).

        Raises:
            Unreadable: a chunk is damaged.
        """
        import numpy as np

        if not self._keeps:
            return self._read(window)
        (top, bottom), (left, right) = window
        height, width = self._block
        rows = []
        for row in range(top // height, -(-bottom // height)):
            parts = []
            for col in range(left // width, -(-right // width)):
                y, x = row * height, col * width
                block = self._kept(row, col)
                parts.append(block[:, max(top - y, 0) : bottom - y, max(left - x, 0) : right - x])
            rows.append(np.concatenate(parts, axis=2))
        return np.concatenate(rows, axis=1)

    def read_scales(self, *, window: Window) -> NDArray[np.float32] | None:
        """Return the factor of each pixel, (h, w), NaN where there is no data; None: there is none.

        TESSERA writes NaN for water and infinity for land without data; numbers near the largest
        of float32 in some files mean the same.

        Raises:
            Unreadable: a chunk is damaged.
        """
        import numpy as np

        if not self._scales or self._layer.scale_axes is None:
            return None
        with _reading(self._path):
            found = self._layer.scale_axes.read(self._scales[0], window, self._layer.time)
        found = found.astype(np.float32)
        found[~((found > 0) & (found < LARGEST_SCALE))] = np.nan
        return found

    def _read_block(self, row: int, col: int) -> NDArray[Any]:
        (height, width), shape, axes = self._block, self._array.shape, self._layer.axes
        top, left = row * height, col * width
        bottom, right = min(top + height, shape[axes.row]), min(left + width, shape[axes.col])
        return self._read(((top, bottom), (left, right)))

    def _read(self, window: Window) -> NDArray[Any]:
        with _reading(self._path):
            return self._layer.axes.read(self._array, window, self._layer.time)


@contextmanager
def open_layer(root: Root, path: str, layer: Layer) -> Iterator[LayerFile]:
    """Open a layer.

    Raises:
        Unreadable: the store is gone or damaged.
    """
    names = [layer.array, *([layer.scales] if layer.scales else [])]
    with _reading(path):
        arrays = [_open(root, layer.store, name) for name in names]
    file = LayerFile(path, layer, arrays)
    try:
        yield file
    finally:
        file.close()


def find_nodes(root: Root, store: str) -> Mapping[str, Any]:
    """Return the groups and arrays of a store by their paths; that of the store is empty.

    Raises:
        FileError: it is damaged.
        UsageError: the package ``zarr`` is not installed.
    """
    import_zarr()
    try:
        with warnings.catch_warnings():
            # Of other files in the folders of a store, and of types of texts without a standard.
            warnings.simplefilter("ignore")
            top = _open(root, store, "")
            # Consolidated metadata may name arrays that are not there, or outside of the store.
            is_group = hasattr(top, "members")
            below = top.members(MOST_DEPTH, use_consolidated_for_children=False) if is_group else ()
    except Exception as error:  # What a damaged description raises has no common class.
        raise FileError(f"cannot be read as Zarr: {one_line(error, limit=200)}") from None
    return {"": top, **dict(below)}


def read_part(array: Any, name: str) -> NDArray[Any]:
    """Return a small array whole.

    Raises:
        FileError: it is damaged.
    """
    import numpy as np

    try:
        return np.asarray(array[:])
    except Exception as error:  # What a damaged chunk raises has no common class.
        raise FileError(
            f"has the array '{name}', which cannot be read: {one_line(error, limit=200)}"
        ) from None


def check_array(array: Any, name: str) -> None:
    """Check that reading an array is safe.

    Raises:
        FileError: it has another encoding than ``CODECS``, or its chunks are too large.
    """
    unknown = sorted(set(_codecs(array.metadata.to_dict())) - CODECS)
    if unknown:
        raise FileError(
            f"has the array '{name}' with the encoding {', '.join(unknown)}, which is not read; "
            "write it with blosc or zstd"
        )
    num_bytes = array.dtype.itemsize
    for side in array.chunks:
        num_bytes *= side
    if num_bytes > MOST_CHUNK_BYTES:
        raise FileError(
            f"has the array '{name}' with chunks of {num_bytes / 2**30:.1f} GiB; rewrite it with "
            "chunks of some MiB"
        )


def import_zarr() -> Any:
    """Return the package ``zarr``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import zarr
    except ImportError:
        raise UsageError(
            "Zarr needs the package zarr, which is not installed; run "
            "`pip install 'backbone-benchmark[zarr]'`"
        ) from None
    return zarr


def find_stores(folder: Path) -> tuple[list[str], list[str]]:
    """Return the paths of the Zarr stores below a folder, and of other files; both sorted.

    What is inside a store, of which chunks may be millions, is not looked at.
    """
    stores, others = [], []
    for place, folders, files in os.walk(folder):
        path = Path(place).relative_to(folder)
        if set(MARKS).isdisjoint(files):
            others += [(path / name).as_posix() for name in files]
            folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        else:
            stores.append(path.as_posix())
            folders.clear()
    return sorted(stores), sorted(others)


def _open(root: Root, store: str, name: str) -> Any:
    """Return a group or array of a store."""
    zarr = import_zarr()
    place = zarr.storage.LocalStore(root.where(store), read_only=True)
    return zarr.open(store=place, path=name, mode="r", use_consolidated=False)


def _codecs(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the encodings in the description of an array, or of its shards."""
    for codec in (
        *(metadata.get("filters") or ()),
        *(metadata.get("codecs") or ()),
        *(metadata.get("index_codecs") or ()),
        *([metadata["compressor"]] if metadata.get("compressor") else []),
    ):
        yield str(codec.get("id") or codec.get("name")).removeprefix("numcodecs.")
        yield from _codecs(codec.get("configuration") or {})


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Read one chunk at a time, so that memory is bounded; errors become ``Unreadable``."""
    try:
        with import_zarr().config.set({"async.concurrency": 1}):
            yield
    except UsageError:
        raise
    except Exception as error:  # What a damaged chunk raises has no common class.
        raise Unreadable(path, f"cannot be read: {one_line(error, limit=200)}") from None
