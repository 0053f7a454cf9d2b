"""Write the two rasters of a map: classes with colours and names, and their confidence.

Rows are written in order to plain TIFFs, which are then turned into Cloud Optimized GeoTIFFs; a map
appears complete or not at all.
"""

from __future__ import annotations

import colorsys
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from benchmark.errors import BenchmarkError, UsageError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

NODATA = 255
"""Of the raster of classes; that of the confidence is NaN."""
MAX_CLASSES = NODATA
"""Classes are the values 0 to 254."""
PALETTE = (
    *("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#eeca3b", "#b279a2", "#ff9da6"),
    *("#9d755d", "#bab0ac", "#1f3a5f", "#8c6d1f", "#2d6a4f", "#7f1d1d", "#5a189a", "#6b705c"),
)
"""Colours of the first classes; further ones are spread over the hues."""
WRITTEN_PX = 2**22
"""Most pixels that are written at once."""
GOLDEN = 0.618034
"""Step of the hue, as a share of the circle, that keeps any number of hues apart."""


class MapPaths(NamedTuple):
    """The files of a map."""

    classes: Path
    confidence: Path
    names: Path
    """Side-car file of GDAL with the names of the classes."""

    @classmethod
    def of(cls, path: Path) -> MapPaths:
        """Return the files of the map ``MAP.tif``."""
        return cls(
            path,
            path.with_name(f"{path.stem}.confidence{path.suffix}"),
            path.with_name(f"{path.name}.aux.xml"),
        )


class MapWriter:
    """Takes the rows of a map from top to bottom."""

    def __init__(self, classes: Any, confidence: Any) -> None:
        """Write to two open rasters of rasterio."""
        self._classes, self._confidence = classes, confidence
        self._row = 0
        self._counts = np.zeros(NODATA + 1, np.int64)

    def write(
        self,
        labels: NDArray[np.uint8],
        confidence: NDArray[np.float32],
        has_data: NDArray[np.bool_],
    ) -> None:
        """Write the next rows, which have the same values in each column.

        Args:
            labels: of each column, (W,); ``NODATA`` where no patch has data.
            confidence: of each column, (W,).
            has_data: (H, W); other pixels become nodata.
        """
        from rasterio.windows import Window

        step = max(1, WRITTEN_PX // has_data.shape[1])
        for begin in range(0, len(has_data), step):
            shows = has_data[begin : begin + step]
            window = Window(0, self._row, *shows.shape[::-1])
            values = np.where(shows, labels, np.uint8(NODATA))
            sure = np.where(values == NODATA, np.float32(np.nan), confidence)
            self._classes.write(values, 1, window=window)
            self._confidence.write(sure, 1, window=window)
            self._counts += np.bincount(values.ravel(), minlength=NODATA + 1)
            self._row += len(shows)

    @property
    def counts(self) -> NDArray[np.int64]:
        """The number of pixels of each value so far, (256,)."""
        return self._counts


@contextmanager
def open_map(
    out: Path, scene: Any, *, classes: Sequence[str], tags: Mapping[str, str]
) -> Iterator[MapWriter]:
    """Yield a writer; at the end, the map's files appear, and replace older ones.

    Args:
        out: ``MAP.tif``; its folder is made.
        scene: the open dataset whose size and location the map gets.
        classes: names of the K classes.
        tags: what the map's metadata says of its origin.

    Raises:
        UsageError: the folder cannot be written.
        BenchmarkError: the disk is full.
    """
    import rasterio

    paths = MapPaths.of(out)
    profile = {
        **{"driver": "GTiff", "count": 1, "compress": "lzw", "bigtiff": "if_safer"},
        **{"height": scene.height, "width": scene.width},
        **{"crs": scene.crs, "transform": scene.transform},
    }
    with hidden_folder(out) as folder:
        with ExitStack() as stack:
            files = [
                stack.enter_context(
                    rasterio.open(folder / name, "w", dtype=dtype, nodata=nodata, **profile)
                )
                for name, dtype, nodata in (
                    ("classes.tif", "uint8", NODATA),
                    ("confidence.tif", "float32", float("nan")),
                )
            ]
            _describe(files[0], classes, tags)
            files[1].set_band_description(1, "probability of the class")
            files[1].update_tags(**tags)
            yield MapWriter(*files)
        for name, resampling in (("classes", "MODE"), ("confidence", "AVERAGE")):
            source, target = folder / f"{name}.tif", folder / f"{name}.cog.tif"
            copy_to_cog(source, target, overview_resampling=resampling)
        (folder / "names.xml").write_text(_names_document(classes), encoding="utf-8")
        (folder / "confidence.cog.tif").replace(paths.confidence)
        (folder / "names.xml").replace(paths.names)
        (folder / "classes.cog.tif").replace(paths.classes)


@contextmanager
def hidden_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder beside the file ``out``, which is deleted at the end with what it holds.

    Raises:
        UsageError: the folder cannot be made.
        BenchmarkError: a file in it cannot be written.
    """
    from rasterio.errors import RasterioError

    folder = out.with_name(f".{out.name}.tmp-{uuid.uuid4().hex}")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from None
    try:
        yield folder
    except (RasterioError, OSError) as error:
        reason = one_line(error.__cause__ or error)
        raise BenchmarkError(f"{out}: cannot be written ({reason})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def class_colors(count: int) -> list[tuple[int, int, int]]:
    """Return distinct colours, red, green and blue in 0...255."""
    colors = [tuple(int(text[i : i + 2], 16) for i in (1, 3, 5)) for text in PALETTE[:count]]
    for number in range(len(colors), count):
        rgb = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.55 + 0.15 * (number % 3), 0.85)
        colors.append(tuple(round(255 * value) for value in rgb))
    return [(red, green, blue) for red, green, blue in colors]


def _describe(file: Any, classes: Sequence[str], tags: Mapping[str, str]) -> None:
    colors = {value: (*rgb, 255) for value, rgb in enumerate(class_colors(len(classes)))}
    file.write_colormap(1, {**colors, NODATA: (0, 0, 0, 0)})
    file.set_band_description(1, "class")
    # The side-car file may get lost; these stay.
    file.update_tags(1, **{f"CLASS_{value}": name for value, name in enumerate(classes)})
    file.update_tags(**tags)


def copy_to_cog(source: Path, target: Path, **options: Any) -> None:
    """Write a raster as a Cloud Optimized GeoTIFF; ``options`` are those of GDAL's driver."""
    from rasterio.shutil import copy

    copy(source, target, driver="COG", compress="DEFLATE", bigtiff="IF_SAFER", **options)


def _names_document(classes: Sequence[str]) -> str:
    """Return GDAL's side-car file: category names, and a table of values, names and colours."""
    names = "".join(f"<Category>{_text(name)}</Category>" for name in classes)
    # Types: 0 integer, 2 text. Usages: 2 name, 5 value, 6 to 8 red, green and blue.
    fields = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    columns = "".join(
        f'<FieldDefn index="{i}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage>'
        "</FieldDefn>"
        for i, (name, kind, usage) in enumerate(fields)
    )
    rows = "".join(
        f'<Row index="{i}">{"".join(f"<F>{_text(str(cell))}</F>" for cell in (i, name, *rgb))}'
        "</Row>"
        for i, (name, rgb) in enumerate(zip(classes, class_colors(len(classes)), strict=True))
    )
    return (
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames>'
        f'<GDALRasterAttributeTable tableType="thematic">{columns}{rows}'
        "</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>\n"
    )


def _text(text: str) -> str:
    """Return text for XML, which has no control characters."""
    return escape("".join(letter if letter.isprintable() else " " for letter in text))
