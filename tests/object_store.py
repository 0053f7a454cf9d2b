"""A real S3 server on this machine, and an HTTP proxy before it that does what networks do."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

BUCKET = "bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDTESTING", "AWS_SECRET_ACCESS_KEY": "s3cr3t-of-the-tests"}

SLOW_DOWN = (503, "SlowDown", "Please reduce your request rate.")
DENIED = (403, "AccessDenied", "Access Denied")
EXPIRED = (400, "ExpiredToken", "The provided token has expired.")


class Seen(NamedTuple):
    """A request that went through, and how it was answered; 0: the connection was cut."""

    method: str
    path: str
    status: int
    num_bytes: int = 0
    """Of the body that was sent."""


@dataclass
class Faults:
    """What goes wrong between a client and the server; may be changed at any time."""

    slow_down_every: int = 0
    """Every n-th request is answered 503."""
    delay_s: float = 0.0
    """Before each answer to a GET."""
    cut_every: int = 0
    """Every n-th body of more than 1000 bytes ends in its middle, with the connection."""
    refuse: Callable[[str, str], tuple[int, str, str] | None] = lambda method, path: None
    """Status, code and message of the error that answers a method and path."""
    hold: Callable[[str, str, int], bool] = lambda method, path, port: True
    """Waits as long as it likes before a method and path from a client's port go on; where it
    returns False they never do."""
    seen: list[Seen] = field(default_factory=list)
    _num_requests: int = 0
    _num_bodies: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Let everything through, and forget what was seen."""
        self.slow_down_every = self.cut_every = 0
        self.delay_s = 0.0
        self.refuse = lambda method, path: None
        self.hold = lambda method, path, port: True
        self.seen.clear()

    def error(self, method: str, path: str) -> tuple[int, str, str] | None:
        """Return the error that answers this request."""
        with self._lock:
            self._num_requests += 1
            number = self._num_requests
        if self.slow_down_every and number % self.slow_down_every == 0:
            return SLOW_DOWN
        return self.refuse(method, path)

    def cuts(self, num_bytes: int) -> bool:
        """Return whether a body of this size is cut."""
        if not self.cut_every or num_bytes <= 1000:
            return False
        with self._lock:
            self._num_bodies += 1
            return self._num_bodies % self.cut_every == 0

    def count(self, status: int, method: str | None = None) -> int:
        """Return how many requests were answered so."""
        return sum(item.status == status and method in (None, item.method) for item in self.seen)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def _forward(self) -> None:
        faults = self.server.faults
        body = self._body()
        if not faults.hold(self.command, self.path, self.client_address[1]):
            self.close_connection = True
            return
        error = faults.error(self.command, self.path)
        if error is not None:
            status, code, message = error
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            self._answer(status, {"Content-Type": "application/xml"}, text.encode())
            return
        upstream = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        try:
            dropped = {"transfer-encoding", "content-length", "connection", "expect"}
            kept = {key: value for key, value in self.headers.items() if key.lower() not in dropped}
            upstream.request(self.command, self.path, body, kept)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if self.command == "GET":
            time.sleep(faults.delay_s)
        dropped = {"connection", "transfer-encoding", "server", "date"}
        kept = {key: value for key, value in answer.getheaders() if key.lower() not in dropped}
        self._answer(answer.status, kept, content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        is_cut = self.command == "GET" and self.server.faults.cuts(len(content))
        num_bytes = 0 if self.command == "HEAD" else len(content)
        status_seen = 0 if is_cut else status
        self.server.faults.seen.append(Seen(self.command, self.path, status_seen, num_bytes))
        self.send_response(status)
        lengths = {} if self.command == "HEAD" and status < 300 else {"Content-Length": 0}
        for key, value in headers.items():
            if lengths and key.lower() == "content-length":
                continue
            self.send_header(key, value)
        if lengths:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
        if is_cut:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    upstream: tuple[str, int]
    faults: Faults

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class ObjectStore(NamedTuple):
    """An S3 server with one bucket; ``faults`` says what its proxy does."""

    direct: str
    """``http://host:port`` of the server itself."""
    endpoint: str
    """``http://host:port`` of the proxy."""
    faults: Faults

    def uri(self, prefix: str, *, is_direct: bool = False) -> str:
        """Return the URI of a store below a prefix."""
        scheme, _, host = (self.direct if is_direct else self.endpoint).partition("://")
        return f"s3://{BUCKET}/{prefix}?endpoint_override={host}&scheme={scheme}"

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy a folder below a prefix, past the proxy; return its URI."""
        import pyarrow.fs as pafs

        keys = ":".join(KEYS.values())
        uri = self.uri("", is_direct=True).replace("s3://", f"s3://{keys}@")
        fs, _ = pafs.FileSystem.from_uri(uri)
        pafs.copy_files(str(folder), f"{BUCKET}/{prefix}", destination_filesystem=fs)
        return self.uri(prefix)


@contextmanager
def serve_objects() -> Iterator[ObjectStore]:
    """Run the server and its proxy in threads of this process."""
    import logging

    import pyarrow.fs as pafs
    from moto.server import create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # Only S3: moto's server of all services looks for the service of each request among its files.
    server = make_server("127.0.0.1", 0, create_backend_app("s3"), threaded=True)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, port = server.server_address[:2]
    proxy = _Proxy(("127.0.0.1", 0), _Handler)
    proxy.upstream, proxy.faults = (host, port), Faults()
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    pafs.S3FileSystem(
        endpoint_override=f"{host}:{port}",
        scheme="http",
        region="us-east-1",
        access_key=KEYS["AWS_ACCESS_KEY_ID"],
        secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        allow_bucket_creation=True,
    ).create_dir(BUCKET)
    try:
        yield ObjectStore(
            f"http://{host}:{port}", f"http://127.0.0.1:{proxy.server_address[1]}", proxy.faults
        )
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.shutdown()
        server.server_close()
