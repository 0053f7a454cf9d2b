"""Write the embeddings of one scene: a raster with a band per dimension, or a table of windows.

Strips arrive from top to bottom. An output appears whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import UsageError
from benchmark.mapping.embeddings import COG, FLOAT32, GEOPARQUET, Embedded, EmbeddingPlan
from benchmark.mapping.rasters import copy_to_cog, hidden_folder

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from benchmark.mapping.axes import Grid
    from benchmark.mapping.scenes import Scene
    from benchmark.mapping.strips import Strip

MAX_BANDS = 8_192
"""Dimensions of a raster: programs that open it read a description of each band."""
INT8_NODATA = -128
INT8_MOST = 127
"""Vectors are whole numbers from -127 to 127."""
FLOAT16_MOST = float(np.finfo(np.float16).max)
BLOCK_BYTES = 32 * 2**20
"""Of the blocks of a raster and the row groups of a table, before compression."""


class Sink(ABC):
    """Takes the strips of one scene, and makes one file of them."""

    def __init__(
        self, plan: EmbeddingPlan, scene: Scene, grid: Grid, path: Path, *, name: str
    ) -> None:
        """Begin to write.

        Args:
            plan: of the output.
            scene: that is embedded, open.
            grid: of its windows.
            path: of the new file, in a folder for temporary files.
            name: of the scene in identifiers.
        """
        self.plan, self.scene, self.grid, self.path, self.name = plan, scene, grid, path, name
        self.num_embedded = 0
        self.dim: int | None = None

    def write(self, strip: Strip, embedded: Embedded) -> None:
        """Write the next strip.

        Raises:
            UsageError: the output cannot hold the vectors.
        """
        count = int(embedded.known.sum())
        if count and self.dim is None:
            self.dim = embedded.vectors.shape[2]
            self._begin(self.dim)
        self.num_embedded += count
        self._write(strip, embedded)

    @abstractmethod
    def _begin(self, dim: int) -> None:
        """Prepare for vectors of a length."""

    @abstractmethod
    def _write(self, strip: Strip, embedded: Embedded) -> None:
        """Write a strip; until one has data, vectors have no length."""

    @abstractmethod
    def finish(self) -> None:
        """Complete the file; at least one window has data."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open; may be called again."""


@contextmanager
def open_sink(plan: EmbeddingPlan, scene: Scene, grid: Grid, out: Path) -> Iterator[Sink]:
    """Yield a sink for the output of a scene; at the end its file appears.

    Raises:
        UsageError: all windows are without data, the folder cannot be written, or a file of that
            name has appeared.
        BenchmarkError: the disk is full.
    """
    kind = {COG: RasterSink, GEOPARQUET: ParquetSink}.get(plan.format, CsvSink)
    with hidden_folder(out) as folder:
        sink = kind(plan, scene, grid, folder / out.name, name=plan.name(str(out)))
        try:
            yield sink
            if not sink.num_embedded:
                raise UsageError(
                    f"{scene.path}: holds no data (all pixels of its windows are nodata); nothing "
                    "is written"
                )
            sink.finish()
        finally:
            sink.close()
        if out.exists():
            raise UsageError(f"--out: {out} has appeared meanwhile; name another folder")
        sink.path.replace(out)


class RasterSink(Sink):
    """A Cloud Optimized GeoTIFF with one band per dimension, one pixel per window.

    Vectors wait in a file of float32, because the scales of int8 depend on all of them.
    """

    _file: IO[bytes] | None = None

    def _begin(self, dim: int) -> None:
        if dim > MAX_BANDS:
            raise UsageError(
                f"--format cog: the embeddings have {dim:,} dimensions, a raster holds "
                f"{MAX_BANDS:,} bands; write --format geoparquet"
            )
        num_bytes = 4 * self.grid.num_patches * dim
        free = shutil.disk_usage(self.path.parent).free
        # The file that waits, the plain raster and the compressed one.
        if 3 * num_bytes > free:
            raise UsageError(
                f"{self.path.parent.parent}: {self.grid.num_patches:,} windows of {dim:,} "
                f"dimensions need {3 * num_bytes / 1e9:.1f} GB while they are written, and "
                f"{free / 1e9:.1f} GB are free; give a larger --stride"
            )
        self._low = np.full(dim, np.inf, np.float32)
        self._high = np.full(dim, -np.inf, np.float32)
        self._file = (self.path.parent / "vectors.f32").open("wb+")
        if self._skipped:
            _fill(self._file, self._skipped * len(self.grid.columns), dim)

    _skipped = 0
    """Rows before the first window with data."""

    def _write(self, strip: Strip, embedded: Embedded) -> None:
        if self._file is None or self.dim is None:
            self._skipped += strip.end - strip.begin
            return
        vectors, known = embedded
        if not known.any():
            _fill(self._file, known.size, self.dim)
            return
        found = vectors[known]
        self._low = np.minimum(self._low, found.min(axis=0))
        self._high = np.maximum(self._high, found.max(axis=0))
        vectors[~known] = np.nan
        vectors.tofile(self._file)

    def finish(self) -> None:
        """Write the raster."""
        import rasterio
        from rasterio.windows import Window

        assert self._file is not None and self.dim is not None
        self._check_range()
        num_rows, num_columns = len(self.grid.rows), len(self.grid.columns)
        is_int8 = self.plan.dtype == "int8"
        plain = self.path.with_name("plain.tif")
        half = {"nbits": 16} if self.plan.dtype == "float16" else {}
        profile = {
            **{"driver": "GTiff", "count": self.dim, "height": num_rows, "width": num_columns},
            **{"dtype": "int8" if is_int8 else FLOAT32, "crs": self.scene.dataset.crs},
            **{"nodata": INT8_NODATA if is_int8 else float("nan"), "bigtiff": "if_safer"},
            # All bands of a row lie together, as they are written.
            **{"interleave": "pixel", "blockysize": 1, "transform": self._transform(), **half},
        }
        scale, offset = self._scaling()
        step = max(1, BLOCK_BYTES // (4 * self.dim * num_columns))
        self._file.seek(0)
        with rasterio.open(plain, "w", **profile) as file:
            file.update_tags(**self.plan.tags, SCENE=Path(self.scene.path).name)
            file.descriptions = [f"embedding {number}" for number in range(self.dim)]
            if is_int8:
                file.scales, file.offsets = scale.tolist(), offset.tolist()
            for begin in range(0, num_rows, step):
                height = min(step, num_rows - begin)
                values = np.fromfile(self._file, np.float32, height * num_columns * self.dim)
                values = values.reshape(height, num_columns, self.dim)
                if half:
                    # GDAL cuts bits off; this rounds to the nearest.
                    values = values.astype(np.float16).astype(np.float32)
                stored = quantise(values, scale, offset) if is_int8 else values
                window = Window(0, begin, num_columns, height)
                file.write(stored.transpose(2, 0, 1), window=window)
        # A mean of embeddings is none: there are no overviews.
        copy_to_cog(plain, self.path, overviews="NONE", blocksize=self._block(), **half)

    def close(self) -> None:
        """Close the file of vectors."""
        if self._file is not None:
            self._file.close()

    def _transform(self) -> Any:
        """Return the place of the raster: each pixel is as large as the stride, around a window."""
        from rasterio import Affine

        stride = self.plan.stride
        margin = (self.grid.patch_size - stride) / 2
        origin = self.scene.dataset.transform @ Affine.translation(margin, margin)
        return origin @ Affine.scale(stride)

    def _check_range(self) -> None:
        most = float(np.maximum(np.abs(self._low), np.abs(self._high)).max())
        if self.plan.dtype == "float16" and most > FLOAT16_MOST:
            raise UsageError(
                f"--dtype float16: an embedding holds {most:.6g}, float16 ends at "
                f"{FLOAT16_MOST:g}; write --dtype float32"
            )

    def _scaling(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return scale and offset of each band for int8: value = stored * scale + offset."""
        low, high = self._low.astype(np.float64), self._high.astype(np.float64)
        scale = (high - low) / (2 * INT8_MOST)
        # A band that is constant is its offset.
        return np.where(scale > 0, scale, 1.0), (high + low) / 2

    def _block(self) -> int:
        """Return the side of the raster's blocks, which hold all bands."""
        assert self.dim is not None
        return next((side for side in (512, 256, 128) if 4 * self.dim * side**2 <= BLOCK_BYTES), 64)


def quantise(
    values: NDArray[np.float32], scale: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.int8]:
    """Return values (..., D) as int8; NaN becomes nodata."""
    found = np.rint((values - offset) / scale).clip(-INT8_MOST, INT8_MOST)
    return np.where(np.isnan(found), INT8_NODATA, found).astype(np.int8)


def _fill(file: IO[bytes], count: int, dim: int) -> None:
    """Write vectors without data."""
    step = max(1, BLOCK_BYTES // (4 * dim))
    for begin in range(0, count, step):
        np.full((min(step, count - begin), dim), np.nan, np.float32).tofile(file)


class _TableSink(Sink):
    """One row per window that has data."""

    def _begin(self, dim: int) -> None:
        pass

    def _rows(
        self, strip: Strip, embedded: Embedded
    ) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return identifiers, rows and columns (px of the windows' corners) and vectors (n, D)."""
        import pyarrow as pa

        found, places = np.nonzero(embedded.known)
        tops = self.grid.rows.starts[found + strip.begin]
        lefts = self.grid.columns.starts[places]
        ids = [f"{self.name}_{top}_{left}" for top, left in zip(tops, lefts, strict=True)]
        return pa.array(ids, pa.string()), tops, lefts, embedded.vectors[embedded.known]


class ParquetSink(_TableSink):
    """GeoParquet: the outline of each window in the scene's CRS, and a list ``embedding``."""

    _writer: Any = None

    def _begin(self, dim: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(
            {
                **{"id": pa.string(), "scene": pa.string(), "row": pa.int32(), "col": pa.int32()},
                **{"embedding": pa.list_(pa.float32(), dim), "geometry": pa.binary()},
            },
            metadata={"geo": self._geo(), **self.plan.tags},
        )
        self._writer = pq.ParquetWriter(self.path, schema, compression="zstd")
        self._group: list[pa.Table] = []

    def _write(self, strip: Strip, embedded: Embedded) -> None:
        import pyarrow as pa

        from benchmark.tables import embeddings_column

        ids, rows, columns, vectors = self._rows(strip, embedded)
        if not len(ids):
            return
        table = pa.table(
            {
                "id": ids,
                "scene": pa.array([self.name] * len(ids)),
                "row": rows.astype(np.int32),
                "col": columns.astype(np.int32),
                "embedding": embeddings_column(vectors),
                "geometry": self._outlines(rows, columns),
            },
        )
        self._group.append(table.cast(self._writer.schema))
        if sum(part.nbytes for part in self._group) > BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._group:
            self._writer.write_table(pa.concat_tables(self._group))
            self._group = []

    def finish(self) -> None:
        """Write the last rows."""
        self._flush()
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _outlines(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> pa.Array:
        """Return the outlines of windows as WKB."""
        import pyarrow as pa
        import shapely  # type: ignore[import-untyped]

        size = self.grid.patch_size
        corners = np.array([(0, 0), (size, 0), (size, size), (0, size)])
        x, y = (start[:, None] + corners[:, axis] for axis, start in enumerate((columns, rows)))
        place = self.scene.dataset.transform
        points = np.stack(
            [place.a * x + place.b * y + place.c, place.d * x + place.e * y + place.f], axis=-1
        )
        return pa.array(list(shapely.to_wkb(shapely.polygons(points))), pa.binary())

    def _geo(self) -> str:
        """Return what GeoParquet says of the column of outlines, as geopandas writes it."""
        import geopandas as gpd  # type: ignore[import-untyped]
        import pyarrow.parquet as pq
        import shapely

        frame = gpd.GeoDataFrame(
            geometry=[shapely.box(0, 0, 1, 1)], crs=self.scene.dataset.crs.to_wkt()
        )
        file = BytesIO()
        frame.to_parquet(file)
        content = json.loads(pq.read_schema(file).metadata[b"geo"])
        # That of the example.
        content["columns"]["geometry"].pop("bbox", None)
        return json.dumps(content)


class CsvSink(_TableSink):
    """The layout of NeuCo-Bench: ``id,0,1,2,...``."""

    _writer: Any = None

    def _begin(self, dim: int) -> None:
        import pyarrow as pa
        import pyarrow.csv as pacsv

        names = [str(number) for number in range(dim)]
        self._file = self.path.open("wb")
        self._file.write(",".join(["id", *names]).encode() + b"\n")
        self._schema = pa.schema([("id", pa.string()), *((name, pa.float32()) for name in names)])
        options = pacsv.WriteOptions(include_header=False)
        self._writer = pacsv.CSVWriter(self._file, self._schema, write_options=options)

    def _write(self, strip: Strip, embedded: Embedded) -> None:
        import pyarrow as pa

        ids, _, _, vectors = self._rows(strip, embedded)
        if len(ids):
            arrays = [ids, *(pa.array(column) for column in vectors.T)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def finish(self) -> None:
        """Complete the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._file.close()
            self._writer = None
