"""Refuse addresses that contain secrets, without echoing them.

An address is shown wherever it is used: in reports, logs, the job server and process lists.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from benchmark.errors import UsageError

USERS_ARE_NAMES = frozenset(
    {"abfs", "abfss", "gcs", "gs", "hdfs", "sftp", "ssh", "viewfs", "wasb", "wasbs"}
)
"""Schemes with a container or an account before the ``@``; in other schemes that is a key."""

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")

WORDS = ("credential", "key", "passw", "secret", "signature", "token")
"""Parts of the names of settings with secret values; case does not matter."""
NAMES = frozenset({"auth", "pwd", "sig"})
"""Whole names of settings with secret values: ``sig`` is in Azure's shared access signatures."""


def holds_credentials(address: str) -> bool:
    """Return whether a URI contains a password, a key or a token; False for a path.

    Args:
        address: of a store, an endpoint or a server.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        return False
    if not SCHEME.fullmatch(scheme) and "@" in rest.partition("/")[0]:
        # urlsplit finds no user in an address with a malformed scheme.
        return True
    try:
        parts = urlsplit(address)
        has_password = parts.password is not None
    except ValueError:
        # Malformed: whoever opens it reports the error.
        return "@" in rest
    if has_password or ("@" in parts.netloc and scheme.lower() not in USERS_ARE_NAMES):
        return True
    return any(_is_secret(name, value) for name, value in parse_qsl(parts.query))


def refuse_credentials(uri: str) -> None:
    """Refuse a store URI that contains secrets, without echoing it.

    Raises:
        UsageError: the URI contains a password, a key or a token.
    """
    if holds_credentials(uri):
        raise UsageError(
            "the URI of a store must not hold credentials, since it is written into reports, logs "
            "and the job server; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, or give "
            "the machines a role"
        )


def _is_secret(name: str, value: str) -> bool:
    lowered = name.lower()
    # An endpoint given as a setting may contain a password before its "@".
    return lowered in NAMES or any(word in lowered for word in WORDS) or "@" in value
