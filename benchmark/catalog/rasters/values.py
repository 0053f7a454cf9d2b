"""Values in labels: each is a class, ignored, without data, or unknown, which is refused."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.folder.decoding import invalid_values
from benchmark.catalog.rasters.files import FileError, open_raster
from benchmark.catalog.rasters.grids import Grid, on_grid
from benchmark.catalog.roots.root import Root
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.raster_settings import RastersConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NODATA, IGNORED, DISPUTED, UNKNOWN = 252, 253, 254, 255
"""Codes of pixels without a class; those below are indices of classes."""
MAX_SHOWN = 10
"""Unknown values that a message lists."""

Value = int | str


class LabelTable(NamedTuple):
    """The classes in order, and the code of each known value."""

    classes: tuple[str, ...]
    code_of: Mapping[Value | None, int]


def label_table(config: RastersConfig, *, found: Sequence[str] = ()) -> LabelTable:
    """Return the codes of the values in ``classes`` and ``ignore``.

    Args:
        config: the settings.
        found: names of the classes where ``classes`` is unset, which are their values.

    Raises:
        UsageError: a value is listed twice, or there are not two classes.
    """
    classes: Mapping[str, Sequence[Value]] = config.classes or {name: (name,) for name in found}
    code_of: dict[Value | None, int] = {}
    given = [(value, code) for code, name in enumerate(classes) for value in classes[name]]
    for value, code in [*given, *((value, IGNORED) for value in config.ignore)]:
        if plain(value) in code_of:
            raise UsageError(
                f"[dataset.rasters]: the value {shown(value, 100)} is listed twice in classes and "
                "ignore; remove one"
            )
        code_of[plain(value)] = code
    if config.label_nodata in code_of:
        raise UsageError(
            f"[dataset.rasters] label_nodata = {config.label_nodata}: is in classes or ignore, "
            "too; remove it from one"
        )
    if len(classes) < 2:
        raise UsageError(
            "[dataset.rasters] classes: name at least two, each with its values in the labels, "
            "e.g. classes = {water = 1, trees = [2, 3]}"
        )
    return LabelTable(tuple(classes), code_of)


def plain(value: Any) -> Value | None:
    """Return a value of a field or a setting as a whole number or text; None: there is none."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value.strip())
    return int(value) if value == int(value) else str(value)


def unknown_values(counts: Counter[Any], unit: str) -> FileError:
    """Return the error for values that are neither classes nor ignored."""
    listed = ", ".join(
        f"{shown(value, 60)} ({count:,} {unit})" for value, count in counts.most_common(MAX_SHOWN)
    )
    more = f" and {len(counts) - MAX_SHOWN:,} more" if len(counts) > MAX_SHOWN else ""
    return FileError(
        f"holds unknown values: {listed}{more}; add them to [dataset.rasters] classes or ignore"
    )


@dataclass
class RasterLabels:
    """Labels of an open raster, which is on the grid of its scene."""

    file: Any
    values: NDArray[Any]
    """All known values, sorted."""
    codes: NDArray[np.uint8]
    lookup: NDArray[np.uint8] | None
    """The code of every value of uint8 or uint16; None: another type."""
    nodata: float | None
    """Value that means no data."""
    uses_nodata: bool
    """Whether the value that the file calls nodata is known, and read as that."""
    counts: Counter[Any]
    """Pixels of unknown values."""

    def strip(self, top: int, height: int) -> NDArray[np.uint8]:
        """Return the codes of some rows, (height, W)."""
        import numpy as np

        window = ((top, top + height), (0, self.file.width))
        bands = self.file.read(window=window)
        pixels = bands[0]
        codes = self._codes_of(pixels) if self.lookup is None else self.lookup[pixels]
        without = invalid_values(self.file, bands, window)
        if without is not None:
            # A class may have the value that the file calls nodata.
            codes[without[0] & ~(self.uses_nodata & (pixels == self.file.nodata))] = NODATA
        if self.nodata is not None:
            codes[pixels == self.nodata] = NODATA
        if len(bands) > 1:
            # Resampled labels: outside of the raster, or nodata.
            codes[bands[-1] == 0] = NODATA
        strange = pixels[codes == UNKNOWN]
        if strange.size:
            found, counts = np.unique(strange, return_counts=True)
            self.counts.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        return codes

    def _codes_of(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        import numpy as np

        place = np.searchsorted(self.values, pixels)
        place[place == len(self.values)] = 0
        return np.where(self.values[place] == pixels, self.codes[place], np.uint8(UNKNOWN))

    def unknown(self) -> FileError | None:
        """Return the error for unknown values that the strips had."""
        return unknown_values(self.counts, "px") if self.counts else None


@contextmanager
def open_labels(
    root: Root, path: str, grid: Grid, table: LabelTable, config: RastersConfig
) -> Iterator[RasterLabels]:
    """Open a label raster on the grid of its scene.

    Raises:
        FileError: it cannot be opened or, inside the ``with``, read.
    """
    import numpy as np

    known: list[tuple[Any, int]] = sorted(
        (value, code) for value, code in table.code_of.items() if value is not None
    )
    with open_raster(root, path) as file:
        nodata = file.nodata if config.label_nodata is None else config.label_nodata
        uses_nodata = config.label_nodata is None and nodata in table.code_of
        nodata = None if uses_nodata else nodata
        with on_grid(file, grid, nodata=nodata) as resampled:
            values = np.array([value for value, _ in known])
            codes = np.array([code for _, code in known], np.uint8)
            yield RasterLabels(
                resampled,
                values,
                codes,
                _lookup(values, codes, np.dtype(file.dtypes[0])),
                nodata,
                uses_nodata,
                Counter(),
            )


def _lookup(
    values: NDArray[Any], codes: NDArray[np.uint8], dtype: np.dtype[Any]
) -> NDArray[np.uint8] | None:
    import numpy as np

    if dtype.name not in ("uint8", "uint16"):
        return None
    lookup = np.full(2 ** (8 * dtype.itemsize), UNKNOWN, np.uint8)
    fits = (values >= 0) & (values < len(lookup))
    lookup[values[fits]] = codes[fits]
    return lookup
