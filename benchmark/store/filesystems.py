"""Open the Arrow file system of a store's URI.

``uris.SCHEMES`` lists the supported schemes. Arrow opens most of them; fsspec opens the others, if
their package is installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from benchmark.errors import UsageError, did_you_mean
from benchmark.store.deadlines import within
from benchmark.store.retries import explain
from benchmark.store.uris import SCHEMES, check_uri, is_installed

T = TypeVar("T")

S3_SETTINGS = ("endpoint_override", "region", "scheme")
"""Settings in the query of an ``s3://`` URI, named as in Arrow's own URIs."""

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 60.0
"""A transfer without data for so long is restarted; Arrow's default of 3 s is too short."""
SMALL_BYTES = 4 * 2**20
"""Smaller files are sent in one request; Arrow does that below 5 MB."""
NUM_ATTEMPTS = 4
"""Attempts of each single request, by Arrow's S3 client."""

ANSWER_TIMEOUT_S = 10.0
"""Longest wait for a store at the start of a command."""
TRIAL_CONNECT_TIMEOUT_S = 3.0
TRIAL_SILENCE_TIMEOUT_S = 4.0
TRIAL_NUM_ATTEMPTS = 2
"""Limits of a trial's requests: when its wait is over, none is left that delays the exit."""


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
        UsageError: the URI is malformed, its scheme or a setting is not supported, it contains
            secrets, or the store did not answer.
    """
    scheme = check_uri(uri)
    if scheme in (None, "file"):
        path = uri if scheme is None else unquote(urlsplit(uri).path)
        local = pafs.LocalFileSystem()
        return Opened(local, str(Path(path).absolute()), local)
    try:
        return within(lambda: _open_remote(uri, connection), timeout_s=ANSWER_TIMEOUT_S)
    except UsageError:
        raise
    except TimeoutError:
        raise UsageError(describe_silence(uri)) from None
    except Exception as error:
        # Drivers of other projects raise what they like.
        raise UsageError(f"store '{uri}' cannot be opened: {explain(error)}") from None


def open_for_trial(uri: str, opened: Opened) -> pafs.FileSystem:
    """Return a file system that gives up soon, for the first look at a store."""
    if opened.connection is not None:
        return _open_s3(opened.connection, is_small=True, is_trial=True)
    if opened.fs.type_name == "gcs" and "retry_limit_seconds" not in uri:
        mark = "&" if "?" in uri else "?"
        limit = TRIAL_SILENCE_TIMEOUT_S
        return pafs.FileSystem.from_uri(f"{uri}{mark}retry_limit_seconds={limit:g}")[0]
    return opened.fs


def describe_silence(uri: str) -> str:
    """Return the message for a store that does not answer."""
    return (
        f"store '{uri}' did not answer within {ANSWER_TIMEOUT_S:g} s; check the endpoint, the "
        "network and the credentials"
    )


def has_folders(fs: pafs.FileSystem) -> bool:
    """Return whether a folder must exist before a file can be written into it."""
    return fs.type_name not in ("abfs", "gcs", "s3")


def join(uri: str, path: str) -> str:
    """Return the URI of a path below a store; a query stays at the end."""
    base, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{base.rstrip('/')}/{path}{mark}{query}"


def _open_remote(uri: str, connection: Mapping[str, str] | None) -> Opened:
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        root = f"{parts.netloc}{parts.path}".rstrip("/")
        found = dict(connection or _s3_connection(uri))
        return Opened(_open_s3(found, is_small=False), root, _open_s3(found, is_small=True), found)
    scheme = SCHEMES[parts.scheme]
    if scheme.by_arrow:
        try:
            fs, root = pafs.FileSystem.from_uri(uri)
            return Opened(fs, root.rstrip("/"), fs)
        except pa.ArrowInvalid:
            # Packages such as adlfs read other forms of the same scheme.
            if scheme.package is None or not is_installed(scheme.package):
                raise
    fs, root = _open_fsspec(uri)
    return Opened(fs, root, fs)


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


def _open_s3(
    connection: Mapping[str, str], *, is_small: bool, is_trial: bool = False
) -> pafs.FileSystem:
    # If an upload of several parts fails, Arrow can replace the object by a part of it: with
    # background_writes=False it completes the upload, and with allow_delayed_open it writes an
    # empty object. For a single request the latter is safe, and saves two requests.
    attempts = TRIAL_NUM_ATTEMPTS if is_trial else NUM_ATTEMPTS
    return pafs.S3FileSystem(
        **connection,
        background_writes=True,
        allow_delayed_open=is_small,
        connect_timeout=TRIAL_CONNECT_TIMEOUT_S if is_trial else CONNECT_TIMEOUT_S,
        request_timeout=TRIAL_SILENCE_TIMEOUT_S if is_trial else SILENCE_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )


def _open_fsspec(uri: str) -> tuple[Any, str]:
    import fsspec

    fs, root = fsspec.core.url_to_fs(uri)
    return pafs.PyFileSystem(Driver(fs)), str(root).rstrip("/")


class Driver(pafs.FSSpecHandler):  # type: ignore[misc]
    """A file system of fsspec for Arrow, whose failures are ``OSError``.

    Its packages raise what they like. Arrow's own handler asks whether there is a file before it
    opens it, and takes a refusal for "no".
    """

    def get_file_info(self, paths: Any) -> Any:
        """Return what is at the paths."""
        return _asked(super().get_file_info, paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        """Return what is in a folder."""
        return _asked(super().get_file_info_selector, selector)

    def open_input_stream(self, path: str) -> Any:
        """Open a file, to be read from its begin."""
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> Any:
        """Open a file, to be read at any place."""
        return pa.PythonFile(_asked(self.fs.open, path, mode="rb"), mode="r")


def _asked(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    try:
        return work(*arguments, **options)
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
