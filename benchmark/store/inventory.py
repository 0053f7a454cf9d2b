"""What lies in a store: artefacts, arrays and temporary files, with their sizes; and delete it.

A folder counts as an artefact only by its name and the names of all of its files. What is not of
this package, or is linked from elsewhere, is counted apart and never deleted.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pyarrow.fs as pafs

from benchmark.store.files import Files
from benchmark.store.names import MANIFEST, current_name, is_own

ARRAYS = "arrays"
"""The folder of arrays that experiments got from memory."""

Kind = Literal["artefact", "arrays", "temporary", "foreign"]

_FOLDER = re.compile(r"(.+)-([0-9a-f]{16})")
_ARRAY_FILES = {"images.npy", "table.parquet"}
_TEMPORARY = re.compile(r".+\.tmp-[0-9a-f]{32}|\.probe-[0-9a-f]{32}")
_WRITING = ".writing-"
"""How the folders begin in which arrays are written."""


class Listed(NamedTuple):
    """A file of a listing."""

    path: str
    """Below the store's root."""
    size: int
    changed_s: float
    """When it was last written (s since the epoch); 0: unknown."""


@dataclass(frozen=True)
class Entry:
    """A folder of the store, or a single temporary file."""

    path: str
    kind: Kind
    files: tuple[Listed, ...]

    @property
    def num_bytes(self) -> int:
        """The size of its files."""
        return sum(item.size for item in self.files)

    @property
    def changed_s(self) -> float:
        """When a file of it was last written (s since the epoch)."""
        return max((item.changed_s for item in self.files), default=0.0)

    @property
    def stage(self) -> str:
        """The stage of an artefact; of others their first folder."""
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        """The name of an artefact without its fingerprint."""
        return self.path.partition("/")[2].rpartition("-")[0]


def list_files(store: Files, folder: str = "") -> list[Listed]:
    """Return all files below a folder, temporary ones included, sorted by path.

    Args:
        store: the root.
        folder: below the root; empty: the root's own files, without its folders.

    Raises:
        CellError: the store cannot be read.
    """
    place = store.place(folder) if folder else store.root
    selector = pafs.FileSelector(place, allow_not_found=True, recursive=bool(folder))
    found = store.attempt(folder, "read", lambda: store.fs.get_file_info(selector))
    # File systems write the root in their own way.
    start = f"{place.strip('/')}/"
    return sorted(
        Listed(
            "/".join(filter(None, [folder, info.path.lstrip("/").removeprefix(start)])),
            info.size,
            (info.mtime_ns or 0) / 1e9,
        )
        for info in found
        if info.is_file
    )


def take_stock(store: Files, stages: Sequence[str], others: Sequence[str]) -> list[Entry]:
    """Return the artefacts, the arrays, and the temporary files of a store, sorted by path.

    Args:
        store: to look at; only folders of this package are listed.
        stages: the folders of artefacts.
        others: folders of single files, of which only temporary ones are returned.

    Raises:
        CellError: the store cannot be read.
    """
    found = [
        Entry(item.path, "temporary", (item,))
        for folder in ("", *others)
        for item in list_files(store, folder)
        if _is_temporary(item)
    ]
    for folder in (*stages, ARRAYS):
        found += _entries(store, folder)
    return sorted(found, key=lambda entry: entry.path)


def _entries(store: Files, top: str) -> Iterator[Entry]:
    def folder_of(item: Listed) -> str:
        return "/".join(item.path.split("/")[:2])

    for path, group in itertools.groupby(list_files(store, top), key=folder_of):
        files = tuple(group)
        if path == files[0].path:
            # A single file, of which only temporary ones are of this package.
            yield Entry(path, "temporary" if _is_temporary(files[0]) else "foreign", files)
            continue
        if top == ARRAYS and path.partition("/")[2].startswith(_WRITING):
            yield Entry(path, "temporary", files)
            continue
        names = [item.path.removeprefix(f"{path}/") for item in files if not _is_temporary(item)]
        is_ours = bool(_FOLDER.fullmatch(path.partition("/")[2])) and is_inside(store, path)
        if top == ARRAYS:
            kind: Kind = "arrays" if is_ours and set(names) <= _ARRAY_FILES else "foreign"
        else:
            kind = "artefact" if is_ours and all(map(is_own, names)) else "foreign"
        if kind == "foreign" or not names:
            yield Entry(path, "temporary" if is_ours and not names else "foreign", files)
            continue
        yield Entry(path, kind, tuple(item for item in files if not _is_temporary(item)))
        for item in filter(_is_temporary, files):
            yield Entry(item.path, "temporary", (item,))


def _is_temporary(item: Listed) -> bool:
    return bool(_TEMPORARY.fullmatch(item.path.rpartition("/")[2]))


def is_inside(store: Files, path: str) -> bool:
    """Return whether a folder or file lies in the store itself, and not behind a link."""
    if not store.is_local:
        return True
    return os.path.realpath(store.place(path)) == os.path.join(  # noqa: PTH118
        os.path.realpath(store.root), path
    )


def delete_entries(store: Files, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Delete entries one by one, and yield each when it is gone.

    An artefact's manifest goes first: what is left of an interrupted deletion is not complete.

    Raises:
        CellError: the store cannot be written.
    """
    for entry in entries:
        if entry.kind == "foreign" or not all(is_inside(store, item.path) for item in entry.files):
            continue
        folders = {entry.path}
        for item in sorted(entry.files, key=lambda item: not _is_manifest(item)):
            store.delete(item.path)
            folders.add(item.path.rpartition("/")[0])
        for folder in sorted(folders, reverse=True):
            if "/" in folder:
                store.remove_empty(folder)
        yield entry


def _is_manifest(item: Listed) -> bool:
    return current_name(item.path.rpartition("/")[2]) == MANIFEST
