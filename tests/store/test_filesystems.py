"""File systems of fsspec behind Arrow."""

from __future__ import annotations

from typing import Any

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from benchmark.store.filesystems import Driver


class Refused(Exception):
    """What a package of a bucket raises."""


class Refusing(MemoryFileSystem):
    """A bucket that refuses every question, as for a wrong key."""

    def info(self, path: str, **options: Any) -> Any:
        raise Refused("AuthorizationFailure")

    ls = _open = info

    def find(self, path: str, **options: Any) -> Any:
        raise Refused("AuthorizationFailure")


def open_driver(kind: type[MemoryFileSystem]) -> pafs.FileSystem:
    return pafs.PyFileSystem(Driver(kind(skip_instance_cache=True)))


def test_a_refusal_is_an_error_and_no_missing_file() -> None:
    """Arrow's own handler raised FileNotFoundError for it, or the package's own exception."""
    fs = open_driver(Refusing)
    for ask in (fs.open_input_file, fs.open_input_stream, fs.get_file_info):
        with pytest.raises(OSError, match="Refused: AuthorizationFailure") as caught:
            ask("/a/b")
        assert not isinstance(caught.value, FileNotFoundError)
    with pytest.raises(OSError, match="Refused: AuthorizationFailure"):
        fs.get_file_info(pafs.FileSelector("/a", recursive=True))


def test_files_are_read_and_missing_ones_are_missing() -> None:
    fs = open_driver(MemoryFileSystem)
    fs.create_dir("/d")
    with fs.open_output_stream("/d/x") as file:
        file.write(b"0123456789")
    with fs.open_input_file("/d/x") as file:
        file.seek(4)
        assert file.read(3) == b"456"
    with fs.open_input_stream("/d/x") as stream:
        assert stream.read() == b"0123456789"
    with pytest.raises(FileNotFoundError):
        fs.open_input_file("/d/none")
    assert fs.get_file_info("/d/none").type == pafs.FileType.NotFound
    assert [item.path for item in fs.get_file_info(pafs.FileSelector("/d"))] == ["/d/x"]
