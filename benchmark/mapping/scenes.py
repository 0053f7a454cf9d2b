"""Open a scene, check it against a model, and read windows of it as the model's input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.folder.bandnames import RGB, band_names, name_bands
from benchmark.catalog.folder.decoding import invalid_values, without_warnings
from benchmark.catalog.folder.images import count_bands, scale_pixels
from benchmark.errors import UsageError, one_line
from benchmark.fields import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CACHE_BYTES = 128
"""Of decoded blocks that GDAL keeps, which is none: its own default grows with the machine's memory
and maps that are written beside fill any cache."""


class Needs(NamedTuple):
    """What a model takes, and how a scene is turned into it."""

    bands: tuple[str, ...]
    """Names of the C bands of the model, in order."""
    patch_size: int
    chosen: tuple[str, ...] = ()
    """Numbers (from 1) or names of the scene's bands, in the model's order; empty: found."""
    value_range: tuple[float, float] | None = None
    """Pixel values that become 0 and 255; used for scenes that are not uint8."""

    @classmethod
    def checked(
        cls,
        bands: tuple[str, ...],
        patch_size: int,
        chosen: Sequence[str],
        value_range: tuple[float, float] | None,
        *,
        of: str,
    ) -> Needs:
        """Return the needs of a ``model`` or ``backbone`` with the options of a command.

        Raises:
            UsageError: an option does not suit it.
        """
        if chosen and len(chosen) != len(bands):
            raise UsageError(
                f"--bands {shown(','.join(chosen), 100)}: names {len(chosen)}; the {of} takes "
                f"{len(bands)}, in this order: {', '.join(bands)}"
            )
        if value_range is not None and not value_range[0] < value_range[1]:
            raise UsageError(
                f"--value-range {value_range[0]:g} {value_range[1]:g}: give the smaller value first"
            )
        return cls(bands, patch_size, tuple(chosen), value_range)


class Area(NamedTuple):
    """A window of a scene."""

    pixels: NDArray[np.uint8]
    """(C, H, W), the bands of the model; 0 where there is no data."""
    has_data: NDArray[np.bool_]
    """(H, W): where at least one band has data and alpha is not 0."""


@dataclass(frozen=True)
class Scene:
    """An open scene that suits a model."""

    path: str
    dataset: Any
    needs: Needs
    indexes: tuple[int, ...]
    """The model's bands in the scene, from 1."""
    alpha: int | None
    """The band whose zeros are pixels without data."""

    def read(self, row: int, column: int, height: int, width: int) -> Area:
        """Return a window, all in px.

        Raises:
            UsageError: the file is damaged.
        """
        import numpy as np
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        window = Window(column, row, width, height)
        try:
            stored = self.dataset.read(window=window)
            invalid = invalid_values(self.dataset, stored, window)
        except RasterioError as error:
            raise UsageError(
                f"{self.path}: cannot be read ({one_line(error.__cause__ or error)})"
            ) from None
        places = np.array(self.indexes) - 1
        pixels = stored[places]
        if pixels.dtype != np.uint8 and self.needs.value_range is not None:
            pixels = scale_pixels(pixels, self.needs.value_range)
        has_data = np.ones(pixels.shape[1:], bool)
        if invalid is not None:
            pixels[invalid[places]] = 0
            has_data = ~invalid[places].all(axis=0)
        if self.alpha is not None and not (shows := stored[self.alpha - 1] != 0).all():
            pixels[:, ~shows] = 0
            has_data &= shows
        return Area(pixels, has_data)


@contextmanager
def open_scene(path: str, needs: Needs) -> Iterator[Scene]:
    """Open a scene that a model can be slid over.

    Args:
        path: any raster that GDAL reads.
        needs: of the model.

    Raises:
        UsageError: it cannot be read, has other bands or pixel values than the model takes, has no
            location, or is smaller than a patch.
    """
    import rasterio
    from rasterio.errors import RasterioError

    with without_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        try:
            dataset = rasterio.open(path)
        except RasterioError as error:
            raise UsageError(f"{path}: cannot be read as a raster ({one_line(error)})") from None
        with dataset:
            _check(path, dataset, needs)
            alpha = _alpha(dataset)
            indexes = _indexes(path, dataset, needs, alpha)
            yield Scene(path, dataset, needs, indexes, None if alpha in indexes else alpha)


def _check(path: str, dataset: Any, needs: Needs) -> None:
    if not dataset.count:
        names = dataset.subdatasets
        example = f", e.g. {shown(names[0], 200)}" if names else ""
        raise UsageError(f"{path}: holds several rasters; name one of them{example}")
    if dataset.crs is None or dataset.transform.is_identity:
        raise UsageError(
            f"{path}: has no location (CRS and transform), so a map would have none; write them "
            "into it, e.g. with gdal_edit -a_srs and -a_ullr"
        )
    size = needs.patch_size
    if min(dataset.height, dataset.width) < size:
        raise UsageError(
            f"{path}: {dataset.height} x {dataset.width} px is smaller than a patch of the model, "
            f"{size} x {size} px; give a larger scene"
        )
    if dataset.colorinterp[0].name == "palette":
        raise UsageError(
            f"{path}: its pixels are numbers of a palette, not bands; expand it with "
            "gdal_translate -expand rgb"
        )
    (dtype, *others) = sorted(set(dataset.dtypes))
    if others or dtype.startswith("complex"):
        raise UsageError(
            f"{path}: holds {', '.join((dtype, *others))} pixels; store all bands as one real type"
        )
    if dtype != "uint8" and needs.value_range is None:
        raise UsageError(
            f"{path}: holds {dtype} pixels, and the model takes uint8; give --value-range LOW HIGH "
            "as in the experiment's [dataset] value_range"
        )


def _alpha(dataset: Any) -> int | None:
    """Return the number of the band of alpha, the last one, or None."""
    is_alpha = dataset.count > 1 and dataset.colorinterp[-1].name == "alpha"
    return dataset.count if is_alpha else None


def _indexes(path: str, dataset: Any, needs: Needs, alpha: int | None) -> tuple[int, ...]:
    """Return the numbers of the model's bands in a scene, from 1."""
    count = dataset.count - (alpha is not None)
    descriptions = dataset.descriptions[:count]
    colors = tuple(color.name for color in dataset.colorinterp[:count])
    names = name_bands(descriptions, colors) or band_names(descriptions)[:count]
    if needs.chosen:
        return _chosen(path, dataset.count, names, needs)
    if set(needs.bands) <= set(names) and len(names) == count:
        return tuple(names.index(band) + 1 for band in needs.bands)
    if count == 1 and needs.bands == RGB:
        return (1, 1, 1)
    if len(needs.bands) in (count, dataset.count):
        return tuple(range(1, len(needs.bands) + 1))
    numbers = ",".join(str(number) for number in range(1, len(needs.bands) + 1))
    raise UsageError(
        f"{path}: has {count_bands(count)} ({', '.join(names[:20])}); the model takes "
        f"{', '.join(needs.bands)}: say which these are, in this order, e.g. --bands {numbers}"
    )


def _chosen(path: str, count: int, names: Sequence[str], needs: Needs) -> tuple[int, ...]:
    found = []
    for item in needs.chosen:
        if item.isascii() and item.isdigit() and 1 <= int(item) <= count:
            found.append(int(item))
        elif item.lower() in names:
            found.append(names.index(item.lower()) + 1)
        else:
            raise UsageError(
                f"{path}: --bands {shown(item, 100)}: the scene has {count_bands(count)}, named "
                f"{', '.join(names[:20])}; give numbers from 1 to {count}, or these names"
            )
    return tuple(found)
