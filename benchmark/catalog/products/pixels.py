"""Read pixels of an open raster as vectors: nodata, de-quantisation, and what is refused."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from benchmark.catalog.products.headers import Header
from benchmark.catalog.products.layouts import Layout
from benchmark.catalog.products.zarr_stores import open_layer
from benchmark.catalog.rasters.files import DRIVERS
from benchmark.catalog.roots.root import Root, Unreadable
from benchmark.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STRIP_VALUES = 2**24
"""Most values (pixels times bands) that are decoded at once."""

SAMPLES = {
    "mean": "mean of the valid pixels whose centres are in the footprint",
    "mean+std": (
        "mean and standard deviation of the valid pixels whose centres are in the footprint"
    ),
    "centre": "pixel at the centre of the footprint",
}


class Rule(NamedTuple):
    """How a footprint becomes a vector; a part of the product's identity."""

    sample: str = "mean"
    """A key of ``SAMPLES``."""
    scale: float | None = None
    """Factor of all values; None: as the layout or file says."""
    offset: float | None = None
    nodata: float | None = None

    @property
    def words(self) -> str:
        """Description for users."""
        return SAMPLES[self.sample]

    @property
    def num_statistics(self) -> int:
        """Values for each band."""
        return 2 if self.sample == "mean+std" else 1


class Readings(Protocol):
    """What the rasters of a product have in common."""

    @property
    def root(self) -> Root:
        """Of the files."""
        ...

    @property
    def layout(self) -> Layout:
        """How values become vectors."""
        ...

    @property
    def rule(self) -> Rule:
        """What the user chose."""
        ...

    @property
    def where(self) -> str:
        """Start of each message."""
        ...


class Raster(NamedTuple):
    """An open raster."""

    file: Any
    header: Header
    owner: Readings

    def holds(self, pixels: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which (column, row) are pixels of the raster, (n,)."""
        size = self.header.grid.width, self.header.grid.height
        import numpy as np

        return np.array(((pixels >= 0) & (pixels < size)).all(axis=1))

    def read(self, pixels: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the values (n, C) of pixels (column, row), and which of them are valid.

        Raises:
            Unreadable: the file is damaged.
            UsageError: a value is infinite, or the pixels are too many.
            CellError: the server fails.
        """
        import numpy as np
        from rasterio.errors import RasterioError

        header = self.header
        (left, top), (right, bottom) = pixels.min(axis=0).tolist(), pixels.max(axis=0).tolist()
        window = ((top, bottom + 1), (left, right + 1))
        if (bottom - top + 1) * (right - left + 1) * header.num_bands > 8 * STRIP_VALUES:
            raise self._fault("has much smaller pixels than the others; give all the same size")
        try:
            block = self.file.read(window=window)
            mask = self.file.read_masks(1, window=window) if header.has_mask else None
            factors = self.file.read_scales(window=window) if header.is_scaled else None
        except Unreadable:
            raise
        except (RasterioError, OSError) as error:
            raise self.owner.root.explain(header.path, error) from None
        at = pixels[:, 1] - top, pixels[:, 0] - left
        raw = block[:, *at].T
        with np.errstate(over="ignore"):
            values = raw.astype(np.float32)
            if factors is not None:
                values *= factors[at][:, None]
        is_valid = np.array(~np.isnan(values).any(axis=1))
        if mask is not None:
            is_valid[mask[at] == 0] = False
        nodata = self._nodata()
        if nodata is not None:
            empty = np.asarray(raw == nodata)
            # A single 0 is a value; of other numbers, one band is enough.
            is_valid[empty.all(axis=1) if nodata == 0 else empty.any(axis=1)] = False
        if header.layer is not None and header.layer.fill is not None:
            is_valid[(raw == header.layer.fill).all(axis=1)] = False
        values = self._dequantised(values)
        if np.isinf(values[is_valid]).any():
            raise self._fault("holds infinite values; mark these pixels as nodata")
        return values, is_valid

    def _nodata(self) -> float | None:
        given, own = self.owner.rule.nodata, self.header.nodata
        if given is not None:
            return given
        return own if own is not None else self.owner.layout.nodata

    def _dequantised(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        import numpy as np

        rule, layout = self.owner.rule, self.owner.layout
        if layout.dequantise is not None:
            return layout.dequantise(values)
        scale = np.array(self.header.scales if rule.scale is None else rule.scale, np.float32)
        offset = np.array(self.header.offsets if rule.offset is None else rule.offset, np.float32)
        with np.errstate(over="ignore"):
            found: NDArray[np.float32] = values * scale + offset
        return found

    def _fault(self, what: str) -> UsageError:
        return UsageError(f"{self.owner.where}: '{self.header.path}' {what}")


def open_file(root: Root, header: Header) -> AbstractContextManager[Any]:
    """Open the file or layer with this header; errors of its reads become ``Unreadable``."""
    if header.layer is not None:
        return open_layer(root, header.path, header.layer)
    return root.open(header.path, driver=DRIVERS[PurePosixPath(header.path).suffix.lower()])
