"""All access to the files below the root of imagery and labels, a folder or a URI.

Paths are relative to the root, with ``/``. A path that leads out of the root is refused, also
through a link.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from benchmark.catalog.roots.address import is_remote
from benchmark.catalog.roots.root import CutOff, Root, Unreadable
from benchmark.catalog.roots.root import open_root as open_any_root
from benchmark.errors import UsageError, one_line
from benchmark.fields import check_file_path
from benchmark.regular import follow_links

if TYPE_CHECKING:
    import rasterio

DRIVERS = {
    ".tif": "GTiff",
    ".tiff": "GTiff",
    ".jp2": "JP2OpenJPEG",
}
"""GDAL's driver by the suffix of a raster. Files of other formats, VRT first of all, may refer to
other files or to URLs."""
MAX_VECTOR_BYTES = 2**33
"""Largest remote file of polygons: each machine copies it whole."""


class FileError(Exception):
    """A file below the root cannot be used; the message is the reason, without the path."""


class CutShort(FileError, ConnectionError):
    """A transfer that ended early; ``Root.retried`` repeats the work."""


def open_root(root: str) -> Root:
    """Return the root as workers in other folders find it.

    Raises:
        UsageError: it is no folder, or its server does not answer.
    """
    if is_remote(root):
        found = open_any_root(root)
        found.check_answer()
        return found
    where = f"[dataset] root = '{root}'"
    try:
        path = follow_links(Path(root))
    except OSError as error:
        raise UsageError(f"{where}: cannot be opened: {one_line(error)}") from None
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise UsageError(f"{where}: {what}; name the folder that holds the images")
    return open_any_root(str(path))


def check_path(root: Root, path: str) -> str:
    """Return a path without ``.`` parts if it lies below the root.

    Raises:
        FileError: it is malformed, or leads out of the root.
    """
    try:
        check_file_path(path)
        if "://" in path or root.leads_out(path):
            raise FileError("is outside the root; write a path relative to it")
    except (OSError, ValueError) as error:
        raise FileError(one_line(error, limit=200)) from None
    return str(PurePosixPath(path))


def list_files(root: Root, pattern: str) -> list[str]:
    """Return the files below the root that match a pattern, sorted.

    ``*`` matches a part of one name; no other character is special. Hidden files are left out.

    Raises:
        UsageError: the root cannot be listed.
    """
    parts = re.sub(r"\*+", "*", pattern).split("*")
    shown = [not part.startswith("*") for part in pattern.split("/")]
    return [
        path
        for path in root.list("*".join(map(glob.escape, parts)))
        if all(
            is_shown or not part.startswith(".")
            for is_shown, part in zip(shown, path.split("/"), strict=True)
        )
    ]


def is_folder(root: Root, path: str) -> bool:
    """Return whether a path is a folder; a remote one without a suffix is taken for that."""
    if root.is_remote:
        return not PurePosixPath(path).suffix
    return Path(root.where(path)).is_dir()


def read_bytes(root: Root, path: str, *, most_bytes: int) -> bytes:
    """Return the content of a file.

    Raises:
        FileError: it cannot be read, or is larger than ``most_bytes``.
    """
    try:
        with _as_file_errors():
            return root.read_bytes(path, most_bytes=most_bytes)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def _as_file_errors() -> Iterator[None]:
    """Raise the errors of a root as ``FileError`` or ``CutShort``."""
    try:
        yield
    except FileNotFoundError:
        raise FileError("file is missing") from None
    except Unreadable as error:
        raise _file_error(error) from None


def _file_error(error: Unreadable) -> FileError:
    kind = CutShort if isinstance(error, CutOff) else FileError
    return kind(error.problem.reason)


def explain(root: Root, path: str, error: Exception) -> FileError:
    """Return the error to raise for one of rasterio in a read of an open raster.

    Raises:
        CellError: the server fails.
    """
    return _file_error(root.explain(path, error))


@contextmanager
def open_raster(root: Root, path: str) -> Iterator[rasterio.DatasetReader]:
    """Open a raster, without its side-car files.

    Raises:
        FileError: it is missing, of another format, or cannot be opened or, inside the ``with``,
            read.
        CellError: the server fails.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in DRIVERS:
        raise FileError(f"is no raster of a known format ({', '.join(DRIVERS)})")
    with _as_file_errors(), root.open(path, driver=DRIVERS[suffix]) as file:
        yield file


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


def vector_files(path: str) -> list[str]:
    """Return the files that a vector file may consist of: a Shapefile is several."""
    if not path.lower().endswith(".shp"):
        return [path]
    ends = (".shx", ".dbf", ".prj", ".cpg", ".SHX", ".DBF")
    return [path, *(path[:-4] + end for end in ends)]


def vector_path(root: Root, path: str) -> Path:
    """Return a vector file on this machine for geopandas; a remote one is copied once.

    Raises:
        FileError: it is missing, of another format, or too large to be copied.
        CellError: the server fails.
    """
    magic = MAGIC.get(PurePosixPath(path).suffix.lower())
    if magic is None:
        raise FileError(f"is no vector file of a known format ({', '.join(MAGIC)})")
    try:
        with _as_file_errors():
            place = root.whole(path, vector_files(path)[1:], most_bytes=MAX_VECTOR_BYTES)
        with place.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise FileError(f"cannot be read: {one_line(error)}") from None
    if not start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(magic):
        raise FileError("does not begin as a file of its format; it is damaged or renamed")
    return place
