"""Files below a root folder, local or on an object store, each written atomically."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from benchmark.errors import CellError, UsageError
from benchmark.store.deadlines import within
from benchmark.store.filesystems import (
    ANSWER_TIMEOUT_S,
    SMALL_BYTES,
    Opened,
    describe_silence,
    has_folders,
    join,
    open_filesystem,
    open_for_trial,
)
from benchmark.store.retries import explain, retry

T = TypeVar("T")

TRIAL_NUM_TRIES = 3
TRIAL_LONGEST_S = 4.0
"""No try of a trial begins after this time; it leaves time for an answer."""


class Files:
    """A root folder on any file system, given as a path or a URI (``s3://bucket/prefix``).

    Pickles include the S3 connection of this process, secrets included, so that workers on other
    machines write as the driver does. Neither its text nor its files contain the secrets.
    """

    def __init__(
        self,
        uri: str,
        connection: Mapping[str, str] | None = None,
        *,
        num_tries: int | None = None,
    ) -> None:
        """Open the root without writing to it.

        Args:
            uri: or a path.
            connection: ``connection`` of another process, for S3; None: read from the URI and
                this environment.
            num_tries: most tries of each operation; None: the default of ``retry``.

        Raises:
            UsageError: the URI's scheme or a setting in it is unknown, or it contains secrets.
        """
        self.uri = uri
        self.discards_damage = False
        """Whether readers delete damaged files, which then are computed again: set in a run."""
        self._num_tries = num_tries
        self._open(None if connection is None else dict(connection))

    @property
    def connection(self) -> dict[str, str] | None:
        """The S3 settings, secrets included; None on other file systems."""
        return self._connection

    def _open(self, connection: dict[str, str] | None) -> None:
        self.fs, self.root, self._small_fs, self._connection = open_filesystem(self.uri, connection)
        self.is_local = isinstance(self.fs, pafs.LocalFileSystem)

    def __getstate__(self) -> dict[str, Any]:
        if self._connection is None:
            return self.__dict__
        # Arrow's own pickle of an S3 file system loses the retry strategy.
        kept = ("uri", "discards_damage", "_connection", "_num_tries")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "fs" not in state:
            self._open(self._connection)

    def place(self, path: str) -> str:
        """Return the path of a file or folder below the root, on its file system.

        Raises:
            CellError: the path leads out of the root: a file in the store names a wrong file.
        """
        if ".." in path.split("/"):
            raise CellError(f"'{path}' leads out of the store '{self.uri}'")
        return f"{self.root}/{path}"

    def check_writable(self) -> None:
        """Create the root and write a probe, before any work.

        Raises:
            UsageError: the root cannot be written, or does not answer within 10 s.
        """

        def write(trial: Files) -> None:
            trial._look()
            probe = trial.place(f".probe-{uuid.uuid4().hex}")
            trial._write_whole(probe, b"probe")
            trial.fs.delete_file(probe)

        self._try(write, "written")

    def check_readable(self) -> None:
        """Look at the root once, before any work; it need not exist.

        Raises:
            UsageError: the root cannot be read, or does not answer within 10 s.
        """
        self._try(lambda trial: trial._look(), "read")

    def _try(self, operation: Callable[[Files], None], done: str) -> None:
        """Run an operation on a copy of these files that gives up soon.

        Raises:
            UsageError: it failed, or did not end within ``ANSWER_TIMEOUT_S``.
        """

        def attempt() -> None:
            trial = object.__new__(type(self))
            trial.__dict__.update(self.__dict__)
            opened = Opened(self.fs, self.root, self._small_fs, self._connection)
            fs = open_for_trial(self.uri, opened)
            if fs is not self.fs:
                trial.fs = trial._small_fs = fs
            try:
                retry(
                    lambda: operation(trial),
                    what=f"store '{self.uri}'",
                    num_tries=TRIAL_NUM_TRIES,
                    longest_s=TRIAL_LONGEST_S,
                )
            except OSError as error:
                if re.search("curlCode: 28,", str(error)):
                    raise TimeoutError from None
                raise UsageError(
                    f"store '{self.uri}' cannot be {done}: {trial._why(error)}. "
                    "Choose another with --store."
                ) from None

        try:
            within(attempt, timeout_s=ANSWER_TIMEOUT_S)
        except UsageError:
            raise
        except TimeoutError:
            raise UsageError(describe_silence(self.uri)) from None
        except Exception as error:
            # Arrow's Azure client and fsspec's drivers raise more than OSError.
            raise UsageError(
                f"store '{self.uri}' cannot be {done}: {explain(error)}. "
                "Choose another with --store."
            ) from None

    def _look(self) -> None:
        """List the root, which need not exist; a local root must be a folder."""
        if not self.is_local:
            # An upload waits longer than a listing for a server that does not answer.
            found = self.fs.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))
            bucket = self.root.partition("/")[0]
            if not found and self._connection is not None and not self._exists(bucket):
                raise OSError(f"Bucket '{bucket}' not found")
            return
        try:
            is_folder = stat.S_ISDIR(Path(self.root).stat().st_mode)
        except FileNotFoundError:
            return
        if not is_folder:
            raise OSError("it is a file, not a folder")
        next(Path(self.root).iterdir(), None)

    def _exists(self, path: str) -> bool:
        return bool(self.fs.get_file_info(path).type != pafs.FileType.NotFound)

    def write(self, path: str, content: bytes) -> None:
        """Write one file below the root atomically.

        Raises:
            CellError: the store is full or cannot be written.
        """
        self.attempt(path, "written", lambda: self._write_whole(self.place(path), content))

    def write_first(self, path: str, content: bytes) -> None:
        """Write a file below the root unless it exists; of two writers at once, the first wins.

        Where the file system has no hard links, the later one wins.

        Raises:
            CellError: the store is full or cannot be written.
        """
        if not self.is_local:
            self.write(path, content)
            return
        final = Path(self.place(path))
        target = final.with_name(f"{final.name}.tmp-{uuid.uuid4().hex}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            os.link(target, final)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                uri = join(self.uri, path)
                raise CellError(f"{uri} cannot be written: {explain(error)}") from None
            self.write(path, content)
        finally:
            discard(str(target))

    def sync(self, path: str) -> None:
        """Make a file below the root survive a power cut, on a local disk.

        Raises:
            CellError: the disk is full or cannot be written.
        """
        if self.is_local:
            self.attempt(path, "written", lambda: _sync(self.place(path)))

    def read(self, path: str) -> bytes:
        """Return the content of one file below the root.

        Raises:
            FileNotFoundError: the file does not exist.
            CellError: the store cannot be read.
        """

        def read() -> bytes:
            with self.fs.open_input_file(self.place(path)) as stream:
                return bytes(stream.read())

        return self.attempt(path, "read", read)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the files of a folder by relative path, with their bytes; omit temporary files.

        Sub-folders are included, in the same request on an object store.
        """
        selector = pafs.FileSelector(self.place(folder), allow_not_found=True, recursive=True)
        found = self.attempt(folder, "read", lambda: self.fs.get_file_info(selector))
        return {
            info.path.rpartition(f"{folder}/")[2]: info.size
            for info in sorted(found, key=lambda info: str(info.path))
            if info.is_file and ".tmp-" not in info.base_name
        }

    def has(self, path: str) -> bool:
        """Return whether a file exists below the root."""
        info = self.attempt(path, "read", lambda: self.fs.get_file_info(self.place(path)))
        return bool(info.type == pafs.FileType.File)

    def size(self, path: str) -> int:
        """Return the bytes of one file below the root.

        Raises:
            FileNotFoundError: the file does not exist.
            CellError: the store cannot be read.
        """
        info = self.attempt(path, "read", lambda: self.fs.get_file_info(self.place(path)))
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(path)
        return int(info.size)

    def delete(self, path: str) -> None:
        """Delete one file below the root; a missing file is no error."""
        with contextlib.suppress(FileNotFoundError):
            self.attempt(path, "deleted", lambda: self.fs.delete_file(self.place(path)))

    def move(self, path: str, target: str) -> None:
        """Give a file below the root another path, in place of any file that has it.

        Raises:
            CellError: the store is full or cannot be written.
        """

        def move() -> None:
            source, final = self.place(path), self.place(target)
            # A try whose answer was lost may have moved it.
            if self._exists(source) or not self._exists(final):
                if has_folders(self.fs):
                    self.fs.create_dir(final.rpartition("/")[0], recursive=True)
                self._replace(source, final)

        self.attempt(path, "written", move)

    def remove_empty(self, folder: str) -> None:
        """Remove an empty folder below the root; does nothing unless the store is local."""
        if self.is_local:
            with contextlib.suppress(OSError):
                Path(self.place(folder)).rmdir()

    def attempt(self, path: str, done: str, operation: Callable[[], T]) -> T:
        """Return the result of an operation, with retries.

        Args:
            path: below the root, for messages.
            done: the participle for messages, e.g. ``read``.
            operation: must be safe to repeat.

        Raises:
            FileNotFoundError: from the operation, unless ``done`` is ``written``.
            CellError: every other failure.
        """
        uri = join(self.uri, path)
        try:
            return retry(operation, what=uri, num_tries=self._num_tries)
        except FileNotFoundError:
            if done == "written":
                raise CellError(f"{uri} cannot be written: its folder is gone") from None
            raise
        except (OSError, pa.ArrowException) as error:
            raise CellError(f"{uri} cannot be {done}: {self._why(error)}") from None

    def _why(self, error: BaseException) -> str:
        """Return why the store failed; if S3's answer had no body, ask again by a listing.

        Arrow begins most operations with HEAD, whose answer is only a status such as 400 or 403.
        """
        if "No response body" in str(error):
            try:
                self.fs.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))
            except OSError as detailed:
                error = detailed
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
            # This may fail for the same reason; the first error counts.
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
            # Some file systems do not overwrite by a move.
            self.fs.delete_file(final)
            self.fs.move(source, final)

    def _upload(self, path: str, content: bytes) -> None:
        """Write an object, which appears when its upload ends."""
        is_small = memoryview(content).nbytes < SMALL_BYTES
        try:
            with (self._small_fs if is_small else self.fs).open_output_stream(path) as stream:
                stream.write(content)
        except (KeyboardInterrupt, SystemExit):
            # Arrow completes an interrupted upload: delete the partial object.
            with contextlib.suppress(OSError):
                self._check_whole(path, content)
            raise
        self._check_whole(path, content)

    def _check_whole(self, path: str, content: bytes) -> None:
        size, wanted = self.fs.get_file_info(path).size, memoryview(content).nbytes
        if size != wanted:
            with contextlib.suppress(OSError):
                self.fs.delete_file(path)
            raise ConnectionError(f"only {size} of {wanted} bytes were uploaded")


def discard(path: str) -> None:
    """Delete a local file, ignoring errors: after a failed write, the first error counts."""
    with contextlib.suppress(OSError):
        Path(path).unlink()


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
