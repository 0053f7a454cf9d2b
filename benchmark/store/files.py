"""Files below a root, local or on an object store: each is there whole, or not at all."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.fs as pafs

from benchmark.errors import CellError, UsageError
from benchmark.store.filesystems import SMALL_BYTES, has_folders, join, open_filesystem
from benchmark.store.retries import explain, retry

T = TypeVar("T")


class Files:
    """A root folder on some file system, given as a path or a URI (``s3://bucket/prefix``).

    It pickles with what reaches S3 in this process, so that workers on other machines write as
    the driver does; neither its text nor its files hold that.
    """

    def __init__(
        self,
        uri: str,
        connection: Mapping[str, str] | None = None,
        *,
        num_tries: int | None = None,
    ) -> None:
        """Open it without writing to it.

        Args:
            uri: or a path.
            connection: how S3 is reached, from ``connection`` of another process; None: as the
                URI and this environment say.
            num_tries: of each operation, at most; None: as many as it takes to get over what
                passes by itself.

        Raises:
            UsageError: the URI's scheme or a setting in it is unknown, or it holds credentials.
        """
        self.uri = uri
        self._num_tries = num_tries
        self._open(None if connection is None else dict(connection))

    @property
    def connection(self) -> dict[str, str] | None:
        """How S3 is reached, with its secrets; None elsewhere."""
        return self._connection

    def _open(self, connection: dict[str, str] | None) -> None:
        self.fs, self.root, self._small_fs, self._connection = open_filesystem(self.uri, connection)
        self.is_local = isinstance(self.fs, pafs.LocalFileSystem)

    def __getstate__(self) -> dict[str, Any]:
        if self._connection is None:
            return self.__dict__
        # Arrow's own pickle of S3 forgets how often to retry.
        kept = ("uri", "_connection", "_num_tries")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "fs" not in state:
            self._open(self._connection)

    def place(self, path: str) -> str:
        """Return where a file or folder below the root lies on its file system.

        Raises:
            CellError: it would lie elsewhere: a file in the store that names others is wrong.
        """
        if ".." in path.split("/"):
            raise CellError(f"'{path}' leads out of the store '{self.uri}'")
        return f"{self.root}/{path}"

    def check_writable(self) -> None:
        """Create the root and write a probe.

        Raises:
            UsageError: it cannot be written; says why.
        """
        probe = self.place(f".probe-{uuid.uuid4().hex}")
        try:
            retry(lambda: self._write_whole(probe, b"probe"), what=f"store '{self.uri}'")
            self.fs.delete_file(probe)
        except OSError as error:
            raise UsageError(
                f"store '{self.uri}' cannot be written: {explain(error)}. "
                "Choose another with --store."
            ) from None

    def write(self, path: str, content: bytes) -> None:
        """Write one file below the root: all of it, or nothing.

        Raises:
            CellError: the store is full or cannot be written.
        """
        self.attempt(path, "written", lambda: self._write_whole(self.place(path), content))

    def read(self, path: str) -> bytes:
        """Return the content of one file below the root.

        Raises:
            FileNotFoundError: it does not exist.
            CellError: the store cannot be read.
        """

        def read() -> bytes:
            with self.fs.open_input_file(self.place(path)) as stream:
                return bytes(stream.read())

        return self.attempt(path, "read", read)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the files of a folder below the root and their bytes, without temporaries."""
        selector = pafs.FileSelector(self.place(folder), allow_not_found=True)
        found = self.attempt(folder, "read", lambda: self.fs.get_file_info(selector))
        return {
            info.base_name: info.size
            for info in sorted(found, key=lambda info: str(info.base_name))
            if info.is_file and ".tmp-" not in info.base_name
        }

    def has(self, path: str) -> bool:
        """Return whether there is such a file below the root."""
        info = self.attempt(path, "read", lambda: self.fs.get_file_info(self.place(path)))
        return bool(info.type == pafs.FileType.File)

    def delete(self, path: str) -> None:
        """Delete one file below the root; one that is gone already is no error."""
        with contextlib.suppress(FileNotFoundError):
            self.attempt(path, "deleted", lambda: self.fs.delete_file(self.place(path)))

    def remove_empty(self, folder: str) -> None:
        """Remove a local folder below the root if it is empty; others have none to remove."""
        if self.is_local:
            with contextlib.suppress(OSError):
                Path(self.place(folder)).rmdir()

    def attempt(self, path: str, done: str, operation: Callable[[], T]) -> T:
        """Return the result of an operation that may be repeated.

        Args:
            path: below the root, for messages.
            done: what was tried, e.g. ``read``.
            operation: may be repeated without harm.

        Raises:
            FileNotFoundError: as the operation.
            CellError: it failed otherwise.
        """
        uri = join(self.uri, path)
        try:
            return retry(operation, what=uri, num_tries=self._num_tries)
        except FileNotFoundError:
            if done == "written":
                raise CellError(f"{uri} cannot be written: its folder is gone") from None
            raise
        except OSError as error:
            raise CellError(f"{uri} cannot be {done}: {self._why(error)}") from None

    def _why(self, error: OSError) -> str:
        """Return why the store failed; where S3's answer had no body, a listing is asked for one.

        Answers to HEAD, with which Arrow begins most of what it does, say 400 or 403 and no more.
        """
        if "No response body" in str(error):
            try:
                self.fs.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))
            except OSError as telling:
                error = telling
        return explain(error)

    def _write_whole(self, final: str, content: bytes) -> None:
        if not has_folders(self.fs):
            self._upload(final, content)
            return
        self.fs.create_dir(final.rpartition("/")[0], recursive=True)
        target = f"{final}.tmp-{uuid.uuid4().hex}"
        try:
            with self.fs.open_output_stream(target) as stream:
                stream.write(content)
            self._replace(target, final)
        except OSError:
            # What made the write fail may make this fail, and it is the first that counts.
            with contextlib.suppress(OSError):
                self.fs.delete_file(target)
            raise

    def _replace(self, source: str, final: str) -> None:
        if self.is_local:
            Path(source).replace(final)
            return
        try:
            self.fs.move(source, final)
        except OSError:
            # Some do not move onto what exists.
            self.fs.delete_file(final)
            self.fs.move(source, final)

    def _upload(self, path: str, content: bytes) -> None:
        """Write an object, which appears when its upload is over."""
        is_small = memoryview(content).nbytes < SMALL_BYTES
        try:
            with (self._small_fs if is_small else self.fs).open_output_stream(path) as stream:
                stream.write(content)
        except (KeyboardInterrupt, SystemExit):
            # Arrow completes an upload that is interrupted: what there is must not stay.
            with contextlib.suppress(OSError):
                self._check_whole(path, content)
            raise
        self._check_whole(path, content)

    def _check_whole(self, path: str, content: bytes) -> None:
        size, wanted = self.fs.get_file_info(path).size, memoryview(content).nbytes
        if size != wanted:
            with contextlib.suppress(OSError):
                self.fs.delete_file(path)
            raise ConnectionError(f"only {size} of {wanted} bytes have arrived")


def discard(path: str) -> None:
    """Delete a local file if that is possible."""
    # Best effort: what made the write fail may make this fail, and it is the first that counts.
    with contextlib.suppress(OSError):
        Path(path).unlink()
