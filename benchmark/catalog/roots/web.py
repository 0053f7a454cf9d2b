"""A root on a web server: its files are known from an index, and read in ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark.catalog.roots.address import WEB
from benchmark.catalog.roots.gdal import (
    CONNECT_TIMEOUT_S,
    NUM_RETRIES,
    SILENCE_S,
    options_of,
    url_of,
)
from benchmark.catalog.roots.remote import LATER, NO_ANSWER, NUM_AT_ONCE, RemoteRoot, Stat
from benchmark.catalog.roots.root import CutOff, Unreadable
from benchmark.environment import RETRY_WAIT, read_seconds
from benchmark.errors import CellError, UsageError
from benchmark.store.deadlines import within
from benchmark.store.filesystems import ANSWER_TIMEOUT_S

BUSY = (429, 500, 502, 503, 504)
GONE = (404, 410)
DENIED = (401, 403)
NO_HEAD = (405, 501)
LONGEST_WAIT_S = 30.0
CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class WebRoot(RemoteRoot):
    """A folder of a web server as a ``root.Root``."""

    def list(self, pattern: str) -> Sequence[str]:
        """Refuse: HTTP has no listing.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"[dataset] root = '{self.address}': a web server cannot be listed for '{pattern}'; "
            "name the files in an index or a table"
        )

    def stat(self, path: str) -> Stat:
        """Return size and ETag, or size and Last-Modified, of a file (see ``RemoteRoot``)."""
        with self._ask("HEAD", path) as answer:
            if answer.status_code not in NO_HEAD:
                self._check(path, answer.status_code)
                return _stat_of(answer.headers)
        with self._ask("GET", path, num_bytes=1) as answer:
            self._check(path, answer.status_code)
            return _stat_of(answer.headers)

    def fetch(self, path: str, num_bytes: int, start: int = 0) -> bytes:
        """Return bytes of a file (see ``RemoteRoot``)."""
        with self._ask("GET", path, num_bytes=num_bytes, start=start) as answer:
            if answer.status_code == 416:
                return b""  # Of an empty file there is no range.
            self._check(path, answer.status_code)
            num_sent = int(answer.headers.get("Content-Length") or 0)
            if answer.status_code == 200 and (start or num_sent > num_bytes):
                raise Unreadable(
                    path,
                    f"the server ignores byte ranges ({self.where(path)}): use one that supports "
                    "them, or copy the data into a folder",
                )
            return _first_bytes(answer, num_bytes)

    def download(self, path: str, place: Path) -> int:
        """Copy a whole file once and return its bytes (see ``RemoteRoot``)."""
        with self._ask("GET", path) as answer, place.open("wb") as file:
            self._check(path, answer.status_code)
            return sum(map(file.write, answer.iter_content(CHUNK_BYTES)))

    def check_answer(self) -> None:
        """Ask the server once, with little patience; what it answers is looked at later.

        Raises:
            UsageError: it does not answer.
        """
        import requests

        where = f"[dataset] root = '{self.address}'"

        def ask() -> None:
            headers = _credentials(self.options)
            requests.head(self.address, headers=headers, timeout=ANSWER_TIMEOUT_S)

        try:
            within(ask, timeout_s=ANSWER_TIMEOUT_S)
        except (TimeoutError, requests.Timeout):
            raise UsageError(f"{where}: {NO_ANSWER}") from None
        except requests.RequestException as error:
            reason = _reason(error)
            raise UsageError(
                f"{where}: no answer ({reason}); check the address and the network"
            ) from None

    def where(self, path: str) -> str:
        """Return the URL of a file."""
        return url_of(self.address, path)

    def _check(self, path: str, status: int) -> None:
        if status in GONE:
            raise FileNotFoundError(self.where(path))
        if status in DENIED:
            raise Unreadable(
                path,
                f"access denied (HTTP {status}, {self.where(path)}): check the credentials and "
                "their rights (docs/REMOTE.md)",
            )
        if status in BUSY:
            raise CellError(
                f"{self.where(path)}: the server fails (HTTP {status}) after {1 + NUM_RETRIES} "
                f"tries; {LATER}"
            )
        if status not in (200, 206):
            raise Unreadable(path, f"HTTP status {status} ({self.where(path)})")

    @contextmanager
    def _ask(self, method: str, path: str, *, num_bytes: int = 0, start: int = 0) -> Iterator[Any]:
        """Send a request and yield its answer, whose body is not yet read.

        Args:
            method: of HTTP.
            path: of the file.
            num_bytes: length of the range; 0: the whole file.
            start: first byte of the range.

        Raises:
            CutOff: the body ended early.
            CellError: there is no answer.
        """
        from requests.exceptions import ChunkedEncodingError, ReadTimeout, RequestException

        # Compressed bodies have no ranges.
        headers = {"Accept-Encoding": "identity", **_credentials(self.options)}
        if num_bytes:
            headers["Range"] = f"bytes={start}-{start + num_bytes - 1}"
        session, place = _session(), self.where(path)
        times = (CONNECT_TIMEOUT_S, SILENCE_S)
        try:
            with session.request(
                method, place, headers=headers, timeout=times, stream=True, allow_redirects=True
            ) as answer:
                yield answer
        except (ChunkedEncodingError, ReadTimeout):
            raise CutOff(path, f"the transfer ended early ({place})") from None
        except RequestException as error:
            if "Read timed out" in str(error):  # In a body it is a ConnectionError.
                raise CutOff(path, f"the transfer stopped ({place})") from None
            raise CellError(f"{place}: no answer ({_reason(error)}); {LATER}") from None


def open_web_root(address: str) -> WebRoot:
    """Return a root of a web server, with the options of this environment."""
    return WebRoot(address=address, options=options_of(address))


def _first_bytes(answer: Any, num_bytes: int) -> bytes:
    found = b""
    for chunk in answer.iter_content(CHUNK_BYTES):
        found += chunk
        if len(found) >= num_bytes:
            break
    return found[:num_bytes]


def _stat_of(headers: Any) -> Stat:
    whole = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length")
    return Stat(int(whole or 0), headers.get("ETag") or headers.get("Last-Modified") or "")


@lru_cache(maxsize=1)
def _session() -> Any:
    """Return the connections of this process, which are kept open between requests.

    Proxies, certificates and ``~/.netrc`` are found as GDAL finds them.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    # A server's own wish for a wait (Retry-After) may be hours.
    retries = Retry(
        total=NUM_RETRIES,
        backoff_factor=read_seconds(RETRY_WAIT),
        backoff_max=LONGEST_WAIT_S,
        status_forcelist=BUSY,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    adapter = HTTPAdapter(pool_maxsize=NUM_AT_ONCE, pool_block=True, max_retries=retries)
    session = requests.Session()
    for scheme in WEB:
        session.mount(f"{scheme}://", adapter)
    return session


def _credentials(options: Any) -> dict[str, str]:
    """Return the headers with the credentials that GDAL's own variables hold."""
    from urllib3 import make_headers

    if "GDAL_HTTP_BEARER" in options:
        return {"Authorization": f"Bearer {options['GDAL_HTTP_BEARER']}"}
    if "GDAL_HTTP_USERPWD" in options:
        return make_headers(basic_auth=options["GDAL_HTTP_USERPWD"])
    return {}


def _reason(error: Exception) -> str:
    """Return the name of the innermost cause, e.g. ``NameResolutionError``."""
    inner = error.args[0] if error.args else error
    return type(getattr(inner, "reason", None) or inner).__name__
