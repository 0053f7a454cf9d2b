"""Whether an address holds a password or key: such a one is refused, and never repeated.

An address is shown wherever it is used: in reports, logs, the job server and process lists.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from benchmark.errors import UsageError

USERS_ARE_NAMES = frozenset(
    {"abfs", "abfss", "gcs", "gs", "hdfs", "sftp", "ssh", "viewfs", "wasb", "wasbs"}
)
"""Schemes whose part before the ``@`` is a container or an account; elsewhere it is a key."""

WORDS = ("credential", "key", "passw", "secret", "signature", "token")
"""What the name of a setting holds whose value is a secret, in any case."""
NAMES = frozenset({"auth", "pwd", "sig"})
"""Further such names: ``sig`` ends the shared access signatures of Azure."""


def holds_credentials(address: str) -> bool:
    """Return whether a URI holds a password, a key or a token; a path holds none.

    Args:
        address: of a store, an endpoint or a server.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        return False
    try:
        parts = urlsplit(address)
        has_password = parts.password is not None
    except ValueError:
        # Whoever opens it says what is wrong with it.
        return "@" in rest
    if has_password or ("@" in parts.netloc and scheme.lower() not in USERS_ARE_NAMES):
        return True
    return any(_is_secret(name, value) for name, value in parse_qsl(parts.query))


def refuse_credentials(uri: str) -> None:
    """Refuse the URI of a store that holds a password or key, without repeating it.

    Raises:
        UsageError: it does.
    """
    if holds_credentials(uri):
        raise UsageError(
            "the URI of a store must not hold credentials, since it is written into reports, logs "
            "and the job server; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, or give "
            "the machines a role"
        )


def _is_secret(name: str, value: str) -> bool:
    lowered = name.lower()
    # An endpoint given as a setting may hold one as well.
    return lowered in NAMES or any(word in lowered for word in WORDS) or "@" in value
