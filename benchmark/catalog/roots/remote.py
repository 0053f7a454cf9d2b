"""What all remote roots share: opening rasters, retries, and the identity of files."""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, NamedTuple, TypeVar

from benchmark.catalog.roots.gdal import REQUEST_TIMEOUT_S, gdal_path
from benchmark.catalog.roots.root import DRIVER, MISSING, CutOff, Unreadable
from benchmark.errors import CellError, UsageError, one_line
from benchmark.store.cache import cache_folder
from benchmark.store.deadlines import within
from benchmark.store.digest import fingerprint
from benchmark.store.filesystems import ANSWER_TIMEOUT_S
from benchmark.store.retries import retry

T = TypeVar("T")

NUM_AT_ONCE = 16
"""Requests at once for the identity of files."""
NUM_READS = 3
"""Reads of a file whose transfer ended early."""
PROBE_BYTES = 65_536
RANGE_BYTES = 2**17
"""Read at once of a file that is read in ranges."""
NO_RASTER = "not recognized as being in a supported file format"
NO_ANSWER = f"did not answer within {ANSWER_TIMEOUT_S:g} s; check the address, the network and keys"
LATER = "check the address and the network, and run again: what was read is kept"


class Stat(NamedTuple):
    """What a server says of a file; ``tag`` is its ETag or time of modification, or empty."""

    num_bytes: int
    tag: str


class _Ranges(io.RawIOBase):
    """A file whose bytes a function returns, given their number and the first one's place."""

    def __init__(self, fetch: Callable[[int, int], bytes], num_bytes: int) -> None:
        self._fetch = fetch
        self._num_bytes = num_bytes
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._num_bytes}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._num_bytes - self._place)
        if count <= 0:
            return 0
        data = self._fetch(count, self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


@dataclass(frozen=True, kw_only=True)
class RemoteRoot(ABC):
    """A root on another machine; pickles with the credentials, which its text leaves out.

    What each protocol does in its own way raises

    - FileNotFoundError: there is no such file;
    - ``CutOff``: the transfer ended early;
    - ``Unreadable``: access is denied, or the server cannot do what is needed;
    - CellError: the server fails or does not answer.
    """

    address: str
    options: Mapping[str, Any] = field(repr=False)
    """Of GDAL."""
    is_remote: bool = True

    @abstractmethod
    def stat(self, path: str) -> Stat:
        """Return size and tag of a file."""

    @abstractmethod
    def fetch(self, path: str, num_bytes: int, start: int = 0) -> bytes:
        """Return bytes of a file from ``start`` on, fewer at its end."""

    @abstractmethod
    def download(self, path: str, place: Path) -> int:
        """Copy a whole file once and return its bytes."""

    @abstractmethod
    def check_answer(self) -> None:
        """Ask the server once (see ``Root``)."""

    @abstractmethod
    def where(self, path: str) -> str:
        """Return the address of a file for messages."""

    def leads_out(self, path: str) -> bool:
        """Return whether a relative path leads out of the root, or is more than a path."""
        pure = PurePosixPath(path)
        return pure.is_absolute() or ".." in pure.parts or "://" in path

    def has(self, path: str) -> bool:
        """Return whether there is such a file that may be read.

        Raises:
            CellError: the server fails.
        """
        try:
            self.asked(lambda: self.stat(path))
        except (FileNotFoundError, Unreadable):
            return False
        return True

    def read_bytes(self, path: str, *, most_bytes: int) -> bytes:
        """Return the content of a small file (see ``Root``)."""
        data = self._fetch(path, most_bytes + 1)
        if len(data) > most_bytes:
            raise ValueError(f"it is larger than {most_bytes / 2**20:g} MiB")
        return data

    def read_text(self, path: str, *, most_bytes: int) -> str:
        """Return the text of a small file (see ``Root``)."""
        return self.read_bytes(path, most_bytes=most_bytes).decode()

    def identify(self, paths: Iterable[str]) -> Mapping[str, str]:
        """Return size and tag of each file, as one text; missing files are left out.

        Raises:
            UsageError: the server fails, denies access, or gives neither ETag nor time of
                modification.
        """
        names = list(paths)
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            try:
                found = dict(zip(names, pool.map(self._identity, names), strict=True))
            except (CellError, Unreadable) as error:
                pool.shutdown(cancel_futures=True)
                raise UsageError(str(error)) from None
        return {name: text for name, text in found.items() if text}

    @contextmanager
    def open_bytes(self, path: str) -> Iterator[BinaryIO]:
        """Open a file to be read at any place (see ``Root``).

        Raises:
            CellError: the server fails.
        """
        num_bytes = self.asked(lambda: self.stat(path)).num_bytes
        yield io.BufferedReader(_Ranges(partial(self._fetch, path), num_bytes), RANGE_BYTES)

    def copy(self, path: str, place: Path) -> int:
        """Copy a whole file into one of this machine and return its bytes (see ``Root``)."""
        return self.asked(lambda: self.download(path, place))

    def whole(self, path: str, beside: Sequence[str] = (), *, most_bytes: int) -> Path:
        """Return a copy of a file in the cache of this machine, made once for each content.

        Raises:
            FileNotFoundError: there is no such file.
            Unreadable: it cannot be read, or is larger than ``most_bytes``.
            CellError: the server fails.
            OSError: the cache cannot be written.
        """
        found = {name: text for name in (path, *beside) if (text := self._identity(name))}
        if path not in found:
            raise FileNotFoundError(self.where(path))
        num_bytes = {name: int(text.partition(" ")[0]) for name, text in found.items()}
        if sum(num_bytes.values()) > most_bytes:
            raise Unreadable(
                path,
                f"has {sum(num_bytes.values()) / 2**30:.1f} GiB and must be copied; more than "
                f"{most_bytes / 2**30:g} GiB are not ({self.where(path)})",
            )
        folder = cache_folder(f"files/{fingerprint([self.address, found])}")
        for name in found:
            place = folder / PurePosixPath(name).name
            if not place.exists():
                self._copy_once(name, place, num_bytes[name])
        return folder / PurePosixPath(path).name

    def _copy_once(self, path: str, place: Path, num_bytes: int) -> None:
        """Copy a file, so that ``place`` never holds a part of it."""
        with TemporaryDirectory(dir=place.parent) as folder:
            part = Path(folder, "part")
            if self.copy(path, part) != num_bytes:
                raise Unreadable(path, f"changed while it was copied ({self.where(path)})")
            part.replace(place)

    @contextmanager
    def open(self, path: str, *, driver: str = DRIVER) -> Iterator[Any]:
        """Open a raster with rasterio.

        Raises:
            Unreadable: it cannot be opened, or a read of it failed.
            CellError: the server fails.
        """
        import rasterio
        from rasterio.errors import RasterioError
        from rasterio.session import Session

        class Given(Session):  # type: ignore[misc]
            """Options with credentials, which ``rasterio.Env`` takes from a session alone."""

            def __init__(self, options: Mapping[str, Any]) -> None:
                self.options = options

            def get_credential_options(self) -> Mapping[str, Any]:
                return self.options

        place = gdal_path(self.address, path)
        try:
            with rasterio.Env(Given(self.options)), rasterio.open(place, driver=driver) as raster:
                yield raster
        except Unreadable:
            raise
        except (RasterioError, OSError) as error:
            raise self.explain(path, error) from None

    def explain(self, path: str, error: Exception) -> Unreadable:
        """Return the error to raise for one of rasterio: GDAL rarely has the server's reason.

        Raises:
            CellError: the server fails.
        """
        try:
            self._fetch(path, PROBE_BYTES)
        except FileNotFoundError:
            return Unreadable(path, f"{MISSING} ({self.where(path)})")
        except Unreadable as found:
            return found
        if NO_RASTER in str(error):
            return Unreadable(path, f"is no raster of this format, or damaged ({self.where(path)})")
        # Now the server answers well: GDAL gave up on a busy one, or the file is damaged.
        reason = re.sub(r"/vsi\w+/\S+", "the file", one_line(error.__cause__ or error))
        text = f"the transfer ended early, or the file is damaged: {reason} ({self.where(path)})"
        return CutOff(path, text)

    def retried(self, work: Callable[[], T]) -> T:
        """Return the result of work, repeated after a ``CutOff``."""
        return retry(work, what=f"reading from {self.address}", num_tries=NUM_READS)

    def asked(self, work: Callable[[], T]) -> T:
        """Return the answer to a request, repeated after a ``CutOff``.

        Raises:
            CellError: every try was cut off.
        """
        try:
            return self.retried(work)
        except CutOff as error:
            raise CellError(f"{error.problem.reason}; {LATER}") from None

    def _fetch(self, path: str, num_bytes: int, start: int = 0) -> bytes:
        def once() -> bytes:
            try:
                return within(
                    lambda: self.fetch(path, num_bytes, start), timeout_s=REQUEST_TIMEOUT_S
                )
            except TimeoutError:
                raise CutOff(path, f"the transfer takes too long ({self.where(path)})") from None

        return self.asked(once)

    def _identity(self, path: str) -> str:
        try:
            stat = self.asked(lambda: self.stat(path))
        except FileNotFoundError:
            return ""
        if not stat.tag:
            raise Unreadable(
                path,
                f"the server gives neither ETag nor Last-Modified, so a change would go unnoticed "
                f"({self.where(path)}); use another server, or copy the data into a folder",
            )
        return f"{stat.num_bytes} {stat.tag}"
