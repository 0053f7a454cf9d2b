"""The one door to the files of a data set of rasters, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from benchmark.catalog.roots.address import WEB, is_remote, scheme_of
from benchmark.specs import Problem

T = TypeVar("T")

DRIVER = "GTiff"
"""Format of scenes. Files of others, VRT first of all, may refer to other files or to URLs."""
MISSING = "file is missing, though the index lists it"


class Unreadable(OSError):
    """A file that cannot be used, and the reason in one line."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.problem = Problem(path, reason)

    def __reduce__(self) -> tuple[type[Unreadable], Problem]:
        return type(self), self.problem


class CutOff(Unreadable, ConnectionError):
    """A transfer that ended early or gave damaged bytes; a retry may help."""


class Root(Protocol):
    """A folder of files with relative paths (``/`` between the parts). It pickles.

    A remote root may raise CellError where its server fails: the run ends, and a later run goes on.
    """

    @property
    def address(self) -> str:
        """The path or URI, without secrets."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether the files are on another machine."""
        ...

    def check_answer(self) -> None:
        """Ask a server once, with little patience; what it answers is looked at later.

        Raises:
            UsageError: it does not answer within ten seconds.
        """
        ...

    def where(self, path: str) -> str:
        """Return the path or URI of a file, for messages."""
        ...

    def leads_out(self, path: str) -> bool:
        """Return whether a relative path leads out of the root."""
        ...

    def list(self, pattern: str) -> Sequence[str]:
        """Return the paths of the files that match a glob, sorted; ``**`` is any folders.

        Raises:
            UsageError: the root cannot be listed (http).
        """
        ...

    def has(self, path: str) -> bool:
        """Return whether there is such a file that may be read."""
        ...

    def read_bytes(self, path: str, *, most_bytes: int) -> bytes:
        """Return the content of a small file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no regular file, or larger than ``most_bytes``.
            OSError: it cannot be read.
        """
        ...

    def read_text(self, path: str, *, most_bytes: int) -> str:
        """Return the text of a small file; raises ValueError also if it is not UTF-8."""
        ...

    def identify(self, paths: Iterable[str]) -> Mapping[str, str]:
        """Return the identity of each file's content; missing files are left out.

        Local: a digest of the content. Remote: size and ETag, or size and time of modification.

        Raises:
            UsageError: the server fails, denies access, or gives neither ETag nor time.
            OSError: a local file cannot be read.
        """
        ...

    def open_bytes(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open a file to be read at any place; of a remote one, only the ranges read are sent.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be read.
        """
        ...

    def copy(self, path: str, place: Path) -> int:
        """Copy a whole file into one of this machine and return its bytes.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be read or written.
        """
        ...

    def whole(self, path: str, beside: Sequence[str] = (), *, most_bytes: int) -> Path:
        """Return a file on this machine: itself, or a copy in the cache, made once.

        Args:
            path: of the file.
            beside: files of the same folder that it may need, as far as they exist.
            most_bytes: limit of what is copied.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be copied.
        """
        ...

    def open(self, path: str, *, driver: str = DRIVER) -> AbstractContextManager[Any]:
        """Open a raster of this format of GDAL; errors of its reads become ``Unreadable``."""
        ...

    def explain(self, path: str, error: Exception) -> Unreadable:
        """Return the error to raise for one of rasterio."""
        ...

    def retried(self, work: Callable[[], T]) -> T:
        """Return the result of work that opens and reads a raster, repeated after a ``CutOff``."""
        ...


def open_root(address: str) -> Root:
    """Open a root that ``address.check_root`` has passed; nothing is read yet.

    Raises:
        UsageError: a setting of the URI or of the environment is wrong.
    """
    if not is_remote(address):
        from benchmark.catalog.roots.local import LocalRoot

        return LocalRoot(address)
    if scheme_of(address) in WEB:
        from benchmark.catalog.roots.web import open_web_root

        return open_web_root(address)
    from benchmark.catalog.roots.bucket import open_bucket_root

    return open_bucket_root(address)
