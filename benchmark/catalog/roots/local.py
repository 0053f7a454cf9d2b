"""A root that is a folder of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shutil import copyfile
from typing import Any, BinaryIO, TypeVar

from benchmark.catalog.roots.gdal import LOCAL
from benchmark.catalog.roots.root import DRIVER, MISSING, Unreadable
from benchmark.errors import one_line
from benchmark.regular import follow_links, read_regular

T = TypeVar("T")


@dataclass(frozen=True)
class LocalRoot:
    """A folder as a ``root.Root``."""

    address: str
    is_remote: bool = False

    def check_answer(self) -> None:
        """Do nothing: a disk answers."""

    def where(self, path: str) -> str:
        """Return the path of a file."""
        return str(self._place(path))

    def leads_out(self, path: str) -> bool:
        """Return whether a path is outside the folder, directly or through a link.

        Raises:
            OSError: its links form a loop.
        """
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            return True
        return not follow_links(self._place(path)).is_relative_to(Path(self.address).resolve())

    def list(self, pattern: str) -> Sequence[str]:
        """Return the paths of the files that match a glob, sorted; ``**`` is any folders."""
        base = Path(self.address)
        found = (path for path in base.glob(pattern) if path.is_file())
        return sorted(path.relative_to(base).as_posix() for path in found)

    def has(self, path: str) -> bool:
        """Return whether there is such a file."""
        return self._place(path).is_file()

    def read_bytes(self, path: str, *, most_bytes: int) -> bytes:
        """Return the content of a small file (see ``Root``)."""
        return read_regular(self._place(path), most_bytes=most_bytes)

    def read_text(self, path: str, *, most_bytes: int) -> str:
        """Return the text of a small file (see ``Root``)."""
        return self.read_bytes(path, most_bytes=most_bytes).decode()

    def whole(self, path: str, beside: Sequence[str] = (), *, most_bytes: int) -> Path:
        """Return the file itself (see ``Root``)."""
        del beside, most_bytes
        if not self.has(path):
            raise FileNotFoundError(self.where(path))
        return self._place(path)

    def identify(self, paths: Iterable[str]) -> Mapping[str, str]:
        """Return the digest of each file's content (``digest_files``); missing ones are left out.

        Raises:
            OSError: a file cannot be read.
        """
        from benchmark.store.digest import digest_files

        places = {path: self._place(path) for path in paths}
        digests = digest_files(place for place in places.values() if place.is_file())
        return {path: digests[place] for path, place in places.items() if place in digests}

    def open_bytes(self, path: str) -> BinaryIO:
        """Open a file to be read at any place (see ``Root``)."""
        return self._place(path).open("rb")

    @contextmanager
    def open(self, path: str, *, driver: str = DRIVER) -> Iterator[Any]:
        """Open a raster with rasterio.

        Raises:
            Unreadable: it cannot be opened, or a read of it failed.
        """
        import rasterio
        from rasterio.errors import RasterioError

        try:
            with rasterio.Env(**LOCAL), rasterio.open(self._place(path), driver=driver) as raster:
                yield raster
        except Unreadable:
            raise
        except (RasterioError, OSError) as error:
            raise self.explain(path, error) from None

    def copy(self, path: str, place: Path) -> int:
        """Copy a file and return its bytes; raises OSError."""
        return copyfile(self._place(path), place).stat().st_size

    def explain(self, path: str, error: Exception) -> Unreadable:
        """Return the error to raise for one of rasterio."""
        if not self._place(path).is_file():
            return Unreadable(path, MISSING)
        # rasterio's text is often only "Read failed"; the cause has GDAL's reason.
        return Unreadable(path, f"cannot be read: {one_line(error.__cause__ or error)}")

    def retried(self, work: Callable[[], T]) -> T:
        """Return the result of work; a disk is not asked twice."""
        return work()

    def _place(self, path: str) -> Path:
        return Path(self.address, path)
