"""A root on a web server: its files are known from an index, and read in ranges."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from benchmark.catalog.roots.gdal import (
    CONNECT_TIMEOUT_S,
    NUM_RETRIES,
    SILENCE_S,
    options_of,
    url_of,
)
from benchmark.catalog.roots.remote import NUM_AT_ONCE, PROBE_BYTES, RemoteRoot, Stat
from benchmark.catalog.roots.root import MISSING, Unreadable
from benchmark.environment import RETRY_WAIT, read_seconds
from benchmark.errors import CellError, UsageError

BUSY = (429, 500, 502, 503, 504)
GONE = (404, 410)
DENIED = (401, 403)
NO_HEAD = (405, 501)
LATER = "check the address and the network, and run again: what was read is kept"
LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class WebRoot(RemoteRoot):
    """A folder of a web server as a ``root.Root``."""

    def list(self, pattern: str) -> Sequence[str]:
        """Refuse: HTTP has no listing."""
        raise UsageError(
            f"[dataset] root = '{self.address}': a web server cannot be listed for '{pattern}'; "
            "name the files in an index or a table"
        )

    def stat(self, path: str) -> Stat | None:
        """Return size and ETag (else Last-Modified) of a file; None: there is none."""
        answer = self._ask("HEAD", path)
        if answer.status in NO_HEAD:
            answer = self._ask("GET", path, 1)
        if answer.status in GONE:
            return None
        self._check(path, answer.status)
        headers = answer.headers
        whole = headers.get("Content-Range", "").rpartition("/")[2] or headers["Content-Length"]
        return Stat(int(whole or 0), headers.get("ETag") or headers.get("Last-Modified") or "")

    def fetch(self, path: str, *, most_bytes: int) -> bytes:
        """Return the first bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
            Unreadable: access is denied.
            CellError: the server fails.
        """
        answer = self._ask("GET", path, most_bytes)
        if answer.status in GONE:
            raise FileNotFoundError(self.where(path))
        self._check(path, answer.status)
        return bytes(answer.data[:most_bytes])

    def probe(self, path: str) -> None:
        """Read the first bytes of a file as a range (see ``RemoteRoot``)."""
        answer = self._ask("GET", path, PROBE_BYTES, is_whole=False)
        if answer.status in GONE:
            raise Unreadable(path, f"{MISSING} ({self.where(path)})")
        self._check(path, answer.status)
        if answer.status == 200:
            raise Unreadable(
                path,
                f"the server ignores byte ranges ({self.where(path)}): use one that supports them, "
                "or copy the data into a folder",
            )

    def where(self, path: str) -> str:
        """Return the URL of a file."""
        return url_of(self.address, path)

    def _check(self, path: str, status: int) -> None:
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

    def _ask(self, method: str, path: str, num_bytes: int = 0, *, is_whole: bool = True) -> Any:
        """Send a request, for the first bytes of a file if ``num_bytes`` is given.

        Args:
            method: of HTTP.
            path: of the file.
            num_bytes: length of the range.
            is_whole: also read the body of a server that ignores the range.
        """
        from urllib3.exceptions import HTTPError, MaxRetryError

        headers = dict(_credentials(self.options))
        if num_bytes:
            headers["Range"] = f"bytes=0-{num_bytes - 1}"
        try:
            answer = _pool().request(
                method, self.where(path), headers=headers, preload_content=False
            )
            with answer:
                if method == "GET" and (answer.status == 206 or is_whole):
                    # A whole file may be larger than what is asked for.
                    answer._body = answer.read(num_bytes or None)
            return answer
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) else error
            raise CellError(
                f"{self.where(path)}: no answer ({type(cause).__name__}); {LATER}"
            ) from None


def open_web_root(address: str) -> WebRoot:
    """Return a root of a web server, with the options of this environment."""
    return WebRoot(address=address, options=options_of(address))


@lru_cache(maxsize=1)
def _pool() -> Any:
    """Return the connections of this process, which are kept open between requests."""
    import urllib3

    # A server's own wish for a wait (Retry-After) may be hours.
    retries = urllib3.Retry(
        total=NUM_RETRIES,
        backoff_factor=read_seconds(RETRY_WAIT),
        backoff_max=LONGEST_WAIT_S,
        status_forcelist=BUSY,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    timeout = urllib3.Timeout(
        connect=float(os.environ.get("GDAL_HTTP_CONNECTTIMEOUT", CONNECT_TIMEOUT_S)),
        read=float(os.environ.get("GDAL_HTTP_LOW_SPEED_TIME", SILENCE_S)),
    )
    return urllib3.PoolManager(maxsize=NUM_AT_ONCE, block=True, retries=retries, timeout=timeout)


def _credentials(options: Any) -> dict[str, str]:
    """Return the headers with the credentials that GDAL's own variables hold."""
    import urllib3

    if "GDAL_HTTP_BEARER" in options:
        return {"Authorization": f"Bearer {options['GDAL_HTTP_BEARER']}"}
    if "GDAL_HTTP_USERPWD" in options:
        return urllib3.make_headers(basic_auth=options["GDAL_HTTP_USERPWD"])
    return {}
