"""Open the Arrow file system of a store's URI.

Arrow handles local paths, ``s3://``, ``gs://`` and some more; fsspec handles other schemes if their
package is installed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from benchmark.errors import UsageError, did_you_mean
from benchmark.store.credentials import refuse_credentials

S3_SETTINGS = ("endpoint_override", "region", "scheme")
"""Settings in the query of an ``s3://`` URI, named as in Arrow's own URIs."""

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 60.0
"""A transfer without data for so long is restarted; Arrow's default of 3 s is too short."""
SMALL_BYTES = 4 * 2**20
"""Smaller files are sent in one request; Arrow does that below 5 MB."""
NUM_ATTEMPTS = 4
"""Attempts of each single request, by Arrow's S3 client."""


class Opened(NamedTuple):
    """A file system, the store's folder in it, and the S3 settings (secrets included)."""

    fs: pafs.FileSystem
    root: str
    small_fs: pafs.FileSystem
    """For writing less than SMALL_BYTES: on S3 in one request; elsewhere the same as ``fs``."""
    connection: dict[str, str] | None = None


def open_filesystem(uri: str, connection: Mapping[str, str] | None = None) -> Opened:
    """Open the file system of a URI or path.

    Args:
        uri: of the store.
        connection: of ``s3://``, from another process; None reads the URI and this environment.

    Raises:
        UsageError: the scheme or a setting is unknown, or the URI contains secrets.
    """
    if "://" not in uri:
        local = pafs.LocalFileSystem()
        return Opened(local, str(Path(uri).absolute()), local)
    refuse_credentials(uri)
    try:
        parts = urlsplit(uri)
        if parts.scheme == "s3":
            root = f"{parts.netloc}{parts.path}".rstrip("/")
            found = dict(connection or _s3_connection(uri))
            return Opened(
                _open_s3(found, is_small=False), root, _open_s3(found, is_small=True), found
            )
        try:
            fs, root = pafs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid as error:
            fs, root = _open_fsspec(uri, error)
        return Opened(fs, root, fs)
    except (pa.ArrowInvalid, ImportError, OSError, ValueError) as error:
        raise UsageError(f"store '{uri}': {error}") from None


def has_folders(fs: pafs.FileSystem) -> bool:
    """Return whether a folder must exist before a file can be written into it."""
    return fs.type_name not in ("abfs", "gcs", "s3")


def join(uri: str, path: str) -> str:
    """Return the URI of a path below a store; a query stays at the end."""
    base, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{base.rstrip('/')}/{path}{mark}{query}"


def _s3_connection(uri: str) -> dict[str, str]:
    """Return the S3 settings: those of the URI override those of the environment."""
    parts = urlsplit(uri)
    given = dict(parse_qsl(parts.query))
    for name in given:
        if name not in S3_SETTINGS:
            raise UsageError(
                f"store '{uri}': unknown setting '{name}'.{did_you_mean(name, S3_SETTINGS)}"
            )
    environment = {
        "endpoint_override": _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "region": _first("AWS_REGION", "AWS_DEFAULT_REGION"),
        "access_key": _first("AWS_ACCESS_KEY_ID"),
        "secret_key": _first("AWS_SECRET_ACCESS_KEY"),
        "session_token": _first("AWS_SESSION_TOKEN"),
    }
    found = {key: value for key, value in {**environment, **given}.items() if value}
    if "@" in found.get("endpoint_override", ""):
        # Arrow would write it into its error messages.
        raise UsageError(
            "AWS_ENDPOINT_URL holds a password, which errors and logs would show; set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    scheme, mark, host = found.get("endpoint_override", "").rpartition("://")
    if mark:
        found["endpoint_override"] = host.rstrip("/")
        found.setdefault("scheme", scheme)
    if "region" not in found:
        has_endpoint = "endpoint_override" in found
        found["region"] = "us-east-1" if has_endpoint else pafs.resolve_s3_region(parts.netloc)
    return found


def _first(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _open_s3(connection: Mapping[str, str], *, is_small: bool) -> pafs.FileSystem:
    # If an upload of several parts fails, Arrow can replace the object by a part of it: with
    # background_writes=False it completes the upload, and with allow_delayed_open it writes an
    # empty object. For a single request the latter is safe, and saves two requests.
    return pafs.S3FileSystem(
        **connection,
        background_writes=True,
        allow_delayed_open=is_small,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=SILENCE_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=NUM_ATTEMPTS),
    )


def _open_fsspec(uri: str, error: Exception) -> tuple[Any, str]:
    import fsspec

    if urlsplit(uri).scheme not in fsspec.available_protocols():
        raise error
    fs, root = fsspec.core.url_to_fs(uri)
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), str(root).rstrip("/")
