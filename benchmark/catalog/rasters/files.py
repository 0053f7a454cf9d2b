"""All access to the files below the root of imagery and labels.

Paths are relative to the root, with ``/``. A path that leads out of the root is refused, also
through a link.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from benchmark.errors import UsageError, one_line
from benchmark.fields import check_file_path
from benchmark.regular import follow_links, read_regular

if TYPE_CHECKING:
    import rasterio

DRIVERS = {
    ".tif": "GTiff",
    ".tiff": "GTiff",
    ".jp2": "JP2OpenJPEG",
}
"""GDAL's driver by the suffix of a raster. Files of other formats, VRT first of all, may refer to
other files or to URLs."""

# Side-car files are not in the digest, so they must not change pixels or places.
GDAL = {
    "GDAL_NUM_THREADS": "1",
    "GDAL_CACHEMAX": 256,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
}


class FileError(Exception):
    """A file below the root cannot be used; the message is the reason, without the path."""


def open_root(root: str) -> str:
    """Return the root as workers in other folders find it.

    Raises:
        UsageError: it is no folder.
    """
    where = f"[dataset] root = '{root}'"
    try:
        path = follow_links(Path(root))
    except OSError as error:
        raise UsageError(f"{where}: cannot be opened: {one_line(error)}") from None
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise UsageError(f"{where}: {what}; name the folder that holds the images")
    return str(path)


def check_path(root: str, path: str) -> str:
    """Return a path without ``.`` parts if it lies below the root.

    Raises:
        FileError: it is malformed, or leads out of the root.
    """
    try:
        check_file_path(path)
        pure = PurePosixPath(path)
        is_outside = pure.is_absolute() or ".." in pure.parts or "://" in path
        if is_outside or not follow_links(Path(root, pure)).is_relative_to(Path(root)):
            raise FileError("is outside the root; write a path relative to it")
    except (OSError, ValueError) as error:
        raise FileError(one_line(error, limit=200)) from None
    return str(pure)


def list_files(root: str, pattern: str) -> list[str]:
    """Return the files below the root that match a pattern, sorted.

    ``*`` matches a part of one name; no other character is special. Hidden files are left out.
    """
    escaped = "*".join(glob.escape(part) for part in pattern.split("*"))
    found = glob.glob(escaped, root_dir=root)  # noqa: PTH207 (Path.glob has no escape)
    return sorted(Path(path).as_posix() for path in found if is_file(root, path))


def is_file(root: str, path: str) -> bool:
    """Return whether there is a regular file."""
    return Path(root, path).is_file()


def is_folder(root: str, path: str) -> bool:
    """Return whether there is a folder."""
    return Path(root, path).is_dir()


def read_bytes(root: str, path: str, *, most_bytes: int) -> bytes:
    """Return the content of a file.

    Raises:
        FileError: it cannot be read, or is larger than ``most_bytes``.
    """
    try:
        return read_regular(Path(root, path), most_bytes=most_bytes)
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise FileError(f"cannot be read: {error}") from None


def digest_of_files(root: str, paths: Sequence[str]) -> dict[str, str]:
    """Return the hex digest of each file's content; ``missing`` if there is none."""
    from benchmark.store.digest import digest_files

    places = {path: Path(root, path) for path in paths}
    found = digest_files(place for place in places.values() if place.is_file())
    return {path: found.get(place, "missing") for path, place in places.items()}


@contextmanager
def open_raster(root: str, path: str) -> Iterator[rasterio.DatasetReader]:
    """Open a raster, without its side-car files.

    Raises:
        FileError: it is missing, of another format, or cannot be opened or, inside the ``with``,
            read.
    """
    import rasterio
    from rasterio.errors import RasterioError

    if not is_file(root, path):
        raise FileError("file is missing, though it is listed")
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in DRIVERS:
        raise FileError(f"is no raster of a known format ({', '.join(DRIVERS)})")
    try:
        with rasterio.Env(**GDAL), rasterio.open(Path(root, path), driver=DRIVERS[suffix]) as file:
            yield file
    except (RasterioError, OSError) as error:
        # rasterio's text is often only "Read failed"; the cause has GDAL's reason.
        raise FileError(f"cannot be read: {one_line(error.__cause__ or error)}") from error


MAGIC = {
    ".gpkg": b"SQLite format 3\0",
    ".shp": b"\x00\x00\x27\x0a",
    ".geojson": b"{",
    ".json": b"{",
    ".parquet": b"PAR1",
    ".geoparquet": b"PAR1",
}
"""How vector files begin: GDAL would open a file of another format, which may refer to URLs."""


def is_vector(path: str) -> bool:
    """Return whether a path has the suffix of a vector format."""
    return PurePosixPath(path).suffix.lower() in MAGIC


def vector_files(root: str, path: str) -> list[str]:
    """Return the files of a vector data set: a Shapefile is several."""
    if not path.lower().endswith(".shp"):
        return [path]
    stem = path[:-4]
    found = [path, *(stem + end for end in (".shx", ".dbf", ".prj", ".cpg", ".SHX", ".DBF"))]
    return [name for name in found if is_file(root, name)] or [path]


def vector_path(root: str, path: str) -> str:
    """Return the path of a vector file for geopandas.

    Raises:
        FileError: it is missing or of another format.
    """
    if not is_file(root, path):
        raise FileError("file is missing, though it is listed")
    magic = MAGIC.get(PurePosixPath(path).suffix.lower())
    if magic is None:
        raise FileError(f"is no vector file of a known format ({', '.join(MAGIC)})")
    with Path(root, path).open("rb") as file:
        if not file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(magic):
            raise FileError("does not begin as a file of its format; it is damaged or renamed")
    return os.fspath(Path(root, path))
