"""An HTTP server on this machine with byte ranges, which counts its answers and fails as asked."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

BLOCK = 16_384
STALL_S = 60.0
"""A body that stalls goes on after this time; clients give up before."""


class Request(NamedTuple):
    """A request, how it was answered, and the bytes of the body that were sent."""

    method: str
    path: str
    status: int
    num_bytes: int
    range: str = ""


@dataclass
class Faults:
    """What the server does wrong; may be changed at any time."""

    status: Callable[[str, str], int] = lambda method, path: 0
    """Status of the error that answers a method and path; 0: none."""
    stop: Callable[[str], Literal["", "close", "stall"]] = lambda path: ""
    """How the body of a GET ends in its middle: with the connection, or in silence."""
    ignores_ranges: bool = False
    size: Callable[[str, int], int] = lambda path, size: size
    """Bytes of a file that is served short."""
    has_tags: bool = True
    """Whether answers carry ETag and Last-Modified."""


@dataclass
class Server:
    """A folder at ``url``."""

    url: str
    folder: Path
    faults: Faults = field(default_factory=Faults)
    requests: list[Request] = field(default_factory=list)
    key: str = ""
    """Header ``Authorization`` that every request must have; empty: none."""

    most_at_once: int = 0
    """Largest number of requests that were answered at once."""

    def num_bytes(self, ending: str = "") -> int:
        """Bytes of the bodies sent so far, of paths with this ending."""
        return sum(item.num_bytes for item in self.requests if item.path.endswith(ending))

    def reset(self) -> None:
        """Forget the requests and the faults."""
        self.faults, self.key, self.most_at_once = Faults(), "", 0
        self.requests.clear()


@lru_cache(maxsize=256)
def _md5(file: Path, changed_ns: int) -> str:
    del changed_ns
    return hashlib.md5(file.read_bytes()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Http

    def _answer(self) -> None:
        owner = self.server.owner
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if owner.key and self.headers.get("Authorization", "") != owner.key:
            self._send(path, 401, b"", "")
            return
        file, given = owner.folder / path, self.headers.get("Range", "")
        status = owner.faults.status(self.command, path) or (0 if file.is_file() else 404)
        if status:
            self._send(path, status, b"", given)
            return
        content = file.read_bytes()
        content = content[: owner.faults.size(path, len(content))]
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", given)
        if found is None or owner.faults.ignores_ranges:
            self._send(path, 200, content, given, file=file)
            return
        first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
        if first >= len(content):
            self._send(path, 416, b"", given)
            return
        span = f"bytes {first}-{last}/{len(content)}"
        self._send(path, 206, content[first : last + 1], given, file=file, span=span)

    def _count(self) -> None:
        http = self.server
        with http.lock:
            http.num_open += 1
            http.owner.most_at_once = max(http.owner.most_at_once, http.num_open)
        try:
            self._answer()
        finally:
            with http.lock:
                http.num_open -= 1

    do_GET = do_HEAD = _count

    def _send(
        self, path: str, status: int, body: bytes, given: str, *, file: Path | None = None,
        span: str = "",
    ) -> None:  # fmt: skip
        owner = self.server.owner
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if file is not None and owner.faults.has_tags:
            etag = _md5(file, file.stat().st_mtime_ns)
            self.send_header("ETag", f'"{etag}"')
            self.send_header("Last-Modified", formatdate(file.stat().st_mtime, usegmt=True))
        if not owner.faults.ignores_ranges:
            self.send_header("Accept-Ranges", "bytes")
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        sent = self._send_body(path, body) if self.command == "GET" else 0
        owner.requests.append(Request(self.command, path, status, sent, given))

    def _send_body(self, path: str, body: bytes) -> int:
        how = self.server.owner.faults.stop(path) if body else ""
        body = body[: len(body) // 2] if how else body
        sent = 0
        try:
            for start in range(0, len(body), BLOCK):
                sent += self.wfile.write(body[start : start + BLOCK])
        except OSError:
            # The client has what it wants.
            how = "close"
        if how == "stall":
            self.server.stopping.wait(STALL_S)
        if how:
            self.close_connection = True
        return sent

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    owner: Server
    stopping: threading.Event
    lock: threading.Lock
    num_open: int = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve a folder in threads of this process."""
    http = _Http(("127.0.0.1", 0), _Handler)
    http.stopping, http.lock = threading.Event(), threading.Lock()
    http.owner = Server(f"http://127.0.0.1:{http.server_address[1]}", folder)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield http.owner
    finally:
        http.stopping.set()
        http.shutdown()
        http.server_close()
        thread.join()


def first_times(number: int, status: int) -> Callable[[str, str], int]:
    """Return faults of a server that answers so many GETs with a status, and then well."""
    left = [number]
    lock = threading.Lock()

    def answer(method: str, path: str) -> int:
        del path
        with lock:
            left[0] -= method == "GET"
            return status if method == "GET" and left[0] >= 0 else 0

    return answer
