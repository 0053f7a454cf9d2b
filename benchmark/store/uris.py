"""Check the address of a store, a path or a URI, before anything is opened."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from benchmark.errors import UsageError
from benchmark.store.credentials import refuse_credentials

LONGEST = 700
"""Most characters of a store; a message that contains it twice stays below 2,000 characters."""
SHOWN = 120
"""Characters of a refused address that its message repeats."""


class Scheme(NamedTuple):
    """Which libraries open the URIs of a scheme."""

    by_arrow: bool
    package: str | None = None
    """Module that fsspec needs where Arrow cannot open the URI."""
    needs: str = "a host"
    """Meaning of the part after ``://``; empty: it may be missing."""


SCHEMES = {
    "file": Scheme(True, needs=""),
    "s3": Scheme(True, needs="a bucket"),
    "gs": Scheme(True, "gcsfs", "a bucket"),
    "gcs": Scheme(True, "gcsfs", "a bucket"),
    "abfs": Scheme(True, "adlfs", "a container"),
    "abfss": Scheme(True, "adlfs", "a container"),
    "az": Scheme(False, "adlfs", "a container"),
    "hdfs": Scheme(True),
    "viewfs": Scheme(True),
    "sftp": Scheme(False, "paramiko"),
    "ssh": Scheme(False, "paramiko"),
    "memory": Scheme(False, "fsspec", ""),
}
"""Schemes whose file systems can be written and listed; ``memory`` is for tests."""

KNOWN = tuple(name for name in SCHEMES if name != "memory")
BUCKET = re.compile(r"(?:[\w.-]+@)?[A-Za-z0-9][A-Za-z0-9._-]*")


def check_uri(uri: str) -> str | None:
    """Return the scheme of a store's URI in lower case; None for a path.

    Raises:
        UsageError: the address is malformed, its scheme is not supported, or it contains secrets.
    """
    refuse_credentials(uri)
    if reason := find_fault(uri):
        raise UsageError(f"store '{show(uri)}': {reason}")
    return urlsplit(uri).scheme if "://" in uri else None


def show(uri: str) -> str:
    """Return an address as one short line for a message: control characters are escaped."""
    text = "".join(
        char.encode("unicode_escape", "backslashreplace").decode() if _is_control(char) else char
        for char in uri[: SHOWN + 1]
    )
    return text if len(uri) <= SHOWN else f"{text[:SHOWN]}…"


def find_fault(uri: str) -> str:
    """Return why an address cannot be a store; empty if it can."""
    if not uri.strip():
        return "is empty; give a folder or a URI such as s3://bucket/prefix"
    if any(unicodedata.category(char) == "Cs" for char in uri):
        return "contains characters that are not valid UTF-8; write it anew"
    if "\0" in uri:
        return "contains a NUL character; write it anew"
    if any(_is_control(char) for char in uri):
        return "contains a control character or a line break; write it anew"
    if len(uri) > LONGEST:
        return f"has {len(uri)} characters, more than {LONGEST}; choose a shorter one"
    if "://" not in uri:
        return _find_fault_in_path(uri)
    given, _, rest = uri.partition("://")
    name = given.lower()
    if name not in SCHEMES:
        return f"unsupported scheme '{show(given)}'; supported: a path, {', '.join(KNOWN)}"
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        return f"is no URI: {error}"
    if "#" in rest:
        return "contains '#', which a URI of a store cannot; rename the folder"
    return _find_fault_in_place(name, parts.netloc, parts.path, parts.query)


def _find_fault_in_path(path: str) -> str:
    if path.startswith("~"):
        return "'~' is not expanded; write the whole path, or './~...' for a folder of this name"
    scheme, mark, rest = path.partition(":")
    if mark and scheme.lower() in SCHEMES:
        right = f"{scheme}://{'/' if scheme.lower() == 'file' else ''}{rest.lstrip('/')}"
        refuse_credentials(right)
        return f"is neither a path nor a URI. Did you mean '{right}'?"
    return ""


def _find_fault_in_place(name: str, place: str, path: str, query: str) -> str:
    scheme = SCHEMES[name]
    if name == "file":
        if place not in ("", "localhost"):
            return f"names the host '{place}'; write file:///{place}{path}, or a path"
        if not path.strip("/"):
            return "names no folder; write file:///FOLDER, or a path"
        if any(_is_control(char) for char in unquote(path)):
            return "contains a control character; write it anew"
        return "has settings after '?', which a folder has not; leave them out" if query else ""
    if scheme.needs and not place:
        return f"names no {scheme.needs.removeprefix('a ')}; write {name}://{_example(scheme)}"
    if scheme.needs == "a bucket" and not BUCKET.fullmatch(place):
        return f"'{show(place)}' is no name of a bucket; write {name}://{_example(scheme)}"
    inner = path.removeprefix("/").rstrip("/")
    if inner and not {"", ".", ".."}.isdisjoint(inner.split("/")):
        return "its path contains '.', '..' or '//'; write it without them"
    if not scheme.by_arrow and scheme.package and not is_installed(scheme.package):
        return f"{name}:// needs the Python package {scheme.package}: pip install {scheme.package}"
    return ""


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def _example(scheme: Scheme) -> str:
    kind = scheme.needs.removeprefix("a ").upper()
    return (
        f"{kind}@ACCOUNT.dfs.core.windows.net/PREFIX" if kind == "CONTAINER" else f"{kind}/PREFIX"
    )


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
