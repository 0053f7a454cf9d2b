"""Check the address of a data set: a folder, or a URI without secrets."""

from __future__ import annotations

from urllib.parse import urlsplit

from benchmark.errors import UsageError
from benchmark.store.credentials import holds_credentials
from benchmark.store.uris import find_fault, show

WEB = ("http", "https")
BUCKETS = ("s3", "gs", "az")


def is_remote(root: str) -> bool:
    """Return whether a root is a URI rather than a folder."""
    return "://" in root


def scheme_of(root: str) -> str:
    """Return the scheme of a remote root, in lower case."""
    return root.partition("://")[0].lower()


def split_settings(address: str) -> tuple[str, str]:
    """Return an address up to the ``?`` of a URI, and the rest with it."""
    path, mark, rest = address.partition("?") if is_remote(address) else (address, "", "")
    return path, mark + rest


def refuse_secrets(root: str, *, where: str) -> None:
    """Refuse a root that contains a password, a key or a signature, without echoing it.

    Raises:
        UsageError: it does.
    """
    if holds_credentials(_with_slashes(root)):
        raise UsageError(
            f"{where}: root must not hold a password, a key or a signature, since it is written "
            "into the store, reports and logs; set them in the environment (docs/REMOTE.md)"
        )


def check_root(root: str, *, where: str, reads_remote: bool) -> None:
    """Check a root without opening anything; of a path, only that it is not meant as a URI.

    Args:
        root: path or URI.
        where: start of the message.
        reads_remote: whether the data set can be read from a URI.

    Raises:
        UsageError: it contains secrets, is malformed, or its scheme is not supported.
    """
    refuse_secrets(root, where=where)
    right = _with_slashes(root)
    if right != root:
        raise UsageError(
            f"{where}: root = '{show(root)}' is neither a folder nor a URI. Did you mean "
            f"'{show(right)}'?"
        )
    if not is_remote(root):
        return
    if not reads_remote:
        reason = "this data set is read from a folder alone; copy the data into a folder"
    else:
        reason = _find_fault(root)
    if reason:
        raise UsageError(f"{where}: root = '{show(root)}': {reason}")


def _with_slashes(root: str) -> str:
    """Return ``https://x`` for ``https:x`` and ``https:/x``; anything else as it is."""
    scheme, mark, rest = root.partition(":")
    if not mark or scheme.lower() not in (*WEB, *BUCKETS) or rest.startswith("//"):
        return root
    return f"{scheme}://{rest.lstrip('/')}"


def _find_fault(root: str) -> str:
    scheme = scheme_of(root)
    if scheme in BUCKETS:
        return find_fault(root)
    if scheme == "file":
        return "write the path of the folder, without 'file://'"
    if scheme not in WEB:
        known = ", ".join(f"{name}://" for name in (*WEB, *BUCKETS))
        return f"unsupported scheme; supported: a folder, {known}"
    try:
        parts = urlsplit(root)
        _ = parts.port
    except ValueError as error:
        return f"is no URL: {error}"
    if not parts.hostname:
        return f"names no server; write {scheme}://SERVER/FOLDER"
    if "?" in root or "#" in root:
        return "has settings after '?' or '#'; give the URL of a folder"
    if not {".", ".."}.isdisjoint(parts.path.split("/")):
        return "its path contains '.' or '..'; write it without them"
    return ""
