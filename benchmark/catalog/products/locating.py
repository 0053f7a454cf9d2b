"""Find the files of an embedding product, and explain what is wrong with one."""

from __future__ import annotations

import os
import posixpath
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from benchmark.catalog.products.formats import FORMATS
from benchmark.catalog.products.zarr_stores import MARKS, find_stores
from benchmark.catalog.roots.address import (
    WEB,
    check_root,
    is_remote,
    scheme_of,
    split_settings,
)
from benchmark.catalog.roots.root import Root, Unreadable, open_root
from benchmark.errors import UsageError, one_line
from benchmark.fields import shown

RASTERS = (".tif", ".tiff")
"""Suffixes of GeoTIFFs."""
KINDS = {suffix: suffix for suffix in FORMATS} | dict.fromkeys(RASTERS, "raster")
"""Kind of file by suffix: those of one product are of one kind."""
SUFFIXES = ", ".join(KINDS)
NO_ZARR = "Zarr is read from a folder of this machine alone; copy it, or use GeoTIFFs (COG)"
FAULTS = pa.ArrowException, OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile
"""What libraries raise for a damaged file."""


class Located(NamedTuple):
    """The files of a product."""

    address: str
    root: Root
    files: tuple[str, ...]
    """Paths below the root, sorted; all are tables of one format, or rasters, or Zarr stores."""
    are_stores: bool = False
    """Whether they are folders of Zarr."""

    @property
    def are_rasters(self) -> bool:
        """Whether the files are rasters, of Zarr or not."""
        return self.are_stores or suffix_of(self.files[0]) in RASTERS


@dataclass(frozen=True, kw_only=True)
class Files:
    """What the forms of a product have in common."""

    address: str
    root: Root
    files: tuple[str, ...]
    """Paths below the root, sorted."""
    drops_missing: bool
    """Whether patches that the product lacks are left out."""
    where: str
    """Start of each message."""

    @property
    def label(self) -> str:
        """The last part of the path."""
        return PurePosixPath(split_settings(self.address)[0]).name


def suffix_of(path: str) -> str:
    """Return the suffix of a file in lower case."""
    return PurePosixPath(path).suffix.lower()


def find_files(address: str, where: str) -> Located:
    """Return the files of the product at a path or URI.

    Raises:
        UsageError: there are none, or they are of several kinds.
    """
    if not address:
        raise UsageError(f"{where}: names no file; write embeddings:PATH")
    check_root(address, where=where, reads_remote=True)
    stores: list[str] = []
    others: list[str] = []
    if is_remote(address):
        path, settings = split_settings(address)
        if ".zarr" in map(suffix_of, path.split("/")):
            raise UsageError(f"{where}: {NO_ZARR}")
        folder, name = posixpath.split(path.rstrip("/"))
        is_file = suffix_of(name) in KINDS
        if not is_file and scheme_of(address) in WEB:
            raise UsageError(
                f"{where}: a web server cannot be listed; name one file ({SUFFIXES}), or copy the "
                "files into a folder"
            )
        with explained(address, where):
            root = open_root(f"{folder}{settings}" if is_file else address)
            root.check_answer()
            if is_file:
                return Located(address, root, (name,))
    else:
        place = Path(os.path.abspath(os.path.expanduser(address)))  # noqa: PTH100, PTH111
        if not place.exists():
            raise UsageError(f"{where}: there is no file or folder '{place}'; correct the path")
        if place.is_file():
            if suffix_of(place.name) not in KINDS:
                raise UsageError(
                    f"{where}: '{place.name}' has none of the suffixes {SUFFIXES}; convert it"
                )
            return Located(address, open_root(str(place.parent)), (place.name,))
        stores, others = find_stores(place)
        if stores == ["."]:
            return Located(address, open_root(str(place.parent)), (place.name,), True)
        if suffix_of(place.name) == ".zarr":
            raise UsageError(
                f"{where}: the folder '{place.name}' holds no Zarr ({', '.join(MARKS)}); copy it "
                "whole"
            )
        root = open_root(str(place))
    with explained(address, where):
        listed = others if stores else root.list("**/*")
    found = [path for path in listed if suffix_of(path) in KINDS and not _is_hidden(path)]
    suffixes = sorted(set(map(suffix_of, found)))
    if any(path.rpartition("/")[2] in MARKS for path in listed):
        raise UsageError(f"{where}: {NO_ZARR}")
    if stores and not found:
        return Located(address, root, tuple(stores), True)
    if stores:
        suffixes.append(".zarr")
    if len({KINDS.get(suffix, suffix) for suffix in suffixes}) != 1:
        what = f"files of several kinds ({', '.join(suffixes)})" if suffixes else "no such files"
        raise UsageError(
            f"{where}: the folder holds {what}; name one file, or a folder of files of one kind "
            f"({SUFFIXES})"
        )
    return Located(address, root, tuple(found))


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(path).parts)


@contextmanager
def explained(path: str, where: str) -> Iterator[None]:
    """Turn what fails in a file into one line.

    Raises:
        UsageError: always that, but for a server that fails.
    """
    try:
        yield
    except Unreadable as error:
        raise UsageError(f"{where}: '{path}': {error.problem.reason}") from None
    except UsageError as error:
        if str(error).startswith(where):
            raise
        # The roots are those of data sets, too.
        raise UsageError(f"{where}: {str(error).removeprefix('[dataset] ')}") from None
    except FileNotFoundError:
        raise UsageError(f"{where}: there is no file '{path}'; correct the path") from None
    except FAULTS as error:
        raise UsageError(
            f"{where}: '{path}' is damaged or cannot be read: {one_line(error)}; correct or "
            "replace the file"
        ) from None


def name_first(names: Sequence[Any], most: int = 3) -> str:
    """Return the first of some names, and how many there are."""
    first = ", ".join(shown(name, 100) for name in names[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most:,} more"
