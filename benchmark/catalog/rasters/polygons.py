"""Polygons as labels: rasterised on the grid of a scene, some rows at a time.

A pixel has the class of the polygon that holds its centre. Where polygons of different classes
overlap, it has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.folder.assignment import sort_classes
from benchmark.catalog.rasters.files import FileError, vector_path
from benchmark.catalog.rasters.grids import Grid
from benchmark.catalog.rasters.values import (
    DISPUTED,
    IGNORED,
    NODATA,
    UNKNOWN,
    LabelTable,
    plain,
    unknown_values,
)
from benchmark.catalog.roots.root import Root
from benchmark.errors import UsageError, did_you_mean, one_line
from benchmark.fields import shown
from benchmark.raster_settings import RastersConfig

if TYPE_CHECKING:
    import geopandas  # type: ignore[import-untyped]
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

PARQUET = (".parquet", ".geoparquet")
KINDS = {"Polygon", "MultiPolygon"}
EVERYWHERE = Grid("EPSG:4326", (360.0, 0.0, -180.0, 0.0, -180.0, 90.0), 1, 1)


class Layer(NamedTuple):
    """What is known of a file of polygons before they are read."""

    texts: tuple[str, ...]
    """The values of the field as texts, sorted; null left out."""
    bounds: tuple[float, float, float, float]
    """West, south, east, north in degrees."""
    num_polygons: int


def examine_layer(root: Root, path: str, config: RastersConfig) -> Layer:
    """Return the values and the bounds of a file of polygons.

    Raises:
        FileError: it cannot be read, is empty, or has no CRS, no such field or several layers.
        UsageError: a library is missing, or ``label_field`` is unset.
    """
    from rasterio.warp import transform_bounds

    frame, crs, bounds = _read_values(root, path, config)
    if crs is None:
        raise FileError("has no coordinate reference system; write one")
    if not len(frame):
        raise FileError("holds no polygons")
    values = {plain(value) for value in frame[_field(config)].unique()} - {None}
    try:
        west, south, east, north = transform_bounds(crs, "EPSG:4326", *bounds)
    except Exception as error:
        raise FileError(f"lies outside of its CRS: {one_line(error, limit=100)}") from None
    texts = sort_classes({str(value) for value in values})
    return Layer(texts, (west, south, east, north), len(frame))


@dataclass
class PolygonLabels:
    """The polygons on one scene, in pixels of its grid."""

    shapes: NDArray[Any]
    """(N,) shapely geometries; x is the column, y the row."""
    codes: NDArray[np.uint8]
    width: int

    def strip(self, top: int, height: int) -> NDArray[np.uint8]:
        """Return the codes of some rows, (height, W)."""
        import numpy as np
        import shapely  # type: ignore[import-untyped]
        from rasterio.features import rasterize
        from rasterio.transform import Affine

        bounds = shapely.bounds(self.shapes).reshape(-1, 4)
        here = np.flatnonzero((bounds[:, 3] > top) & (bounds[:, 1] < top + height))
        codes = np.full((height, self.width), NODATA, np.uint8)
        if not len(here):
            return codes
        times = np.zeros(codes.shape, np.uint8)
        for code in np.unique(self.codes[here]).tolist():
            drawn = rasterize(
                self.shapes[here[self.codes[here] == code]],
                out_shape=codes.shape,
                transform=Affine.translation(0, top),
                dtype="uint8",
            )
            codes[drawn == 1] = code
            times += drawn
        codes[times > 1] = DISPUTED
        return codes

    def unknown(self) -> FileError | None:
        """Return None: unknown values are refused before."""
        return None


@contextmanager
def open_polygons(
    root: Root, path: str, grid: Grid, table: LabelTable, config: RastersConfig
) -> Iterator[PolygonLabels]:
    """Read the polygons on a scene.

    Raises:
        FileError: a polygon is invalid or of an unknown class, or another geometry is there.
        UsageError: a library is missing.
    """
    import numpy as np
    import shapely

    frame = _read(root, path, config, grid)
    kinds = set(frame.geom_type.dropna()) - KINDS
    if kinds:
        raise FileError(f"holds {', '.join(sorted(kinds))}; labels must be polygons")
    frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
    _check_valid(frame)
    frame = frame.to_crs(grid.crs)
    a, b, c, d, e, f = grid.transform
    inverse = np.linalg.inv([[a, b], [d, e]])
    shapes = shapely.transform(
        frame.geometry.to_numpy(), lambda points: (points - [c, f]) @ inverse.T
    )
    if not np.isfinite(shapely.bounds(shapes)).all():
        raise FileError("holds polygons that the CRS of the image cannot show")
    on_scene = shapely.intersects(shapes, shapely.box(0, 0, grid.width, grid.height))
    frame, shapes = frame[on_scene], shapes[on_scene]
    values = [plain(value) for value in frame[_field(config)]]
    codes = [IGNORED if value is None else _code(table, value) for value in values]
    strange = Counter(value for value, code in zip(values, codes, strict=True) if code == UNKNOWN)
    if strange:
        raise unknown_values(strange, "polygons")
    yield PolygonLabels(shapes, np.array(codes, np.uint8), grid.width)


def _code(table: LabelTable, value: Any) -> int:
    """Return the code of a value; a class may be named by the text of a number."""
    return table.code_of.get(value, table.code_of.get(str(value), UNKNOWN))


def _check_valid(frame: geopandas.GeoDataFrame) -> None:
    import numpy as np
    import shapely

    shapes = frame.geometry.to_numpy()
    invalid = np.flatnonzero(~shapely.is_valid(shapes))
    if len(invalid):
        first = invalid[0]
        raise FileError(
            f"holds {len(invalid)} invalid polygons, first that of number {frame.index[first]}: "
            f"{shapely.is_valid_reason(shapes[first])}; repair them (QGIS: Fix geometries)"
        )


def _field(config: RastersConfig) -> str:
    if config.label_field is None:
        raise UsageError(
            "[dataset.rasters]: the labels are polygons; set label_field to the field of the class"
        )
    return config.label_field


def _read(root: Root, path: str, config: RastersConfig, grid: Grid) -> geopandas.GeoDataFrame:
    """Return the polygons whose bounds touch those of a grid.

    A file of GeoParquet is read wholly.
    """
    geopandas, pyogrio = _libraries()
    field, place = _field(config), vector_path(root, path)
    with _plain_errors():
        if place.suffix.lower() in PARQUET:
            frame = geopandas.read_parquet(place)
            _check_field(field, list(frame.columns.drop(frame.geometry.name)))
            return frame[[field, frame.geometry.name]]
        layer, info = _open_layer(pyogrio, place, config)
        return pyogrio.read_dataframe(
            place,
            layer=layer,
            columns=[field],
            bbox=_bounds(grid, info["crs"]) if info["crs"] else None,
            fid_as_index=True,
        )


def _read_values(
    root: Root, path: str, config: RastersConfig
) -> tuple[pd.DataFrame, str | None, list[float]]:
    """Return the values of the field, the CRS, and the bounds of all polygons in it."""
    _, pyogrio = _libraries()
    field = _field(config)
    if path.lower().endswith(PARQUET):
        frame = _read(root, path, config, EVERYWHERE)
        crs = None if frame.crs is None else frame.crs.to_wkt()
        return frame, crs, frame.total_bounds.tolist()
    place = vector_path(root, path)
    with _plain_errors():
        layer, info = _open_layer(pyogrio, place, config)
        frame = pyogrio.read_dataframe(place, layer=layer, columns=[field], read_geometry=False)
    return frame, info["crs"], list(info["total_bounds"] or (0, 0, 0, 0))


def _open_layer(pyogrio: Any, place: Path, config: RastersConfig) -> tuple[str, Mapping[str, Any]]:
    layers = [str(name) for name, kind in pyogrio.list_layers(place) if kind is not None]
    layer = _layer(layers, config.label_layer)
    info: Mapping[str, Any] = pyogrio.read_info(place, layer=layer, force_total_bounds=True)
    _check_field(_field(config), [str(name) for name in info["fields"]])
    return layer, info


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except FileError:
        raise
    except Exception as error:
        # The libraries raise many types on damaged files.
        raise FileError(f"cannot be read: {one_line(error, limit=200)}") from None


def _bounds(grid: Grid, crs: str) -> Any:
    from rasterio.warp import transform_bounds

    a, b, c, d, e, f = grid.transform
    corners = [(0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)]
    x = [a * col + b * row + c for col, row in corners]
    y = [d * col + e * row + f for col, row in corners]
    return transform_bounds(grid.crs, crs, min(x), min(y), max(x), max(y))


def _layer(layers: list[str], wanted: str | None) -> str:
    if wanted is None and len(layers) == 1:
        return layers[0]
    if wanted is None:
        raise FileError(
            f"has {len(layers)} layers ({', '.join(layers[:10])}); set [dataset.rasters] "
            "label_layer"
        )
    if wanted not in layers:
        raise FileError(f"has no layer {shown(wanted, 100)}.{did_you_mean(wanted, layers)}")
    return wanted


def _check_field(field: str, fields: list[str]) -> None:
    if field not in fields:
        raise FileError(
            f"has no field {shown(field, 100)} (label_field).{did_you_mean(field, fields)}"
        )


def _libraries() -> tuple[Any, Any]:
    try:
        import geopandas
        import pyogrio  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(
            f"[dataset.rasters]: polygons as labels need the package {error.name}; run `pip "
            "install geopandas pyogrio`"
        ) from None
    return geopandas, pyogrio
