"""Check the address of a data set: a folder, or a URI without secrets."""

from __future__ import annotations

from urllib.parse import urlsplit

from benchmark.errors import UsageError
from benchmark.store.credentials import holds_credentials
from benchmark.store.uris import find_fault, show

WEB = ("http", "https")
BUCKETS = ("s3", "gs", "az")
SECRETS = (
    "root must not hold a password, a key or a signature, since it is written into the store, "
    "reports and logs; set them in the environment instead (docs/REMOTE.md)"
)


def is_remote(root: str) -> bool:
    """Return whether a root is a URI rather than a folder."""
    return "://" in root


def scheme_of(root: str) -> str:
    """Return the scheme of a remote root, in lower case."""
    return root.partition("://")[0].lower()


def check_root(root: str, *, where: str) -> None:
    """Check a root, without opening anything.

    Args:
        root: a path is not looked at, except for a scheme without ``//``.
        where: start of the message.

    Raises:
        UsageError: it contains secrets, which are not repeated, or is malformed, or its scheme is
            not supported.
    """
    if not is_remote(root):
        scheme, mark, rest = root.partition(":")
        if mark and scheme.lower() in (*WEB, *BUCKETS):
            right = f"{scheme}://{rest.lstrip('/')}"
            if holds_credentials(right):
                raise UsageError(f"{where}: {SECRETS}")
            raise UsageError(
                f"{where}: root = '{show(root)}' is neither a folder nor a URI. Did you mean "
                f"'{show(right)}'?"
            )
        return
    if holds_credentials(root):
        raise UsageError(f"{where}: {SECRETS}")
    if reason := _find_fault(root):
        raise UsageError(f"{where}: root = '{show(root)}': {reason}")


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
