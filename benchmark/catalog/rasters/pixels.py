"""Pixels of scenes as uint8: the same bands for all, and one range of each band from train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.folder.decoding import ImageError, invalid_values
from benchmark.catalog.folder.formats import choose_bands
from benchmark.catalog.folder.images import band_places, count_bands, scale_bands
from benchmark.catalog.rasters.files import FileError, open_raster
from benchmark.catalog.rasters.grids import Window
from benchmark.catalog.rasters.scenes import Scene
from benchmark.catalog.roots.root import Root
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.store.digest import fingerprint
from benchmark.store.memory import open_memory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SAMPLED = 32
"""Scenes of train, evenly spread, of which the ranges are taken."""
SAMPLED_SIDE = 128
"""Largest side in px of the windows that are read for the ranges."""
MAX_PIXELS = 4096
"""Most pixels of each band that are taken of such a window."""
QUANTILES = (0.005, 0.995)
"""Of the pixels of train with data: they become 0 and 255."""

VERSION = 1
"""Raised by hand when the ranges of a content change, so that none is recalled."""

Windows = Callable[[Scene], Sequence[tuple[int, int]]]
"""Returns (row, column) of some windows of train in a scene."""


class Sampled(NamedTuple):
    """Ranges of the bands of the files, empty if a band has no pixels."""

    ranges: Sequence[Sequence[float]]
    num_windows: int
    reason: str
    """Why a scene could not be read; it is not remembered then."""


class Strip(NamedTuple):
    """Pixels (C, h, w) in the bands of the data set, and where they hold no data."""

    pixels: NDArray[Any]
    invalid: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class PixelReader:
    """Reads parts of scenes; it pickles."""

    files: Root
    bands: tuple[str, ...]
    order: tuple[str, ...] | None
    """The files' own names of the bands, in the order of ``bands``; None: none tells them."""
    num_file_bands: int
    """Without alpha."""
    keeps_alpha: bool
    nodata: float | None
    """Value that means no data; None: what each file says."""
    ranges: tuple[tuple[float, float], ...] | None = None
    """Pixel values of each band of ``bands`` that become 0 and 255; None: uint8 unchanged."""

    @contextmanager
    def open(self, scene: Scene) -> Iterator[Any]:
        """Open the image of a scene.

        Raises:
            FileError: it cannot be opened or, inside the ``with``, read, or has other bands.
        """
        count = scene.header.num_bands - (bool(scene.header.alpha) and not self.keeps_alpha)
        if count != self.num_file_bands:
            raise FileError(
                f"has {count_bands(count)}, but the first image has {self.num_file_bands}"
            )
        try:
            band_places(scene.header.names, self.order)
        except ImageError as error:
            raise FileError(str(error)) from None
        with open_raster(self.files, scene.pair.image) as file:
            yield file

    def read(self, file: Any, scene: Scene, window: Window) -> Strip:
        """Return a part of an open image on the grid of its scene.

        The pixels have the file's own type, or a floating one if they are resampled.
        """
        import numpy as np

        scale = scene.grid.scale_from(scene.header.grid)
        if scale is None:
            return self._read_plain(file, scene, window)
        source = scale.source_window(window, file.height, file.width)
        strip = self._read_plain(file, scene, source)
        small = strip.pixels.dtype.name in ("uint8", "uint16", "int16", "float32")
        pixels = strip.pixels.astype(np.float32 if small else np.float64)
        pixels[strip.invalid] = np.nan
        found = scale.resample(pixels, source, window)
        return Strip(found, np.isnan(found))

    def _read_plain(self, file: Any, scene: Scene, window: Window) -> Strip:
        import numpy as np

        pixels = file.read(window=window)
        without = invalid_values(file, pixels, window)
        invalid = np.zeros(pixels.shape, bool) if without is None else without
        if self.nodata is not None:
            invalid |= pixels == self.nodata
        if scene.header.alpha and not self.keeps_alpha:
            # Alpha of many values may be near infrared, so it hides nothing.
            if scene.header.alpha != "varied":
                invalid |= pixels[-1] == 0
            pixels, invalid = pixels[:-1], invalid[:-1]
        if places := band_places(scene.header.names, self.order):
            pixels, invalid = pixels[places], invalid[places]
        return Strip(pixels, invalid)

    def convert(self, strip: Strip) -> NDArray[np.uint8]:
        """Return pixels as uint8 (C, h, w); those without data are 0."""
        import numpy as np

        pixels = strip.pixels
        if self.ranges is not None:
            # One band may stand for all bands of the data set.
            pixels = scale_bands(pixels, self.ranges[: len(pixels)])
        elif pixels.dtype.kind == "f":
            # Means of whole numbers are often x.5: their last bits must not decide.
            pixels = np.rint(np.round(np.nan_to_num(pixels), 3)).astype(np.uint8)
        pixels = np.where(strip.invalid, np.uint8(0), pixels)
        return pixels.repeat(len(self.bands), axis=0) if len(pixels) == 1 else pixels


def open_pixels(
    files: Root, scenes: Mapping[str, Scene], config: DatasetConfig, *, where: str
) -> tuple[PixelReader, list[str]]:
    """Return the reader for the bands of the scenes, without ranges, and notes.

    Raises:
        UsageError: ``bands`` does not match or is needed.
    """
    assert config.rasters is not None
    facts = {scene.pair.image: scene.header for scene in scenes.values()}
    first = next(iter(facts.values()))
    keeps_alpha = config.bands is not None and len(config.bands) == first.num_bands
    bands, order, notes = choose_bands(facts, config, keeps_alpha, where)
    reader = PixelReader(
        files=files,
        bands=bands,
        order=order,
        num_file_bands=first.num_bands - (bool(first.alpha) and not keeps_alpha),
        keeps_alpha=keeps_alpha,
        nodata=config.rasters.image_nodata,
    )
    return reader, notes


def choose_ranges(
    reader: PixelReader,
    scenes: Sequence[Scene],
    windows: Windows,
    config: DatasetConfig,
    *,
    identity: Callable[[], Any],
    where: str,
) -> tuple[tuple[tuple[float, float], ...] | None, list[str]]:
    """Return the range of each band, None for uint8, and notes that state it.

    Args:
        reader: without ranges.
        scenes: all, sorted.
        windows: of train in a scene; none if it has none.
        config: gives ``value_range`` and ``patch_size``.
        identity: returns what the pixels of train depend on besides, as JSON.
        where: start of each message.

    Raises:
        UsageError: ``value_range`` is no range, or no pixel of train can be read.
    """
    given, dtype = config.value_range, scenes[0].header.dtype
    if given is not None and not given[0] < given[1]:
        raise UsageError(f"{where}: value_range = {list(given)} is no range; write [low, high]")
    if dtype == "uint8":
        unused = "value_range does not apply to uint8 images, which are used unchanged."
        return None, [unused] if given else []
    if given is not None:
        note = f"{dtype} pixels from {given[0]:g} to {given[1]:g} (value_range) became 0 to 255."
        return (given,) * len(reader.bands), [note]
    with open_memory("ranges", VERSION) as memory:
        key = fingerprint([identity(), reader.bands, reader.order, config.patch_size])
        known = memory.recall([key]).get(key)
        sampled = _sample_all(reader, scenes, windows, config) if known is None else Sampled(*known)
        if known is None and not sampled.reason:
            memory.remember({key: sampled})
    ranges = tuple((low, high) for low, high in sampled.ranges)
    if not ranges:
        raise UsageError(
            f"{where}: the images hold {dtype} pixels, and none of train could be read for their "
            f"range{sampled.reason}; set [dataset] value_range = [low, high]"
        )
    told = ", ".join(
        f"{name} {low:.6g} to {high:.6g}"
        for name, (low, high) in zip(reader.bands, ranges, strict=False)
    )
    note = (
        f"{dtype} pixels became 0 to 255 by the range of each band in train ({QUANTILES[0]:.1%} to "
        f"{QUANTILES[1]:.1%} of the pixels of {sampled.num_windows} windows; those beyond are "
        f"clipped): {told}. Set [dataset] value_range for one range of all bands."
    )
    return ranges, [note]


def _sample_all(
    reader: PixelReader, scenes: Sequence[Scene], windows: Windows, config: DatasetConfig
) -> Sampled:
    import numpy as np

    places = {scene: windows(scene) for scene in scenes}
    of_train = [scene for scene in scenes if places[scene]]
    samples: list[NDArray[Any]] = []
    reason = ""
    for scene in of_train[:: -(-len(of_train) // MAX_SAMPLED) or 1]:
        try:
            _sample(samples, reader, scene, places[scene], min(config.patch_size, SAMPLED_SIDE))
        except FileError as error:
            # It becomes a Problem when its patches are read.
            reason = reason or f" ('{scene.pair.image}' {error})"
    ranges = []
    for band in range(len(samples[0]) if samples else 0):
        values = np.concatenate([pixels[band][~np.isnan(pixels[band])] for pixels in samples])
        if not values.size:
            return Sampled((), len(samples), reason)
        low, high = np.quantile(values, QUANTILES).tolist()
        ranges.append((low, high if high > low else low + 1.0))
    return Sampled(tuple(ranges), len(samples), reason)


def _sample(
    found: list[NDArray[Any]],
    reader: PixelReader,
    scene: Scene,
    windows: Sequence[tuple[int, int]],
    size: int,
) -> None:
    """Add pixels of windows, (C, n) float64, NaN where there are no data.

    Raises:
        FileError: the scene cannot be read; windows read before remain.
    """
    import numpy as np

    before = len(found)

    def read() -> None:
        del found[before:]
        with reader.open(scene) as file:
            for row, col in windows:
                strip = reader.read(file, scene, ((row, row + size), (col, col + size)))
                pixels = strip.pixels.astype(np.float64)
                pixels[strip.invalid] = np.nan
                found.append(pixels.reshape(len(pixels), -1)[:, :: -(-size * size // MAX_PIXELS)])

    reader.files.retried(read)
