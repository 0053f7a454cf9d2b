"""What all remote roots share: opening rasters, retries, and the identity of files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from benchmark.catalog.roots.gdal import gdal_path
from benchmark.catalog.roots.root import DRIVER, CutOff, Unreadable, is_outside
from benchmark.errors import CellError, UsageError, one_line
from benchmark.store.deadlines import within
from benchmark.store.retries import retry

T = TypeVar("T")

NUM_AT_ONCE = 16
"""Requests at once for the identity of files."""
NUM_READS = 3
"""Reads of a window whose transfer ended early."""
PROBE_BYTES = 65_536
TEXT_TIMEOUT_S = 300.0
NO_RASTER = "not recognized as being in a supported file format"


class Stat(NamedTuple):
    """What a server says of a file; ``tag`` is its ETag or time of modification, or empty."""

    num_bytes: int
    tag: str


@dataclass(frozen=True, kw_only=True)
class RemoteRoot:
    """A root on another machine; pickles with the credentials, which its text leaves out."""

    address: str
    options: Mapping[str, Any] = field(repr=False)
    """Of GDAL."""
    is_remote: bool = True

    # --- what each protocol does in its own way ---

    def stat(self, path: str) -> Stat | None:
        """Return size and tag of a file; None: there is none. Raises OSError or CellError."""
        raise NotImplementedError

    def fetch(self, path: str, *, most_bytes: int) -> bytes:
        """Return the first bytes of a file, at most ``most_bytes``."""
        raise NotImplementedError

    def probe(self, path: str) -> None:
        """Read some bytes of a file as GDAL would.

        Raises:
            Unreadable: the file is missing, denied, or cannot be read in ranges.
            CellError: the server fails or does not answer.
        """
        raise NotImplementedError

    def where(self, path: str) -> str:
        """Return the address of a file for messages."""
        raise NotImplementedError

    # --- what is the same for all ---

    def leads_out(self, path: str) -> bool:
        """Return whether a relative path leads out of the root."""
        return is_outside(path)

    def has(self, path: str) -> bool:
        """Return whether there is such a file; raises UsageError if the server fails."""
        return self._asked(path) is not None

    def read_text(self, path: str, *, most_bytes: int) -> str:
        """Return the text of a small file (see ``Root``)."""
        data = within(
            lambda: self.fetch(path, most_bytes=most_bytes + 1), timeout_s=TEXT_TIMEOUT_S
        )
        if len(data) > most_bytes:
            raise ValueError(f"it is larger than {most_bytes / 2**20:g} MiB")
        return data.decode()

    def identify(self, paths: Iterable[str]) -> Mapping[str, str]:
        """Return size and tag of each file, as one text; missing files are left out.

        Raises:
            UsageError: the server fails, or gives neither ETag nor time of modification.
        """
        names = list(paths)
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            try:
                found = dict(zip(names, pool.map(self._asked, names), strict=True))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for name, stat in found.items():
            if stat is not None and not stat.tag:
                raise UsageError(
                    f"{self.where(name)}: the server gives neither ETag nor Last-Modified, so a "
                    "change of the file would go unnoticed; use another server, or copy the data "
                    "into a folder"
                )
        return {name: f"{stat.num_bytes} {stat.tag}" for name, stat in found.items() if stat}

    @contextmanager
    def open(self, path: str) -> Iterator[Any]:
        """Open a GeoTIFF with rasterio.

        Raises:
            Unreadable: it cannot be opened, or a read of it failed.
            CellError: the server fails.
        """
        import rasterio
        from rasterio.errors import RasterioError
        from rasterio.session import Session

        class Given(Session):
            """Options with credentials, which ``rasterio.Env`` takes from a session alone."""

            def __init__(self, options: Mapping[str, Any]) -> None:
                self.options = options

            def get_credential_options(self) -> Mapping[str, Any]:
                return self.options

        place = gdal_path(self.address, path)
        try:
            with rasterio.Env(Given(self.options)), rasterio.open(place, driver=DRIVER) as raster:
                yield raster
        except Unreadable:
            raise
        except (RasterioError, OSError) as error:
            raise self.explain(path, error) from None

    def explain(self, path: str, error: Exception) -> Exception:
        """Return the error to raise for one of rasterio: GDAL rarely has the server's reason."""
        try:
            self.probe(path)
        except (Unreadable, CellError) as found:
            return found
        if NO_RASTER in str(error):
            return Unreadable(path, f"is no GeoTIFF, or damaged ({self.where(path)})")
        # Now the server answers well: GDAL gave up on a busy one, or the file is damaged.
        reason = re.sub(r"/vsi\w+/\S+", self.where(path), one_line(error.__cause__ or error))
        return CutOff(
            path, f"the transfer ended early, or the file is damaged ({self.where(path)}: {reason})"
        )

    def retried(self, work: Callable[[], T]) -> T:
        """Return the result of work that reads a raster, repeated after a ``CutOff``."""
        return retry(work, what=f"reading from {self.address}", num_tries=NUM_READS)

    def _asked(self, path: str) -> Stat | None:
        try:
            return self.stat(path)
        except (OSError, CellError) as error:
            text = str(error)
            raise UsageError(text if isinstance(error, CellError) else one_line(error)) from None
