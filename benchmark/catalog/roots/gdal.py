"""How GDAL reads rasters: its options, the same on every machine, and its paths of remote files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from benchmark.catalog.roots.address import WEB, scheme_of
from benchmark.environment import RETRY_WAIT, read_seconds

CONNECT_TIMEOUT_S = 10
SILENCE_S = 20
"""A transfer slower than ``SLOWEST`` for so long is given up."""
SLOWEST = 1000
"""Bytes per second."""
REQUEST_TIMEOUT_S = 300
"""Deadline of a single request of GDAL, which asks for some MB at most."""
NUM_RETRIES = 3

CACHE_BYTES = 256 * 2**20
"""Of blocks. GDAL alone would read 256 as MB, rasterio takes it for bytes."""

# The cache holds the blocks of one row of windows: each is decoded once. More only costs memory.
# Files beside a raster (.aux.xml, .ovr, .tfw) are not read: no digest covers them.
LOCAL: dict[str, Any] = {
    "GDAL_NUM_THREADS": "1",
    "GDAL_CACHEMAX": CACHE_BYTES,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
}

REMOTE = {
    **LOCAL,
    # The header, with the places of some thousand blocks, comes in one request.
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    # Blocks of a window that are neighbours in the file come in one request.
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    # Several requests share one connection (HTTP/2), as far as the server can.
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_VERSION": "2TLS",
    # Failed requests are repeated, each time after twice the wait.
    "GDAL_HTTP_MAX_RETRY": str(NUM_RETRIES),
    "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    "GDAL_HTTP_CONNECTTIMEOUT": str(CONNECT_TIMEOUT_S),
    "GDAL_HTTP_LOW_SPEED_LIMIT": str(SLOWEST),
    "GDAL_HTTP_LOW_SPEED_TIME": str(SILENCE_S),
    "GDAL_HTTP_TIMEOUT": str(REQUEST_TIMEOUT_S),
    # Bytes of all remote files that one process remembers.
    "CPL_VSIL_CURL_CACHE_SIZE": str(64 * 2**20),
    # A closed file is forgotten: a later run in the same process sees what has changed.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/",
}
"""Options of GDAL for remote files; the environment overrides each."""

PREFIXES = (
    *(
        "GDAL_HTTP",
        "CPL_VSIL_CURL",
        "VSI_CACHE",
        "GDAL_INGESTED",
        "CURL_CA_BUNDLE",
        "SSL_CERT_FILE",
    ),
    *("AWS_NO_SIGN_REQUEST", "AWS_REQUEST_PAYER", "AZURE_", "GS_", "GOOGLE_APPLICATION"),
)
"""Variables of the driver's environment that hold on every machine of a run."""

S3_OPTIONS = {
    "endpoint_override": "AWS_S3_ENDPOINT",
    "region": "AWS_REGION",
    "access_key": "AWS_ACCESS_KEY_ID",
    "secret_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}
"""Settings of a store's S3 connection, as GDAL calls them."""
AZURE_OPTIONS = {
    "AZURE_STORAGE_ACCOUNT_NAME": "AZURE_STORAGE_ACCOUNT",
    "AZURE_STORAGE_ACCOUNT_KEY": "AZURE_STORAGE_ACCESS_KEY",
}
"""Variables of adlfs, as GDAL calls them."""


def options_of(address: str, connection: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the options for a remote root, secrets of the environment included.

    Args:
        address: of the root.
        connection: of S3, as stores use it (``filesystems.Opened``).
    """
    found: dict[str, Any] = dict(REMOTE)
    found["GDAL_HTTP_RETRY_DELAY"] = f"{read_seconds(RETRY_WAIT):g}"
    found |= _bucket_options(address, connection or {})
    given = {key: value for key, value in os.environ.items() if key.startswith(PREFIXES)}
    if "GDAL_HTTP_BEARER" in given:
        given.setdefault("GDAL_HTTP_AUTH", "BEARER")
    return found | given


def gdal_path(address: str, path: str) -> str:
    """Return GDAL's path of a file below a remote root."""
    scheme, parts = scheme_of(address), urlsplit(address)
    if scheme in WEB:
        return f"/vsicurl/{url_of(address, path)}"
    # gs://anonymous@BUCKET, az://CONTAINER@ACCOUNT.dfs.core.windows.net
    user, mark, host = parts.netloc.partition("@")
    bucket = host if mark and scheme != "az" else user
    return "/".join(filter(None, [f"/vsi{scheme}", bucket, parts.path.strip("/"), path]))


def url_of(address: str, path: str) -> str:
    """Return the URL of a file below a root of a web server."""
    return f"{address.rstrip('/')}/{quote(path)}"


def _bucket_options(address: str, connection: Mapping[str, str]) -> dict[str, str]:
    scheme, parts = scheme_of(address), urlsplit(address)
    if scheme == "s3":
        found = {S3_OPTIONS[key]: connection[key] for key in S3_OPTIONS if key in connection}
        if "endpoint_override" in connection:
            # As Arrow does: other servers than Amazon's rarely have a host for each bucket.
            found["AWS_VIRTUAL_HOSTING"] = "FALSE"
            found["AWS_HTTPS"] = "NO" if connection.get("scheme") == "http" else "YES"
        return found
    if scheme == "gs":
        # Arrow's way to say that a bucket is public: gs://anonymous@BUCKET.
        found = {"GS_NO_SIGN_REQUEST": "YES"} if parts.username == "anonymous" else {}
        given = dict(parse_qsl(parts.query))
        if "endpoint_override" in given:
            place = f"{given.get('scheme', 'https')}://{given['endpoint_override']}/"
            found["CPL_GS_ENDPOINT"] = place
        return found
    if scheme == "az":
        found = {new: os.environ[old] for old, new in AZURE_OPTIONS.items() if old in os.environ}
        account = parts.netloc.partition("@")[2].partition(".")[0]
        return found | ({"AZURE_STORAGE_ACCOUNT": account} if account else {})
    return {}
